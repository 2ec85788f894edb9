import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import adjusted_rand_score

from strategies.clustered.assignments import NO_GROUP
from strategies.clustered.clusterers import (
    CLUSTERERS,
    bipartition,
    eigengap,
    renumbered,
)
from strategies.clustered.gradient_similarity import (
    agreement,
    attenuation,
    cosine_similarities,
    nearest,
    noise_examples,
)
from strategies.clustered.similarity_clustering import (
    ClusteringRules,
    assign_to_clusters,
    cluster,
    find_clusters,
    founders,
    refine,
)
from strategies.errors import ArgumentError
from tests.errors import refused

BLOCKS = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, 2])
ONES = np.ones(10)
NOISE = 20.0  # examples at which signal and noise of a gradient are equally strong
LENGTH = 2000


def blocks_of(blocks, inside=0.6, across=0.05):
    """Cosines that are alike inside of blocks and across them, up to a little."""
    draw = np.random.default_rng(0)
    same = np.equal.outer(blocks, blocks)
    noise = draw.uniform(-0.02, 0.02, same.shape)
    cosines = np.where(same, inside, across) + (noise + noise.T) / 2
    np.fill_diagonal(cosines, 1.0)
    return cosines


def gradients_of(clusters, examples, seed):
    """Similarities, attenuations and examples as a server has them of synthetic gradients.

    The gradient of a half of a client's examples is the true direction of its cluster plus noise.
    """
    draw = np.random.default_rng(seed)
    directions = draw.normal(size=(max(clusters) + 1, LENGTH)) / math.sqrt(LENGTH)
    vectors, halves = [], []
    for own, count in zip(clusters, examples, strict=True):
        noise = draw.normal(size=(2, LENGTH)) * math.sqrt(2 * NOISE / count / LENGTH)
        one, other = directions[own] + noise
        halves.append(cosine_similarities([one, other])[0, 1])
        vectors.append((one + other) / 2)
    return cosine_similarities(vectors), attenuation(examples, noise_examples(examples, halves))


def partition(labels):
    """The groups as sets of places, whatever their numbers."""
    return {frozenset(np.flatnonzero(labels == group)) for group in set(labels) - {NO_GROUP}}


def clusters_of(sizes, seed):
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))


def examples_of(count, seed, low=10, high=40):
    return np.random.default_rng(seed + 1000).integers(low, high + 1, size=count).tolist()


# --------------------------------------------------------------------------- cosines and noise


def rows(low, high):
    def matrix(shape):
        values = st.floats(low, high).flatmap(lambda x: st.sampled_from([x, -x]))
        return hnp.arrays(np.float64, shape, elements=values)

    return st.tuples(st.integers(1, 5), st.integers(1, 6)).flatmap(matrix)


@given(rows(1e-3, 1e3), st.floats(1e-300, 1e300))
def test_cosines_are_symmetric_in_range_and_know_no_scale(vectors, factor):
    cosines = cosine_similarities(vectors)
    assert np.array_equal(cosines, cosines.T)
    assert np.abs(cosines).max() <= 1.0
    np.testing.assert_allclose(np.diag(cosines), 1.0)
    scaled = vectors.copy()
    scaled[0] *= factor
    np.testing.assert_allclose(cosine_similarities(scaled), cosines, atol=1e-9)


@pytest.mark.parametrize("size", [5e-324, 1e-200, 1.0, 1e200, 1.7e308])
def test_cosines_of_tiny_and_huge_vectors(size):
    vectors = [np.array([size, 0.0]), np.array([0.0, size]), np.array([[size], [size]])]
    half = math.sqrt(0.5)
    expected = [[1, 0, half], [0, 1, half], [half, half, 1]]
    np.testing.assert_allclose(cosine_similarities(vectors), expected, atol=1e-12)


