"""The run config: typed, validated, with errors that name the valid choices."""

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import Field, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from clients import FineTuning, Optimization, Pull, Scope
from clients.tether import UNSTABLE
from clients.training import EVERYTHING, Schedule
from pfl_flower.data import PARTITIONS, SOURCES, DataSettings
from pfl_flower.data.heterogeneity import HETEROGENEITIES
from pfl_flower.methods import METHODS, SCHEDULES, Method
from pfl_flower.models import IMAGE_MODELS, MODELS, Architecture


class ConfigError(ValueError):
    """An unknown key, or a value that is not allowed, in the run config."""


Check = Callable[[Any], str]
"""Value -> what it must be, or an empty string if it is fine."""


def _choice(*choices: str) -> Check:
    return lambda value: "" if value in choices else f"one of {', '.join(choices)}"


def _names(choices: Mapping[str, Any]) -> Check:
    def check(value: str) -> str:
        unknown = [n for n in _words(value) if n not in choices]
        return f"names, separated by commas, from {', '.join(choices)}" if unknown else ""

    return check


def _range(low: float, high: float = math.inf, *, open_low: bool = False) -> Check:
    def check(value: float) -> str:
        inside = low < value <= high if open_low else low <= value <= high
        inside = inside and math.isfinite(value)
        bounds = f"{'above' if open_low else 'at least'} {low:g}"
        return "" if inside else bounds + (f" and at most {high:g}" if high < math.inf else "")

    return check


def _epochs(value: str) -> str:
    numbers = _words(value)
    ascending = numbers and all(n.isdigit() for n in numbers)
    ascending = ascending and sorted({int(n) for n in numbers}) == [int(n) for n in numbers]
    return "" if ascending else "ascending numbers separated by commas, such as 0,1,5"


def _words(value: str) -> list[str]:
    return [word.strip() for word in value.split(",") if word.strip()]


def _any(_: Any) -> str:
    return ""


