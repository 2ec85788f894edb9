"""What a server must know of data it never sees: schemas of the clients, put together.

Before the first round every client tells the shape of an example, its labels and, where features
are to be standardised or filled in, their mean and variance. From the schemas come the size of the
network, one numbering of the classes for everybody, and the federated mean and deviation of every
feature. No example leaves its client.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clients.graphs.graph import Graph
from pfl_flower.data.moments import Moments, feature_deviations, merge_moments

Split = tuple[Tensor, Tensor]
"""(inputs, targets) of some examples."""

TaskName = Literal["classification", "regression", "link-prediction"]
Label = int | str


class DataError(ValueError):
    """A data set that is missing, cannot be read, or cannot be split as asked.

    Parameters
    ----------
    message : str
        What is wrong, where, and what would be right.
    key, value : optional
        The run key (or array, column, argument) that is wrong, and its value.
    client : int or str, optional
        The client whose data are meant.
    path : str, optional
        The file or folder.
    choices : optional
        What would be right, where it is one of a few.

    Attributes
    ----------
    key, value, client, path, choices
        The same; None (choices: empty) where they do not apply.
    """

    def __init__(
        self,
        message: str,
        *,
        key: str | None = None,
        value: Any = None,
        client: int | str | None = None,
        path: str | None = None,
        choices: Iterable[str] = (),
    ) -> None:
        super().__init__(message)
        self.key = key
        self.value = value
        self.client = client
        self.path = path
        self.choices = tuple(choices)


@dataclass(frozen=True)
class ClientSchema:
    """What one client tells of its data.

    Attributes
    ----------
    shape : of one example
    task : whether targets are classes, numbers or links
    graph : whether its examples are nodes of a graph, or pairs of them; ``shape`` is then that of
        the features of a node
    labels : its classes, ascending; empty for regression
    features : moments of the features over its training examples; None if nobody needs them, or
        the client has fewer than :data:`pfl_flower.data.moments.FEWEST_ROWS`
        examples
    target : moments of the targets over its training examples, for regression; None likewise
    edges : how many connections of a graph that was cut are kept by the cut, and dropped by it. One
        that is dropped is counted by one of its two clients only, so that sums are right. None
        where no graph was cut
    standardize : whether features are brought to mean 0 and deviation 1, where their moments are
        known
    columns : names of the features of a table, in their order; empty where they have none
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
        """Return the schema as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "ClientSchema":
        """Return the schema that :meth:`to_json` wrote."""
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
"""The schemas of all clients put together: the same fields, over everybody."""


def merge_schemas(schemas: Mapping[int, ClientSchema]) -> tuple[DataSchema, dict[int, str]]:
    """Return the schema, and for every client whose data do not fit the others' the reason.

    The shape and task that most clients have are the federation's (ties: the lowest client's).

    Parameters
    ----------
    schemas : client -> its schema, at least one

    Raises
    ------
    ValueError
        If there is no schema.
    """
    if not schemas:
        raise ValueError("no client has reported a schema of its data; there is nothing to merge")
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
    cuts = [own.edges for own in fitting if own.edges is not None]
    schema = DataSchema(
        shape,
        task,
        ordered(labels),
        merge_moments(features) if features else None,
        merge_moments(targets) if targets else None,
        graph,
        (sum(kept for kept, _ in cuts), sum(dropped for _, dropped in cuts)) if cuts else None,
        all(own.standardize for own in fitting),
        columns,
    )
    return schema, deviants | misnamed


def _common_columns(schemas: Mapping[int, ClientSchema]) -> tuple[tuple[str, ...], dict[int, str]]:
    """Return the names that most tables have for their features, and who has others, with reason.

    Who has no names, because his data are no table, is taken at the word of his shape.
    """
    named = {
        client: client_schema.columns
        for client, client_schema in sorted(schemas.items())
        if client_schema.columns
    }
    if not named:
        return (), {}
    common, count = Counter(named.values()).most_common(1)[0]
    reasons = {
        client: f"{_only_in(own, common)} of {count} clients"
        for client, own in named.items()
        if own != common
    }
    return common, reasons


def _only_in(own: tuple[str, ...], common: tuple[str, ...]) -> str:
    """Return in words what a table has that the others have not, and the other way around."""
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
    """Return labels in order: numbers by size, then words by the alphabet."""
    numbers = sorted(label for label in labels if isinstance(label, int))
    return (*numbers, *sorted(label for label in labels if isinstance(label, str)))


def target_scale(schema: DataSchema) -> tuple[float, float]:
    """Return mean and deviation of the targets of a regression, which trains on unit deviation."""
    if schema.target is None:
        return 0.0, 1.0
    return schema.target.means[0], math.sqrt(schema.target.variances[0]) or 1.0


def fleet_means(schema: DataSchema) -> NDArray[np.float64]:
    """Return the fleet's mean of every feature, flat, in the unit of the model; 0 where unknown."""
    if schema.features is None or schema.standardize:
        return np.zeros(math.prod(schema.shape))
    return np.array(schema.features.means)