def test_cosines_of_single_precision_do_not_overflow():
    vectors = [np.full(1000, 3e38, np.float32), np.full(1000, -1e-45, np.float32)]
    np.testing.assert_allclose(cosine_similarities(vectors), [[1, -1], [-1, 1]])


@given(st.floats(0.5, 500.0), st.lists(st.integers(10, 1000), min_size=1, max_size=6))
def test_the_noise_of_exact_reliabilities_is_found_exactly(noise, examples):
    halves = [(n / 2) / (n / 2 + noise) for n in examples]
    kept = [(n, r) for n, r in zip(examples, halves, strict=True) if 0.01 <= r <= 0.99]
    if kept:
        assert noise_examples(*zip(*kept, strict=True)) == pytest.approx(noise)


def test_the_noise_is_a_median_over_the_clients_with_reliabilities():
    assert noise_examples([10, 10, 10], [0.5, math.nan, 0.5]) == 5.0
    assert noise_examples([10, 20, 1000], [0.5, 0.5, 0.5]) == 10.0
    assert noise_examples([10, 10], [math.nan, math.nan]) == math.inf
    assert noise_examples([], []) == math.inf


@pytest.mark.parametrize(("measured", "counted"), [(-1.0, 0.01), (0.0, 0.01), (1.0, 0.99)])
def test_impossible_reliabilities_are_clipped(measured, counted):
    assert noise_examples([10], [measured]) == noise_examples([10], [counted]) > 0


def test_attenuation_is_the_root_of_the_reliability():
    np.testing.assert_allclose(attenuation([5, 15, 45], 15.0), np.sqrt([0.25, 0.5, 0.75]))
    np.testing.assert_array_equal(attenuation([1, 100], 0.0), [1.0, 1.0])


weights = hnp.arrays(np.float64, 7, elements=st.floats(0.05, 1.0))


@given(weights, st.floats(-1.0, 1.0))
def test_agreement_is_the_true_cosine_however_noisy_the_members(attenuations, true):
    cluster = np.array([0, 0, 0, 0, 1, 1, 1])
    cosines = np.where(np.equal.outer(cluster, cluster), 1.0, true)
    similarity = np.outer(attenuations, attenuations) * cosines
    assert agreement(similarity, attenuations, [0, 1, 2, 3], [4, 5, 6]) == pytest.approx(true)
    assert agreement(similarity, attenuations, [0, 3], [1, 2]) == pytest.approx(1.0)
    assert agreement(similarity, attenuations, [4], [5, 6]) == pytest.approx(1.0)


def test_of_measured_gradients_it_is_near_the_true_cosine():
    clusters = [0] * 6 + [1] * 6
    similarity, attenuations = gradients_of(clusters, examples_of(12, 0), seed=0)
    one, other = np.arange(6), np.arange(6, 12)
    assert abs(agreement(similarity, attenuations, one, other)) < 0.1
    assert agreement(similarity, attenuations, one[:3], one[3:]) == pytest.approx(1.0, abs=0.15)
    assert similarity[np.ix_(one[:3], one[3:])].mean() < 0.75  # unlike the agreement


# --------------------------------------------------------------------------- clusterers


def test_the_eigengap_is_the_number_of_blocks():
    for number in range(1, 6):
        assert eigengap(blocks_of(np.repeat(np.arange(number), 4))) == number
    assert eigengap(np.ones((1, 1))) == eigengap(np.ones((2, 2))) == 1
    assert eigengap(np.ones((6, 6))) == 1


@pytest.mark.parametrize("name", CLUSTERERS)
def test_every_clusterer_finds_blocks(name):
    order = np.random.default_rng(0).permutation(len(BLOCKS))
    similarity = blocks_of(BLOCKS[order])
    attenuations = np.full(10, math.sqrt(0.6))
    found = cluster(similarity, attenuations, ClusteringRules(clusterer=name))
    assert partition(found) == partition(BLOCKS[order])
    assert found[0] == 0


