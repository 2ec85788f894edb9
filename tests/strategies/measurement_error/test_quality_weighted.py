import logging
import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as array_of

from strategies import PartialAveraging, QualityWeighted
from strategies.arrays import to_record
from strategies.errors import ArgumentError
from strategies.measurement_error.quality_weighted import (
    TIMES_EQUAL,
    WEIGHT_SHARE,
    bounded,
    clip_factors,
    reported_quality,
    update_length,
)
from strategies.reply_validation import take_apart
from tests.errors import refused
from tests.helpers import decoded, reply

SENT = {
    "body": np.zeros((2, 3), dtype=np.float32),
    "head": np.ones(2, dtype=np.float64),
    "count": np.array(3, dtype=np.int64),
}
EXAMPLES = (10, 20, 30, 40)


def arrays(client, scale=1.0):
    draw = np.random.default_rng(client)
    return {
        "body": (scale * draw.normal(size=(2, 3))).astype(np.float32),
        "head": 1.0 + scale * draw.normal(size=2),
        "count": np.array(3 + client, dtype=np.int64),
    }


def reported(client, scale=1.0, **metrics):
    named = {name.replace("_", "-"): value for name, value in metrics.items()}
    values = {"num-examples": EXAMPLES[client % 4], **named}
    return reply(100 + client, arrays(client, scale), values)


def averaged(strategy, replies, server_round=1):
    strategy.round.arrays = to_record(SENT)
    means, _ = strategy.aggregate_train(server_round, replies)
    return decoded(means)


def weighted(weights, clients=range(4)):
    total = sum(weights)
    return sum(w / total * arrays(c)["head"] for w, c in zip(weights, clients, strict=True))


def dropped(strategy):
    return {r.client: r.dropped for r in strategy.reports if r.dropped}


# ---------------------------------------------------------------------- weights

weights_of = array_of(
    np.float64,
    st.integers(1, 12),
    elements=st.one_of(st.just(0.0), st.floats(1e-6, 1e6)),
).filter(lambda values: values.any())


@given(weights_of, st.floats(0.01, 1.0))
def test_shares_sum_to_one_and_none_is_above_the_bound(weights, largest):
    shares = bounded(weights, largest)
    assert shares.sum() == pytest.approx(1.0, abs=1e-12)
    assert (shares >= 0).all()
    assert shares.max() <= max(largest, 1 / np.count_nonzero(weights)) * (1 + 1e-6)
    assert ((shares == 0) == (weights == 0)).all()


@given(weights_of, st.floats(0.01, 1.0), st.randoms(use_true_random=False))
def test_shares_go_with_their_clients_whatever_the_order(weights, largest, random):
    order = list(range(len(weights)))
    random.shuffle(order)
    np.testing.assert_allclose(
        bounded(weights[order], largest), bounded(weights, largest)[order], rtol=1e-9, atol=1e-15
    )


@given(weights_of, st.floats(0.01, 1.0))
def test_who_is_below_the_bound_keeps_its_proportion_and_more_weight_is_no_smaller_share(
    weights, largest
):
    shares = bounded(weights, largest)
    bound = max(largest, 1 / np.count_nonzero(weights))
    below = shares < bound * (1 - 1e-6)
    if below.any() and weights[below].any():
        ratio = shares[below] / weights[below].clip(1e-300)
        present = weights[below] > 0
        np.testing.assert_allclose(ratio[present], ratio[present][0], rtol=1e-6)
    by_weight = shares[np.argsort(weights)]
    assert (np.diff(by_weight) >= -1e-9).all()


@given(weights_of)
def test_within_the_bound_shares_are_proportional(weights):
    np.testing.assert_allclose(bounded(weights, 1.0), weights / weights.sum(), rtol=1e-12)


def test_what_is_above_the_bound_is_poured_over_the_others():
    np.testing.assert_allclose(bounded([8, 1, 1], 0.5), [0.5, 0.25, 0.25])
    # the second one is lifted above the bound by what the first one leaves
    np.testing.assert_allclose(bounded([10, 4, 1, 1], 0.4), [0.4, 0.4, 0.1, 0.1])
    np.testing.assert_allclose(bounded([9, 1, 0], 0.1), [0.5, 0.5, 0.0])


