import numpy as np
import pytest
from matplotlib import pyplot as plt

from pfl_flower.plots.clustered import (
    classical_scaling,
    group_color,
    order_by_group,
    plot_dendrogram,
    plot_map,
    plot_similarity,
)


def distances(points):
    return np.linalg.norm(points[:, None] - points, axis=2)


def cosines(n, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(n, 6))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors @ vectors.T


@pytest.mark.parametrize("n", [1, 2, 3, 20])
def test_points_of_a_plane_keep_their_distances(n):
    points = np.random.default_rng(n).normal(size=(n, 2))
    found = classical_scaling(1 - distances(points) ** 2 / 2)
    assert found.shape == (n, 2)
    assert distances(found) == pytest.approx(distances(points), abs=1e-7)
    assert found.mean(axis=0) == pytest.approx([0, 0], abs=1e-9)
    assert found[:, 0].std() >= found[:, 1].std()


def test_two_clients_are_as_far_apart_as_their_unit_vectors():
    points = classical_scaling(np.array([[1, 0.5], [0.5, 1]]))
    assert points == pytest.approx(np.array([[0.5, 0], [-0.5, 0]]), abs=1e-9)


def test_clients_all_the_same_are_at_one_point():
    assert classical_scaling(np.ones((3, 3))) == pytest.approx(np.zeros((3, 2)))


def test_scaling_is_deterministic_and_leaves_its_input():
    similarity = cosines(12)
    before = similarity.copy()
    points = classical_scaling(similarity)
    assert np.array_equal(points, classical_scaling(similarity.copy()))
    assert np.array_equal(similarity, before)
    assert (points.max(axis=0) >= -points.min(axis=0)).all()


def test_order_goes_by_group_then_client_and_none_is_last():
    order = order_by_group([5, 3, 9, 1, 2], [1, -1, 0, 1, -1])
    assert order.tolist() == [2, 3, 0, 4, 1]


def test_order_is_a_permutation_with_groups_together():
    rng = np.random.default_rng(0)
    clients, groups = rng.permutation(60), rng.integers(-1, 12, 60)
    order = order_by_group(clients, groups)
    assert sorted(order) == list(range(60))
    ordered = groups[order]
    assert np.count_nonzero(np.diff(ordered)) == len(set(groups)) - 1
    last = np.count_nonzero(groups == -1)
    assert (ordered[-last:] == -1).all()
    assert all((np.diff(clients[order][ordered == group]) > 0).all() for group in set(groups))


def test_only_no_group_is_grey():
    assert group_color(-1) not in {group_color(group) for group in range(30)} | {"C7"}


@pytest.mark.integration
@pytest.mark.parametrize("n", [1, 2, 5, 60])
def test_pictures_are_written(n, tmp_path):
    groups = [place % 13 - 1 for place in range(n)] if n > 2 else [0] * n
    pictures = {name: tmp_path / f"{name}.png" for name in ("heat", "tree", "map")}
    similarity, clients = cosines(n), range(100, 100 + n)
    plot_similarity(similarity, clients, groups, pictures["heat"])
    plot_dendrogram(similarity, clients, groups, pictures["tree"])
    plot_map(similarity, clients, groups, range(n), pictures["map"])
    for picture in pictures.values():
        height, width, _ = plt.imread(picture).shape
        assert 400 <= height <= 1000
        assert 700 <= width <= 2200
    assert not plt.get_fignums()
    assert np.array_equal(similarity, cosines(n))


def test_clients_of_no_group_without_examples_and_all_the_same_are_drawn(tmp_path):
    similarity = np.ones((2, 2))
    plot_similarity(similarity, [0, 1], [-1, -1], tmp_path / "heat.png", "heat")
    plot_dendrogram(similarity, [0, 1], [-1, -1], tmp_path / "tree.png", "tree")
    plot_map(similarity, [0, 1], [-1, -1], [0, 0], tmp_path / "map.png", "map")
    assert len(list(tmp_path.iterdir())) == 3
