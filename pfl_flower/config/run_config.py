"""The run config: typed, validated, with errors that name the valid choices."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

from clients import (
    FineTuning,
    LinkPrediction,
    Optimization,
    ProximalRule,
    Regression,
    Scope,
    Task,
)
from clients.inference.class_scores import classification
from clients.local_training.training import EVERYTHING, SCHEDULES, Schedule
from pfl_flower.config.compatibility import check_compatibility
from pfl_flower.config.errors import ConfigError
from pfl_flower.config.keys import CLIP_OF_REGRESSION, OF_FIRST_METHOD, CommonKeys
from pfl_flower.config.reading import KEYS, typed_values
from pfl_flower.config.unused_keys import refuse_unused, unused_keys
from pfl_flower.config.validators import check_value
from pfl_flower.data import SOURCES, DataSchema, DataSettings, is_own
from pfl_flower.data.degradation.devices import PER_TIER
from pfl_flower.data.degradation.imputation import IMPUTATIONS
from pfl_flower.data.schema import target_scale
from pfl_flower.data.settings import RUN_KEYS
from pfl_flower.methods import METHOD_KEYS, METHODS, Method, keys_of
from pfl_flower.methods.method import MethodKeys
from pfl_flower.models import MODELS, Architecture
from pfl_flower.models.architecture import OF_ARCHITECTURE
from pfl_flower.utils.text import hyphenated, split_words
from strategies.thresholds.metrics import Objective

T = TypeVar("T")


@dataclass(frozen=True)
class RunConfig(CommonKeys):
    """Everything that decides a run: the keys, and what follows from them.

    A common key that is None leaves the choice to the method. It is validated when it is made;
    :meth:`for_method` and :meth:`with_schema` make each other config once.

    Parameters
    ----------
    others
        The common run keys, see :class:`pfl_flower.config.keys.CommonKeys`.
    own : mapping
        Of the keys that the method has for itself, those that the user set: field -> value.
    schema : DataSchema, optional
        What the clients reported of their data; not a key of the run config.

    Raises
    ------
    ConfigError
        If a value is not allowed, or values do not go together.
    """

    own: Mapping[str, Any] = field(default_factory=dict)
    schema: DataSchema | None = None

    def __post_init__(self) -> None:
        for name, item in KEYS.items():
            check_value(name, getattr(self, item.name), item)
        for name, item in keys_of(self.row).items():
            check_value(name, getattr(self.own_keys, item.name), item)
        check_compatibility(self)

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> "RunConfig":
        """Return the config of a mapping of hyphenated keys, such as Flower's ``run_config``.

        Raises
        ------
        ConfigError
            If a key is unknown or of another method, a value has a wrong type or is out of range
            (the message names the valid choices), or a key is set that has no effect.
        """
        config = cls.read(values)
        refuse_unused(config)
        return config

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> "RunConfig":
        """Return the config of a mapping of hyphenated keys, even of keys that have no effect.

        Raises
        ------
        ConfigError
            See :meth:`parse`.
        """
        common, own = typed_values(values)
        return cls(**common, own=own)

    @classmethod
    def used(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return a mapping of hyphenated keys without those that have no effect.

        So of what several methods are given alike, each gets what it has a use for.
        """
        unused = unused_keys(cls.read(values))
        return {key: value for key, value in values.items() if key not in unused}

    def once(self, what: str, make: Callable[[], T]) -> T:
        """Return what ``make`` returns, made once for this config.

        Parameters
        ----------
        what : str
            Names it.
        make : callable
            Makes it; it must follow from the config alone.
        """
        if what not in self._made:
            self._made[what] = make()
        found: T = self._made[what]
        return found

    @cached_property
    def _made(self) -> dict[str, Any]:
        return {}

    def for_method(self, name: str) -> "RunConfig":
        """Return this config for another method on the same clients, data and network.

        What the user set for the first method's own sake (rules, schedule, strengths) falls back
        to the other method's row. Each is made, and validated, once.
        """
        if name == self.method:
            return self
        changes: dict[str, Any] = dict.fromkeys(OF_FIRST_METHOD)
        changes |= {"model": self.architecture.model, "norm": self.architecture.norm}
        changes |= {"method": name, "initial": "", "own": {}}
        return self.once(f"for {name}", lambda: replace(self, **changes))

    def with_schema(self, schema: DataSchema) -> "RunConfig":
        """Return this config with what the clients reported of their data."""
        return self if schema == self.schema else replace(self, schema=schema)

    @property
    def row(self) -> Method:
        """The method's row."""
        return METHODS[self.method]

    @cached_property
    def own_keys(self) -> MethodKeys:
        """The run keys that the method has for itself: what the user set, else its defaults."""
        return self.row.keys(**self.own)

    def setting(self, name: str) -> Any:
        """Return a common key whose default a method decides: the user's, else the method's."""
        given = getattr(self, name)
        return self.row.default(name) if given is None else given

    @property
    def personal_rule(self) -> str:
        """The rule of what is personal."""
        return str(self.setting("personal"))

    @property
    def group_rule(self) -> str:
        """The rule of what is shared within groups only."""
        return self.own_keys.group_rule(self)

    @cached_property
    def local_schedule(self) -> Schedule:
        """The phases of local training."""
        make = SCHEDULES[self.setting("schedule")]
        return make(self.local_epochs, self.local_steps, self.head_epochs)

    @cached_property
    def proximal_rules(self) -> tuple[ProximalRule, ...]:
        """What parameters are held near."""
        return (
            ProximalRule(Scope.SHARED, "received", float(self.setting("mu"))),
            ProximalRule(Scope.PERSONAL, "zero", float(self.setting("personal_decay"))),
        )

    @property
    def objective(self) -> Objective:
        """What decision thresholds are to be good at."""
        return Objective(self.threshold_metric, self.cost_ratio, self.wanted_recall)

    @cached_property
    def fine_tuning(self) -> FineTuning | None:
        """Personalization at evaluation, if the method has it."""
        row = self.row
        if not row.fine_tunes:
            return None
        trains = EVERYTHING if row.fine_tunes == "all" else frozenset({Scope(row.fine_tunes)})
        epochs = tuple(int(word) for word in split_words(self.fine_tuning_epochs))
        return FineTuning(trains, epochs, row.fine_tunes_every_round)

    @cached_property
    def optimization(self) -> Optimization:
        """How a client steps."""
        schema, clip = self.known_schema, self.gradient_clip
        if clip is None:
            is_regression = schema is not None and schema.task == "regression"
            clip = CLIP_OF_REGRESSION if is_regression else 0.0
        steps = self.optimizer, self.learning_rate, self.momentum, self.weight_decay
        return Optimization(*steps, clip)  # type: ignore[arg-type]

    @cached_property
    def known_schema(self) -> DataSchema | None:
        """What is known of the data: what clients reported, else what the table of sources says."""
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
            If no client has reported anything yet.
        """
        if (known := self.known_schema) is None:
            raise ConfigError(
                f"nothing is known of {self.dataset!r} before clients are asked",
                key="dataset",
                value=self.dataset,
            )
        return known

    @cached_property
    def client_task(self) -> Task:
        """The loss and the scores."""
        schema = self.required_schema
        if schema.task == "regression":
            return Regression(unit=target_scale(schema)[1])
        classes = classification(split_words(self.scores), self.select_by)
        return LinkPrediction() if schema.task == "link-prediction" else classes

    @cached_property
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
        outputs = len(schema.labels) or 1
        # where a mask is reported, as many inputs again say which values were missing
        masks = IMPUTATIONS[self.data.imputation].masks
        shape = (2 * schema.shape[0],) if masks else schema.shape
        shape = shape[1:] if schema.inputs else shape
        own = {name: getattr(self, name) for name in OF_ARCHITECTURE}
        own |= {"links": schema.task == "link-prediction", "inputs": schema.inputs}
        own |= {"norm": self.setting("norm"), "freezes": self.row.freezes}
        return Architecture(model, shape, outputs, **own)

    @cached_property
    def data(self) -> DataSettings:
        """What decides every client's data."""
        values = {name: getattr(self, name) for name in RUN_KEYS}
        source = SOURCES.get(self.dataset)
        if self.heterogeneity is None:
            values["heterogeneity"] = source.heterogeneity if source else "none"
        if self.imputation is None:
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

    @property
    def method_names(self) -> tuple[str, ...]:
        """The methods of a run: the one asked for, its baselines, what a safeguard needs."""
        needed = ("fedavg", "local") if self.safeguard else ()
        return tuple(dict.fromkeys((self.method, *self.baseline_names, *needed)))

    def dump(self) -> dict[str, Any]:
        """Return the config with hyphenated keys; what was left empty is ``""``."""
        values = {name: getattr(self, item.name) for name, item in KEYS.items()}
        own = {hyphenated(name): value for name, value in self.own.items()}
        values |= {name: own.get(name) for name in METHOD_KEYS}
        return {name: "" if value is None else value for name, value in values.items()}
