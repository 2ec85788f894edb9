"""The exact mean of low-rank products: closed forms, and when it is the plain mean."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies import LowRankAveraging, PartialAveraging, mean_of_products
from strategies.arrays import weighted_mean
from tests.helpers import decoded, reply


def halves(clients=3, rank=2, inputs=7, outputs=5, seed=0, dtype=np.float64):
    draw = np.random.default_rng(seed)
    a = [draw.normal(size=(rank, inputs)).astype(dtype) for _ in range(clients)]
    b = [draw.normal(size=(outputs, rank)).astype(dtype) for _ in range(clients)]
    return a, b, (1.0 + draw.random(clients)).tolist()


def mean_product(a, b, weights):
    return np.average([y @ x for x, y in zip(a, b, strict=True)], axis=0, weights=weights)


def test_where_the_rank_suffices_the_product_is_the_mean_of_products():
    """Two clients with one direction each, in adapters of rank 2."""
    a = [np.array([[1.0, 0, 0], [0, 0, 0]]), np.array([[0, 0, 0], [0, 2.0, 0]])]
    b = [np.array([[1.0, 0], [0, 0]]), np.array([[0, 0], [0, 3.0]])]
    first, second = mean_of_products(a, b, [3.0, 1.0])
    np.testing.assert_allclose(second @ first, [[0.75, 0, 0], [0, 1.5, 0]], atol=1e-12)
    # averaged each for itself they also have what nobody has learned
    plain = weighted_mean(b, [3.0, 1.0]) @ weighted_mean(a, [3.0, 1.0])
    np.testing.assert_allclose(plain, [[0.5625, 0, 0], [0, 0.375, 0]])


def test_where_it_does_not_it_is_the_nearest_of_that_rank():
    a, b, weights = halves()
    wanted = mean_product(a, b, weights)
    u, s, vt = np.linalg.svd(wanted)
    first, second = mean_of_products(a, b, weights)
    np.testing.assert_allclose(second @ first, (u[:, :2] * s[:2]) @ vt[:2], atol=1e-10)
    error = np.linalg.norm(second @ first - wanted)
    assert error == pytest.approx(np.linalg.norm(s[2:]))
    plain = weighted_mean(b, weights) @ weighted_mean(a, weights)
    assert error < np.linalg.norm(plain - wanted)


@pytest.mark.parametrize("same", ["A", "B"])
def test_where_a_half_is_the_same_everywhere_it_is_the_plain_mean(same):
    a, b, weights = halves(dtype=np.float32)
    a, b = (a[:1] * 3, b) if same == "A" else (a, b[:1] * 3)
    for found, wanted in zip(mean_of_products(a, b, weights), (a, b), strict=True):
        np.testing.assert_array_equal(found, weighted_mean(wanted, weights))


def test_where_a_half_is_nearly_the_same_it_is_nearly_the_plain_mean():
    a, b, weights = halves()
    a = [a[0] + 1e-7 * other for other in a]
    for found, wanted in zip(mean_of_products(a, b, weights), (a, b), strict=True):
        np.testing.assert_allclose(found, weighted_mean(wanted, weights), atol=1e-5)


def test_one_client_keeps_what_it_has():
    a, b, _ = halves(clients=1)
    first, second = mean_of_products(a, b, [2.0])
    np.testing.assert_array_equal(first, a[0])
    np.testing.assert_array_equal(second, b[0])


def test_adapters_that_are_still_zero_stay_so():
    a, _, weights = halves()
    first, second = mean_of_products(a, [np.zeros((5, 2))] * 3, weights)
    assert not second.any()
    np.testing.assert_array_equal(first, weighted_mean(a, weights))


def test_what_the_rank_leaves_over_can_still_be_trained():
    """All products have rank 1: the second row of A is there, under a column of zeros in B."""
    a, b, weights = halves()
    b = [np.stack([each[:, 0], 0 * each[:, 0]], axis=1) for each in b]
    a = [np.stack([a[0][0] * scale, other[1]]) for scale, other in zip((1, 2, 3), a, strict=True)]
    first, second = mean_of_products(a, b, weights)
    np.testing.assert_allclose(second @ first, mean_product(a, b, weights), atol=1e-10)
    assert np.linalg.matrix_rank(first) == 2
    assert not second[:, 1].any()


def test_halves_that_cancel_are_no_reason_for_huge_values():
    """The mean of all A is 0, but not that of the products."""
    a, b, _ = halves(clients=2)
    a, b = [a[0], -a[0]], [b[0], -b[0]]
    first, second = mean_of_products(a, b, [1.0, 1.0])
    np.testing.assert_allclose(second @ first, b[0] @ a[0], atol=1e-10)
    assert max(np.abs(first).max(), np.abs(second).max()) < 10


def test_further_axes_are_those_of_a_convolution():
    a, b, weights = halves(inputs=12, dtype=np.float32)
    first, second = mean_of_products(
        [each.reshape(2, 3, 2, 2) for each in a], [each.reshape(5, 2, 1, 1) for each in b], weights
    )
    assert (first.shape, second.shape, first.dtype) == ((2, 3, 2, 2), (5, 2, 1, 1), np.float32)
    flat = mean_of_products(a, b, weights)
    np.testing.assert_array_equal(first.reshape(2, -1), flat[0])
    np.testing.assert_array_equal(second.reshape(5, -1), flat[1])


@given(
    st.integers(1, 4), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.integers(0, 99)
)
def test_it_is_never_further_off_than_the_plain_mean(clients, rank, inputs, outputs, seed):
    a, b, weights = halves(clients, rank, inputs, outputs, seed)
    wanted = mean_product(a, b, weights)
    first, second = mean_of_products(a, b, weights)
    assert (first.shape, second.shape) == ((rank, inputs), (outputs, rank))
    error = np.linalg.norm(second @ first - wanted)
    plain = np.linalg.norm(weighted_mean(b, weights) @ weighted_mean(a, weights) - wanted)
    assert error <= plain + 1e-9 * (1 + np.linalg.norm(wanted))
    if clients * rank <= rank or min(inputs, outputs) <= rank:
        assert error <= 1e-8 * (1 + np.linalg.norm(wanted))


def replies():
    a, b, _ = halves(dtype=np.float32)
    return [
        reply(
            100 + i,
            {"a": a[i], "head": np.full(2, i, np.float32), "b": b[i]},
            {"num-examples": i + 1},
        )
        for i in range(3)
    ]


def test_a_strategy_gives_it_to_pairs_only_and_when_asked():
    sent = replies()
    plain = decoded(PartialAveraging().aggregate_train(1, replies())[0])
    without = LowRankAveraging(pairs={"a": "b"}).aggregate_train(1, replies())[0]
    exact = LowRankAveraging(exact_mean=True, pairs={"a": "b"}).aggregate_train(1, sent)[0]
    assert list(exact) == list(plain) == list(without)
    for name, values in decoded(without).items():
        np.testing.assert_array_equal(values, plain[name])
    a, b, _ = halves(dtype=np.float32)
    found = decoded(exact)
    for name, values in zip("ab", mean_of_products(a, b, [1, 2, 3]), strict=True):
        np.testing.assert_array_equal(found[name], values)
    np.testing.assert_array_equal(found["head"], plain["head"])


def test_noise_for_privacy_is_measured_for_the_plain_mean():
    assert not LowRankAveraging().refuses_privacy
    assert LowRankAveraging(exact_mean=True).refuses_privacy
