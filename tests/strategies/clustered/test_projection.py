import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.clustered.projection import project

LENGTH = 500
TRIES = 600


def pair(cosine, draw, length=LENGTH):
    """Two vectors of length 1 with a known cosine."""
    one, other = np.linalg.qr(draw.normal(size=(length, 2)))[0].T
    return one, cosine * one + math.sqrt(1 - cosine**2) * other


def errors(cosine, size):
    """What a projection, another one every time, adds to the inner product of a pair."""
    draw, found = np.random.default_rng(0), []
    for seed in range(TRIES):
        one, other = pair(cosine, draw)
        found.append(float(project(one, size, seed) @ project(other, size, seed)) - cosine)
    return np.array(found)


@given(st.integers(1, 30), st.integers(0, 40))
def test_a_vector_is_itself_without_a_size_and_where_it_is_no_longer(length, more):
    values = np.arange(length, dtype=np.float32)
    assert project(values, 0, 1) is values
    assert project(values, length + more, 1) is values


@given(st.integers(2, 50), st.data())
def test_it_has_the_size_asked_for(length, data):
    size = data.draw(st.integers(1, length - 1))
    found = project(np.ones(length, np.float32), size, 3)
    assert found.shape == (size,)
    assert found.dtype == np.float32


def test_every_entry_is_added_to_one_sum_under_a_sign():
    columns = np.stack([project(row, 7, 5) for row in np.eye(40)])
    assert set(columns.ravel()) == {-1.0, 0.0, 1.0}
    assert (np.abs(columns).sum(axis=1) == 1).all()
    values = np.random.default_rng(0).normal(size=40)
    np.testing.assert_allclose(project(values, 7, 5), values @ columns, rtol=1e-5, atol=1e-6)


@given(st.integers(0, 1000), st.floats(-10, 10))
def test_it_is_linear(seed, factor):
    one, other = np.random.default_rng(seed).normal(size=(2, 60))
    together = project(one + factor * other, 20, seed)
    apart = project(one, 20, seed) + factor * project(other, 20, seed)
    np.testing.assert_allclose(together, apart, atol=1e-4)


def test_the_seed_decides_everything():
    values = np.random.default_rng(0).normal(size=LENGTH)
    assert np.array_equal(project(values, 50, 1), project(values.copy(), 50, 1))
    assert not np.array_equal(project(values, 50, 1), project(values, 50, 2))


@pytest.mark.parametrize("cosine", [0.0, 0.5, -0.9, 1.0])
def test_inner_products_keep_their_mean_with_the_promised_variance(cosine):
    # of a count sketch it is (1 + cos^2 - 2 sum x_i^2 y_i^2) / size, so at most 2 / size
    size = 100
    found = errors(cosine, size)
    variance = (1 + cosine**2) / size
    assert variance <= 2 / size
    assert abs(found.mean()) < 5 * math.sqrt(variance / TRIES)
    # the mean of so many squares is off by sqrt(2 / TRIES), 6 %; 5 times that is the margin
    assert found.var() < 1.3 * variance
    assert found.var() > 0.6 * variance


def test_twice_the_size_is_half_the_variance():
    assert errors(0.3, 50).var() / errors(0.3, 200).var() == pytest.approx(4, rel=0.35)


@pytest.mark.parametrize("size", [64, 256])
def test_every_cosine_is_kept_up_to_five_over_the_root_of_the_size(size):
    draw = np.random.default_rng(1)
    for seed in range(300):
        true = draw.uniform(-1, 1)
        one, other = (project(vector, size, seed) for vector in pair(true, draw, 1000))
        cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
        assert abs(cosine - true) < 5 / math.sqrt(size)
