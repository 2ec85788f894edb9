"""Prediction of links: which connections are learned from, which are tested, and which are none.

PyG's ``RandomLinkSplit`` does much the same, but draws from torch's global generator, may repeat a
negative in another split, and knows no limit on training examples.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from clients.graphs.graph import Graph
from pfl_flower.data.client_records import RawClient, RawSplit
from pfl_flower.data.partition.splits import quantity_limit, split
from pfl_flower.data.schema import DataError
from pfl_flower.data.settings import DataSettings
from pfl_flower.data.subgraph import both_ways, connections
from strategies.randomness import generator

Pairs = NDArray[np.int64]


def link_splits(settings: DataSettings, client: int, graph: Graph) -> RawClient:
    """Return a client's pairs of nodes, connected or not, and the graph of training connections.

    Connections are split like other examples are: by the fractions, with at least one to train and
    one to test on. A limit on training examples is one on the training connections that are known
    at all, both as examples and as ways for messages. Each split has as many pairs that are not
    connected, fixed for the seed; where the graph has too few of them for all, every split has its
    share. No pair of nodes is in two splits, none that is said not to be connected is a connection
    of the whole graph, and messages are passed on training connections only, so that nothing of
    what is tested can be seen.

    Parameters
    ----------
    settings : its fractions, limits and seed
    client : the client's number
    graph : all of the client's nodes and connections

    Returns
    -------
    inputs are pairs ``(P, 2)`` int64, the smaller number first, those that are connected first;
    targets ``(P,)`` float32 are 1.0 and 0.0

    Raises
    ------
    DataError
        If there are fewer than two connections.
    """
    known = connections(graph.edges, len(graph)).T.numpy()
    if len(known) < 2:
        count = "1 connection" if len(known) else "no connections"
        raise DataError(f"client {client} has {count}; it needs one to train and one to test on")
    train, validation, test = split(settings, client, len(known))
    draw = generator(settings.seed, "links", client)
    missing = strangers(known, len(graph), len(known), draw)
    # The same ones are tested whatever the limit, so it comes after they are shared out.
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


def strangers(known: Pairs, num_nodes: int, count: int, draw: np.random.Generator) -> Pairs:
    """Draw pairs of nodes that are not connected, every set of so many with the same probability.

    Parameters
    ----------
    known : connections ``(P, 2)``, the smaller number first, each once
    num_nodes : numbers are 0 to ``num_nodes`` - 1
    count : how many are wanted
    draw : decides which

    Returns
    -------
    ``(count, 2)`` in random order, the smaller number first, each once; fewer if there are fewer
    """
    taken = known[:, 0] * num_nodes + known[:, 1]
    there = num_nodes * (num_nodes - 1) // 2 - len(known)
    if 2 * count >= there:  # the graph is so dense that all pairs together are few
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
    """Return where splits of these sizes end among so many; the first has one if there is one."""
    ends, wanted = np.cumsum(sizes), sum(sizes)
    return [int(-(-end * min(there, wanted) // wanted)) for end in ends[:-1]]


def _labelled(connected: Pairs, missing: Pairs) -> RawSplit:
    targets = np.repeat(np.array([1, 0], dtype=np.float32), [len(connected), len(missing)])
    return np.concatenate([connected, missing]), targets
