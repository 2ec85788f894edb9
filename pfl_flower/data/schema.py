"""Client schemas and the data schema: data shapes, labels and statistics that a server needs.

Before the first round every client sends its client schema: the shape of an example, its labels
and, where features are standardised or imputed, their means and variances. The server merges them
into the data schema, from which follow the size of the network, one numbering of the classes and
the federated mean and deviation of every feature. No example leaves its client.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pfl_flower.data.moments import Moments, merge_moments
from strategies.errors import ArgumentError

Split = tuple[Tensor, Tensor]
"""(inputs, targets) of some examples."""

TaskName = Literal["classification", "regression", "link-prediction"]
Label = int | str


@dataclass(frozen=True)
class ClientSchema:
    """What one client sends about its data.

    Attributes
    ----------
    shape : tuple of int
        Shape of one example; of a node's features where the examples are nodes or pairs of nodes.
    task : str
        Whether targets are classes, numbers or links.
    labels : tuple of int or str, default ()
        Classes, ascending; empty for regression.
    features : Moments, optional
        Moments of the features over the training examples. None if no client needs them, or this
        one has fewer than :data:`pfl_flower.data.moments.FEWEST_ROWS` examples.
    target : Moments, optional
        Moments of the targets over the training examples, for regression; None likewise.
    graph : bool, default False
        Whether examples are nodes of a graph, or pairs of nodes.
    edges : tuple of int, optional
        Number of edges that a graph partition keeps and drops. Of a dropped edge only one of the
        two clients counts it, so that sums over clients are right. None without a partition.
    standardize : bool, default True
        Whether features are scaled to mean 0 and deviation 1, where their moments are known.
    columns : tuple of str, default ()
        Names of the features of a table, in their order; empty where they have no names.
    """

    shape: tuple[int, ...]
    task: TaskName
    labels: tuple[Label, ...] = ()
    features: Moments | None = None
    target: Moments | None = None
    graph: bool = False
    edges: tuple[int, int] | None = None
    standardize: bool = True
    columns: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return the schema as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "ClientSchema":
        """Return the schema that :meth:`to_json` wrote.

        Parameters
        ----------
        text : str
            The JSON.
        """
        values = json.loads(text)
        return cls(
            tuple(values["shape"]),
            values["task"],
            tuple(values["labels"]),
            _moments_of(values["features"]),
            _moments_of(values["target"]),
            values["graph"],
            None if values["edges"] is None else tuple(values["edges"]),
            values["standardize"],
            tuple(values["columns"]),
        )


def _moments_of(values: Mapping[str, Any] | None) -> Moments | None:
    if values is None:
        return None
    return Moments(
        values["count"],
        tuple(values["means"]),
        tuple(values["variances"]),
        tuple(values["counts"]),
    )


DataSchema = ClientSchema
"""The merged schemas of all clients: the same fields, over all clients."""


def merge_schemas(schemas: Mapping[int, ClientSchema]) -> tuple[DataSchema, dict[int, str]]:
    """Return the data schema, and the reason for every client whose data do not fit it.

    The data schema has the shape, task and columns that most clients have (ties: the lowest
    client's).

    Parameters
    ----------
    schemas : mapping
        Client -> its schema, at least one.

    Returns
    -------
    schema : DataSchema
        The merged schema.
    reasons : dict
        Client whose data do not fit -> the reason, in words.

    Raises
    ------
    ArgumentError
        If there is no schema.
    """
    if not schemas:
        raise ArgumentError("schemas", {}, "of one client or more")
    kinds = Counter(_kind(own) for _, own in sorted(schemas.items()))
    kind, common = kinds.most_common(1)[0]
    graph, shape, task = kind
    deviants = {
        client: f"its {_noun(own.graph)} have shape {own.shape} and are for {own.task}; the "
        f"{_noun(graph)} of {common} clients have shape {shape} and are for {task}"
        for client, own in sorted(schemas.items())
        if _kind(own) != kind
    }
    columns, misnamed = _common_columns({c: own for c, own in schemas.items() if c not in deviants})
    fitting = [own for client, own in sorted(schemas.items()) if client not in deviants | misnamed]
    labels = {label for own in fitting for label in own.labels}
    features = [own.features for own in fitting if own.features and own.features.finite]
    targets = [own.target for own in fitting if own.target and own.target.finite]
    edges = [own.edges for own in fitting if own.edges is not None]
    schema = DataSchema(
        shape,
        task,
        ordered(labels),
        merge_moments(features) if features else None,
        merge_moments(targets) if targets else None,
        graph,
        (sum(kept for kept, _ in edges), sum(dropped for _, dropped in edges)) if edges else None,
        all(own.standardize for own in fitting),
        columns,
    )
    return schema, deviants | misnamed


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


def _common_columns(schemas: Mapping[int, ClientSchema]) -> tuple[tuple[str, ...], dict[int, str]]:
    """Return the column names that most tables have, and the reason for every client with others.

    A client without column names has no table. Its shape is all that is checked.
    """
    named = {client: own.columns for client, own in sorted(schemas.items()) if own.columns}
    if not named:
        return (), {}
    common, count = Counter(named.values()).most_common(1)[0]
    reasons = {
        client: f"{column_difference(own, common)} of {count} clients"
        for client, own in named.items()
        if own != common
    }
    return common, reasons


def column_difference(own: tuple[str, ...], common: tuple[str, ...]) -> str:
    """Return in words which columns only one table has, and which only the others have.

    Parameters
    ----------
    own : tuple of str
        Columns of the one table.
    common : tuple of str
        Columns of the others.
    """
    mine, theirs = (
        ", ".join(repr(name) for name in names if name not in others)
        for names, others in ((own, common), (common, own))
    )
    return f"its table has the features {mine} in place of {theirs} in the tables"


def _kind(client_schema: ClientSchema) -> tuple[bool, tuple[int, ...], TaskName]:
    """Return what the data of all clients must have in common."""
    return client_schema.graph, client_schema.shape, client_schema.task


def _noun(graph: bool) -> str:
    return "nodes of a graph" if graph else "examples"


def ordered(labels: set[Label]) -> tuple[Label, ...]:
    """Return labels in order: numbers by size, then words in alphabetical order.

    Parameters
    ----------
    labels : set of int or str
        The labels.
    """
    numbers = sorted(label for label in labels if isinstance(label, int))
    return (*numbers, *sorted(label for label in labels if isinstance(label, str)))


def target_scale(schema: DataSchema) -> tuple[float, float]:
    """Return the mean and the deviation of the targets of a regression; (0, 1) if unknown.

    Parameters
    ----------
    schema : DataSchema
        The data schema.
    """
    if schema.target is None:
        return 0.0, 1.0
    return schema.target.means[0], math.sqrt(schema.target.variances[0]) or 1.0


def federated_means(schema: DataSchema) -> NDArray[np.float64]:
    """Return the federated mean of every feature, in the unit of the model; 0 where unknown.

    Parameters
    ----------
    schema : DataSchema
        The data schema.

    Returns
    -------
    ndarray
        ``(d,)``, features in one row.
    """
    if schema.features is None or schema.standardize:
        return np.zeros(math.prod(schema.shape))
    return np.array(schema.features.means)
