import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from hypothesis.extra.numpy import arrays as some_arrays

from strategies import HierarchicalBayes
from strategies.arrays import to_record
from strategies.errors import ArgumentError
from strategies.hierarchical.hierarchical_bayes import (
    SMALLEST_VARIANCE,
    moment_matching,
    pooled_variance,
)
from strategies.rounds import Round
from tests.errors import refused
from tests.helpers import decoded, error_reply, reply

MU = np.array([[1.0, -2.0, 0.5]], dtype=np.float32)
BODY = np.array([3.0, 4.0], dtype=np.float32)
NAME, VARIANCE = "head.weight", "prior-variance/head.weight"

numbers = some.floats(-10, 10, width=32)


def strategy_of(prior_weight=0.0, **options):
    """A strategy with a prior of variance 2 over the head, which has sent its first arrays."""
    strategy = HierarchicalBayes(
        prior_names=[NAME], prior_variance=2.0, prior_weight=prior_weight, **options
    )
    sent = strategy.first_arrays(to_record({"body": BODY, NAME: MU}))
    strategy.round = Round(1, "train", sent)
    return strategy


def posterior_reply(client, theta, variance, body=BODY, mu=MU, examples=1):
    moment = variance + np.square(theta - mu)
    arrays = {"body": body, NAME: theta, VARIANCE: moment.astype(np.float32)}
    return reply(100 + client, arrays, {"num-examples": examples})


def aggregate(strategy, replies):
    found, _ = strategy.aggregate_train(1, replies)
    return None if found is None else decoded(found)


def drawn(count, seed=0):
    """Posterior means and variances of some clients."""
    draw = np.random.default_rng(seed)
    thetas = [draw.normal(size=MU.shape).astype(np.float32) for _ in range(count)]
    return thetas, [draw.uniform(0.1, 1, MU.shape).astype(np.float32) for _ in range(count)]


@given(
    some.integers(1, 6).flatmap(
        lambda n: some.tuples(
            some_arrays(np.float64, (n, 3), elements=numbers),
            some_arrays(np.float64, (n, 3), elements=some.floats(0, 10, width=32)),
            some_arrays(np.float64, (3,), elements=numbers),
        )
    )
)
def test_moments_are_those_of_the_sample_plus_the_mean_posterior_variance(drawn_values):
    thetas, variances, before = drawn_values
    moment = (variances + np.square(thetas - before)).mean(axis=0)
    found = moment_matching(before, thetas.mean(axis=0), moment)
    np.testing.assert_allclose(found, thetas.var(axis=0) + variances.mean(axis=0), atol=1e-9)
    assert (found >= 0).all()


def test_rounding_makes_no_variance_negative():
    thetas = np.float32([1000.0, 1000.0])
    moment = np.square(thetas - np.float32(0.1)).mean() * np.float32(1 - 1e-6)
    assert moment_matching(np.float32([0.1]), thetas[:1], moment[None]) == 0.0


@given(
    some_arrays(np.float64, (2, 3), elements=some.floats(0, 100, width=32)),
    some.integers(1, 50),
    some.floats(0, 1e6),
)
def test_pooling_keeps_the_mean_and_draws_towards_it(variances, count, weight):
    found = pooled_variance(variances, count, weight)
    floor = SMALLEST_VARIANCE
    mean = max(variances.mean(), floor)
    np.testing.assert_allclose(found.mean(), mean, rtol=1e-9, atol=10 * floor)
    expected = np.maximum((count * variances + weight * variances.mean()) / (count + weight), floor)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(pooled_variance(variances, count, np.inf), mean)


def test_no_variance_of_nothing_and_a_floor_instead_of_zero():
    assert pooled_variance(np.zeros((0, 3)), 2, 1.0).shape == (0, 3)
    np.testing.assert_array_equal(pooled_variance(np.zeros(3), 2, 1.0), SMALLEST_VARIANCE)


def test_a_round_is_the_moments_of_the_posteriors_whatever_the_examples():
    thetas, variances = drawn(3)
    replies = [
        posterior_reply(c, theta, v, body=BODY * c, examples=1 + 9 * c)
        for c, (theta, v) in enumerate(zip(thetas, variances, strict=True))
    ]
    found = aggregate(strategy_of(), replies)
    np.testing.assert_allclose(found[NAME], np.mean(thetas, axis=0), rtol=1e-6)
    expected = np.var(thetas, axis=0) + np.mean(variances, axis=0)
    np.testing.assert_allclose(found[VARIANCE], expected, rtol=1e-5)
    assert found[VARIANCE].dtype == np.float32
    # what has no prior is weighted by examples
    np.testing.assert_allclose(found["body"], BODY * (0 * 1 + 1 * 10 + 2 * 19) / 30, rtol=1e-6)
    pooled = aggregate(strategy_of(prior_weight=3.0), replies)
    np.testing.assert_allclose(pooled[VARIANCE], (expected + expected.mean()) / 2, rtol=1e-5)


