import sys
from contextlib import suppress
from itertools import pairwise

import networkx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pfl_flower.data import PARTITIONS, DataError, DataSettings, Federation
from pfl_flower.data.partition.graph_partition import GRAPH_PARTITIONS, louvain, metis
from pfl_flower.data.partition.partitioners import PartitionRequest, partition
from pfl_flower.data.records import Examples
from pfl_flower.data.subgraph import both_ways, connections


def both(graph):
    pairs = torch.tensor(list(graph.edges), dtype=torch.int64).reshape(-1, 2).T
    return both_ways(connections(pairs, len(graph))).numpy()


def cliques(*sizes):
    """Everybody knows everybody in a clique, and one node of it the first of the next."""
    graph = networkx.disjoint_union_all([networkx.complete_graph(size) for size in sizes])
    starts = np.cumsum([0, *sizes])[:-1]
    graph.add_edges_from(pairwise(starts))
    return graph


def members(owner):
    return sorted(np.flatnonzero(owner == client).tolist() for client in np.unique(owner))


def test_louvain_gives_communities_as_a_whole_the_largest_to_the_emptiest():
    owner = louvain(both(cliques(9, 8, 7, 6, 5)), 35, 2, 100)
    # 9 | 8 7 | 9+6 | 8+7+... : 9, 8, 7 to the second, 6 to the first, then 15 each: the lower
    parts = [list(range(9)), *(list(range(a, b)) for a, b in ((9, 17), (17, 24), (24, 30)))]
    assert all(len(set(owner[part])) == 1 for part in parts)
    assert owner[0] == owner[24] != owner[9] == owner[17]
    assert np.bincount(owner).tolist() == [20, 15]


def test_with_fewer_communities_than_clients_the_largest_are_divided():
    # So small are cliques in so large a ring that the method joins neighbours (Fortunato and
    # Barthelemy 2007, doi:10.1073/pnas.0605965104, figure 3).
    ring = networkx.ring_of_cliques(30, 3)
    assert len(networkx.community.louvain_communities(ring, seed=100)) < 30
    owner = louvain(both(ring), 90, 30, 100)
    assert np.unique(owner).tolist() == list(range(30))
    whole = sum(len(set(owner[first : first + 3])) == 1 for first in range(0, 90, 3))
    assert whole >= 20
    # A path is divided, then its parts, then theirs: the first two steps find too few parts.
    path = networkx.path_graph(300)
    first = networkx.community.louvain_communities(path, seed=100)
    second = [networkx.community.louvain_communities(path.subgraph(p), seed=100) for p in first]
    many = sum(map(len, second)) + 20
    assert len(np.unique(louvain(both(path), 300, many, 100))) == many


@pytest.mark.parametrize("name", GRAPH_PARTITIONS)
def test_a_graph_partition_keeps_most_edges_inside_and_the_seed_decides_it(name):
    if name == "metis":
        pytest.importorskip("pymetis")
    graph = networkx.planted_partition_graph(6, 30, 0.4, 0.01, seed=1)
    edges = both(graph)
    owner = GRAPH_PARTITIONS[name](edges, 180, 3, 100)
    assert owner.shape == (180,)
    assert owner.dtype == np.int64
    assert np.bincount(owner).tolist() == pytest.approx([60, 60, 60], abs=3)
    inside = (owner[edges[0]] == owner[edges[1]]).mean()
    assert inside > 0.9
    assert (GRAPH_PARTITIONS[name](edges, 180, 3, 100) == owner).all()
    assert (GRAPH_PARTITIONS[name](edges[:, ::-1].copy(), 180, 3, 100) == owner).all()


@settings(max_examples=20)
@given(st.integers(4, 20), st.integers(0, 40), st.integers(1, 4), st.integers(100, 200))
def test_louvain_gives_every_client_something_or_says_why_not(count, edges, clients, seed):
    graph = networkx.gnm_random_graph(count, edges, seed=seed)
    with suppress(DataError):  # that there are too few, as a complete graph has; see below
        owner = louvain(both(graph), count, clients, seed)
        assert np.unique(owner).tolist() == list(range(clients))
    if networkx.number_connected_components(graph) >= clients:  # no community is in two of them
        louvain(both(graph), count, clients, seed)


def test_louvain_refuses_more_clients_than_communities():
    with pytest.raises(DataError) as error:
        louvain(both(networkx.complete_graph(8)), 8, 3, 100)
    assert (error.value.key, error.value.value) == ("partition", "louvain")
    assert error.value.choices == ("metis",)


def test_metis_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymetis", None)
    with pytest.raises(DataError, match=r'pip install "\.\[metis\]"') as error:
        metis(both(networkx.complete_graph(8)), 8, 2, 100)
    assert (error.value.key, error.value.value) == ("partition", "metis")


@pytest.mark.parametrize("name", GRAPH_PARTITIONS)
def test_data_without_edges_have_no_graph_partition(name):
    assert name in PARTITIONS
    with pytest.raises(DataError) as error:
        Federation(DataSettings(partition=name), 2)
    assert (error.value.key, error.value.value) == ("partition", name)
    assert error.value.choices == ("iid", "dirichlet", "pathological", "natural")


def test_a_graph_partition_divides_the_nodes():
    graph = cliques(10, 10)
    examples = Examples(torch.zeros(20, 1), torch.zeros(20), edges=torch.from_numpy(both(graph)))
    parts = partition(examples, "louvain", PartitionRequest(2, 0.5, 2, 100))
    assert members(np.isin(np.arange(20), parts[0]).astype(int)) == [
        list(range(10)),
        list(range(10, 20)),
    ]
    assert sorted(np.concatenate(parts)) == list(range(20))


def test_isolated_nodes_are_no_communities():
    draw = np.random.default_rng(100)
    blocks = [np.stack(np.triu_indices(100, 1)) + 100 * block for block in range(3)]
    pairs = np.concatenate([b[:, draw.random(b.shape[1]) < 0.1] for b in blocks], axis=1)
    edges = np.concatenate([pairs, pairs[::-1]], axis=1)
    owner = louvain(edges, 320, 6, seed=0)  # 20 nodes have no edges
    inside = np.bincount(owner[edges[0]][owner[edges[0]] == owner[edges[1]]], minlength=6)
    assert (inside > 0).all()
