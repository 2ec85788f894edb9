"""Which values of a run config do not go together, and why."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pfl_flower.config.errors import ConfigError
from pfl_flower.data import SOURCES, DataError, is_own
from pfl_flower.data.degradation.applicability import check_measurements
from pfl_flower.data.degradation.devices import check_devices
from pfl_flower.data.degradation.imputation import IMPUTATIONS
from pfl_flower.data.heterogeneity import parse_heterogeneity
from pfl_flower.data.pixels import are_channels_last
from pfl_flower.models import GRAPH_MODELS, IMAGE_MODELS, MODELS
from pfl_flower.utils.text import hyphenated

if TYPE_CHECKING:
    from pfl_flower.config.run_config import RunConfig


def check_compatibility(config: "RunConfig") -> None:
    """Refuse values that do not go together, or that the data or the method have no use for.

    Raises
    ------
    ConfigError
        With the key that is wrong, and what would be right.
    """
    for check in (
        *(_check_examples, _check_network, _check_model_of_method, _check_phases),
        *(_check_clients, _check_scores, _check_thresholds, _check_devices, _check_method),
    ):
        check(config)


def _check_examples(config: "RunConfig") -> None:
    if config.min_examples > config.max_examples:
        raise ConfigError(
            f"min-examples {config.min_examples} is above max-examples {config.max_examples}",
            key="min-examples",
            value=config.min_examples,
        )
    known = config.known_schema
    if config.stratify and known is not None and known.task != "classification":
        raise ConfigError(
            f"stratify splits class by class, and {config.dataset!r} is for {known.task}",
            key="stratify",
            value=True,
            choices=("false",),
        )
    _check_split(config)
    if config.validation_fraction + config.test_fraction >= 1:
        raise ConfigError(
            "validation-fraction and test-fraction leave nothing to train on",
            key="test-fraction",
            value=config.test_fraction,
        )


def _check_split(config: "RunConfig") -> None:
    """Refuse a split by time without a time, or by something else as well."""
    if config.split == "time" and not config.time_column:
        raise ConfigError(
            "split=time needs time-column, a column of numbers or dates",
            key="time-column",
            value="",
        )
    others = {"stratify": config.stratify, "split-column": config.split_column}
    for key, value in others.items():
        if config.split == "time" and value:
            raise ConfigError(
                f"split=time decides who tests, and so does {key}; leave one of them out",
                key=key,
                value=value,
            )


def _check_network(config: "RunConfig") -> None:
    """Refuse networks and tasks for other kinds of data."""
    known = config.known_schema
    if known is None:
        return
    graphs = [name for name, source in SOURCES.items() if source.graph]
    if config.task == "link-prediction" and not known.graph:
        raise ConfigError(
            f"links are predicted in graphs, and {config.dataset!r} is none: {', '.join(graphs)}",
            key="task",
            value=config.task,
            choices=graphs,
        )
    if config.model in MODELS and (config.model in GRAPH_MODELS) != known.graph:
        fitting = sorted(GRAPH_MODELS if known.graph else set(MODELS) - GRAPH_MODELS)
        raise ConfigError(
            f"model {config.model!r} does not fit {config.dataset!r}, which is "
            f"{'a graph' if known.graph else 'no graph'}; use {', '.join(fitting)}",
            key="model",
            value=config.model,
            choices=fitting,
        )
    if config.model in IMAGE_MODELS and len(known.shape) != 3:
        fitting = sorted(set(MODELS) - IMAGE_MODELS - GRAPH_MODELS)
        raise ConfigError(
            f"model {config.model!r} needs images, {config.dataset!r} has shape {known.shape}; "
            f"use {', '.join(fitting)}",
            key="model",
            value=config.model,
            choices=fitting,
        )
    if is_own(config.dataset) and config.architecture.model in IMAGE_MODELS:
        _check_channels(known.shape)


def _check_channels(shape: Sequence[int]) -> None:
    """Refuse pictures whose channels come last; a network of the user's own may want them so."""
    if are_channels_last(shape):
        height, width, channels = shape
        raise ConfigError(
            f"examples have shape {tuple(shape)}, and pictures are (channels, height, width), so "
            f"that these have {height} channels. If channels come last, transpose x_train and all "
            f"others: x.transpose(0, 3, 1, 2) makes it {(channels, height, width)}. Otherwise use "
            f"a network of your own",
            key="dataset",
            value=tuple(shape),
            choices=("transpose(0, 3, 1, 2)",),
        )


def _check_model_of_method(config: "RunConfig") -> None:
    """Refuse a network, or data, that the method can do nothing with."""
    row, known = config.row, config.known_schema
    if known is not None and row.graphs and not known.graph:
        graphs = [name for name, source in SOURCES.items() if source.graph]
        raise ConfigError(
            f"method {config.method!r} is for graphs, and {config.dataset!r} is none; use "
            f"{', '.join(graphs)}, or method {config.method.removesuffix('-gnn')!r}",
            key="method",
            value=config.method,
            choices=graphs,
        )
    if known is not None and known.graph and row.model and row.model not in GRAPH_MODELS:
        raise ConfigError(
            f"method {config.method!r} is for model={row.model!r} only, which cannot look "
            f"at the graph that {config.dataset!r} is; use another method",
            key="method",
            value=config.method,
        )
    if row.model and config.model in MODELS and config.model != row.model:
        raise ConfigError(
            f"method {config.method!r} is for model={row.model!r} only, not {config.model!r}",
            key="model",
            value=config.model,
            choices=(row.model,),
        )


