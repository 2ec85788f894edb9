"""Own graphs: a reader of PyG's ``Data`` of one client, with every check on it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clients.graphs.graph import Graph
from clients.logs import warn_once
from pfl_flower.data.client_records import RawClient, RawSplit
from pfl_flower.data.errors import DataError
from pfl_flower.data.readers.array_checks import as_array, checked_inputs, checked_targets
from pfl_flower.data.subgraph import both_ways, connections

MASKS = ("train_mask", "val_mask", "test_mask")
EDGE_VALUES = ("edge_weight", "edge_attr")
"""PyG's names of weights and features of edges, which no layer here uses."""

_RIGHT = "a graph is x (nodes, features), edge_index (2, edges) and y (nodes,)"


def parts_of_graph(value: Any) -> dict[str, Any] | None:
    """Return the named parts of a graph: PyG's ``Data``, or a mapping with its names.

    Parameters
    ----------
    value : object
        What a user's function returned.

    Returns
    -------
    dict or None
        Name -> part, without parts that are None. None if it is no graph.

    Raises
    ------
    DataError
        If it is another type of PyG, or has several kinds of nodes or edges.
    """
    if any(kind.__module__.startswith("torch_geometric.") for kind in type(value).__mro__):
        if not hasattr(value, "to_dict"):
            raise DataError(
                f"a {type(value).__name__} is no graph of a client; return PyG's Data",
                value=type(value).__name__,
                choices=("Data",),
            )
        value = value.to_dict()
    elif not isinstance(value, Mapping) or "edge_index" not in value:
        return None
    if several := [name for name in value if not isinstance(name, str)]:
        raise DataError(
            f"the graph has edges {', '.join(map(str, several))}, so several kinds of nodes or "
            f"edges (PyG's HeteroData); a client's graph has one kind of each: return "
            f"graph.to_homogeneous()",
            key="edge_index",
            value=several,
            choices=("to_homogeneous",),
        )
    # PyG's own names begin with an underscore
    return {n: part for n, part in value.items() if part is not None and not n.startswith("_")}


def checked_graph(parts: Mapping[str, Any], where: str, task: str = "auto") -> RawClient:
    """Return a client's graph as a :class:`RawClient`, whose examples are its labelled nodes.

    Edges are made undirected, duplicates and self loops are dropped. Nodes may have no edges. An
    integer label of -1 (except in a regression) or a NaN means that a node is not labelled: it is
    in the graph, but in no split.

    Parameters
    ----------
    parts : mapping
        ``x`` (N, F) numbers; ``edge_index`` (2, E) integers from 0 to N - 1; ``y`` (N,) integers,
        floats or strings; optionally the masks ``train_mask``, ``val_mask`` and ``test_mask``,
        (N,) booleans, and ``community``, an integer from 0 on. Other names are ignored, those of
        edge weights and features with a warning.
    where : str
        Name of the client, for error messages.
    task : str, default "auto"
        ``"link-prediction"`` ignores labels and masks. Its examples are pairs of nodes
        (:mod:`pfl_flower.data.partition.link_split`), so the splits are empty here.

    Raises
    ------
    DataError
        If parts are missing or have a wrong shape, type or value, or there is no labelled node to
        train or test on.
    """
    needed = ("x", "edge_index") if task == "link-prediction" else ("x", "edge_index", "y")
    if missing := [name for name in needed if name not in parts]:
        there = ", ".join(sorted(parts)) or "nothing"
        raise DataError(
            f"{where} has no {', '.join(missing)} (there: {there}); {_RIGHT}",
            key=", ".join(missing),
            choices=sorted(parts),
        )
    features = _features(parts["x"], where)
    given = as_array(parts["edge_index"], "edge_index", where)
    edges = _edges(given, len(features), where)
    graph = Graph(features, edges)
    _warn_of_dropped(parts, same_edges=edges.shape[1] == given.shape[1])
    community = _community(parts.get("community"), where)
    if task == "link-prediction":
        nothing = np.empty(0, dtype=np.int64)
        return RawClient((nothing, nothing), graph=graph, community=community)
    train, validation, test = _node_splits(parts, len(features), where, task)
    return RawClient(train, validation, test, graph=graph, community=community)


def _features(value: Any, where: str) -> torch.Tensor:
    array = checked_inputs(value, "x", where)
    if array.ndim != 2 or not len(array):
        raise DataError(
            f"{where}: x has shape {array.shape}; it must be (nodes, features), with at least one "
            f"node",
            key="x",
            value=array.shape,
        )
    return torch.from_numpy(array.astype(np.float32))