def test_absurd_weights_take_no_more_than_their_bound_and_leave_the_others_their_proportions():
    shares = bounded([1.7e308, 0.001, 0.003, 0.0], 0.4)
    np.testing.assert_allclose(shares, [0.4, 0.2, 0.4, 0.0])
    np.testing.assert_allclose(bounded([1.7e308, 1e-17, 3e-17], 0.6), [0.6, 0.1, 0.3])


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0, -1.0], [1.0, math.nan], [1.0, math.inf]])
def test_what_are_no_weights(weights):
    with refused(ArgumentError, argument="weights", value=weights):
        bounded(weights, 0.5)
    with refused(ArgumentError, argument="largest", value=0.0):
        bounded([1.0], 0.0)


def test_effective_examples_are_reported_or_follow_from_rates():
    assert reported_quality({}, 50) == (1.0, 50)
    quality, effective = reported_quality({"missing-rate": 0.5, "reliability": 0.6}, 50)
    assert (quality, effective) == (pytest.approx(0.3), pytest.approx(15))
    assert reported_quality({"effective-examples": 7.0}, 50) == (1.0, 7.0)
    with refused(ArgumentError, argument="effective-examples", value=math.inf):
        reported_quality({"effective-examples": math.inf}, sys.float_info.max)


def test_uniform_quality_changes_nothing():
    plain = averaged(PartialAveraging(), [reported(c) for c in range(4)])
    for metrics in ({}, {"reliability": 1.0}, {"reliability": 0.25, "missing_rate": 0.5}):
        strategy = QualityWeighted(largest_share=1.0, update_clip=0.0)
        found = averaged(strategy, [reported(c, **metrics) for c in range(4)])
        for name, values in plain.items():
            assert found[name].dtype == values.dtype
            np.testing.assert_allclose(found[name], values, rtol=1e-6 if name == "body" else 1e-12)


def test_the_mean_is_weighted_by_effective_examples():
    replies = [reported(c, reliability=0.2 * (c + 1), missing_rate=0.1 * c) for c in range(4)]
    strategy = QualityWeighted(largest_share=1.0, update_clip=0.0)
    found = averaged(strategy, replies)
    weights = [n * (1 - 0.1 * c) * 0.2 * (c + 1) for c, n in enumerate(EXAMPLES)]
    np.testing.assert_allclose(found["head"], weighted(weights), rtol=1e-12)
    shares = {r.client: r.metrics[WEIGHT_SHARE] for r in strategy.reports}
    assert shares == {c: pytest.approx(w / sum(weights)) for c, w in enumerate(weights)}


def test_the_weights_of_smallest_variance_are_effective_examples():
    """Means of measurements whose errors have variance (1 - r) / r, calibrated ones."""
    draw = np.random.default_rng(0)
    examples, reliability = np.array([20, 40, 80]), np.array([1.0, 0.5, 0.2])
    effective = examples * reliability
    slopes = np.empty((4000, 3))
    for trial in range(len(slopes)):
        for client in range(3):
            true = draw.normal(size=examples[client])
            spread = np.sqrt((1 - reliability[client]) / reliability[client])
            measured = true + spread * draw.normal(size=examples[client])
            calibrated = reliability[client] * measured
            targets = 0.5 * true + 3.0 * draw.normal(size=examples[client])
            slopes[trial, client] = calibrated @ targets / (calibrated @ calibrated)
    inverse = 1 / slopes.var(axis=0)
    np.testing.assert_allclose(inverse / inverse.sum(), effective / effective.sum(), rtol=0.1)


def test_bad_clients_can_be_left_out_altogether(caplog):
    replies = [reported(c, reliability=(0.9, 0.2, 0.5, 0.1)[c]) for c in range(4)]
    strategy = QualityWeighted(least_quality=0.5, largest_share=1.0, update_clip=0.0)
    found = averaged(strategy, replies)
    weights = [10 * 0.9, 0, 30 * 0.5, 0]  # at the bound a client still counts
    np.testing.assert_allclose(found["head"], weighted(weights), rtol=1e-12)
    assert found["count"] == 3 + 2  # of those that count
    assert not dropped(strategy)


def test_where_nobody_has_quality_examples_count_and_that_is_said(caplog):
    replies = [reported(c, reliability=0.0) for c in range(4)]
    strategy = QualityWeighted(largest_share=1.0, update_clip=0.0)
    with caplog.at_level(logging.WARNING):
        found = averaged(strategy, replies)
    np.testing.assert_allclose(found["head"], weighted(EXAMPLES), rtol=1e-12)
    assert "count by their examples alone" in caplog.text


