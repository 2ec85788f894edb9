"""Neighbourhoods that are drawn: what is in them, and how likely."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clients.graphs.neighbor_sampling import Neighbours, sample
from pfl_flower.models.graph_networks import GNN


def edges_of(pairs):
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T


@st.composite
def graphs(draw):
    """Directed edges, each once, and different nodes to ask for, in any order."""
    count = draw(st.integers(1, 12))
    node = st.integers(0, count - 1)
    edges = draw(st.lists(st.tuples(node, node), max_size=50, unique=True))
    nodes = draw(st.lists(node, min_size=1, unique=True))
    return count, edges, torch.tensor(nodes)


def drawn(count, edges, nodes, layers, fanout, seed):
    """Return the nodes found, and the edges by the graph's own numbers."""
    torch.manual_seed(seed)
    found, places = sample(Neighbours.of(edges_of(edges), count), nodes, layers, fanout)
    return found, found[places].T.tolist()


@given(graphs())
def test_neighbours_are_the_senders_of_every_node(graph):
    count, edges, _ = graph
    starts, senders = Neighbours.of(edges_of(edges), count)
    assert len(starts) == count + 1
    for node in range(count):
        own = senders[starts[node] : starts[node + 1]].tolist()
        assert sorted(own) == sorted(u for u, v in edges if v == node)


@given(graphs(), st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_every_node_whose_messages_count_has_as_many_different_senders_as_it_may(
    graph, layers, fanout, seed
):
    count, edges, nodes = graph
    found, pairs = drawn(count, edges, nodes, layers, fanout, seed)
    assert found[: len(nodes)].tolist() == nodes.tolist()
    assert len(set(found.tolist())) == len(found)
    assert len(set(map(tuple, pairs))) == len(pairs)
    assert set(map(tuple, pairs)) <= set(edges)
    degree = Counter(v for _, v in edges)
    received = Counter(v for _, v in pairs)
    reached, frontier = set(nodes.tolist()), set(nodes.tolist())
    for _ in range(layers):  # level by level, along what was drawn
        for node in frontier:
            assert received[node] == min(fanout, degree[node])
        frontier = {u for u, v in pairs if v in frontier} - reached
        reached |= frontier
    assert reached == set(found.tolist())
    assert all(received[node] == 0 for node in frontier)  # the border only sends


@given(graphs(), st.integers(1, 3))
def test_with_enough_draws_it_is_the_whole_neighbourhood(graph, layers):
    count, edges, nodes = graph
    found, pairs = drawn(count, edges, nodes, layers, count, seed=0)
    reached, inner = set(nodes.tolist()), set()
    for _ in range(layers):
        inner = set(reached)
        reached |= {u for u, v in edges if v in reached}
    assert set(found.tolist()) == reached
    assert set(map(tuple, pairs)) == {(u, v) for u, v in edges if v in inner}


def ring_and_hub(count=40):
    """A ring, and a hub that knows everybody: degrees from 3 to 39."""
    ring = [(i, i % (count - 1) + 1) for i in range(1, count)]
    spokes = [(0, i) for i in range(1, count)]
    both = [*ring, *spokes]
    return edges_of([*both, *((v, u) for u, v in both)])


@pytest.mark.parametrize("layer", ["sage", "gin"])
def test_with_enough_draws_encodings_are_those_of_the_whole_graph(layer):
    edges, nodes = ring_and_hub(), torch.tensor([5, 0, 17])
    torch.manual_seed(1)
    features, model = torch.randn(40, 4), GNN(layer, 4, 2)
    whole = model.encode(features, edges)[nodes]
    found, places = sample(Neighbours.of(edges, 40), nodes, model.layers, 40)
    part = model.encode(features[found], places)[: len(nodes)]
    torch.testing.assert_close(part, whole, rtol=1e-5, atol=1e-5)


def test_a_gcn_weighs_the_border_by_degrees_that_it_does_not_see():
    edges, nodes = ring_and_hub(), torch.tensor([5])
    torch.manual_seed(1)
    features, layer = torch.randn(40, 4), GNN("gcn", 4, 2).layer1
    neighbours = Neighbours.of(edges, 40)
    parts = []
    for depth in (1, 2):  # the second shows all messages to those that send to the node
        found, places = sample(neighbours, nodes, depth, 40)
        parts.append(layer(features[found], places)[0])
    whole = layer(features, edges)[5]
    assert not torch.allclose(parts[0], whole, atol=1e-3)
    torch.testing.assert_close(parts[1], whole, rtol=1e-5, atol=1e-5)


def test_every_sender_is_as_likely_to_be_drawn():
    senders, fanout, rounds = 7, 3, 4000
    neighbours = Neighbours.of(edges_of([(i, 0) for i in range(1, senders + 1)]), senders + 1)
    torch.manual_seed(100)
    sets = Counter(
        frozenset(sample(neighbours, torch.tensor([0]), 1, fanout)[0][1:].tolist())
        for _ in range(rounds)
    )
    assert len(sets) == 35  # all sets of three of seven
    for tally, chance in (
        (sets, 1 / 35),
        (Counter(node for one in sets.elements() for node in one), fanout / senders),
    ):
        spread = np.sqrt(rounds * chance * (1 - chance))
        assert np.abs(np.array(list(tally.values())) - rounds * chance).max() < 5 * spread


def test_the_seed_of_torch_decides_and_every_draw_is_another():
    edges, nodes = ring_and_hub(), torch.tensor([0, 3])
    neighbours = Neighbours.of(edges, 40)

    def three(seed):
        torch.manual_seed(seed)
        return [[part.tolist() for part in sample(neighbours, nodes, 2, 4)] for _ in range(3)]

    assert three(1) == three(1)
    assert three(1) != three(2)
    first, second, third = three(1)
    assert first != second != third != first
