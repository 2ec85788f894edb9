from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clients.graphs.graph import Graph
from pfl_flower.data import DataError, DataSettings, Federation
from pfl_flower.data.partition.link_split import link_splits, negative_pairs
from pfl_flower.data.schema import ClientSchema
from pfl_flower.data.subgraph import both_ways, connections
from strategies.randomness import generator

LINKS = DataSettings(
    dataset="social", partition="natural", task="link-prediction", heterogeneity="none", seed=100
)


def graph_of(pairs, count):
    known = connections(torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T, count)
    return Graph(torch.zeros(count, 1), both_ways(known))


def parts(raw):
    return [raw.train, raw.validation, raw.test]


def as_set(pairs):
    return set(map(tuple, pairs.tolist()))


@st.composite
def graphs(draw, least=2):
    count = draw(st.integers(3, 9))
    every = [(u, v) for u in range(count) for v in range(u + 1, count)]
    pairs = draw(st.lists(st.sampled_from(every), min_size=least, unique=True))
    return graph_of(pairs, count), set(pairs), len(every)


@given(graphs(), st.integers(100, 200), st.floats(0, 0.4), st.floats(0.01, 0.9))
def test_nothing_is_in_two_splits_and_messages_go_along_training_connections_only(
    drawn, seed, validation, test
):
    graph, known, pairs = drawn
    settings = DataSettings(seed=seed, validation_fraction=validation, test_fraction=test)
    raw = link_splits(settings, 3, graph)
    linked = [as_set(inputs[targets == 1]) for inputs, targets in parts(raw)]
    missing = [as_set(inputs[targets == 0]) for inputs, targets in parts(raw)]
    assert set.union(*linked) == known
    assert sum(map(len, linked)) == len(known)
    assert len(linked[0]) >= 1
    assert len(linked[2]) >= 1
    # there are as many that are not connected, or all that there are
    assert not set.union(*missing) & known
    assert sum(map(len, missing)) == len(set.union(*missing)) == min(len(known), pairs - len(known))
    assert all(u < v for pair in (linked, missing) for one in pair for u, v in one)
    if 2 * len(known) <= pairs:
        assert list(map(len, linked)) == list(map(len, missing))
    if len(known) < pairs:
        assert missing[2]
    edges = as_set(raw.graph.edges.T)
    assert edges == linked[0] | {(v, u) for u, v in linked[0]}
    assert len(edges) == raw.graph.edges.shape[1]


def test_splits_are_fixed_for_a_seed_and_a_client():
    graph = graph_of([(i, (i * 7 + 1) % 40) for i in range(40)], 40)

    def drawn(seed, client):
        raw = link_splits(DataSettings(seed=seed), client, graph)
        return np.concatenate([inputs for inputs, _ in parts(raw)])

    assert (drawn(100, 1) == drawn(100, 1)).all()
    assert not (drawn(100, 1) == drawn(101, 1)).all()
    assert not (drawn(100, 1) == drawn(100, 2)).all()


@pytest.mark.parametrize("dense", [False, True])
def test_every_pair_that_is_not_connected_is_as_likely_to_be_drawn(dense):
    known = np.array([[0, 1], [2, 3], [1, 4]])
    nodes, count = (5, 4) if dense else (9, 4)
    rounds = 3000
    draw = generator(100, "test")
    tally = Counter(
        tuple(pair) for _ in range(rounds) for pair in negative_pairs(known, nodes, count, draw)
    )
    free = nodes * (nodes - 1) // 2 - 3
    assert len(tally) == free
    chance = count / free
    spread = np.sqrt(rounds * chance * (1 - chance))
    assert np.abs(np.array(list(tally.values())) - rounds * chance).max() < 5 * spread


def test_a_limit_is_one_on_the_connections_that_are_known():
    limited = DataSettings(seed=100, min_examples=7, max_examples=7)
    graph = graph_of([(i, (i * 7 + 1) % 40) for i in range(40)], 40)
    few, all_ = link_splits(limited, 1, graph), link_splits(DataSettings(seed=100), 1, graph)
    assert few.train[1].tolist() == [1.0] * 7 + [0.0] * 7
    assert few.graph.edges.shape[1] == 14
    assert all_.graph.edges.shape[1] > 14
    for own, other in zip(parts(few)[1:], parts(all_)[1:], strict=True):
        assert (own[0] == other[0]).all()


def test_of_a_graph_where_everybody_knows_everybody_all_pairs_are_links():
    everybody = graph_of([(u, v) for u in range(5) for v in range(u)], 5)
    raw = link_splits(DataSettings(seed=100), 0, everybody)
    assert sum(len(targets) for _, targets in parts(raw)) == 10
    assert all((targets == 1).all() for _, targets in parts(raw))


@pytest.mark.parametrize(
    ("pairs", "nodes"),
    [([(0, 1)], 4), ([], 4), ([], 1)],
)
def test_a_client_with_too_few_edges_is_refused(pairs, nodes):
    with pytest.raises(DataError) as error:
        link_splits(DataSettings(), 3, graph_of(pairs, nodes))
    assert (error.value.key, error.value.value, error.value.client) == ("edges", len(pairs), 3)
    link_splits(DataSettings(), 3, graph_of([(0, 1), (1, 2)], 3))


def test_links_of_a_data_set():
    federation = Federation(LINKS, 4)
    about = {"graph": True, "edges": federation.edges, "standardize": False}
    assert federation.schema == ClientSchema((32,), "link-prediction", (), **about)
    whole = Federation(DataSettings(dataset="social", partition="natural", seed=100), 4)
    for client in range(4):
        data, edges = federation.client(client), whole.client(client).graph.edges
        connected = as_set(edges.T)
        for inputs, targets in parts(data):
            assert inputs.dtype == torch.int64
            assert inputs.shape == (len(targets), 2)
            assert targets.dtype == torch.float32
            for pair, target in zip(inputs.tolist(), targets, strict=True):
                assert (tuple(pair) in connected) == bool(target)
        trained = as_set(data.graph.edges.T)
        for inputs, targets in (data.validation, data.test):
            assert not as_set(inputs) & trained
            assert targets.mean() == 0.5
        assert federation.community(client) == whole.community(client)
    assert federation.edges == whole.edges


def test_links_need_a_graph():
    with pytest.raises(DataError) as error:
        Federation(DataSettings(task="link-prediction"), 2).client(0)
    assert (error.value.key, error.value.value) == ("task", "link-prediction")


@pytest.mark.parametrize("name", ["taste", "offset"])
def test_links_have_no_other_names(name):
    settings = DataSettings(
        dataset="social", partition="natural", task="link-prediction", heterogeneity=name
    )
    with pytest.raises(DataError) as error:
        Federation(settings, 2).client(0)
    assert (error.value.key, error.value.value) == ("heterogeneity", name)
    assert error.value.choices == ("none",)
