"""The run config: typed, validated, with errors that name the valid choices."""

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

from clients import (
    Classification,
    FineTuning,
    LinkPrediction,
    Optimization,
    ProximalRule,
    Regression,
    Scope,
    Task,
)
from clients.training import EVERYTHING, Schedule
from pfl_flower.config.keys import RunKeys
from pfl_flower.config.validators import split_words
from pfl_flower.data import SOURCES, DataError, DataSchema, DataSettings, is_own
from pfl_flower.data.degradation.devices import PER_TIER, check_devices
from pfl_flower.data.degradation.imputation import IMPUTATIONS
from pfl_flower.data.degradation.measurements import check_measurements
from pfl_flower.data.heterogeneity import parse_heterogeneity
from pfl_flower.data.schema import target_scale
from pfl_flower.methods.table import METHODS, SCHEDULES, Method
from pfl_flower.models import GRAPH_MODELS, IMAGE_MODELS, MODELS, Architecture
from strategies.thresholds.metrics import Objective


class ConfigError(ValueError):
    """An unknown key, or a value that is not allowed, in the run config or the node config.

    Parameters
    ----------
    message : str
        What is wrong, where, and what would be right.
    key, value : optional
        The key that is wrong, with hyphens, and its value.
    choices : optional
        What would be right, where it is one of a few.

    Attributes
    ----------
    key, value, choices
        The same; None (choices: empty) where they do not apply.
    """

    def __init__(
        self,
        message: str,
        *,
        key: str | None = None,
        value: Any = None,
        choices: Iterable[str] = (),
    ) -> None:
        super().__init__(message)
        self.key = key
        self.value = value
        self.choices = tuple(choices)


