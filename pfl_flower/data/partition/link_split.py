"""Link prediction: train, validation and test split of edges, with negative sampling.

PyG's ``RandomLinkSplit`` is similar, but draws from torch's global generator, may repeat a negative
pair in another split, and has no limit on training examples.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from clients.graphs.graph import Graph
from pfl_flower.data.client_records import RawClient, RawSplit
from pfl_flower.data.errors import DataError
from pfl_flower.data.partition.splits import quantity_limit, split
from pfl_flower.data.settings import DataSettings
from pfl_flower.data.subgraph import both_ways, connections
from strategies.randomness import generator

Pairs = NDArray[np.int64]


def link_splits(settings: DataSettings, client: int, graph: Graph) -> RawClient:
    """Return a client's splits of node pairs, and its graph of training edges.

    Edges are split by the fractions, with at least one to train and one to test on. A limit on
    training examples limits the training edges, both as examples and for messages. Each split has
    as many negative pairs (nodes without an edge) as edges; where the graph has too few of them,
    every split has its share. No pair is in two splits, no negative pair is an edge of the whole
    graph, and messages use training edges only, so that test edges stay hidden.

    Parameters
    ----------
    settings : DataSettings
        Its fractions, limits and seed.
    client : int
        Number of the client.
    graph : Graph
        All nodes and edges of the client.

    Returns
    -------
    RawClient
        Inputs are pairs ``(P, 2)`` int64, the smaller number first, edges before negative pairs;
        targets ``(P,)`` float32 are 1.0 and 0.0.

    Raises
    ------
    DataError
        If there are fewer than two edges.
    """
    known = connections(graph.edges, len(graph)).T.numpy()
    if len(known) < 2:
        raise DataError(
            f"client {client} has {len(known)} edges; it needs one to train and one to test on",
            key="edges",
            value=len(known),
            client=client,
        )
    train, validation, test = split(settings, client, len(known))
    draw = generator(settings.seed, "links", client)
    missing = negative_pairs(known, len(graph), len(known), draw)
    # The limit comes after the split, so that it does not change the test pairs.
    shares = _shares([len(test), len(validation), len(train)], len(missing))
    test_missing, validation_missing, train_missing = np.split(missing, shares)
    train = train[: quantity_limit(settings, client)]
    edges = both_ways(torch.from_numpy(known[np.sort(train)].T.copy()))
    return RawClient(
        _labelled(known[train], train_missing[: len(train)]),
        _labelled(known[validation], validation_missing),
        _labelled(known[test], test_missing),
        graph=Graph(graph.features, edges),
    )


def negative_pairs(known: Pairs, num_nodes: int, count: int, draw: np.random.Generator) -> Pairs:
    """Draw pairs of nodes without an edge, uniformly and without replacement.

    Parameters
    ----------
    known : ndarray
        Edges ``(P, 2)``, the smaller number first, each once.
    num_nodes : int
        Number of nodes.
    count : int
        Number of pairs to draw.
    draw : Generator
        The random numbers.

    Returns
    -------
    ndarray
        ``(count, 2)`` int64 in random order, the smaller number first; fewer if there are fewer.
    """
    taken = known[:, 0] * num_nodes + known[:, 1]
    there = num_nodes * (num_nodes - 1) // 2 - len(known)
    if 2 * count >= there:  # a dense graph, in which all pairs are few
        low, high = np.triu_indices(num_nodes, 1)
        free = np.setdiff1d(low * num_nodes + high, taken)
        found = draw.permutation(free)[:count]
    else:
        found = np.empty(0, dtype=np.int64)
        while len(found) < count:
            ends = np.sort(draw.integers(num_nodes, size=(2 * count, 2)), axis=1)
            codes = (ends[:, 0] * num_nodes + ends[:, 1])[ends[:, 0] < ends[:, 1]]
            codes = np.concatenate([found, codes[~np.isin(codes, taken)]])
            _, first = np.unique(codes, return_index=True)
            found = codes[np.sort(first)][:count]
    return np.stack([found // num_nodes, found % num_nodes], axis=1)


def _shares(sizes: list[int], there: int) -> list[int]:
    """Return the ends of splits of these sizes; with too few items the first has at least one."""
    ends, wanted = np.cumsum(sizes), sum(sizes)
    return [int(-(-end * min(there, wanted) // wanted)) for end in ends[:-1]]


def _labelled(connected: Pairs, missing: Pairs) -> RawSplit:
    targets = np.repeat(np.array([1, 0], dtype=np.float32), [len(connected), len(missing)])
    return np.concatenate([connected, missing]), targets
