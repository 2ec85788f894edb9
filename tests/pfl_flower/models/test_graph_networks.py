import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from pfl_flower.data import DataError, DataSettings, Federation
from pfl_flower.data.errors import SchemaError
from pfl_flower.data.partition import benchmark_clients
from pfl_flower.data.records import Examples
from pfl_flower.data.schema import ClientSchema
from pfl_flower.data.sources.social import SocialWorld, degree_factors, friends, grow, renamings
from pfl_flower.data.subgraph import both_ways, connections, partition_graph
from strategies.randomness import generator

SOCIAL = DataSettings(dataset="social", partition="natural", seed=100)


def splits(federation, client):
    data = federation.client(client)
    return [data.train, data.validation, data.test]


def as_set(edges):
    return set(map(tuple, edges.T.tolist()))


def edge_lists(most=12):
    return st.integers(2, most).flatmap(
        lambda count: st.tuples(
            st.just(count),
            st.lists(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), max_size=40),
        )
    )


def tensor(pairs):
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T


@given(edge_lists())
def test_connections_are_pairs_without_direction_each_once(drawn):
    count, pairs = drawn
    found = connections(tensor(pairs), count)
    expected = sorted({(min(p), max(p)) for p in pairs if p[0] != p[1]})
    assert found.T.tolist() == [list(p) for p in expected]
    assert torch.equal(connections(both_ways(found), count), found)


@given(edge_lists(), st.randoms(use_true_random=False))
def test_a_graph_partition_keeps_edges_inside_clients_and_counts_the_others(drawn, random):
    count, pairs = drawn
    known = connections(tensor(pairs), count)
    owner = np.array([random.choice([-1, 0, 1]) for _ in range(count)])  # -1: nobody's
    indices = [np.flatnonzero(owner == client) for client in range(2)]
    found = partition_graph(both_ways(known), indices, count)
    inside = [{p for p in as_set(known) if {owner[p[0]], owner[p[1]]} == {c}} for c in range(2)]
    for client, nodes in enumerate(indices):
        back = {(nodes[u], nodes[v]) for u, v in found.edges[client].T.tolist()}
        assert back == inside[client] | {(v, u) for u, v in inside[client]}
    assert found.kept == len(inside[0]) + len(inside[1])
    assert found.dropped == sum(owner[u] != owner[v] for u, v in as_set(known))
    assert found.dropped == sum(found.dropped_by)


def test_examples_are_the_numbers_of_a_clients_nodes():
    federation = Federation(SOCIAL, 4)
    about = {"graph": True, "edges": federation.edges, "standardize": False}
    assert federation.schema == ClientSchema((32,), "classification", tuple(range(6)), **about)
    assert ClientSchema.from_json(federation.schema.to_json()) == federation.schema
    pool = federation.clients.examples
    for client in range(4):
        graph, mine = federation.client(client).graph, federation.clients.indices[client]
        assert torch.equal(graph.features, pool.inputs[mine])
        for (inputs, targets), rows in zip(
            splits(federation, client), federation.clients.rows(client), strict=True
        ):
            assert inputs.dtype == torch.int64
            assert inputs.tolist() == rows.tolist()
            assert torch.equal(targets, pool.targets[mine][inputs])
        names = {(mine[u], mine[v]) for u, v in as_set(graph.edges)}
        assert names == {e for e in as_set(pool.edges) if set(e) <= set(mine)}
    kept, dropped = federation.edges
    assert kept + dropped == pool.edges.shape[1] // 2
    assert kept > 10 * dropped > 0


def test_few_labels_do_not_make_the_graph_smaller():
    few = DataSettings(
        dataset="social", partition="natural", seed=100, min_examples=10, max_examples=10
    )
    limited, whole = Federation(few, 4).client(1), Federation(SOCIAL, 4).client(1)
    assert len(limited.train[0]) == 10
    assert torch.equal(limited.graph.edges, whole.graph.edges)
    assert torch.equal(limited.test[0], whole.test[0])


