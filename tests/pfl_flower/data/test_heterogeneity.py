"""How clients differ, and which of them do not: clusters of equal heterogeneity."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pfl_flower.config.run_config import RunConfig
from pfl_flower.data import DataError, federation
from pfl_flower.data.heterogeneity import draw_clusters
from tests.errors import refused


def generated(clients=6, sizes="2,4", **values):
    keys = {"method": "fedavg", "baselines": "", "dataset": "digits", "cluster-sizes": sizes}
    return federation(RunConfig.parse(keys | values).data, clients)


def labels_of(data, client):
    whole = data.client(client)
    return torch.cat([part[1] for part in (whole.train, whole.validation, whole.test)])


def names_of(data, plain, client):
    """What a client calls the classes: one name each."""
    found = set(
        zip(labels_of(plain, client).tolist(), labels_of(data, client).tolist(), strict=True)
    )
    assert len(found) == 10
    return tuple(name for _, name in sorted(found))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 100))
def test_clusters_have_their_sizes(sizes, seed):
    clusters = draw_clusters(",".join(map(str, sizes)), sum(sizes), seed)
    assert [clusters.count(cluster) for cluster in range(len(sizes))] == sizes
    assert len(clusters) == sum(sizes)
    assert all(type(cluster) is int for cluster in clusters)


def test_without_sizes_every_client_is_a_cluster():
    for text in ("", " ", ","):
        assert draw_clusters(text, 4, 0) == [0, 1, 2, 3]


def test_who_is_in_which_cluster_is_drawn_by_the_seed():
    drawn = [tuple(draw_clusters("6, 8,16", 30, seed)) for seed in range(20)]
    assert drawn[3] == tuple(draw_clusters("6,8,16", 30, 3))
    assert len(set(drawn)) == 20
    assert sum(list(clusters) == sorted(clusters) for clusters in drawn) == 0
    of_the_first = [clusters[0] for clusters in drawn]
    assert set(of_the_first) == {0, 1, 2}


@pytest.mark.parametrize("clients", [1, 5, 7])
def test_sizes_that_do_not_add_up_are_refused(clients):
    for make in (lambda: draw_clusters("2,4", clients, 0), lambda: generated(clients)):
        with refused(DataError, key="cluster-sizes", value="2,4"):
            make()


@pytest.mark.parametrize("seed", [0, 1])
def test_clients_of_one_cluster_name_the_classes_alike_and_others_do_not(seed):
    plain = generated(seed=seed, sizes="", heterogeneity="none")
    data = generated(seed=seed, heterogeneity="taste")
    assert data.true_clusters == draw_clusters("2,4", 6, seed)
    names = [names_of(data, plain, client) for client in range(6)]
    for one, other in itertools.combinations(range(6), 2):
        same = data.true_clusters[one] == data.true_clusters[other]
        assert (names[one] == names[other]) == same


def test_members_of_a_cluster_still_have_examples_of_their_own():
    plain = generated(sizes="", heterogeneity="none")
    data = generated(heterogeneity="taste")
    for client in range(6):
        assert torch.equal(data.client(client).train[0], plain.client(client).train[0])
    for one, other in itertools.combinations(range(6), 2):
        mine, theirs = (
            {tuple(row.flatten().tolist()) for row in data.client(client).train[0]}
            for client in (one, other)
        )
        assert len(mine & theirs) < 0.05 * len(mine)


def test_without_clusters_all_differ():
    plain = generated(sizes="", heterogeneity="none")
    data = generated(sizes="", heterogeneity="taste")
    assert len({names_of(data, plain, client) for client in range(6)}) == 6