@pytest.mark.parametrize("name", ["agglomerative", "spectral"])
@pytest.mark.parametrize("number", [1, 2, 3, 10])
def test_a_given_number_of_groups_is_kept(name, number):
    found = cluster(blocks_of(BLOCKS), ONES, ClusteringRules(number, name))
    assert set(found) == set(range(number))
    if number == 3:
        assert np.array_equal(found, BLOCKS)


@pytest.mark.parametrize("name", CLUSTERERS)
def test_clients_that_are_all_the_same_are_one_group(name):
    rules = ClusteringRules(clusterer=name)
    for size in (1, 2, 3, 10):
        ones, attenuations = np.ones((size, size)), np.ones(size)
        assert not find_clusters(ones, attenuations, [50] * size, rules).any()
        if name != "hdbscan":  # to which all of them are noise; then they join each other
            assert not cluster(ones, attenuations, rules).any()


def test_of_one_client_there_is_one_group():
    for name in CLUSTERERS:
        assert cluster(np.ones((1, 1)), np.ones(1), ClusteringRules(clusterer=name)).tolist() == [0]
    assert cluster(np.ones((1, 1)), np.ones(1), ClusteringRules(clusters=1)).tolist() == [0]
    assert find_clusters(np.ones((1, 1)), np.ones(1), [1], ClusteringRules()).tolist() == [0]


def test_more_groups_than_clients_are_refused():
    for find in (cluster, lambda s, a, rules: find_clusters(s, a, [50] * 10, rules)):
        with refused(ArgumentError, argument="clusters", value=11):
            find(blocks_of(BLOCKS), ONES, ClusteringRules(clusters=11))


def test_hdbscan_takes_no_number():
    with pytest.raises(ArgumentError) as raised:
        CLUSTERERS["hdbscan"](blocks_of(BLOCKS), ONES, 3, 0.4)
    assert (raised.value.argument, raised.value.value) == ("clusters", 3)


def test_a_bipartition_is_of_two_blocks_and_the_first_has_place_0():
    for blocks in (BLOCKS[BLOCKS < 2], 1 - BLOCKS[BLOCKS < 2]):
        assert bipartition(blocks_of(blocks)) == ([0, 1, 2], [3, 4, 5, 6])
    assert bipartition(np.eye(2)) == ([0], [1])


# --------------------------------------------------------------------------- clusters


@pytest.mark.parametrize("seed", range(8))
def test_clusters_are_found_though_many_have_few_examples(seed):
    clusters = clusters_of((6, 8, 16), seed)
    examples = examples_of(30, seed)
    assert min(examples) < ClusteringRules().few_examples
    found = find_clusters(*gradients_of(clusters, examples, seed), examples, ClusteringRules())
    assert adjusted_rand_score(clusters, found) == 1.0
    assert partition(found) == partition(clusters)


@pytest.mark.parametrize("seed", range(4))
def test_they_are_found_though_hardly_anyone_has_many_examples(seed):
    clusters, examples = clusters_of((4, 5, 7), seed), examples_of(16, seed, 10, 19)
    examples[:3] = [40, 40, 40]
    rules = ClusteringRules(few_examples=20)
    found = find_clusters(*gradients_of(clusters, examples, seed), examples, rules)
    assert adjusted_rand_score(clusters, found) == 1.0


@pytest.mark.parametrize("seed", range(8))
def test_where_there_is_one_cluster_one_is_found(seed):
    examples = examples_of(20, seed)
    found = find_clusters(*gradients_of([0] * 20, examples, seed), examples, ClusteringRules())
    assert not found.any()


@pytest.mark.parametrize(("least", "number"), [(0.45, 1), (0.55, 2)])
def test_clusters_are_different_below_the_least_agreement(least, number):
    labels, attenuations = np.array([0] * 4 + [1] * 4), attenuation([15] * 8, NOISE)
    cosines = np.where(np.equal.outer(labels, labels), 1.0, 0.5)
    similarity = np.outer(attenuations, attenuations) * cosines
    for find in (cluster, lambda s, a, rules: find_clusters(s, a, [15] * 8, rules)):
        found = find(similarity, attenuations, ClusteringRules(agreement=least))
        assert len(set(found)) == number