class SchemaError(DataError):
    """A client's data that do not fit the schema of the federation."""


def check_graph(graph: Graph, schema: DataSchema) -> None:
    """Check that a client's graph is one like everybody's.

    Raises
    ------
    SchemaError
        If the federation's examples are no nodes of graphs, or their features are others in number.
    """
    if not schema.graph:
        raise SchemaError("examples are nodes of a graph; the federation's are not")
    if tuple(graph.features.shape[1:]) != schema.shape:
        raise SchemaError(
            f"nodes have {graph.features.shape[1]} features; "
            f"the federation's have {schema.shape[0]}"
        )


def check_columns(columns: tuple[str, ...], schema: DataSchema) -> None:
    """Check that the features of a client's table are those of everybody's tables.

    Raises
    ------
    SchemaError
        If they are not; who has no table has no names, and is taken at the word of his shape.
    """
    if columns and schema.columns and columns != schema.columns:
        raise SchemaError(f"{_only_in(columns, schema.columns)} of the federation")


def fit_inputs(inputs: Tensor, schema: DataSchema) -> Tensor:
    """Return float32 inputs, standardised where the schema says so; a constant feature becomes 0.

    Raises
    ------
    SchemaError
        If an example has another shape than the federation's, whose examples may be nodes.
    """
    if schema.graph:
        raise SchemaError("examples are not nodes of a graph; the federation's are")
    if tuple(inputs.shape[1:]) != schema.shape:
        raise SchemaError(
            f"examples have shape {tuple(inputs.shape[1:])}; the federation's have {schema.shape}"
        )
    if schema.features is None or not schema.standardize:
        return inputs
    deviations = feature_deviations(schema.features)
    scale = _tensor(np.where(deviations > 0, deviations, 1.0)).reshape(schema.shape)
    mean = _tensor(np.array(schema.features.means)).reshape(schema.shape)
    return ((inputs.double() - mean) / scale).float()


def _tensor(values: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(values)


def fit_targets(targets: NDArray[Any], schema: DataSchema) -> Tensor:
    """Return class numbers 0..C-1 (int64), or numbers of mean 0 and deviation 1 (float32).

    Links stay 1.0 and 0.0 (float32).

    Raises
    ------
    SchemaError
        If a label is unknown to the federation.
    """
    if schema.task == "link-prediction":
        return torch.from_numpy(targets).float()
    if schema.task == "regression":
        mean, deviation = target_scale(schema)
        return torch.from_numpy((targets.astype(np.float64) - mean) / deviation).float()
    known = {label: number for number, label in enumerate(schema.labels)}
    found, places = np.unique(targets, return_inverse=True)
    if unknown := [label for label in found.tolist() if label not in known]:
        raise SchemaError(
            f"labels {unknown} are unknown to the federation, which has {schema.labels}"
        )
    numbers = np.array([known[label] for label in found.tolist()], dtype=np.int64)
    return torch.from_numpy(numbers[places].reshape(targets.shape))
