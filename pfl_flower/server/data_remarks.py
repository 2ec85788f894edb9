"""What is odd about the data of a federation, logged before round 1."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from logging import INFO, WARNING

from flwr.common.logger import log

from clients.logs import info_once, warn_once
from pfl_flower.config.run_config import RunConfig
from pfl_flower.data import ClientSchema, DataSchema, is_own
from pfl_flower.data.moments import FEWEST_ROWS
from pfl_flower.data.pixels import are_channels_last
from pfl_flower.data.schema import Label
from pfl_flower.models import MODELS

MANY = 20
"""From so many classes on, whole numbers may be meant as amounts."""

Remark = tuple[object, ...]
"""A format and its arguments, as of a log line."""


def log_data(
    config: RunConfig, schemas: Mapping[int, ClientSchema], misfits: Mapping[int, str]
) -> None:
    """Log what the data are, who cannot take part, and what may be a mistake.

    Parameters
    ----------
    config : RunConfig
        Of the run, with the merged schema.
    schemas : mapping of int to ClientSchema
        Client -> the schema of its data.
    misfits : mapping of int to str
        Client whose data do not fit the others' -> the reason.
    """
    schema = config.required_schema
    for client, reason in misfits.items():
        log(WARNING, "Client %d cannot take part: %s", client, reason)
    number = "links" if schema.task == "link-prediction" else "a number (regression)"
    what = f"{len(schema.labels)} classes" if schema.labels else number
    log(INFO, "Data: examples of shape %s, to predict %s", schema.shape, what)
    if schema.columns:
        log(INFO, "Features: %s", ", ".join(schema.columns))
    if schema.dates:
        log(INFO, "Dates are days since 1970: %s", ", ".join(schema.dates))
    if words := numbering(schema.labels):
        info_once(words)  # a comparison comes here once a method and seed
    fitting = {client: own for client, own in schemas.items() if client not in misfits}
    on_all = (_on_labels(schema), _on_moments(schema), _on_types(config))
    for remarks in (*on_all, _on_splits(fitting, schema), _on_columns(fitting)):
        for form, *values in remarks:
            warn_once(str(form) % tuple(values))


def numbering(labels: Sequence[Label]) -> str:
    """Say which labels become which classes, and of two, which is positive; empty if they are so.

    Parameters
    ----------
    labels : sequence of Label
        The classes of all clients, in order.
    """
    last = len(labels) - 1
    if tuple(labels) == tuple(range(len(labels))):
        return ""
    positive = f"; the positive class is {labels[1]!r}" if len(labels) == 2 else ""
    return f"Labels {list(labels)} become classes {f'0 to {last}' if last else '0'}{positive}"


def _on_labels(schema: DataSchema) -> Iterator[Remark]:
    labels = schema.labels
    numbers = all(isinstance(label, int) for label in labels)
    if len(labels) >= MANY and numbers and labels != tuple(range(len(labels))):
        yield ("So many whole numbers may be amounts: then set task=regression",)
    if len(labels) == 1:
        yield "All labels are %r: there is nothing to learn", labels[0]
    for alike in look_alikes(labels):
        yield "Labels %s look alike, and are kept apart: a mistake in the data?", alike
    written, words = mixed_labels(labels)
    if written and words:
        yield "Labels %s are numbers and %s are words: a mistake in the data?", written, words


def look_alikes(labels: Iterable[Label]) -> list[list[Label]]:
    """Return groups of labels that are the same but for case, blanks around, or type.

    Parameters
    ----------
    labels : iterable of Label
        The classes of all clients, such as ``"ill"`` and ``"Ill "``, or ``0`` and ``"0"``.
    """
    groups: dict[str, list[Label]] = {}
    for label in labels:
        groups.setdefault(str(label).strip().casefold(), []).append(label)
    return [group for group in groups.values() if len(group) > 1]


def mixed_labels(labels: Iterable[Label]) -> tuple[list[Label], list[Label]]:
    """Return the labels that are numbers, or are written as some, and those that are words.

    Parameters
    ----------
    labels : iterable of Label
        The classes of all clients, such as ``0``, ``"1"`` and ``"yes"``.
    """
    found: tuple[list[Label], list[Label]] = [], []
    for label in labels:
        found[not str(label).strip().removeprefix("-").isdecimal()].append(label)
    return found


def _on_columns(schemas: Mapping[int, ClientSchema]) -> Iterator[Remark]:
    """Say which features may be ids."""
    counts = Counter(name for own in schemas.values() for name in own.unique_columns)
    for name, count in sorted(counts.items()):
        yield (
            "Column %r is almost unique per row (at %d of %d clients), as an id is, and is a "
            "feature; if it is an id, set drop-columns, or group-column if rows belong together",
            *(name, count, len(schemas)),
        )


def _on_moments(schema: DataSchema) -> Iterator[Remark]:
    """Say where clients are so small that what should be standardised is not."""
    lacking = [
        *(["features"] if schema.standardize and schema.features is None else []),
        *(["targets"] if schema.task == "regression" and schema.target is None else []),
    ]
    if lacking:
        yield (
            "No client has %d training examples, so none sends means and deviations, and %s are "
            "not standardised: training may diverge",
            FEWEST_ROWS,
            " and ".join(lacking),
        )


def _on_splits(schemas: Mapping[int, ClientSchema], schema: DataSchema) -> Iterator[Remark]:
    """Say which classes no client is tested on, and who is tested on what it does not train on."""
    if untested := untested_labels(schemas, schema):
        yield "No client is tested on the classes %s, so no score counts them", untested
    if repeating := [client for client, own in sorted(schemas.items()) if own.tests_on_training]:
        yield (
            "%d of %d clients are tested on examples that they also train on, so that scores are "
            "too good (rows that are there twice?): %s",
            len(repeating),
            len(schemas),
            repeating,
        )
    if lacking := {client: own.left_out for client, own in schemas.items() if own.left_out}:
        yield (
            "%d pictures of %d clients cannot be decoded and are left out, of client -> how many: "
            "%s; the logs of the clients name them",
            sum(lacking.values()),
            len(lacking),
            lacking,
        )
    if unscaled := [client for client, own in sorted(schemas.items()) if own.unscaled]:
        yield (
            "%d of %d clients have features beyond 100, and those of a folder or a function are "
            "used as they are: scale them to the order of 1, or learning rates do not fit",
            len(unscaled),
            len(schemas),
        )
    if torn := [client for client, own in sorted(schemas.items()) if own.torn_classes]:
        yield (
            "%d of %d clients have a class that is not in training and test examples alike (too "
            "few examples or groups of it, or the data or the time split them so): %s",
            len(torn),
            len(schemas),
            torn,
        )
    if untrained := with_untrained_classes(schemas) if schema.labels else []:
        yield (
            "%d of %d clients are tested on classes that they do not train on: %s",
            len(untrained),
            len(schemas),
            untrained,
        )


def untested_labels(schemas: Mapping[int, ClientSchema], schema: DataSchema) -> list[Label]:
    """Return the classes that no client has among its test examples; none if one does not say.

    Parameters
    ----------
    schemas : mapping of int to ClientSchema
        Client -> the schema of its data.
    schema : DataSchema
        The merged schema.
    """
    if not all(own.test_labels for own in schemas.values()):
        return []
    tested = {label for own in schemas.values() for label in own.test_labels}
    return [label for label in schema.labels if label not in tested]


def with_untrained_classes(schemas: Mapping[int, ClientSchema]) -> list[int]:
    """Return the clients whose test examples have a class that their training examples lack.

    Parameters
    ----------
    schemas : mapping of int to ClientSchema
        Client -> the schema of its data.
    """
    says = {c: own for c, own in schemas.items() if own.train_labels}
    return sorted(c for c, own in says.items() if set(own.test_labels) - set(own.train_labels))


def _on_types(config: RunConfig) -> Iterator[Remark]:
    """Say where a type or a shape may mean something else."""
    schema = config.required_schema
    if not is_own(config.dataset):
        return
    if schema.whole_targets and config.task == "auto":
        yield (
            "Targets are few whole numbers, but floats, so this is a regression; if they are "
            "classes, set task=classification, else task=regression",
        )
    if schema.graph:
        return
    shape, model = schema.shape, config.architecture.model
    if len(shape) == 2 and model in MODELS:
        yield (
            "Model %s takes examples of shape %s as vectors; if they are grey pictures, give them "
            "an axis of channels: x[:, None]",
            model,
            shape,
        )
    if are_channels_last(shape):
        yield (
            "Examples have shape %s, so %d channels; pictures are (channels, height, width): if "
            "channels are last, transpose them: x.transpose(0, 3, 1, 2)",
            shape,
            shape[0],
        )