@pytest.mark.parametrize("count", [12, 40])  # of the odd one's examples
def test_a_client_whom_nobody_is_like_is_alone_or_in_no_cluster(count):
    clusters, examples = [0] * 5 + [1] + [2] * 5, [30] * 5 + [count] + [30] * 5
    measured = gradients_of(clusters, examples, seed=1)
    assert partition(
        find_clusters(*measured, examples, ClusteringRules(smallest_cluster=1))
    ) == partition(np.array(clusters))
    found = find_clusters(*measured, examples, ClusteringRules(smallest_cluster=2))
    assert found.tolist() == [0] * 5 + [NO_GROUP] + [1] * 5


def test_few_of_one_kind_are_no_cluster_if_clusters_are_larger():
    clusters, examples = [0] * 5 + [1] * 2, [30] * 7
    measured = gradients_of(clusters, examples, seed=1)
    assert (
        find_clusters(*measured, examples, ClusteringRules(smallest_cluster=2)).tolist() == clusters
    )
    found = find_clusters(*measured, examples, ClusteringRules(smallest_cluster=3))
    assert found.tolist() == [0] * 5 + [NO_GROUP] * 2


@settings(max_examples=25)
@given(st.integers(0, 5), st.permutations(range(12)))
def test_the_order_of_the_clients_decides_nothing(seed, order):
    clusters, examples = clusters_of((3, 4, 5), seed), np.array(examples_of(12, seed))
    similarity, attenuations = gradients_of(clusters, examples, seed)
    order = np.array(order)
    moved = similarity[np.ix_(order, order)]
    for name in CLUSTERERS:
        rules = ClusteringRules(clusterer=name)
        one = find_clusters(similarity, attenuations, examples, rules)
        other = find_clusters(moved, attenuations[order], examples[order], rules)
        assert partition(other) == partition(one[order])


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.permutations(range(9)))
def test_not_even_where_there_are_no_clusters_to_be_found(seed, order):
    draw = np.random.default_rng(seed)
    vectors, examples = draw.normal(size=(9, 4)), draw.integers(5, 40, size=9)
    similarity, order = cosine_similarities(vectors), np.array(order)
    attenuations, rules = attenuation(examples, NOISE), ClusteringRules()
    one = find_clusters(similarity, attenuations, examples, rules)
    moved = similarity[np.ix_(order, order)]
    other = find_clusters(moved, attenuations[order], examples[order], rules)
    assert partition(other) == partition(one[order])


@pytest.mark.parametrize("number", [1, 2, 3, 5])
def test_a_given_number_of_clusters_is_never_exceeded(number):
    clusters, examples = clusters_of((3, 4, 5), 0), examples_of(12, 0)
    measured = gradients_of(clusters, examples, 0)
    found = find_clusters(*measured, examples, ClusteringRules(clusters=number))
    assert found.max() < number
    assert number != 3 or partition(found) == partition(clusters)


# --------------------------------------------------------------------------- unseen clients


@settings(max_examples=50)
@given(st.integers(0, 10**6), st.integers(1, 3), st.booleans())
def test_unseen_clients_change_no_labels_and_numbers_follow_on(seed, smallest, given_number):
    draw = np.random.default_rng(seed)
    similarity, examples = cosine_similarities(draw.normal(size=(9, 3))), [30] * 9
    labels = renumbered(draw.integers(-1, 3, size=9))
    number = int(labels.max()) + 1
    rules = ClusteringRules(clusters=number if given_number else 0, smallest_cluster=smallest)
    before = labels.copy()
    found = assign_to_clusters(similarity, attenuation(examples, NOISE), examples, labels, rules)
    assert np.array_equal(labels, before)
    known = labels != NO_GROUP
    assert np.array_equal(found[known], labels[known])
    new = found[found >= number]
    assert set(new) == set(range(number, number + len(set(new))))
    assert all(count >= smallest for count in np.bincount(new)[number:])
    if number and given_number:
        assert not len(new)
    if smallest == 1 and not rules.clusters:
        assert (found != NO_GROUP).all()