def test_the_order_of_replies_does_not_matter():
    thetas, variances = drawn(4)
    pairs = enumerate(zip(thetas, variances, strict=True))
    replies = [posterior_reply(c, theta, v) for c, (theta, v) in pairs]
    one, other = aggregate(strategy_of(), replies), aggregate(strategy_of(), replies[::-1])
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name])


def test_one_client_makes_the_prior_its_posterior():
    (theta,), (variance,) = drawn(1)
    found = aggregate(strategy_of(), [posterior_reply(0, theta, variance)])
    np.testing.assert_array_equal(found[NAME], theta)
    np.testing.assert_allclose(found[VARIANCE], variance, rtol=1e-5)


def test_clients_that_agree_and_are_sure_pool():
    theta = MU + 1
    replies = [posterior_reply(c, theta, np.zeros_like(MU)) for c in range(3)]
    found = aggregate(strategy_of(), replies)
    np.testing.assert_allclose(found[VARIANCE], SMALLEST_VARIANCE, rtol=1e-6)
    np.testing.assert_array_equal(found[NAME], theta)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({VARIANCE: np.full_like(MU, np.nan)}, "not finite in"),
        ({NAME: np.full_like(MU, np.inf)}, "not finite in"),
        ({VARIANCE: -np.ones_like(MU)}, "second moments of .*head.* are below"),
        ({VARIANCE: np.ones(2, np.float32)}, r"is float32 \(2,\) instead of"),
    ],
)
def test_an_impossible_posterior_is_dropped_and_costs_nobody_else(broken, words):
    thetas, variances = drawn(2)
    good = [posterior_reply(c, thetas[c], variances[c]) for c in (0, 1)]
    bad = reply(107, {"body": BODY, NAME: MU, VARIANCE: np.ones_like(MU)} | broken)
    strategy = strategy_of()
    found, expected = aggregate(strategy, [good[0], bad, good[1]]), aggregate(strategy_of(), good)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
    (dropped,) = [report for report in strategy.reports if report.dropped]
    assert dropped.client == 7
    assert re.search(words, dropped.dropped)


def test_bad_replies_only_or_variances_that_nobody_tells_change_no_prior():
    negative = {"body": BODY, NAME: MU, VARIANCE: -np.ones_like(MU)}
    assert aggregate(strategy_of(), [error_reply(100), reply(101, negative)]) is None
    unreported = {"body": BODY, NAME: MU + 1}
    found = aggregate(strategy_of(), [reply(100, unreported), reply(101, unreported)])
    np.testing.assert_array_equal(found[NAME], MU + 1)
    np.testing.assert_array_equal(found[VARIANCE], np.full_like(MU, 2.0))
    odd = {"body": BODY, VARIANCE: np.ones_like(MU)}
    found = aggregate(strategy_of(), [reply(100, odd), reply(101, odd)])
    np.testing.assert_array_equal(found[NAME], MU)
    np.testing.assert_array_equal(found[VARIANCE], np.full_like(MU, 2.0))


def test_momentum_moves_the_rest_and_leaves_the_prior_alone():
    names = ["body", NAME]
    strategy = strategy_of(server_momentum=0.5, parameter_names=names)
    found = {}
    for _ in range(2):  # from the same start, so that the second step has momentum
        found = aggregate(strategy, [posterior_reply(0, MU + 1, MU**2, body=BODY + 1)])
    np.testing.assert_allclose(found["body"], BODY + 1.5)
    np.testing.assert_array_equal(found[NAME], MU + 1)
    np.testing.assert_allclose(found[VARIANCE], MU**2, rtol=1e-5)


def test_first_arrays_hold_the_variances_and_keep_those_of_an_earlier_run():
    strategy = HierarchicalBayes(prior_names=[NAME], prior_variance=2.0)
    first = strategy.first_arrays(to_record({"body": BODY, NAME: MU}))
    assert list(first) == ["body", NAME, VARIANCE]
    np.testing.assert_array_equal(decoded(first)[VARIANCE], np.full_like(MU, 2.0))
    earlier = to_record({"body": BODY, NAME: MU, VARIANCE: MU**2})
    np.testing.assert_array_equal(decoded(strategy.first_arrays(earlier))[VARIANCE], MU**2)
    with refused(ArgumentError, argument="prior_names", value=["head.weight"]):
        strategy.first_arrays(to_record({"body": BODY}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prior_names", []),
        ("prior_variance", 0.0),
        ("prior_variance", float("inf")),
        ("prior_weight", -1.0),
        ("prior_weight", float("nan")),
    ],
)
def test_wrong_arguments_are_refused(name, value):
    with refused(ArgumentError, argument=name, value=value):
        HierarchicalBayes(**{"prior_names": [NAME], name: value})