IMPOSSIBLE = {
    "a reliability above 1": {"reliability": 1.5},
    "a negative reliability": {"reliability": -0.1},
    "a reliability that is no number": {"reliability": math.nan},
    "a missing rate above 1": {"missing_rate": 2.0},
    "more effective examples than examples": {"effective_examples": 11.0},
    "negative effective examples": {"effective_examples": -1.0},
    "infinite effective examples": {"effective_examples": math.inf},
    "a list": {"reliability": [0.5, 0.5]},
}


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_an_impossible_report_is_dropped_with_the_client_and_the_value(what, caplog):
    ((name, value),) = IMPOSSIBLE[what].items()
    strategy = QualityWeighted(largest_share=1.0, update_clip=0.0)
    replies = [reported(0, **IMPOSSIBLE[what]), *(reported(c) for c in range(1, 4))]
    with caplog.at_level(logging.WARNING):
        found = averaged(strategy, replies)
    np.testing.assert_allclose(found["head"], weighted(EXAMPLES[1:], range(1, 4)), rtol=1e-12)
    assert set(dropped(strategy)) == {0}
    assert "client 0" in caplog.text
    assert f"{name.replace('_', '-')} is {value}" in caplog.text


# ---------------------------------------------------------------------- updates


@given(array_of(np.float64, st.integers(1, 10), elements=st.floats(0, 1e9)), st.floats(0.1, 10))
def test_no_update_stays_longer_than_so_many_medians(lengths, clip):
    factors = clip_factors(lengths, clip)
    bound = clip * np.median(lengths)
    assert (factors * lengths <= bound * (1 + 1e-9) + 1e-300).all()
    assert (factors[lengths <= bound] == 1.0).all()
    assert ((factors >= 0) & (factors <= 1)).all()


def test_lengths_are_of_all_floating_arrays_together():
    views = {"a": np.full(4, 3.0), "b": np.full(1, 8.0, np.float32), "n": np.array(99)}
    sent = {"a": np.zeros(4), "b": np.zeros(1, np.float32), "n": np.array(0)}
    assert update_length(views, sent) == pytest.approx(10.0)


def test_small_updates_are_untouched_and_a_long_one_keeps_its_direction():
    replies = [reported(c) for c in range(3)] + [reported(3, scale=1e6)]
    strategy = QualityWeighted(update_clip=1.5, largest_share=1.0)
    strategy.round.arrays = to_record(SENT)
    parsed = [take_apart(each, "num-examples", with_arrays=True) for each in replies]
    before = {reply.client: dict(reply.views) for reply in parsed}
    strategy._clip(parsed)
    lengths = []
    for one in parsed:
        lengths.append(update_length(one.views, SENT))
        if one.client < 3:
            assert all(one.views[name] is before[one.client][name] for name in SENT)
            continue
        assert one.views["count"] == 6
        assert one.views["body"].dtype == np.float32
        step, was = one.views["head"] - 1.0, before[3]["head"] - 1.0
        assert step @ was == pytest.approx(np.linalg.norm(step) * np.linalg.norm(was))
    median = np.median([update_length(before[c], SENT) for c in range(4)])
    assert lengths[3] == pytest.approx(1.5 * median, rel=1e-6)