def test_an_unseen_client_joins_the_cluster_that_it_is_of_or_founds_one():
    clusters, examples = [0, 0, 0, 1, 1, 1, 1, 0, 2, 2], [30] * 10
    measured = gradients_of(clusters, examples, seed=2)
    labels = np.array([5, 5, 5, 2, 2, 2, NO_GROUP, NO_GROUP, NO_GROUP, NO_GROUP])
    rules = ClusteringRules()
    found = assign_to_clusters(*measured, examples, labels, rules)
    assert found.tolist() == [5, 5, 5, 2, 2, 2, 2, 5, 6, 6]
    found = assign_to_clusters(*measured, examples, labels, ClusteringRules(clusters=2))
    assert found.tolist() == [5, 5, 5, 2, 2, 2, 2, 5, NO_GROUP, NO_GROUP]
    found = assign_to_clusters(*measured, examples, labels, ClusteringRules(smallest_cluster=3))
    assert found.tolist() == [5, 5, 5, 2, 2, 2, 2, 5, NO_GROUP, NO_GROUP]


def test_of_those_with_few_examples_half_the_agreement_will_do():
    similarity = np.array([[1.0, 1.0, 0.3], [1.0, 1.0, 0.3], [0.3, 0.3, 1.0]])
    labels, rules = np.array([0, 0, NO_GROUP]), ClusteringRules(agreement=0.4, few_examples=20)
    assert assign_to_clusters(similarity, np.ones(3), [50, 50, 19], labels, rules)[2] == 0
    assert assign_to_clusters(similarity, np.ones(3), [50, 50, 20], labels, rules)[2] == 1


def test_unseen_clients_have_no_say_for_each_other():
    similarity = np.array([[1, 1, 0.5, 0.3], [1, 1, 0.5, 0.3], [0.5, 0.5, 1, 0.9]])
    similarity = np.vstack([similarity, [0.3, 0.3, 0.9, 1]])
    labels = np.array([0, 0, NO_GROUP, NO_GROUP])
    for order in ([0, 1, 2, 3], [0, 1, 3, 2]):
        cosines = similarity[np.ix_(order, order)]
        found = assign_to_clusters(cosines, np.ones(4), [50] * 4, labels, ClusteringRules())
        assert found[np.argsort(order)].tolist() == [0, 0, 0, 1]


def test_those_with_few_examples_found_no_cluster_beside_one_that_they_may_be_of():
    cluster = np.array([0, 0, 0, 1, 1])
    similarity, ones = np.where(np.equal.outer(cluster, cluster), 1.0, 0.3), np.ones(5)
    rules = ClusteringRules(agreement=0.4, few_examples=15)
    assert find_clusters(similarity, ones, [50, 50, 50, 14, 14], rules).tolist() == [0] * 5
    assert find_clusters(similarity, ones, [50, 50, 50, 15, 15], rules).tolist() == cluster.tolist()


def test_founders_have_enough_examples_unless_hardly_anyone_has():
    assert founders([20, 19, 30, 40, 1], few=20).tolist() == [0, 2, 3]
    assert founders([20, 19, 30, 1, 1], few=20).tolist() == [0, 1, 2, 3, 4]
    assert founders([1, 2, 3], few=0).tolist() == [0, 1, 2]
    assert founders([50] * 4 + [1] * 12, few=20).tolist() == [0, 1, 2, 3]
    assert len(founders([50] * 4 + [1] * 16, few=20)) == 20  # a quarter is 5


