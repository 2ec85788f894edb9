"""Client schemas and the data schema: data shapes, labels and statistics that a server needs.

Before the first round every client sends its client schema: the shape of an example, its labels
and, where features are standardised or imputed, their means and variances. The server merges them
into the data schema, from which follow the size of the network, one numbering of the classes and
the federated mean and deviation of every feature. No example leaves its client.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from clients.data.inputs import Inputs
from clients.data.table_cells import Categories
from pfl_flower.data.moments import Moments

Split = tuple[Inputs, Tensor]
"""(inputs, targets) of some examples. Inputs are a tensor, or
:class:`~pfl_flower.data.lazy_inputs.LazyInputs`."""

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
        Classes, ascending; empty for regression, but for a client whose targets are all 0.0 or 1.0
        and may turn out to be classes (:func:`pfl_flower.data.schema_merging.merge_schemas`).
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
    integers : bool, default False
        Whether inputs are integers by type, as the indices of an embedding are. In the schema that
        a server sends: whether the network gets them as int64, since it takes no floats.
    train_labels, test_labels : tuple of int or str, default ()
        Classes of the client's training and test examples, ascending; empty for regression (but as
        ``labels``), for examples of several labels each, for fewer than
        :data:`pfl_flower.data.moments.FEWEST_ROWS` examples, and in the schema of all clients.
    whole_targets : bool, default False
        Whether the targets of a regression are a few whole numbers, which may mean classes.
    pixels : str, default ""
        Of arrays of three axes or more: ``"bytes"``, which are scaled to 0 to 1; ``"unit"``, all of
        it is there already; ``"other"``. Empty for other data.
    unscaled : bool, default False
        Whether features that are used as they are have values that are far from the order of 1.
    tests_on_training : bool, default False
        Whether own data have many test examples that are also training examples.
    inputs : tuple of str, default ()
        Names of the inputs, where a network gets several by name, as token ids and their mask;
        ``shape`` is then their number and the length of the longest sequence.
    base : str, default ""
        In the schema that a server sends: the fingerprint of the frozen base, if there is one.
    sends_base : bool, default False
        In the schema that a server sends: whether a client that has another base is sent it.
    categories : tuple, default ()
        The last columns of a table, each with the categories that enough of the client's rows have.
        In the schema of all clients: with those of the federation; ``shape``, ``columns`` and
        ``features`` are then those of the columns of 0 and 1 that they become.
    dates : tuple of str, default ()
        Columns of a table that are dates.
    unique_columns : tuple of str, default ()
        Columns of a table that have another value in almost every row.
    torn_classes : bool, default False
        Whether own data have a class that is not in train and test alike.
    left_out : int, default 0
        Number of examples of the client's own files that cannot be read.
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
    integers: bool = False
    train_labels: tuple[Label, ...] = ()
    test_labels: tuple[Label, ...] = ()
    whole_targets: bool = False
    pixels: str = ""
    unscaled: bool = False
    tests_on_training: bool = False
    inputs: tuple[str, ...] = ()
    base: str = ""
    sends_base: bool = False
    categories: Categories = ()
    dates: tuple[str, ...] = ()
    unique_columns: tuple[str, ...] = ()
    torn_classes: bool = False
    left_out: int = 0

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
            values["integers"],
            tuple(values["train_labels"]),
            tuple(values["test_labels"]),
            values["whole_targets"],
            values["pixels"],
            values["unscaled"],
            values["tests_on_training"],
            tuple(values["inputs"]),
            values["base"],
            values["sends_base"],
            tuple((name, tuple(words)) for name, words in values["categories"]),
            tuple(values["dates"]),
            tuple(values["unique_columns"]),
            values["torn_classes"],
            values["left_out"],
        )


def _moments_of(values: Mapping[str, Any] | None) -> Moments | None:
    if values is None:
        return None
    columns = (tuple(values[name]) for name in ("means", "variances", "counts"))
    return Moments(values["count"], *columns)


DataSchema = ClientSchema
"""The merged schemas of all clients: the same fields, over all clients."""


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
