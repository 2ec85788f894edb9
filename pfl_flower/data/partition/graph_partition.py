"""Graph partitions by Louvain communities or by METIS, which keep most edges inside clients.

Both use the edges only.
"""

import heapq
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from pfl_flower.data.errors import DataError
from strategies.randomness import named_seed

Ints = NDArray[np.int64]
FRAGMENT = 0.1
"""A community with fewer nodes than this part of a client's share (an isolated node)
does not count."""

Partitioner = Callable[[Ints, int, int, int], Ints]
"""(edges ``(2, E)`` in both directions, number of nodes, of clients, seed) -> the client of every
node, ``(nodes,)``."""


def louvain(edges: Ints, num_nodes: int, num_clients: int, seed: int) -> Ints:
    """Assign whole communities to clients, found by the Louvain method.

    Blondel et al. 2008 (arXiv:0803.0476), in networkx' implementation. From the largest to the
    smallest, every community goes to the client with the fewest nodes so far. While fewer
    communities than clients have at least :data:`FRAGMENT` of a client's share of the nodes, the
    largest one is divided by the same method, if that finds several communities in it.

    Parameters
    ----------
    edges : ndarray
        ``(2, E)``, each edge in both directions.
    num_nodes, num_clients : int
        Number of nodes, and of clients.
    seed : int
        Decides the order in which the method visits nodes.

    Returns
    -------
    ndarray
        The client of every node, ``(num_nodes,)`` int64.

    Raises
    ------
    DataError
        If fewer communities than clients are found.
    """
    import networkx

    graph = networkx.Graph()
    graph.add_nodes_from(range(num_nodes))
    graph.add_edges_from(edges.T.tolist())

    def parts_of(nodes: list[int], name: int) -> list[list[int]]:
        part_seed = named_seed(seed, "louvain", name) % 2**32
        found = networkx.community.louvain_communities(graph.subgraph(nodes), seed=part_seed)
        return [sorted(part) for part in found]

    whole: list[list[int]] = []
    parts = parts_of(list(range(num_nodes)), 0)
    least = FRAGMENT * num_nodes / num_clients
    for name in range(1, 2 * num_clients):
        if sum(len(part) >= least for part in (*whole, *parts)) >= num_clients or not parts:
            break
        largest = max(parts, key=_size)
        parts.remove(largest)
        smaller = parts_of(largest, name)
        # A community in which the method finds only one community stays whole.
        (parts if len(smaller) > 1 else whole).extend(smaller)
    parts += whole
    if len(parts) < num_clients:
        raise DataError(
            f"partition 'louvain' finds {len(parts)} communities, fewer than the {num_clients} "
            f"clients; use fewer clients, or metis",
            key="partition",
            value="louvain",
            choices=("metis",),
        )
    return _packed(parts, num_nodes, num_clients)


def _size(part: list[int]) -> tuple[int, int]:
    """Return a sort key: parts by size, then the part with the lower first node as the larger."""
    return len(part), -part[0]


def _packed(parts: list[list[int]], num_nodes: int, num_clients: int) -> Ints:
    """Return the client of every node; each part goes to the client with the fewest nodes."""
    owner = np.empty(num_nodes, dtype=np.int64)
    loads = [(0, client) for client in range(num_clients)]
    for part in sorted(parts, key=_size, reverse=True):
        load, client = heapq.heappop(loads)
        owner[part] = client
        heapq.heappush(loads, (load + len(part), client))
    return owner


def metis(edges: Ints, num_nodes: int, num_clients: int, seed: int) -> Ints:
    """Divide a graph into parts of nearly the same size with few edges between them.

    Karypis and Kumar 1998 (doi:10.1137/S1064827595287997), in METIS' implementation.

    Parameters
    ----------
    edges, num_nodes, num_clients, seed
        See :func:`louvain`.

    Returns
    -------
    ndarray
        The client of every node, ``(num_nodes,)`` int64.

    Raises
    ------
    DataError
        If pymetis is not installed.
    """
    try:
        import pymetis
    except ImportError as error:
        raise DataError(
            "partition 'metis' needs pymetis; install it with pip install \".[metis]\"",
            key="partition",
            value="metis",
            choices=("louvain",),
        ) from error
    order = np.lexsort((edges[1], edges[0]))
    ends = np.bincount(edges[0], minlength=num_nodes).cumsum()
    neighbours = np.split(edges[1][order], ends[:-1])
    options = pymetis.Options(seed=named_seed(seed, "metis") % 2**31)
    _, parts = pymetis.part_graph(num_clients, adjacency=neighbours, options=options)
    return np.asarray(parts, dtype=np.int64)


GRAPH_PARTITIONS: Mapping[str, Partitioner] = {"louvain": louvain, "metis": metis}
"""Name of a graph partition -> its function. A new one is one row."""
