"""Fitting a client's data to the data schema: standardised inputs, class numbers, and checks."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clients.data.inputs import Inputs
from clients.graphs.graph import Graph
from pfl_flower.data.categories import features_of_tables
from pfl_flower.data.errors import SchemaError
from pfl_flower.data.lazy_inputs import LazyInputs
from pfl_flower.data.moments import feature_scales
from pfl_flower.data.pixels import pixels_of
from pfl_flower.data.readers.table_columns import TableDetails
from pfl_flower.data.schema import DataSchema, target_scale
from pfl_flower.data.schema_merging import column_difference, column_kinds


def check_graph(graph: Graph, schema: DataSchema) -> None:
    """Check that the graph of a client fits the data schema.

    Parameters
    ----------
    graph : Graph
        The client's graph.
    schema : DataSchema
        The data schema.

    Raises
    ------
    SchemaError
        If the other clients have no graphs, or nodes with another number of features.
    """
    if not schema.graph:
        raise SchemaError(
            "examples are nodes of a graph; those of the federation are not",
            key="graph",
            value=True,
        )
    if tuple(graph.features.shape[1:]) != schema.shape:
        raise SchemaError(
            f"nodes have {graph.features.shape[1]} features; those of the federation have "
            f"{schema.shape[0]}",
            key="shape",
            value=tuple(graph.features.shape[1:]),
        )


def check_columns(
    columns: tuple[str, ...], schema: DataSchema, table: TableDetails = TableDetails()
) -> None:
    """Check that a table has the same features as the tables of the other clients.

    Parameters
    ----------
    columns : tuple of str
        Names of the client's features. Empty for data without names, which are not checked.
    schema : DataSchema
        The data schema.
    table : TableDetails
        Which of them are dates, and which categories.

    Raises
    ------
    SchemaError
        If the features differ.
    """
    if not (columns and schema.columns):
        return
    tables = features_of_tables(schema.columns, schema.categories)
    own = column_kinds(columns, table.dates, table.categories)
    common = column_kinds(tables, schema.dates, schema.categories)
    if own != common:
        raise SchemaError(
            f"{column_difference(own, common)} of the federation",
            key="columns",
            value=columns,
        )


def check_pixels(inputs: NDArray[Any] | LazyInputs, schema: DataSchema) -> None:
    """Check that pictures are on the scale of the other clients' (:mod:`pfl_flower.data.pixels`).

    Parameters
    ----------
    inputs : ndarray or LazyInputs
        The client's training inputs as a reader returned them.
    schema : DataSchema
        The data schema.

    Raises
    ------
    SchemaError
        If they are not.
    """
    kind = pixels_of(inputs) if schema.pixels else ""
    if (kind, schema.pixels) in (("other", "bytes"), ("bytes", "other")):
        raise SchemaError(
            f"pixels are on another scale than those of the federation ({schema.pixels})",
            key="pixels",
            value=kind,
        )


def as_numbers(inputs: NDArray[Any] | LazyInputs) -> Inputs:
    """Return inputs as they are; pixels (uint8) as float32 in 0 to 1.

    Lazy inputs stay lazy.

    Parameters
    ----------
    inputs : ndarray or LazyInputs
        ``(N, *shape)``.
    """
    if isinstance(inputs, LazyInputs):
        return inputs
    found = torch.from_numpy(inputs)
    return found.float() / 255.0 if found.dtype == torch.uint8 else found


def fit_inputs(inputs: Inputs, schema: DataSchema) -> Inputs:
    """Return inputs as the model gets them: standardised where the schema says so.

    Parameters
    ----------
    inputs : Tensor or LazyInputs
        ``(N, *shape)`` float32, float64 or int64.
    schema : DataSchema
        The data schema.

    Returns
    -------
    Tensor or LazyInputs
        The same shape, float32 (a constant feature becomes 0), or int64 where the schema says so.

    Raises
    ------
    SchemaError
        If an example has another shape than those of the federation, or the federation has graphs;
        or if integers are needed and a value is a fraction.
    """
    if schema.graph:
        raise SchemaError(
            "examples are not nodes of a graph; those of the federation are",
            key="graph",
            value=False,
        )
    shape = tuple(inputs.shape[1:])
    if shape != schema.shape:
        raise SchemaError(
            f"examples have shape {shape}; those of the federation have {schema.shape}",
            key="shape",
            value=shape,
        )
    if isinstance(inputs, LazyInputs):
        return inputs.fitted(schema)
    if schema.integers:
        return _as_integers(inputs)
    if schema.features is None or not schema.standardize:
        return inputs.float()
    scale = torch.from_numpy(feature_scales(schema.features)).reshape(schema.shape)
    mean = torch.from_numpy(np.array(schema.features.means)).reshape(schema.shape)
    return ((inputs.double() - mean) / scale).float()


def _as_integers(inputs: Tensor) -> Tensor:
    whole = inputs.long()
    if (odd := inputs[whole != inputs]).numel():
        raise SchemaError(
            f"examples hold the fraction {odd[0].item():g}; those of the federation are integers",
            key="integers",
            value=odd[0].item(),
        )
    return whole


def fit_targets(targets: NDArray[Any], schema: DataSchema) -> Tensor:
    """Return targets as the model gets them.

    Parameters
    ----------
    targets : ndarray
        ``(N,)`` or ``(N, K)`` labels, numbers, or 1.0 and 0.0 of links.
    schema : DataSchema
        The data schema.

    Returns
    -------
    Tensor
        The same shape: class numbers 0..C-1 (int64), or numbers of mean 0 and deviation 1, or
        links (float32).

    Raises
    ------
    SchemaError
        If the schema lacks a label.
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
            f"the federation has the labels {schema.labels}, but not the labels {unknown}",
            key="labels",
            value=unknown,
            choices=map(str, schema.labels),
        )
    numbers = np.array([known[label] for label in found.tolist()], dtype=np.int64)
    return torch.from_numpy(numbers[places].reshape(targets.shape))