def _check_phases(config: "RunConfig") -> None:
    """Refuse what data with clients of their own, or that come in phases, cannot have."""
    source = SOURCES.get(config.dataset)
    if source is None:
        return
    if (source.natural or source.num_phases > 1) and config.partition != "natural":
        raise ConfigError(
            f"{config.dataset!r} has clients of its own; set partition='natural'",
            key="partition",
            value=config.partition,
            choices=("natural",),
        )
    if config.streams and config.safeguard:
        raise ConfigError(
            f"{config.dataset!r} comes in phases, and a client's validation examples are of the "
            f"phase at hand only: no model can be chosen on them for all phases. Set "
            f"phases='joint', or leave safeguard at false",
            key="safeguard",
            value=True,
        )


def _check_clients(config: "RunConfig") -> None:
    """Refuse clusters, late clients and first arrays that cannot be."""
    if config.cluster_sizes and not parse_heterogeneity(config.data.heterogeneity):
        raise ConfigError(
            "clusters differ by their heterogeneity, and there is none here; set one, such as "
            "heterogeneity='taste'",
            key="heterogeneity",
            value=config.data.heterogeneity,
        )
    if config.late and config.num_server_rounds < 2:
        raise ConfigError(
            "late clients come after half of the rounds; there must be 2 or more",
            key="num-server-rounds",
            value=config.num_server_rounds,
        )
    if config.initial and config.baseline_names:
        raise ConfigError(
            "initial starts the method ahead of its baselines, which would be no comparison; "
            "set baselines=''",
            key="baselines",
            value=config.baselines,
        )


def _check_scores(config: "RunConfig") -> None:
    """Refuse scores of classes where there are none."""
    known = config.known_schema
    if known is None or known.task == "classification":
        return
    for key, value in (("scores", config.scores), ("select-by", config.select_by)):
        if value not in ("", "accuracy"):
            raise ConfigError(
                f"{key} names scores of classes, and {config.dataset!r} is for {known.task}",
                key=key,
                value=value,
                choices=("accuracy",),
            )


def _check_thresholds(config: "RunConfig") -> None:
    """Refuse thresholds where there are no classes, or nothing to find them on."""
    if config.threshold is None:
        return
    known = config.known_schema
    if known is not None and (known.task != "classification" or len(known.labels) < 2):
        kind = f"{len(known.labels)} class" if known.labels else known.task
        raise ConfigError(
            f"thresholds are for 2 or more classes, and {config.dataset!r} is {kind}; leave "
            f"threshold empty",
            key="threshold",
            value=config.threshold,
        )
    if not config.validation_fraction and not is_own(config.dataset):
        raise ConfigError(
            "threshold needs validation examples; set validation-fraction",
            key="validation-fraction",
            value=0.0,
        )
    if config.streams:
        raise ConfigError(
            f"{config.dataset!r} comes in phases, and a client's validation examples are of the "
            f"phase at hand only, so no threshold is found for all; set phases='joint'",
            key="phases",
            value=config.phases,
            choices=("joint",),
        )


def _check_devices(config: "RunConfig") -> None:
    """Refuse devices and imputations that contradict one another, the data or the method."""
    try:
        check_devices(config.data)
        if known := config.known_schema:
            source = SOURCES.get(config.dataset)
            streams = source is not None and source.num_phases > 1
            check_measurements(config.data, known.shape, known.graph, streams, bool(known.inputs))
    except DataError as error:
        raise ConfigError.from_error(error) from error
    degrading = ("missing", "noise", "corrupted_clients", "calibrate_inputs")
    for name in degrading if config.categories else ():
        if value := getattr(config, name):
            raise ConfigError(
                f"{hyphenated(name)} changes measurements, and categories are none; leave one of "
                f"them out",
                key=hyphenated(name),
                value=value,
            )
    draws = IMPUTATIONS[config.data.imputation].draws
    if draws > 1 and config.row.sums:
        raise ConfigError(
            f"method {config.method!r} is a sum over examples, of which imputation "
            f"{config.imputation!r} would count each {draws} times; use another imputation",
            key="imputation",
            value=config.imputation,
        )


def _check_method(config: "RunConfig") -> None:
    """Refuse keys that the method has no use for, and values that it refuses itself."""
    for key, reason in config.row.refuses.items():
        if value := getattr(config, key.replace("-", "_")):
            raise ConfigError(
                f"method {config.method!r} has no {key}: {reason}", key=key, value=value
            )
    try:
        config.own_keys.check(config)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError.from_error(error, f"{config.method}: ") from error