def test_data_that_are_no_graph_have_none():
    federation = Federation(DataSettings(), 2)
    assert federation.edges is None
    assert federation.schema.edges is None
    assert federation.client(0).graph is None
    assert federation.community(0) is None
    assert not federation.schema.graph


def test_a_graph_of_natural_clients_has_no_other_partition():
    with pytest.raises(DataError) as error:
        Federation(DataSettings(dataset="social"), 4)
    assert (error.value.key, error.value.value) == ("partition", "iid")
    assert error.value.choices == ("natural",)


def test_the_labels_of_nodes_can_be_called_by_other_names_but_nodes_have_no_light():
    taste = DataSettings(dataset="social", partition="natural", seed=100, heterogeneity="taste")
    plain, renamed = Federation(SOCIAL, 4).client(2), Federation(taste, 4).client(2)
    names = set(zip(plain.train[1].tolist(), renamed.train[1].tolist(), strict=True))
    assert len(names) == 6
    assert torch.equal(plain.train[0], renamed.train[0])
    lit = DataSettings(dataset="social", partition="natural", heterogeneity="lighting")
    with pytest.raises(DataError) as error:
        Federation(lit, 4).client(0)
    assert (error.value.key, error.value.value) == ("heterogeneity", "lighting")


def test_an_unseen_clients_nodes_must_have_as_many_features_as_everybodys():
    federation, client_schema = (
        Federation(SOCIAL, 4),
        ClientSchema((7,), "classification", tuple(range(6))),
    )
    with pytest.raises(SchemaError) as error:
        federation.client(0, client_schema)
    assert (error.value.key, error.value.value, error.value.client) == ("graph", True, 0)
    with pytest.raises(SchemaError) as error:
        federation.client(0, ClientSchema((7,), "classification", tuple(range(6)), graph=True))
    assert (error.value.key, error.value.value) == ("shape", (32,))
    pictures = Federation(DataSettings(), 2)
    graphs = ClientSchema((1, 8, 8), "classification", tuple(range(10)), graph=True)
    with pytest.raises(SchemaError) as error:
        pictures.client(0, graphs)
    assert (error.value.key, error.value.value) == ("graph", False)


def multi_hot(_):
    nodes = torch.tensor([[0, 255], [1, 0], [1, 1], [0, 1]], dtype=torch.uint8).repeat(3, 1)
    edges = both_ways(torch.stack([torch.arange(11), torch.arange(1, 12)]))
    community = np.array([3, 1, 1, 3] * 3)
    return Examples(nodes, torch.arange(12) % 2, edges=edges, community=community)


@pytest.fixture
def _small(monkeypatch):
    source = benchmark_clients.SOURCES["social"].__class__(multi_hot, (2,), 2, graph=True)
    monkeypatch.setattr(
        benchmark_clients, "SOURCES", {**benchmark_clients.SOURCES, "small": source}
    )
    benchmark_clients._load.cache_clear()
    yield
    benchmark_clients._load.cache_clear()


@pytest.mark.usefixtures("_small")
def test_features_that_are_bytes_become_numbers_of_the_same_size():
    federation = Federation(DataSettings(dataset="small", partition="iid"), 1)
    assert federation.client(0).graph.features[:2].tolist() == [[0, 255], [1, 0]]
    assert federation.schema.features is None


@pytest.mark.usefixtures("_small")
def test_a_clients_community_is_that_of_most_of_its_nodes_and_the_lower_of_two():
    assert Federation(DataSettings(dataset="small"), 1).community(0) == 1
    pool = Federation(DataSettings(dataset="small"), 2)
    for client in range(2):
        mine = pool.clients.examples.community[pool.clients.indices[client]].tolist()
        assert pool.community(client) == (1 if mine.count(1) >= mine.count(3) else 3)