def _edges(array: np.ndarray, num_nodes: int, where: str) -> torch.Tensor:
    """Return edges in both directions, each once; an array without edges may have any type."""
    if array.ndim != 2 or len(array) != 2:
        transposed = array.ndim == 2 and array.shape[1] == 2
        raise DataError(
            f"{where}: edge_index has shape {array.shape}; it must be (2, edges)"
            + ("; transpose it" if transposed else ""),
            key="edge_index",
            value=array.shape,
        )
    if array.size and array.dtype.kind not in "iu":
        raise DataError(
            f"{where}: edge_index is of type {array.dtype}; numbers of nodes must be integers",
            key="edge_index",
            value=array.dtype,
        )
    array = array.astype(np.int64)
    bad = np.flatnonzero(((array < 0) | (array >= num_nodes)).any(axis=0))
    if len(bad):
        left, right = array[:, bad[0]]
        raise DataError(
            f"{where}: {len(bad)} of {array.shape[1]} edges in edge_index name nodes "
            f"that do not exist; the first is edge {bad[0]}, from {left} to {right}, but nodes are "
            f"0 to {num_nodes - 1}",
            key="edge_index",
            value=(int(left), int(right)),
        )
    return both_ways(connections(torch.from_numpy(array), num_nodes))


def _warn_of_dropped(parts: Mapping[str, Any], same_edges: bool) -> None:
    """Say what of the edges is not used: weights, features, direction, repetition."""
    dropped = [name for name in EDGE_VALUES if parts.get(name) is not None]
    if not same_edges:
        dropped.append("direction (edges count both ways), repetition, loops")
    if dropped:
        warn_once(f"Graphs have more than is used; not used of their edges: {', '.join(dropped)}")


def _community(value: Any, where: str) -> int | None:
    if value is None:
        return None
    array = as_array(value, "community", where)
    if array.size != 1 or array.dtype.kind not in "iu" or array.item() < 0:
        raise DataError(
            f"{where}: community is {value!r}; it must be one number from 0, or left out",
            key="community",
            value=value,
        )
    return int(array.item())


def _node_splits(
    parts: Mapping[str, Any], num_nodes: int, where: str, task: str
) -> tuple[RawSplit, RawSplit | None, RawSplit | None]:
    """Return numbers and labels of labelled nodes: split by the masks, or all to train on."""
    labels = checked_targets(parts["y"], "y", where, allow_missing=True)
    if len(labels) != num_nodes:
        raise DataError(
            f"{where}: y has {len(labels)} labels, but x has {num_nodes} nodes; each node needs "
            f"one, which is -1 (of floats: NaN) where it is unknown",
            key="y",
            value=len(labels),
        )
    labelled = _labelled(labels, task)
    if not labelled.any():
        raise DataError(
            f"{where}: no node is labelled (y is -1 or NaN); at least one must be", key="y", value=0
        )
    masks = _masks(parts, num_nodes, where)
    if not masks:
        return _of(labels, labelled), None, None
    for name in ("train_mask", "test_mask"):
        if name in masks and not (masks[name] & labelled).any():
            raise DataError(
                f"{where}: no node of {name} is labelled; at least one must be", key=name, value=0
            )
    found = [_of(labels, masks[name] & labelled) if name in masks else None for name in MASKS]
    assert found[0] is not None  # as _masks says
    return found[0], found[1], found[2]


def _labelled(labels: np.ndarray, task: str) -> NDArray[np.bool_]:
    """Return which labels are known; in a regression -1 is a label as any other."""
    known: NDArray[np.bool_] = np.ones(len(labels), dtype=bool)
    if labels.dtype.kind == "f":
        known = ~np.isnan(labels)
    elif labels.dtype.kind in "iu" and task != "regression":
        known = labels != -1
    return known


def _of(labels: np.ndarray, mask: NDArray[np.bool_]) -> RawSplit:
    nodes = np.flatnonzero(mask)
    return nodes, labels[nodes]


def _masks(parts: Mapping[str, Any], num_nodes: int, where: str) -> dict[str, NDArray[np.bool_]]:
    """Return the masks, of which the training mask is always one; or no masks."""
    masks = {name: as_array(parts[name], name, where) for name in MASKS if name in parts}
    for name, mask in masks.items():
        if mask.dtype != bool or mask.shape != (num_nodes,):
            raise DataError(
                f"{where}: {name} is {mask.dtype} of shape {mask.shape}; it must be boolean, of "
                f"shape ({num_nodes},), one entry per node",
                key=name,
                value=(mask.dtype, mask.shape),
            )
    if masks and "train_mask" not in masks:
        raise DataError(
            f"{where} has {', '.join(masks)}, but no train_mask; add it, or leave all masks out",
            key="train_mask",
            choices=masks,
        )
    several = np.sum([mask.astype(int) for mask in masks.values()], axis=0) > 1
    if several.any():
        first = int(np.argmax(several))
        names = ", ".join(name for name, mask in masks.items() if mask[first])
        raise DataError(
            f"{where}: {several.sum()} nodes are in several masks (the first is {first}, in "
            f"{names}); a node may be in one mask at most",
            key=names,
            value=np.flatnonzero(several).tolist(),
        )
    return masks
