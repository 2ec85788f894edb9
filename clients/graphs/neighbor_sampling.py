"""Neighbour sampling (GraphSAGE) for graphs that are too large to train on as a whole.

PyG's ``NeighborLoader`` does the same, but needs ``pyg-lib``, which is not on PyPI.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Neighbours(NamedTuple):
    """Incoming edges: the neighbours of node ``i`` are ``senders[starts[i] : starts[i + 1]]``.

    Attributes
    ----------
    starts : Tensor
        ``(N + 1,)`` int64.
    senders : Tensor
        ``(E,)`` int64.
    """

    starts: Tensor
    senders: Tensor

    @classmethod
    def of(cls, edges: Tensor, num_nodes: int) -> "Neighbours":
        """Sort edges ``(2, E)``, senders in the first row, by receiver."""
        order = edges[1].argsort(stable=True)
        counts = torch.bincount(edges[1], minlength=num_nodes)
        starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return cls(starts, edges[0][order])


def sample(
    neighbours: Neighbours, nodes: Tensor, layers: int, fanout: int
) -> tuple[Tensor, Tensor]:
    """Sample a neighbourhood: for every node at most ``fanout`` senders, layer by layer.

    Parameters
    ----------
    neighbours : Neighbours
        Incoming edges of the whole graph.
    nodes : Tensor
        Distinct nodes ``(B,)`` whose encodings are needed.
    layers : int
        Number of layers of message passing.
    fanout : int
        At least 1. A node with at most ``fanout`` senders keeps all of them; otherwise ``fanout``
        distinct ones are drawn, uniformly without replacement.

    Returns
    -------
    tuple of 2 Tensor
        The nodes of the neighbourhood, ``nodes`` first; and the sampled edges ``(2, E)``, as
        indices into these nodes.
    """
    device = neighbours.starts.device
    known = torch.full((len(neighbours.starts) - 1,), -1, dtype=torch.int64, device=device)
    known[nodes] = torch.arange(len(nodes), device=device)
    found, frontier, parts = nodes, nodes, []
    for _ in range(layers):
        senders, receivers = _draw(neighbours, frontier, fanout)
        frontier = torch.unique(senders[known[senders] < 0])
        known[frontier] = torch.arange(len(found), len(found) + len(frontier), device=device)
        found = torch.cat([found, frontier])
        parts.append(torch.stack([known[senders], known[receivers]]))
    return found, torch.cat(parts, dim=1)


def _draw(neighbours: Neighbours, nodes: Tensor, fanout: int) -> tuple[Tensor, Tensor]:
    """Return senders and receivers of at most ``fanout`` edges into each of the nodes."""
    first = neighbours.starts[nodes]
    counts = neighbours.starts[nodes + 1] - first
    owners = torch.repeat_interleave(torch.arange(len(nodes), device=nodes.device), counts)
    ends = counts.cumsum(0)
    ranks = torch.arange(len(owners), device=nodes.device) - (ends - counts)[owners]
    edges = first[owners] + ranks
    # A random order within every node's edges, of which the first ``fanout`` are kept.
    keys = torch.rand(len(owners), dtype=torch.float64).to(nodes.device)
    order = torch.argsort(owners + keys, stable=True)
    kept = order[ranks < fanout]
    return neighbours.senders[edges[kept]], nodes[owners[kept]]
