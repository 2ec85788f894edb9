"""A user's own graph of a client: what PyG's ``Data`` holds, after every check on it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clients.graphs.graph import Graph
from pfl_flower.data.client_records import RawClient, RawSplit
from pfl_flower.data.readers.array_checks import as_array, checked_inputs, checked_targets
from pfl_flower.data.schema import DataError
from pfl_flower.data.subgraph import both_ways, connections

MASKS = ("train_mask", "val_mask", "test_mask")

_RIGHT = "a graph is x (nodes, features), edge_index (2, edges) and y (nodes,)"


def parts_of_graph(value: Any) -> dict[str, Any] | None:
    """Return the named parts of a graph: PyG's, or a mapping with its names; None of anything else.

    Parameters
    ----------
    value : what a user's function returns

    Raises
    ------
    DataError
        If it is something else of PyG's.
    """
    if any(kind.__module__.startswith("torch_geometric.") for kind in type(value).__mro__):
        if not hasattr(value, "to_dict"):
            raise DataError(f"a {type(value).__name__} is no graph of a client; return PyG's Data")
        value = value.to_dict()
    elif not isinstance(value, Mapping) or "edge_index" not in value:
        return None
    names = (name for name in map(str, value) if not name.startswith("_"))  # PyG has its own
    return {name: value[name] for name in names if value[name] is not None}


def checked_graph(parts: Mapping[str, Any], where: str, task: str = "auto") -> RawClient:
    """Return a client's graph as a :class:`RawClient`, whose examples are its labelled nodes.

    Edges count in both directions, each once; self loops are left out. Nodes without edges are
    fine. Integer labels of -1 (but in a regression) and floats that are NaN mean that a node is not
    labelled: it is in the graph, but in no split.

    Parameters
    ----------
    parts : ``x`` (N, F) numbers; ``edge_index`` (2, E) integers from 0 to N - 1; ``y`` (N,)
        integers, floats or strings; maybe the masks ``train_mask``, ``val_mask`` and ``test_mask``,
        (N,) booleans, and ``community``, a number from 0. Other names are left alone
    where : whose graph it is, for error messages
    task : for ``"link-prediction"`` neither labels nor masks are looked at, and no node is an
        example: pairs of nodes are (:mod:`pfl_flower.data.partition.link_split`)

    Raises
    ------
    DataError
        If parts are missing, have other shapes or types or values that cannot be, or there is no
        labelled node to train or test on.
    """
    needed = ("x", "edge_index") if task == "link-prediction" else ("x", "edge_index", "y")
    if missing := [name for name in needed if name not in parts]:
        there = ", ".join(sorted(parts)) or "nothing"
        raise DataError(f"{where} has no {', '.join(missing)} (there: {there}); {_RIGHT}")
    features = _features(parts["x"], f"{where}: x")
    edges = _edges(parts["edge_index"], len(features), f"{where}: edge_index")
    graph = Graph(features, edges)
    community = _community(parts.get("community"), f"{where}: community")
    if task == "link-prediction":
        nobody = np.empty(0, dtype=np.int64)
        return RawClient((nobody, nobody), graph=graph, community=community)
    train, validation, test = _node_splits(parts, len(features), where, task)
    return RawClient(train, validation, test, graph=graph, community=community)


def _features(value: Any, where: str) -> torch.Tensor:
    array = checked_inputs(value, where)
    if array.ndim != 2 or not len(array):
        raise DataError(
            f"{where} has shape {array.shape}; it has to be (nodes, features), of at least one node"
        )
    return torch.from_numpy(array.astype(np.float32))


def _edges(value: Any, num_nodes: int, where: str) -> torch.Tensor:
    """Return edges both ways, each once, without self loops; none may come in any type."""
    array = as_array(value, where)
    if array.ndim != 2 or len(array) != 2:
        transposed = array.ndim == 2 and array.shape[1] == 2
        raise DataError(
            f"{where} has shape {array.shape}; it has to be (2, edges)"
            + ("; transpose it" if transposed else "")
        )
    if array.size and array.dtype.kind not in "iu":
        raise DataError(f"{where} is of type {array.dtype}; numbers of nodes have to be integers")
    array = array.astype(np.int64)
    bad = np.flatnonzero(((array < 0) | (array >= num_nodes)).any(axis=0))
    if len(bad):
        left, right = array[:, bad[0]]
        raise DataError(
            f"{where}: {len(bad)} of {array.shape[1]} edges name nodes that there are not; the "
            f"first is edge {bad[0]}, from {left} to {right}, but nodes are 0 to {num_nodes - 1}"
        )
    return both_ways(connections(torch.from_numpy(array), num_nodes))


def _community(value: Any, where: str) -> int | None:
    if value is None:
        return None
    array = as_array(value, where)
    if array.size != 1 or array.dtype.kind not in "iu" or array.item() < 0:
        raise DataError(f"{where} is {value!r}; it has to be one number from 0, or left out")
    return int(array.item())


def _node_splits(
    parts: Mapping[str, Any], num_nodes: int, where: str, task: str
) -> tuple[RawSplit, RawSplit | None, RawSplit | None]:
    """Return numbers and labels of the labelled nodes: by the masks, or all as if to train on."""
    labels = checked_targets(parts["y"], f"{where}: y", may_lack=True)
    if len(labels) != num_nodes:
        raise DataError(
            f"{where}: y has {len(labels)} labels, but x has {num_nodes} nodes; each node needs "
            f"one, which is -1 (of floats: NaN) where it is unknown"
        )
    labelled = _labelled(labels, task)
    if not labelled.any():
        raise DataError(f"{where}: no node is labelled (y is -1 or NaN); at least one has to be")
    masks = _masks(parts, num_nodes, where)
    if not masks:
        return _of(labels, labelled), None, None
    for name in ("train_mask", "test_mask"):
        if name in masks and not (masks[name] & labelled).any():
            raise DataError(f"{where}: no node of {name} is labelled; at least one has to be")
    found = [_of(labels, masks[name] & labelled) if name in masks else None for name in MASKS]
    assert found[0] is not None  # as _masks says
    return found[0], found[1], found[2]


def _labelled(labels: np.ndarray, task: str) -> NDArray[np.bool_]:
    """Return which labels are known: of amounts -1 is one like any other."""
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
    """Return the masks that there are, among them that of training, or none at all."""
    masks = {name: as_array(parts[name], f"{where}: {name}") for name in MASKS if name in parts}
    for name, mask in masks.items():
        if mask.dtype != bool or mask.shape != (num_nodes,):
            raise DataError(
                f"{where}: {name} is {mask.dtype} of shape {mask.shape}; it has to be boolean, of "
                f"shape ({num_nodes},), one entry a node"
            )
    if masks and "train_mask" not in masks:
        raise DataError(f"{where} has {', '.join(masks)}, but no train_mask; give it, or no masks")
    several = np.sum([mask.astype(int) for mask in masks.values()], axis=0) > 1
    if several.any():
        first = int(np.argmax(several))
        names = ", ".join(name for name, mask in masks.items() if mask[first])
        raise DataError(
            f"{where}: {several.sum()} nodes are in several masks (the first is {first}, in "
            f"{names}); a node has to be in one at most"
        )
    return masks