def test_clients_are_spread_over_communities_in_blocks():
    federation = Federation(SOCIAL, 10)
    assert [federation.community(c) for c in range(10)] == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]


def test_the_seed_decides_the_network_and_a_client_is_drawn_for_itself():
    world = SocialWorld(nodes=30)
    one, same, other = grow(world, 100, 4), grow(world, 100, 4), grow(world, 101, 4)
    assert torch.equal(one.edges, same.edges)
    assert torch.equal(one.inputs, same.inputs)
    assert not torch.equal(one.inputs, other.inputs)
    assert torch.equal(grow(world, 100, 8).inputs[:30], one.inputs[:30])


def test_nobody_is_connected_with_itself_or_twice_and_each_both_ways():
    edges = as_set(grow(SocialWorld(nodes=60), 100, 4).edges)
    assert len(edges) == grow(SocialWorld(nodes=60), 100, 4).edges.shape[1]
    assert edges == {(v, u) for u, v in edges}
    assert all(u != v for u, v in edges)


@pytest.mark.parametrize("seed", range(100, 105))
def test_any_two_communities_disagree_on_half_of_the_classes(seed):
    names = renamings(SocialWorld(), seed)
    assert names[0].tolist() == list(range(6))
    assert (np.sort(names, axis=1) == np.arange(6)).all()
    for number, own in enumerate(names):
        for other in names[:number]:
            assert (own != other).sum() == 3


def test_labels_are_the_kinds_under_the_names_of_the_community():
    world = SocialWorld(nodes=50, signal=100.0)  # features separate the kinds without error
    network = grow(world, 100, 8)
    middles = [network.inputs[:100][network.targets[:100] == kind].mean(0) for kind in range(6)]
    kinds = torch.cdist(network.inputs, torch.stack(middles)).argmin(dim=1).numpy()
    names = renamings(world, 100)
    assert (network.targets.numpy() == names[network.community, kinds]).all()


def test_friends_are_as_often_of_the_same_kind_as_the_world_says():
    world = SocialWorld(spread=0.0, inside=0.06, outside=0.008)
    draw = generator(100, "test")
    kinds = draw.integers(6, size=1500)
    left, right = friends(world, kinds, draw)
    assert (left < right).all()
    same = kinds[left] == kinds[right]
    sizes = np.bincount(kinds)
    inside = (sizes * (sizes - 1)).sum() / 2
    outside = 1500 * 1499 / 2 - inside
    # within five standard deviations of a binomial count
    for count, pairs, chance in ((same.sum(), inside, 0.06), ((~same).sum(), outside, 0.008)):
        assert abs(count - pairs * chance) < 5 * np.sqrt(pairs * chance)


def test_degrees_follow_their_factors():
    world = SocialWorld(spread=0.8)
    factors = degree_factors(world, 2000, generator(100, "factors"))
    assert factors.mean() == pytest.approx(1)
    draw = generator(100, "factors")  # the factors are what is drawn first
    degrees = np.bincount(friends(world, np.zeros(2000, dtype=int), draw).ravel(), minlength=2000)
    assert np.corrcoef(degrees, factors)[0, 1] > 0.95
    plain = friends(SocialWorld(spread=0.0), np.zeros(2000, dtype=int), generator(100, "plain"))
    assert degrees.var() > 5 * np.bincount(plain.ravel(), minlength=2000).var()


def test_a_single_nodes_features_are_weak_evidence():
    network = grow(SocialWorld(), 100, 16)
    unrenamed = network.community == 0
    inputs, kinds = network.inputs[unrenamed].numpy(), network.targets[unrenamed].numpy()
    found = [
        LogisticRegression(C=0.1).fit(inputs[start:][:10], kinds[start:][:10])
        for start in range(0, 400, 40)
    ]
    scores = [model.score(inputs[400:], kinds[400:]) for model in found]
    assert 1 / 6 < np.mean(scores) < 0.35
