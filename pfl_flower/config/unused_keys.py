"""Run keys that are set and can have no effect, and what each would need."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pfl_flower.config.errors import ConfigError
from pfl_flower.config.keys import OF_FIRST_METHOD, CommonKeys
from pfl_flower.data import SOURCES, is_own
from pfl_flower.data.degradation.imputation import IMPUTATIONS
from pfl_flower.data.readers.registry import OWN
from pfl_flower.data.settings import OF_TABLES
from pfl_flower.methods import METHODS, Method
from pfl_flower.methods.method import COMMON_DEFAULTS
from pfl_flower.models import ADAPTER_MODELS, IMAGE_MODELS, MODELS, Architecture
from pfl_flower.models.libraries import LIBRARIES, is_of_library
from pfl_flower.utils.text import hyphenated

if TYPE_CHECKING:
    from pfl_flower.config.run_config import RunConfig


@dataclass(frozen=True)
class Need:
    """What run keys need to have an effect.

    Attributes
    ----------
    keys : tuple of str
        Common run keys, with hyphens.
    wanted : str
        What they need, in words.
    met : callable
        (config, row of one of the run's methods) -> whether they have it, as far as is known.
    """

    keys: tuple[str, ...]
    wanted: str
    met: Callable[["RunConfig", Method], bool]


def _chosen(config: "RunConfig", row: Method, name: str) -> Any:
    """Return what a method of the run has for a common key that methods have defaults of.

    What the user set is for the run's first method only.
    """
    return config.setting(name) if row is config.row else row.default(name)


def _shares(config: "RunConfig", row: Method) -> bool:
    return bool(_chosen(config, row, "personal") != "all")


def _is_of(config: "RunConfig", *kinds: str) -> bool:
    return config.dataset.partition(":")[0] in kinds


def _reads_lazily(config: "RunConfig") -> bool:
    kind, colon, _ = config.dataset.partition(":")
    return kind == "images" or bool(colon and kind not in OWN)


def _starts_from_weights(architecture: Architecture) -> bool:
    of_run = architecture.model in MODELS and architecture.weights != "true"
    return of_run or is_of_library(architecture.model)


def _is_picture(config: "RunConfig") -> bool:
    known = config.known_schema
    return known is None or (len(known.shape) == 3 and not known.graph)


def _streams(config: "RunConfig") -> bool:
    return not is_own(config.dataset) and SOURCES[config.dataset].num_phases > 1


def _reports_metadata(config: "RunConfig") -> bool:
    return not is_own(config.dataset) and SOURCES[config.dataset].metadata is not None


def _is_graph(config: "RunConfig") -> bool:
    return config.known_schema is None or config.known_schema.graph


def _has_model_of(config: "RunConfig", models: frozenset[str]) -> bool:
    return config.known_schema is None or config.architecture.model in models


def _imputes(config: "RunConfig") -> bool:
    """Return whether values may be missing, or the imputation changes those that are not."""
    row = IMPUTATIONS[config.data.imputation]
    if config.missing != "" or row.masks or row.draws > 1 or is_own(config.dataset):
        return True
    return SOURCES[config.dataset].imputation != "none"


NEEDS: tuple[Need, ...] = (
    Need(("alpha",), "partition=dirichlet", lambda c, _: c.partition == "dirichlet"),
    Need(
        ("classes-per-client",),
        "partition=pathological",
        lambda c, _: c.partition == "pathological",
    ),
    Need(
        ("client-column", "label-column"),
        "a dataset table:<file>, images:<table> or huggingface:<name>",
        lambda c, _: _is_of(c, "table", "images", "huggingface"),
    ),
    Need(
        (*(hyphenated(name) for name in OF_TABLES if name != "split_column"), "split"),
        "a dataset table:<file>",
        lambda c, _: c.dataset.startswith("table:"),
    ),
    Need(("min-category",), "categories", lambda c, _: c.categories != ""),
    Need(("time-column",), "split=time", lambda c, _: c.split == "time"),
    Need(
        ("split-column",),
        "a dataset table:<file> or images:<table>",
        lambda c, _: _is_of(c, "table", "images"),
    ),
    Need(
        ("image-size", "image-channels", "path-column"),
        "a dataset images:<folder or table>",
        lambda c, _: _is_of(c, "images"),
    ),
    Need(
        ("num-workers",),
        "pictures in files (images:<folder>), or a function that returns a Dataset",
        lambda c, _: _reads_lazily(c),
    ),
    Need(("augmentation",), "pictures", lambda c, _: _is_picture(c)),
    Need(("phases",), "data that come in phases", lambda c, _: _streams(c)),
    Need(("missingness",), "a share of missing values", lambda c, _: c.missing != ""),
    Need(("tiers",), "missing or noise", lambda c, _: (c.missing, c.noise) != ("", "")),
    Need(("imputation",), "missing values", lambda c, _: _imputes(c)),
    Need(("client-metadata",), "clients with metadata", lambda c, _: _reports_metadata(c)),
    Need(("whole-graph", "fanout"), "a graph", lambda c, _: _is_graph(c)),
    Need(
        ("norm",),
        f"a network with such layers: {', '.join(sorted(IMAGE_MODELS))}",
        lambda c, _: _has_model_of(c, IMAGE_MODELS),
    ),
    Need(
        ("adapter-size",),
        f"a network with adapters: {', '.join(sorted(ADAPTER_MODELS))}",
        lambda c, _: _has_model_of(c, ADAPTER_MODELS),
    ),
    Need(
        ("pretrained",),
        f"a network of a library: {', '.join(f'{name}:<name>' for name in LIBRARIES)}; or the "
        f"file of an earlier run, and a network of the app",
        lambda c, _: c.known_schema is None or _starts_from_weights(c.architecture),
    ),
    Need(
        ("lora-rank", "lora-alpha", "lora-targets"),
        "trainable=lora",
        lambda c, _: c.trainable == "lora",
    ),
    Need(
        ("mu", "weighting", "server-momentum"),
        "parameters that clients share, not all personal",
        _shares,
    ),
    Need(
        ("personal-decay",),
        "personal parameters",
        lambda c, row: _chosen(c, row, "personal") != "none",
    ),
    Need(
        ("head-epochs",),
        "schedule=head-then-body",
        lambda c, row: _chosen(c, row, "schedule") == "head-then-body",
    ),
    Need(("local-epochs",), "local-steps=0", lambda c, _: not c.local_steps),
    Need(("momentum",), "optimizer=sgd", lambda c, _: c.optimizer == "sgd"),
    Need(
        ("fine-tuning-epochs",),
        f"a method that fine-tunes: {', '.join(n for n, m in METHODS.items() if m.fine_tunes)}",
        lambda _, row: bool(row.fine_tunes),
    ),
    Need(("adaptation-steps",), "unseen clients", lambda c, _: bool(c.unseen)),
    Need(
        ("threshold-metric", "cost-ratio", "wanted-recall"),
        "a threshold",
        lambda c, _: c.threshold is not None,
    ),
    Need(("cost-ratio",), "threshold-metric=cost", lambda c, _: c.threshold_metric == "cost"),
    Need(
        ("wanted-recall",),
        "threshold-metric=precision-at-recall",
        lambda c, _: c.threshold_metric == "precision-at-recall",
    ),
)
"""What keys need beyond those of :attr:`Method.ignores`. A further one is one entry."""


def unused_keys(config: "RunConfig") -> dict[str, str]:
    """Return the common run keys that are set and have no effect in any method of the run.

    A value that is the default, or that asks for nothing (empty, 0, false or none), is not set.
    What is not known yet, such as the shape of data of one's own, is taken to be as it should.

    Parameters
    ----------
    config : RunConfig
        The config, with its baselines.

    Returns
    -------
    dict of str to str
        Key, with hyphens -> what it would need.
    """
    found: dict[str, str] = {}
    for need in NEEDS:
        for key in filter(partial(_is_set, config), need.keys):
            if not any(need.met(config, row) for row in _rows(config, key)):
                found[key] = f"it needs {need.wanted}"
    for key, reason in config.row.ignores.items():
        if _is_set(config, key) and all(key in row.ignores for row in _rows(config, key)):
            found[key] = reason
    return found


def _rows(config: "RunConfig", key: str) -> list[Method]:
    """Return the rows of the run's methods that a key is for."""
    first_only = key.replace("-", "_") in OF_FIRST_METHOD
    return [config.row] if first_only else [METHODS[name] for name in config.method_names]


def _is_set(config: "RunConfig", key: str) -> bool:
    name = key.replace("-", "_")
    value = getattr(config, name)
    if not value or value == "none" or value == getattr(CommonKeys, name):
        return False
    return not (name in COMMON_DEFAULTS and value == config.row.default(name))


def refuse_unused(config: "RunConfig") -> None:
    """Refuse keys that are set and have no effect.

    Raises
    ------
    ConfigError
        With the key, its value, and what it would need.
    """
    for key, reason in unused_keys(config).items():
        value = getattr(config, key.replace("-", "_"))
        raise ConfigError(
            f"{key}={value!r} has no effect on {', '.join(config.method_names)}: {reason}; "
            f"leave it out",
            key=key,
            value=value,
        )