@settings(deadline=None, max_examples=25)
@given(st.floats(1e-3, 1e30), st.integers(0, 1000), st.floats(0.1, 0.9), st.floats(0.5, 3.0))
def test_a_corrupted_client_moves_the_mean_by_no_more_than_its_share_of_clipped_medians(
    scale, seed, share, clip
):
    """Whatever it sends and says, the mean is within the closed form of what it would be.

    What is far beyond all others does not count at all.
    """
    honest = [reply(100 + c, arrays(c), {"num-examples": 10}) for c in range(9)]
    noise = np.random.default_rng(seed).normal(size=(2, 3))
    lie = {**arrays(9), "body": (scale * noise).astype(np.float32)}
    corrupted = reply(109, lie, {"num-examples": 10**9, "reliability": 1.0, "missing-rate": 0.0})
    strategy = QualityWeighted(largest_share=share, update_clip=clip)
    found = averaged(strategy, [*honest, corrupted])
    if dropped(strategy):
        without = averaged(QualityWeighted(largest_share=share, update_clip=clip), honest)
        assert all(np.array_equal(found[name], without[name]) for name in without)
        assert scale > 1e7
        return
    mine = {r.client: r.metrics[WEIGHT_SHARE] for r in strategy.reports}[9]
    assert mine <= share * (1 + 1e-6)
    lengths = [update_length(arrays(c), SENT) for c in range(9)] + [update_length(lie, SENT)]
    bound = clip * np.median(lengths)
    factors = clip_factors(lengths, clip)[:9]
    without = {
        name: np.mean([f * (arrays(c)[name] - SENT[name]) for c, f in enumerate(factors)], axis=0)
        for name in ("body", "head")
    }
    moved = math.sqrt(
        sum(
            float(np.sum((found[name] - SENT[name] - (1 - mine) * values) ** 2))
            for name, values in without.items()
        )
    )
    assert moved <= mine * bound * (1 + 1e-4) + 1e-6


def test_where_most_clients_stay_where_they_are_so_does_the_model_and_that_is_said(caplog):
    replies = [reply(100 + c, SENT, {"num-examples": 10}) for c in range(3)]
    replies.append(reported(3, scale=1e6))
    with caplog.at_level(logging.WARNING):
        found = averaged(QualityWeighted(), replies)
    np.testing.assert_array_equal(found["head"], SENT["head"])
    assert "most updates have length 0" in caplog.text
    assert "Round 1" in caplog.text


@pytest.mark.parametrize("clip", [0.0, 0.5, 1.0])
def test_noise_that_is_not_finite_is_dropped_and_no_one_else_is_clipped_for_it(clip):
    bad = {**arrays(3), "head": np.array([math.inf, 0.0])}
    good = [reported(c, scale=c + 1.0) for c in range(3)]
    strategy = QualityWeighted(update_clip=clip)
    found = averaged(strategy, [*good, reply(103, bad, {"num-examples": 40})])
    wanted = averaged(QualityWeighted(update_clip=clip), good)
    assert all(found[name].tobytes() == wanted[name].tobytes() for name in SENT)
    assert "not finite" in dropped(strategy)[3]


def test_updates_of_clients_that_do_not_count_bound_nobody():
    bad = [reported(3, scale=1e6, reliability=0.1), reported(4, scale=1e6, reliability=0.1)]
    good = [reported(c, scale=c + 1.0) for c in range(3)]
    options = {"least_quality": 0.5, "largest_share": 1.0, "update_clip": 1.0}
    found = averaged(QualityWeighted(**options), good + bad)
    wanted = averaged(QualityWeighted(**options), good)
    np.testing.assert_array_equal(found["head"], wanted["head"])


def test_the_order_of_replies_changes_no_bit():
    def replies():
        return [reported(c, scale=(1, 1, 1, 50)[c], reliability=0.3 + 0.1 * c) for c in range(4)]

    forward = averaged(QualityWeighted(), replies())
    backward = averaged(QualityWeighted(), replies()[::-1])
    for name, values in forward.items():
        assert values.tobytes() == backward[name].tobytes()


def test_a_single_client_and_nobody():
    found = averaged(QualityWeighted(), [reported(2, reliability=0.1)])
    np.testing.assert_allclose(found["head"], arrays(2)["head"])
    strategy = QualityWeighted()
    strategy.round.arrays = to_record(SENT)
    assert strategy.aggregate_train(1, [reported(0, reliability=2.0)]) == (None, None)


def test_without_a_bound_stated_it_is_three_equal_shares():
    replies = [
        reply(100 + c, arrays(c), {"num-examples": 10_000 if c == 0 else 1}) for c in range(10)
    ]
    strategy = QualityWeighted(update_clip=0.0)
    averaged(strategy, replies)
    shares = [r.metrics[WEIGHT_SHARE] for r in strategy.reports]
    assert max(shares) == pytest.approx(TIMES_EQUAL / 10)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("largest_share", 0.0),
        ("largest_share", 1.5),
        ("least_quality", -0.1),
        ("least_quality", 1.1),
        ("update_clip", -1.0),
        ("update_clip", math.nan),
    ],
)
def test_wrong_arguments(name, value):
    with refused(ArgumentError, argument=name, value=value):
        QualityWeighted(**{name: value})
