"""Graph partitions: edge lists without direction, and the subgraphs of clients."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


def connections(edges: Tensor, num_nodes: int) -> Tensor:
    """Return the undirected edges of a graph: each pair of nodes once, without self loops.

    Parameters
    ----------
    edges : Tensor
        ``(2, E)`` int64, of nodes 0 to ``num_nodes`` - 1, in any direction.
    num_nodes : int
        Number of nodes.

    Returns
    -------
    Tensor
        ``(2, P)`` int64, the smaller number first, ascending.
    """
    low, high = edges.min(dim=0).values, edges.max(dim=0).values
    codes = torch.unique((low * num_nodes + high)[low != high])
    return torch.stack([codes // num_nodes, codes % num_nodes])


def both_ways(pairs: Tensor) -> Tensor:
    """Return undirected edges in both directions.

    Parameters
    ----------
    pairs : Tensor
        ``(2, P)``, each edge once.

    Returns
    -------
    Tensor
        ``(2, 2 P)``: all edges, then all of them reversed.
    """
    return torch.cat([pairs, pairs.flip(0)], dim=1)


class GraphPartition(NamedTuple):
    """The subgraphs of the clients, and how many edges the partition keeps and drops.

    Attributes
    ----------
    edges : tuple of Tensor
        For every client ``(2, E)`` int64, among the positions of its nodes.
    kept : int
        Number of edges between nodes of the same client.
    dropped : int
        Number of edges between a node of a client and a node that is not the client's.
    dropped_by : tuple of int
        Number of dropped edges that each client counts. The client with the lower number counts
        an edge between two clients; the only client counts an edge to a node of no client.
    """

    edges: tuple[Tensor, ...]
    kept: int
    dropped: int
    dropped_by: tuple[int, ...]


def partition_graph(edges: Tensor, indices: Sequence[np.ndarray], num_nodes: int) -> GraphPartition:
    """Return the subgraphs that the nodes of each client induce.

    Parameters
    ----------
    edges : Tensor
        ``(2, E)`` int64, each edge in both directions.
    indices : sequence of ndarray
        For every client the numbers of its nodes. A node has at most one client.
    num_nodes : int
        Number of nodes.
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
    return GraphPartition(
        tuple(parts), int(inside.sum()) // 2, int(dropped_by.sum()), tuple(dropped_by.tolist())
    )