def _key(default: Any, text: str, check: Check = _any, *, kind: type | None = None) -> Any:
    """A field of the config; ``kind`` is for those that may be left empty."""
    kind = kind or type(default)
    return field(default=default, metadata={"help": text, "check": check, "kind": kind})


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run. In a run config a key is written with hyphens.

    A value of ``""`` (None here) leaves the choice to the method, as :data:`METHODS` has it.
    """

    method: str = _key("fedper", "what is done", _choice(*METHODS))
    baselines: str = _key(
        "fedavg", "methods run afterwards on the same clients, to compare", _names(METHODS)
    )
    dataset: str = _key("digits", "data set", _choice(*SOURCES))
    partition: str = _key("iid", "who gets which examples", _choice(*PARTITIONS))
    heterogeneity: str = _key(
        "taste", "how clients differ otherwise", _names({"none": None, **HETEROGENEITIES})
    )
    alpha: float = _key(0.5, "concentration of dirichlet", _range(0, open_low=True))
    classes_per_client: int = _key(2, "classes per client of pathological", _range(1))
    min_examples: int = _key(0, "quantity skew: fewest training examples", _range(0))
    max_examples: int = _key(0, "quantity skew: most training examples; 0: all", _range(0))
    validation_fraction: float = _key(0.1, "of each client's examples", _range(0, 0.9))
    test_fraction: float = _key(
        0.25, "of each client's examples (gallery has its own)", _range(0, 0.9, open_low=True)
    )
    model: str = _key("auto", "network", _choice("auto", *MODELS))
    norm: str | None = _key(None, "layer", _choice("none", "batch", "group"), kind=str)
    adapter_size: int = _key(8, "bottleneck or rank of adapters", _range(1))
    personal: str | None = _key(None, "rule: what is personal", kind=str)
    schedule: str | None = _key(None, "local training", _choice(*SCHEDULES), kind=str)
    mu: float | None = _key(None, "pull to the received model", _range(0), kind=float)
    personal_decay: float | None = _key(
        None, "pull of personal parameters to zero", _range(0), kind=float
    )
    num_server_rounds: int = _key(20, "rounds", _range(1))
    fraction_train: float = _key(1.0, "of clients trained a round", _range(0, 1, open_low=True))
    local_epochs: int = _key(2, "passes over the local data a round", _range(0))
    local_steps: int = _key(0, "minibatch steps instead of epochs; 0: epochs", _range(0))
    head_epochs: int = _key(2, "head epochs of head-then-body", _range(0))
    fine_tuning_epochs: str = _key("0,1,2,5,10", "candidates; validation chooses", _epochs)
    batch_size: int = _key(32, "examples a step", _range(1))
    optimizer: str = _key("sgd", "local optimizer", _choice("sgd", "adam"))
    learning_rate: float = _key(0.1, "of local steps", _range(0, open_low=True))
    momentum: float = _key(0.9, "of sgd", _range(0, 0.999))
    weight_decay: float = _key(0.0, "of local steps", _range(0))
    gradient_clip: float = _key(0.0, "largest norm of a gradient; 0: none", _range(0))
    weighting: str = _key("examples", "of clients in the mean", _choice("examples", "uniform"))
    server_momentum: float = _key(0.0, "of the server's step", _range(0, 0.999))
    initial: str = _key(
        "", "results folder of an earlier run of this method, to start from its shared arrays"
    )
    seed: int = _key(0, "of every random choice", _range(0))
    threads: int = _key(1, "torch threads a worker", _range(1))
    device: str = _key("cpu", "cpu, cuda, cuda:1, ... or auto")
    min_nodes: int = _key(0, "nodes to wait for; 0: as many as there are partitions", _range(0))
    wait: float = _key(120.0, "seconds to wait for them", _range(0))
    timeout: float = _key(3600.0, "seconds a round may take", _range(0, open_low=True))
    data_dir: str = _key("", "folder of data sets; empty: $PFL_DATA_DIR")
    download: bool = _key(False, "download a data set that is missing")
    results_dir: str = _key("", "folder for results; empty: ~/pfl-flower-results")

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not None and (wanted := item.metadata["check"](value)):
                raise ConfigError(f"{key_of(item)} is {value!r}; it must be {wanted}")
        if self.min_examples > self.max_examples:
            raise ConfigError(
                f"min-examples {self.min_examples} is above max-examples {self.max_examples}"
            )
        if self.validation_fraction + self.test_fraction >= 1:
            raise ConfigError("validation-fraction and test-fraction leave nothing to train on")
        shape = SOURCES[self.dataset].shape
        if self.model in IMAGE_MODELS and len(shape) != 3:
            flat = ", ".join(sorted(set(MODELS) - IMAGE_MODELS))
            raise ConfigError(
                f"model {self.model!r} needs images, {self.dataset!r} has shape {shape}; use {flat}"
            )

        if self.initial and self.baseline_names:
            raise ConfigError(
                "initial starts the method ahead of its baselines, which would be no comparison; "
                "set baselines=''"
            )
        for pull in self.pulls if self.optimizer == "sgd" else ():
            if self.learning_rate * pull.strength >= UNSTABLE:
                raise ConfigError(
                    f"a pull of {pull.strength:g} (mu or personal-decay) diverges at learning-rate "
                    f"{self.learning_rate:g}; it must be below {UNSTABLE / self.learning_rate:g}"
                )

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> "RunConfig":
        """Return the config of a mapping of hyphenated keys, such as Flower's ``run_config``.

        Raises
        ------
        ConfigError
            If a key is unknown, a value has a wrong type or is out of range; the message names
            the valid choices.
        """
        known = {key_of(item): item for item in fields(cls)}
        parsed = {}
        for key, value in values.items():
            if key not in known:
                close = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {close[0]!r}? " if close else ""
                raise ConfigError(f"unknown key {key!r}; {hint}valid keys: {', '.join(known)}")
            parsed[known[key].name] = _convert(key, value, known[key])
        return cls(**parsed)

    def for_method(self, name: str) -> "RunConfig":
        """Return this config for another method on the same clients, data and network.

        What the user set for the first method's own sake (rules, schedule, pulls) falls back to
        the other method's row.
        """
        if name == self.method:
            return self
        return replace(
            self,
            method=name,
            model=self.architecture.model,
            norm=self.architecture.norm,
            initial="",
            personal=None,
            schedule=None,
            mu=None,
            personal_decay=None,
        )

    @property
    def row(self) -> Method:
        """The method's row."""
        return METHODS[self.method]

    def value(self, name: str, otherwise: Any) -> Any:
        """Return a setting: the user's, else the method's, else ``otherwise``."""
        stated = getattr(self, name)
        return self.row.settings.get(name, otherwise) if stated is None else stated

    @property
    def personal_rule(self) -> str:
        """The rule of what is personal."""
        return str(self.value("personal", "none"))

    @property
    def local_schedule(self) -> Schedule:
        """The phases of local training."""
        make = SCHEDULES[self.value("schedule", "joint")]
        return make(self.local_epochs, self.local_steps, self.head_epochs)

    @property
    def pulls(self) -> tuple[Pull, ...]:
        """What parameters are tethered to."""
        return (
            Pull(Scope.SHARED, "received", float(self.value("mu", 0.0))),
            Pull(Scope.PERSONAL, "zero", float(self.value("personal_decay", 0.0))),
        )

    @property
    def fine_tuning(self) -> FineTuning | None:
        """Personalization at evaluation, if the method has it."""
        row = self.row
        if not row.fine_tunes:
            return None
        trains = EVERYTHING if row.fine_tunes == "all" else frozenset({Scope(row.fine_tunes)})
        epochs = tuple(int(word) for word in _words(self.fine_tuning_epochs))
        return FineTuning(trains, epochs, row.fine_tunes_every_round)

    @property
    def optimization(self) -> Optimization:
        """How a client steps."""
        return Optimization(
            self.optimizer,  # type: ignore[arg-type]
            self.learning_rate,
            self.momentum,
            self.weight_decay,
            self.gradient_clip,
        )

    @property
    def architecture(self) -> Architecture:
        """The network: what the user chose, else what the method needs on this kind of data."""
        source = SOURCES[self.dataset]
        image = len(source.shape) == 3
        model = self.model
        if model == "auto":
            base = "cnn" if image else "mlp"
            named = f"{self.row.block}-{base}" if self.row.block else base
            model = named if named in MODELS else base
        norm = self.value("norm", "batch")
        return Architecture(model, source.shape, source.num_classes, norm, self.adapter_size)

    @property
    def data(self) -> DataSettings:
        """What decides every client's data."""
        return DataSettings(**{f.name: getattr(self, f.name) for f in fields(DataSettings)})

    @property
    def baseline_names(self) -> tuple[str, ...]:
        """The other methods to run, without the first."""
        return tuple(n for n in dict.fromkeys(_words(self.baselines)) if n != self.method)

    def dump(self) -> dict[str, Any]:
        """Return the config with hyphenated keys; what was left empty is ``""``."""
        values = asdict(self)
        return {key_of(f): "" if values[f.name] is None else values[f.name] for f in fields(self)}


def under_home(text: str) -> Path:
    """Return a folder that a config names; a relative one is under the home folder.

    The managed SuperLink, in which ``flwr run`` runs the server, has a working directory of its
    own, which a user does not know.
    """
    path = Path(text).expanduser()
    return path if path.is_absolute() else Path.home() / path


def key_of(item: Field[Any]) -> str:
    """Return how a field is written in a run config."""
    return item.name.replace("_", "-")


def _convert(key: str, value: Any, item: Field[Any]) -> Any:
    kind = item.metadata["kind"]
    if item.default is None and value in ("", None):
        return None
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise ConfigError(f"{key} is {value!r}; it must be of type {kind.__name__}")
    return value