@dataclass(frozen=True)
class RunConfig(RunKeys):
    """Everything that decides a run: the keys, and what follows from them.

    A value of ``""`` (None here) leaves the choice to the method, as :data:`METHODS` has it.
    """

    schema: DataSchema | None = None
    """What the clients told of their data; not a key of the run config."""

    def __post_init__(self) -> None:
        for item in KEYS.values():
            value = getattr(self, item.name)
            if value is not None and (wanted := item.metadata["check"](value)):
                raise ConfigError(f"{key_of(item)} is {value!r}; it must be {wanted}")
        if self.min_examples > self.max_examples:
            raise ConfigError(
                f"min-examples {self.min_examples} is above max-examples {self.max_examples}"
            )
        if self.validation_fraction + self.test_fraction >= 1:
            raise ConfigError("validation-fraction and test-fraction leave nothing to train on")
        self._check_model()
        if self.cluster_sizes and not parse_heterogeneity(self.data.heterogeneity):
            raise ConfigError(
                "clusters differ by their heterogeneity, and there is none here; set one, such as "
                "heterogeneity='taste'"
            )
        if self.revise_every and not self.validation_fraction:
            raise ConfigError("revise-every needs validation examples; set validation-fraction")
        if self.late and self.num_server_rounds < 2:
            raise ConfigError("late clients come after half of the rounds; there must be 2 or more")
        if self.initial and self.baseline_names:
            raise ConfigError(
                "initial starts the method ahead of its baselines, which would be no comparison; "
                "set baselines=''"
            )
        self._check_correction()
        self._check_own_keys()
        self._check_phases()
        self._check_threshold()
        self._check_devices()

    def _check_model(self) -> None:
        """Refuse networks and methods for other kinds of data."""
        known = self.known_schema
        if known is None:
            return
        graphs = ", ".join(name for name, source in SOURCES.items() if source.graph)
        if self.task == "link-prediction" and not known.graph:
            raise ConfigError(
                f"links are predicted in graphs, and {self.dataset!r} is none: {graphs}"
            )
        if self.row.graphs and not known.graph:
            raise ConfigError(
                f"method {self.method!r} is for graphs, and {self.dataset!r} is none; use "
                f"{graphs}, or method {self.method.removesuffix('-gnn')!r}"
            )
        if known.graph and self.row.model and self.row.model not in GRAPH_MODELS:
            raise ConfigError(
                f"method {self.method!r} is for model={self.row.model!r} only, which cannot look "
                f"at the graph that {self.dataset!r} is; use another method"
            )
        if self.model in MODELS and (self.model in GRAPH_MODELS) != known.graph:
            fitting = GRAPH_MODELS if known.graph else set(MODELS) - GRAPH_MODELS
            raise ConfigError(
                f"model {self.model!r} does not fit {self.dataset!r}, which is "
                f"{'a graph' if known.graph else 'no graph'}; use {', '.join(sorted(fitting))}"
            )
        if self.model in IMAGE_MODELS and len(known.shape) != 3:
            raise ConfigError(
                f"model {self.model!r} needs images, {self.dataset!r} has shape {known.shape}; "
                f"use {', '.join(sorted(set(MODELS) - IMAGE_MODELS - GRAPH_MODELS))}"
            )

    def _check_threshold(self) -> None:
        """Refuse thresholds where there are no classes, or nothing to find them on."""
        if self.threshold is None:
            return
        known = self.known_schema
        if known is not None and (known.task != "classification" or len(known.labels) < 2):
            kind = f"{len(known.labels)} class" if known.labels else known.task
            raise ConfigError(
                f"thresholds tell 2 or more classes apart, and {self.dataset!r} is {kind}; leave "
                f"threshold empty"
            )
        if not self.validation_fraction and not is_own(self.dataset):
            raise ConfigError("threshold needs validation examples; set validation-fraction")
        if self.streams:
            raise ConfigError(
                f"{self.dataset!r} comes in phases, and a client's validation examples are of the "
                f"phase at hand only, so no threshold is found for all; set phases='joint'"
            )

    def _check_phases(self) -> None:
        """Refuse what data with clients of their own, or that come in phases, cannot have."""
        source = SOURCES.get(self.dataset)
        if source is None:
            return
        if (source.natural or source.num_phases > 1) and self.partition != "natural":
            raise ConfigError(f"{self.dataset!r} has clients of its own; set partition='natural'")
        if source.num_phases == 1:
            return
        if self.streams and (self.safeguard or self.lambda_ == "auto"):
            raise ConfigError(
                f"{self.dataset!r} comes in phases, and a client's validation examples are of the "
                f"phase at hand only: nothing can be chosen on them for all phases (safeguard, "
                f"lambda='auto'). Set phases='joint', or choose yourself"
            )

    def _check_devices(self) -> None:
        """Refuse devices and imputations that contradict one another, the data or the method."""
        try:
            check_devices(self.data)
            if known := self.known_schema:
                source = SOURCES.get(self.dataset)
                streams = source is not None and source.num_phases > 1
                check_measurements(self.data, known.shape, known.graph, streams)
        except DataError as error:
            raise ConfigError(str(error)) from error
        draws = IMPUTATIONS[self.data.imputation].draws
        if draws > 1 and not getattr(self.row.client, "takes_draws", True):
            raise ConfigError(
                f"method {self.method!r} is a sum over examples, of which imputation "
                f"{self.imputation!r} would count each {draws} times; use another imputation"
            )

    def _check_correction(self) -> None:
        """Refuse what makes no sense beside a method that corrects for the errors of readings."""
        if not self.row.corrects_errors:
            return
        if self.model not in ("auto", self.row.model):
            raise ConfigError(
                f"method {self.method!r} is for model={self.row.model!r} only, not {self.model!r}: "
                f"dividing weights of a deep network by a reliability has no meaning; use another "
                f"method with calibrate-inputs=true"
            )
        if self.calibrate_inputs:
            raise ConfigError(
                f"method {self.method!r} corrects for the errors of readings itself; with "
                f"calibrate-inputs they would be corrected twice. Leave calibrate-inputs at false"
            )
        if IMPUTATIONS[self.data.imputation].masks:
            raise ConfigError(
                f"method {self.method!r} needs the error of every input, and of those that say "
                f"what is missing there is none; set imputation to mean or conditional"
            )
        if self.personal or self.personal_decay:
            raise ConfigError(
                f"method {self.method!r} solves for one model, of which nothing is personal but "
                f"each client's calibration; leave personal and personal-decay empty"
            )

    def _check_own_keys(self) -> None:
        """Refuse keys that the method has no use for, and values that its client refuses."""
        for name in OWN_KEYS:
            if getattr(self, name) is not None and name not in self.row.settings:
                having = [method for method, row in METHODS.items() if name in row.settings]
                raise ConfigError(
                    f"method {self.method!r} has no {hyphenated(name)}; there is one in "
                    f"{', '.join(having)}"
                )
        if (self.row.groups or self.row.asks_metadata) and self.initial:
            many = "groups" if self.row.groups else "clients' models"
            raise ConfigError(
                f"method {self.method!r} cannot start from shared arrays of an earlier run: "
                f"of its {many} they are the mean. Leave initial empty"
            )
        nothing_left = self.group is None and self.group_rule == "none"
        if self.row.groups and (self.personal == "all" or nothing_left):
            raise ConfigError(
                f"personal={self.personal!r} leaves nothing for the groups of {self.method!r}"
            )
        if self.row.makes_local_model and (self.personal or self.personal_decay):
            raise ConfigError(
                f"method {self.method!r} keeps a whole model of its own, beside which nothing of "
                f"the shared one is personal; leave personal and personal-decay empty"
            )
        if self.mu and not getattr(self.row.client, "uses_proximal_rules", True):
            raise ConfigError(f"method {self.method!r} has no mu: its pull is lambda")
        if self.server_momentum and not getattr(self.row.strategy, "uses_momentum", True):
            raise ConfigError(f"method {self.method!r} has no server-momentum; leave it at 0")
        if self.weighting and not getattr(self.row.strategy, "uses_weighting", True):
            raise ConfigError(
                f"method {self.method!r} has no weighting: its clients all count alike; leave it "
                f"empty"
            )
        if self.row.model and self.model in MODELS and self.model != self.row.model:
            raise ConfigError(
                f"method {self.method!r} is for model={self.row.model!r} only, not {self.model!r}"
            )
        if self.lambda_ == "auto" and not self.row.candidates:
            raise ConfigError(f"method {self.method!r} has no lambda='auto'; set a number")
        if self.lambda_ is not None and self.tau is not None:
            raise ConfigError("lambda and tau are two ways to say the same; set one of them")
        try:
            arguments = self.client_arguments | self.strategy_arguments
            task = self.known_schema.task if self.known_schema else None
            self.row.check(self.optimization, task=task, **arguments)
        except ValueError as error:
            raise ConfigError(f"{self.method}: {error}") from error

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> "RunConfig":
        """Return the config of a mapping of hyphenated keys, such as Flower's ``run_config``.

        Raises
        ------
        ConfigError
            If a key is unknown, a value has a wrong type or is out of range; the message names
            the valid choices.
        """
        parsed = {}
        for name, value in values.items():
            if name not in KEYS:
                close = difflib.get_close_matches(name, KEYS, n=1)
                hint = f"did you mean {close[0]!r}? " if close else ""
                raise ConfigError(f"unknown key {name!r}; {hint}valid keys: {', '.join(KEYS)}")
            parsed[KEYS[name].name] = _convert(name, value, KEYS[name])
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
            **cast(dict[str, Any], dict.fromkeys(METHOD_KEYS)),
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
    def group_rule(self) -> str:
        """The rule of what is shared within groups only: not what the user made personal."""
        rule = str(self.value("group", "none"))
        if self.group is None and self.personal:
            taken = split_words(self.personal)
            rule = ",".join(word for word in split_words(rule) if word not in taken) or "none"
        return rule

    @property
    def local_schedule(self) -> Schedule:
        """The phases of local training."""
        make = SCHEDULES[self.value("schedule", "joint")]
        return make(self.local_epochs, self.local_steps, self.head_epochs)

    @property
    def proximal_rules(self) -> tuple[ProximalRule, ...]:
        """What parameters are tethered to."""
        return (
            ProximalRule(Scope.SHARED, "received", float(self.value("mu", 0.0))),
            ProximalRule(Scope.PERSONAL, "zero", float(self.value("personal_decay", 0.0))),
            ProximalRule(Scope.GROUP, "zero", float(self.value("group_decay", 0.0))),
        )

    @property
    def client_arguments(self) -> dict[str, Any]:
        """What the method's client is told beyond what every client is: argument -> value."""
        values = {
            argument: self.value(name, None)
            for name, argument in CLIENT_ARGUMENTS.items()
            if name in self.row.settings
        }
        if values.get("tau") is not None:
            values["strength"] = None
        elif values.get("strength") == "auto":
            values["strength"] = self.row.candidates
        elif "strength" in values:
            values["strength"] = float(values["strength"])
        if self.row.keeps_model:
            values["participation"] = self.fraction_train
        if values.get("alpha") == "auto":
            values["alpha"] = None
        return self._for_task(values)

    @property
    def strategy_arguments(self) -> dict[str, Any]:
        """What the method's strategy is told beyond what every one is: argument -> value."""
        values = {
            argument: self.value(name, None)
            for name, argument in STRATEGY_ARGUMENTS.items()
            if name in self.row.settings
        }
        return self._for_task(values)

    def _for_task(self, values: dict[str, Any]) -> dict[str, Any]:
        """Replace what is left to the kind of task, once that is known."""
        if self.known_schema:
            numbers = self.known_schema.task == "regression"
            if values.get("covariance") == "auto":
                # that of all classes' coefficients is too large to be estimated whole
                values["covariance"] = "full" if numbers else "diagonal"
            if values.get("protocol") == "auto":
                values["protocol"] = "one-shot" if numbers else "iterative"
        return values

    @property
    def objective(self) -> Objective:
        """What decision thresholds are to be good at."""
        return Objective(self.threshold_metric, self.cost_ratio, self.wanted_recall)

    @property
    def fine_tuning(self) -> FineTuning | None:
        """Personalization at evaluation, if the method has it."""
        row = self.row
        if not row.fine_tunes:
            return None
        trains = EVERYTHING if row.fine_tunes == "all" else frozenset({Scope(row.fine_tunes)})
        epochs = tuple(int(word) for word in split_words(self.fine_tuning_epochs))
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
    def known_schema(self) -> DataSchema | None:
        """What is known of the data: what clients told, else what the table of data sets says."""
        if self.schema is not None or is_own(self.dataset):
            return self.schema
        source = SOURCES[self.dataset]
        if self.task == "link-prediction":
            return DataSchema(source.shape, "link-prediction", graph=source.graph)
        labels = tuple(range(source.num_classes))
        return DataSchema(source.shape, source.task, labels, graph=source.graph)

    @property
    def required_schema(self) -> DataSchema:
        """The same, where there is no way without.

        Raises
        ------
        ConfigError
            If no client has told anything yet.
        """
        known = self.known_schema
        if known is None:
            raise ConfigError(f"nothing is known of {self.dataset!r} before clients are asked")
        return known

    @property
    def client_task(self) -> Task:
        """The loss and the scores."""
        schema = self.required_schema
        if schema.task == "regression":
            return Regression(unit=target_scale(schema)[1])
        return LinkPrediction() if schema.task == "link-prediction" else Classification()

    @property
    def architecture(self) -> Architecture:
        """The network: what the user chose, else what the method needs on this kind of data."""
        schema = self.required_schema
        image = len(schema.shape) == 3
        model = self.model
        if model == "auto":
            base = "gcn" if schema.graph else "cnn" if image else "mlp"
            named = f"{self.row.block}-{base}" if self.row.block else base
            model = self.row.model or (named if named in MODELS else base)
        elif schema.graph and f"{self.row.block}-{model}" in MODELS:
            model = f"{self.row.block}-{model}"
        norm = self.value("norm", "batch")
        links = schema.task == "link-prediction"
        outputs = len(schema.labels) or 1
        # where a mask is told, as many inputs again say which values were missing
        masks = IMPUTATIONS[self.data.imputation].masks
        shape = (2 * schema.shape[0],) if masks else schema.shape
        return Architecture(model, shape, outputs, norm, self.adapter_size, links)

    @property
    def data(self) -> DataSettings:
        """What decides every client's data."""
        values = {item.name: getattr(self, item.name) for item in fields(DataSettings)}
        if self.heterogeneity is None:
            own = is_own(self.dataset)
            values["heterogeneity"] = "none" if own else SOURCES[self.dataset].heterogeneity
        if self.imputation is None:
            source = SOURCES.get(self.dataset)
            values["imputation"] = source.imputation if source else "none"
        values |= {name: str(values[name]) for name in PER_TIER}
        return DataSettings(**values)

    @property
    def streams(self) -> bool:
        """Whether clients have their data phase after phase."""
        source = SOURCES.get(self.dataset)
        return source is not None and source.num_phases > 1 and self.phases == "stream"

    @property
    def baseline_names(self) -> tuple[str, ...]:
        """The other methods to run, without the first."""
        return tuple(n for n in dict.fromkeys(split_words(self.baselines)) if n != self.method)

    def dump(self) -> dict[str, Any]:
        """Return the config with hyphenated keys; what was left empty is ``""``."""
        values = {name: getattr(self, item.name) for name, item in KEYS.items()}
        return {name: "" if value is None else value for name, value in values.items()}