def test_the_nearest_group_is_that_of_others():
    similarity, ones = blocks_of(np.array([0, 0, 1, 1])), np.ones(4)
    assert nearest(similarity, ones, 0, np.array([0, 0, 1, 1]))[0] == 0
    assert nearest(similarity, ones, 0, np.array([1, 0, 1, 1]))[0] == 0
    assert nearest(similarity, ones, 0, np.array([0, NO_GROUP, 1, 1]))[0] == 1
    cosines = np.array([[1.0, 0.5], [0.5, 1.0]])
    assert nearest(cosines, np.array([1.0, 0.5]), 0, np.array([NO_GROUP, 3])) == (3, 1.0)
    for labels in ([0, NO_GROUP], [NO_GROUP, NO_GROUP]):
        group, score = nearest(cosines, np.ones(2), 0, np.array(labels))
        assert group == NO_GROUP
        assert math.isnan(score)


def test_even_a_group_that_a_client_disagrees_with_can_be_the_nearest():
    assert nearest(np.array([[1.0, -0.5], [-0.5, 1.0]]), np.ones(2), 0, np.zeros(2, int)) == (
        0,
        -0.5,
    )


def test_groups_are_renumbered_by_their_first_members():
    assert renumbered(np.array([7, NO_GROUP, 2, 7, 0, 2])).tolist() == [0, NO_GROUP, 1, 0, 2, 1]
    assert renumbered(np.array([NO_GROUP, NO_GROUP])).tolist() == [NO_GROUP, NO_GROUP]
    assert renumbered(np.array([], dtype=np.int64)).tolist() == []


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"clusterer": "kmeans"}, "clusterer"),
        ({"clusterer": "hdbscan", "clusters": 2}, "clusters"),
        ({"agreement": 0.0}, "agreement"),
        ({"agreement": 1.0}, "agreement"),
        ({"agreement": math.nan}, "agreement"),
        ({"clusters": -1}, "clusters"),
        ({"few_examples": -1}, "few_examples"),
        ({"smallest_cluster": 0}, "smallest_cluster"),
    ],
)
def test_rules_out_of_range_are_refused(options, argument):
    with pytest.raises(ArgumentError) as raised:
        ClusteringRules(**options)
    assert raised.value.argument == argument
    assert raised.value.value is options[argument]


def test_clients_that_are_like_nobody_are_in_no_cluster_of_two():
    labels = find_clusters(np.eye(3), np.ones(3), [30] * 3, ClusteringRules(smallest_cluster=2))
    assert labels.tolist() == [-1, -1, -1]


def test_where_no_gradient_is_reliable_there_is_one_cluster():
    similarity = np.eye(4)
    assert find_clusters(similarity, np.zeros(4), [3] * 4, ClusteringRules()).tolist() == [0] * 4


def test_the_number_of_a_cluster_that_is_gone_is_not_used_again():
    before = np.array([0, 0, -1])
    similarity = np.array([[1, 0.9, -0.5], [0.9, 1, -0.5], [-0.5, -0.5, 1]])
    found = assign_to_clusters(
        similarity, np.ones(3), [30] * 3, before, ClusteringRules(), first_free=5
    )
    assert found.tolist() == [0, 0, 5]


def test_a_given_number_of_clusters_is_kept_even_where_all_are_alike():
    labels = find_clusters(np.ones((4, 4)), np.ones(4), [50] * 4, ClusteringRules(clusters=2))
    assert len(set(labels.tolist())) == 2


def test_refinement_leaves_no_cluster_smaller_than_allowed():
    similarity = np.full((5, 5), 0.9)
    similarity[0] = similarity[:, 0] = 0.1  # what 1 has in common with its only companion
    labels = np.array([0, 0, 1, 1, 1])
    ones, examples = np.ones(5), [30] * 5
    for smallest, place in ((1, 1), (2, 0)):
        rules = ClusteringRules(smallest_cluster=smallest)
        assert refine(similarity, ones, examples, labels, rules).tolist()[1] == place
