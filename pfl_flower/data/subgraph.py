"""Graphs and the pieces of them that clients have."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


def connections(edges: Tensor, num_nodes: int) -> Tensor:
    """Return who is connected with whom, whatever the direction: each pair once, no self loops.

    Parameters
    ----------
    edges : ``(2, E)`` int64, of nodes 0 to ``num_nodes`` - 1

    Returns
    -------
    ``(2, P)`` int64, the smaller number first, ascending
    """
    low, high = edges.min(dim=0).values, edges.max(dim=0).values
    codes = torch.unique((low * num_nodes + high)[low != high])
    return torch.stack([codes // num_nodes, codes % num_nodes])


def both_ways(pairs: Tensor) -> Tensor:
    """Return the edges ``(2, 2 P)`` of connections ``(2, P)``: there, then back."""
    return torch.cat([pairs, pairs.flip(0)], dim=1)


class Pieces(NamedTuple):
    """What is left of a graph that is cut.

    Attributes
    ----------
    edges : of every client ``(2, E)`` int64, among the positions of its nodes
    kept : number of connections between nodes of the same client
    dropped : number of connections of a client's node with a node that is not the client's
    dropped_by : the same of every client, each counted once: by the client of the lower number, or
        by the only one, where a node is nobody's
    """

    edges: tuple[Tensor, ...]
    kept: int
    dropped: int
    dropped_by: tuple[int, ...]


def cut(edges: Tensor, indices: Sequence[np.ndarray], num_nodes: int) -> Pieces:
    """Cut a graph into the pieces of clients.

    Parameters
    ----------
    edges : ``(2, E)`` int64, each connection in both directions
    indices : for every client its nodes; no node has two clients, but it may have none
    """
    owner = torch.full((num_nodes,), -1)
    place = torch.full((num_nodes,), -1)
    for client, nodes in enumerate(indices):
        owner[nodes] = client
        place[nodes] = torch.arange(len(nodes))
    left, right = owner[edges[0]], owner[edges[1]]
    inside = (left == right) & (left >= 0)
    order = left[inside].argsort(stable=True)
    ends = torch.bincount(left[inside], minlength=len(indices)).cumsum(0)
    parts = place[edges[:, inside][:, order]].tensor_split(ends[:-1].tolist(), dim=1)
    counted = (left >= 0) & ((left < right) | (right < 0))
    dropped_by = torch.bincount(left[counted], minlength=len(indices))
    return Pieces(
        tuple(parts), int(inside.sum()) // 2, int(dropped_by.sum()), tuple(dropped_by.tolist())
    )