def under_home(text: str) -> Path:
    """Return a folder that a config names; a relative one is under the home folder.

    The managed SuperLink, in which ``flwr run`` runs the server, has a working directory of its
    own, which a user does not know.
    """
    path = Path(text).expanduser()
    return path if path.is_absolute() else Path.home() / path


CLIENT_ARGUMENTS: Mapping[str, str] = {
    "lambda_": "strength",
    "tau": "tau",
    "mixing": "alpha",
    "inner_steps": "inner_steps",
    "outer_learning_rate": "outer_learning_rate",
    "averaging_probability": "averaging_probability",
    "fisher_decay": "decay",
    "fisher_samples": "samples",
    "protocol": "protocol",
    "prior": "prior",
    "posterior_samples": "posterior_samples",
}
"""Field that only some methods have -> the argument of their clients."""

STRATEGY_ARGUMENTS: Mapping[str, str] = {
    "clusters": "clusters",
    "clusterer": "clusterer",
    "agreement": "agreement",
    "few_examples": "few_examples",
    "smallest_cluster": "smallest_cluster",
    "projection_size": "projection_size",
    "revise_every": "revise_every",
    "restart": "restart",
    "mean_below": "mean_below",
    "median_above": "median_above",
    "use_metadata": "use_metadata",
    "server_learning_rate": "server_learning_rate",
    "embedding_size": "embedding_size",
    "protocol": "protocol",
    "covariance": "covariance",
    "restricted": "restricted",
    "prior_variance": "prior_variance",
    "prior_weight": "prior_weight",
    "communities": "communities",
    "largest_share": "largest_share",
    "least_quality": "least_quality",
    "update_clip": "update_clip",
}
"""Field that only some methods have -> the argument of their strategies."""

OWN_KEYS = tuple(
    dict.fromkeys((*CLIENT_ARGUMENTS, *STRATEGY_ARGUMENTS, "task_changes", "group", "group_decay"))
)
"""Fields that only some methods have."""

METHOD_KEYS: tuple[str, ...] = (
    *("personal", "schedule", "mu", "personal_decay"),
    *OWN_KEYS,
)
"""Fields that make one method another."""


def hyphenated(name: str) -> str:
    """Return how the name of a field is written in a run config."""
    return name.rstrip("_").replace("_", "-")


def key_of(item: Field[Any]) -> str:
    """Return how a field is written in a run config."""
    return hyphenated(item.name)


KEYS = {key_of(item): item for item in fields(RunConfig) if item.metadata}
"""Hyphenated key -> its field."""


def _convert(name: str, value: Any, item: Field[Any]) -> Any:
    kinds = item.metadata["kind"]
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    if item.default is None and value in ("", None):
        return None
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if str in kinds and value == math.inf:
        return "inf"  # which JSON knows, too
    if type(value) not in kinds:
        raise ConfigError(
            f"{name} is {value!r}; it must be of type {' or '.join(k.__name__ for k in kinds)}"
        )
    return value
