"""Thresholds against closed forms, reduction identities, and every other threshold."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from strategies.errors import ArgumentError
from strategies.randomness import generator
from strategies.thresholds.metrics import METRICS, Objective
from strategies.thresholds.partial_pooling import (
    FEWEST,
    Fleet,
    bootstrap_variance,
    fleet_of,
    logit,
    prevalence_weight,
    shift,
    shrink,
    smoothed_prevalence,
    spread_of,
)
from strategies.thresholds.search import (
    BINS,
    EDGES,
    NOBODY,
    best_of_histogram,
    best_of_histograms,
    best_threshold,
    check_histogram,
    histogram,
    shared_curve_threshold,
)

F1 = Objective("f1")
YOUDEN = Objective("balanced-accuracy")
GOLDEN = (3 - math.sqrt(5)) / 2


def value_at(scores, labels, threshold, objective):
    called, ill = scores >= threshold, np.asarray(labels, dtype=float)
    return float(
        objective.value(
            ill[called].sum(), (1 - ill)[called].sum(), ill[~called].sum(), (1 - ill)[~called].sum()
        )
    )


@pytest.fixture(scope="module")
def calibrated():
    """Scores, uniform, that are the probabilities of the labels."""
    draw = generator(0, "calibrated")
    scores = draw.random(200_000)
    return scores, draw.random(len(scores)) < scores


# ---------------------------------------------------------------------- closed forms


def test_the_f1_threshold_of_calibrated_scores_is_half_of_f1(calibrated):
    scores, labels = calibrated
    for chances in (labels, scores):  # empirical, and expected
        threshold = best_threshold(scores, chances, F1, 0.5)
        assert threshold == pytest.approx(GOLDEN, abs=0.01)
        assert value_at(scores, labels, threshold, F1) == pytest.approx(2 * GOLDEN, abs=0.003)


def test_youden_of_two_equal_gaussians_is_their_midpoint():
    draw = generator(0, "youden")
    labels = np.arange(100_000) % 10 == 0  # however rare positives are
    scores = np.clip(draw.normal(np.where(labels, 0.6, 0.4), 0.1), 0, 1)
    assert best_threshold(scores, labels, YOUDEN, 0.0) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("ratio", [0.25, 1.0, 4.0])
def test_a_cost_ratio_of_calibrated_scores(calibrated, ratio):
    scores, _ = calibrated
    threshold = best_threshold(scores, scores, Objective("cost", cost_ratio=ratio), 0.5)
    assert threshold == pytest.approx(1 / (1 + ratio), abs=0.001)


def test_precision_at_recall_takes_the_highest_threshold_that_reaches_it():
    # all scores distinct, precision rising with the threshold: the recall decides
    scores = np.linspace(0.01, 0.99, 99)
    chances = scores
    objective = Objective("precision-at-recall", recall=0.75)
    threshold = best_threshold(scores, chances, objective, 0.5)
    reached = [s for s in scores if chances[scores >= s].sum() >= 0.75 * chances.sum()]
    assert max(reached) - 0.01 < threshold <= max(reached)


def test_a_recall_that_is_not_reached_is_worse_than_any_that_is():
    objective = Objective("precision-at-recall", recall=0.9)
    reached = objective.value(9, 10_000, 1, 0)
    missed = objective.value(8, 0, 2, 100)
    assert reached > 0 > missed
    assert missed == pytest.approx(-0.1)


def test_calibrated_youden_is_the_prevalence(calibrated):
    """The likelihood ratio is 1 where a calibrated score is the prevalence."""
    scores, labels = calibrated
    keep = labels | (generator(1, "thin").random(len(labels)) < 0.25)
    rarer = shift(scores[keep], 0.8, 0.5)  # odds of 4 to 1
    assert labels[keep].mean() == pytest.approx(0.8, abs=0.005)
    assert best_threshold(rarer, rarer, YOUDEN, 0.5) == pytest.approx(rarer.mean(), abs=0.01)


# ---------------------------------------------------------------------- identities


@pytest.mark.parametrize("name", METRICS)
def test_the_histogram_gives_the_threshold_of_pooled_scores_to_one_bin(name):
    draw = generator(3, "pooled")
    labels = draw.random(30_000) < 0.3
    scores = norm.cdf(draw.normal(np.where(labels, 1, -1), 1.0))
    centres = (np.floor(scores * BINS) + 0.5) / BINS  # all that a histogram knows of them
    objective = Objective(name, cost_ratio=3.0, recall=0.8)
    parts = zip(np.split(scores, 6), np.split(labels, 6), strict=True)
    pooled = sum(histogram(own, ill) for own, ill in parts)
    found = best_of_histogram(pooled, objective, 0.5)
    assert found in EDGES
    assert found == pytest.approx(best_threshold(centres, labels, objective, 0.5), abs=1e-9)
    exact = best_threshold(scores, labels, objective, 0.5)
    lost = value_at(scores, labels, exact, objective) - value_at(scores, labels, found, objective)
    assert 0 <= lost < 0.01


def test_a_threshold_between_two_peaks_is_that_of_the_pooled_scores_to_one_bin():
    # well apart, so that the best threshold is where they cross, and not a matter of noise
    centre = 0.4321
    scores = np.concatenate([np.linspace(0.1, centre, 500), np.linspace(centre, 0.9, 500) + 1e-9])
    labels = np.repeat([0, 1], 500)
    exact = best_threshold(scores, labels, F1, 0.5)
    assert abs(best_of_histogram(histogram(scores, labels), F1, 0.5) - exact) <= 1 / BINS


def test_an_edge_is_exact_on_the_histogram():
    scores = np.concatenate([EDGES, [1.0], np.nextafter(EDGES[1:], 0)])
    labels = np.arange(len(scores)) % 3 == 0
    counts = histogram(scores, labels)
    assert counts.sum() == len(scores)
    assert counts[:, -1].sum() == 2  # its edge, and 1; the value just below is in the bin before
    for place, edge in enumerate(EDGES):
        for row, of in ((0, labels), (1, ~labels)):
            assert counts[row, place:].sum() == (scores[of] >= edge).sum()


def test_a_shared_curve_at_the_fleets_prevalence_is_the_global_threshold():
    draw = generator(5, "curve")
    labels = draw.random(2_000) < 0.2
    pooled = histogram(np.clip(draw.normal(np.where(labels, 0.6, 0.4), 0.15), 0, 1), labels)
    fleet = Fleet(pooled, 0.0, math.inf)
    for name in METRICS:
        objective = Objective(name)
        own = shared_curve_threshold(pooled, fleet.prevalence, objective, 0.5)
        assert own == fleet.threshold(objective)
    thresholds = [shared_curve_threshold(pooled, p, F1, 0.5) for p in (0.01, 0.2, 0.5, 0.9)]
    assert thresholds == sorted(thresholds, reverse=True)
    assert thresholds[0] > thresholds[-1]
    youden = {shared_curve_threshold(pooled, p, YOUDEN, 0.5) for p in (0.01, 0.2, 0.9)}
    assert len(youden) == 1  # it does not depend on the prevalence


@given(st.floats(0, 1), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_a_prior_shift_is_a_moved_threshold(score, own, fleet):
    scores = np.linspace(0, 1, 101)
    moved = float(shift(score, own, fleet))
    back = shift(shift(scores, own, fleet), fleet, own)
    np.testing.assert_allclose(back, scores, atol=1e-9)
    above, below = scores > score + 1e-6, scores < score - 1e-6
    assert (shift(scores, own, fleet)[above] >= moved).all()
    assert (shift(scores, own, fleet)[below] <= moved).all()
    odds = (own / (1 - own)) / (fleet / (1 - fleet))
    assert moved == pytest.approx(score * odds / (score * odds + 1 - score), abs=1e-9)


def test_no_shift_without_a_difference_and_no_prevalence_of_nothing():
    scores = np.linspace(0, 1, 11)
    np.testing.assert_allclose(shift(scores, 0.3, 0.3), scores, atol=1e-15)
    with pytest.raises(ArgumentError) as raised:
        shift(scores, 0.0, 0.3)
    assert (raised.value.argument, raised.value.value) == ("own", 0.0)


@given(st.floats(0, NOBODY), st.floats(0, NOBODY), st.floats(0, 1))
def test_shrinking_ends_at_both_ends_bit_for_bit_and_lies_between(own, fleet, part):
    assert shrink(own, fleet, 0.0) == fleet
    assert shrink(own, fleet, 1.0) == own
    found = shrink(own, fleet, part)
    low, high = sorted((own, fleet))
    slack = 1 / BINS  # thresholds nearer to 0 or 1 than half a bin count as half a bin away
    assert low - slack <= found <= high + slack
    assert math.isfinite(found)


def test_shrinking_is_linear_on_the_logit_scale():
    assert logit(shrink(0.8, 0.2, 0.25)) == pytest.approx(0.25 * logit(0.8) + 0.75 * logit(0.2))


# ---------------------------------------------------------------------- choosing


def test_ties_go_to_the_nearest_and_of_two_to_the_lower():
    scores, labels = [0.2, 0.2, 0.8, 0.8], [1, 0, 1, 0]
    # of two equal mixtures, balanced accuracy is 1/2 wherever the line is drawn
    for near, wanted in ((0.1, 0.0), (0.3, 0.5), (0.45, 0.5), (0.9, NOBODY), (0.25, 0.0)):
        assert best_threshold(scores, labels, YOUDEN, near) == wanted


def test_of_equal_scores_everybody_is_positive_or_nobody():
    scores = np.full(10, 0.3)
    few, many = np.arange(10) < 2, np.arange(10) < 8
    assert best_threshold(scores, few, F1, 0.5) == 0.0  # F1 of calling nobody is 0
    assert best_threshold(scores, few, Objective("cost"), 0.5) == NOBODY
    assert best_threshold(scores, many, Objective("cost"), 0.5) == 0.0


def test_neighbouring_floats_are_kept_apart():
    low = 0.3
    for _ in range(4):  # the middle of two is rounded to either
        high = np.nextafter(low, 1)
        assert best_threshold([low, high], [0, 1], F1, 0.5) == high
        low = high


labelled = st.lists(
    st.tuples(st.sampled_from(np.linspace(0, 1, 21).tolist()), st.booleans()),
    min_size=1,
    max_size=40,
)
objectives = st.builds(
    Objective, st.sampled_from(list(METRICS)), st.floats(0.1, 10), st.floats(0.1, 1)
)


@settings(max_examples=200, deadline=None)
@given(labelled, objectives, st.floats(0, 1), st.floats(0, 1))
def test_nothing_is_better_than_the_best(pairs, objective, near, other):
    scores, labels = (np.array(part) for part in zip(*pairs, strict=True))
    found = best_threshold(scores, labels, objective, near)
    best = value_at(scores, labels, found, objective)
    for threshold in (other, near, 0.0, NOBODY, *scores):
        assert best >= value_at(scores, labels, threshold, objective) - 1e-9


@settings(max_examples=100, deadline=None)
@given(st.data(), labelled, objectives, st.floats(0, 1))
def test_the_order_of_patients_does_not_matter(data, pairs, objective, near):
    other = data.draw(st.permutations(pairs))
    found = []
    for each in (pairs, other):
        scores, labels = (np.array(part) for part in zip(*each, strict=True))
        chances = np.clip(0.7 * scores + 0.3 * labels, 0, 1)
        found.append(
            (
                best_threshold(scores, labels, objective, near),
                best_threshold(scores, chances, objective, near),
                best_of_histogram(histogram(scores, labels), objective, near),
            )
        )
    assert found[0] == found[1]


@pytest.mark.parametrize("name", METRICS)
def test_no_metric_divides_by_nothing(name):
    values = Objective(name).value([0, 0, 0], [0, 5, 0], [0, 0, 5], [0, 0, 0])
    assert np.isfinite(values).all()


# ---------------------------------------------------------------------- the fleet


def hospital(threshold, count, draw, width=0.08):
    """A histogram whose classes meet at a threshold."""
    labels = np.arange(count) % 2 == 0
    return histogram(
        np.clip(draw.normal(threshold + np.where(labels, width, -width), width), 0, 1), labels
    )


def test_a_fleet_that_differs_has_a_spread_and_one_that_does_not_has_less():
    draw = generator(7, "fleet")
    centres = np.tile([0.3, 0.7], 20)
    apart = spread_of([hospital(c, 400, draw) for c in centres], YOUDEN, 0.5, 0)
    alike = spread_of([hospital(0.5, 400, draw) for _ in centres], YOUDEN, 0.5, 0)
    assert apart == pytest.approx(logit(centres).var(ddof=1), rel=0.2)
    assert alike < 0.05 * apart


def test_noise_is_no_spread():
    draw = generator(12, "alike")
    small = [hospital(0.5, 40, draw) for _ in range(60)]
    scatter = logit(best_of_histograms(small, YOUDEN, 0.5)).var(ddof=1)
    assert scatter > 0.005
    assert spread_of(small, YOUDEN, 0.5, 0) < 0.2 * scatter


def test_the_spread_is_nothing_where_it_cannot_be_known():
    draw = generator(8, "fleet")
    few = [histogram(draw.random(2 * FEWEST - 1), np.arange(2 * FEWEST - 1) % 2) for _ in range(9)]
    assert spread_of(few, F1, 0.5, 0) == 0.0
    assert spread_of([hospital(0.4, 50, draw)], F1, 0.5, 0) == 0.0


def test_a_bootstrap_is_the_seeds_and_shrinks_with_patients():
    draw = generator(9, "fleet")
    small, large = (hospital(0.5, count, draw) for count in (40, 4000))
    noise = [bootstrap_variance(h, YOUDEN, 0.5, generator(0, "b")) for h in (small, small, large)]
    assert noise[0] == noise[1] > noise[2] > 0


def test_the_weight_of_a_prevalence_is_that_of_the_beta_distribution():
    draw = generator(11, "beta")
    weight, mean = 8.0, 0.3
    counts = draw.integers(20, 200, size=4000)
    ill = draw.binomial(counts, draw.beta(weight * mean, weight * (1 - mean), size=len(counts)))
    fleet = np.zeros((len(counts), 2, BINS), dtype=np.int64)
    fleet[:, 0, 0], fleet[:, 1, 0] = ill, counts - ill
    assert prevalence_weight(fleet) == pytest.approx(weight, rel=0.1)


def test_clients_that_are_alike_have_the_fleets_prevalence():
    same = np.zeros((5, 2, BINS), dtype=np.int64)
    same[:, 0, 0], same[:, 1, 0] = 20, 80
    weight = prevalence_weight(same)
    assert weight == math.inf
    assert smoothed_prevalence(50, 100, 0.2, weight) == 0.2
    assert smoothed_prevalence(0, 0, 0.2, 0.0) == 0.2
    assert smoothed_prevalence(3, 10, 0.2, 10.0) == pytest.approx(0.25)
    assert smoothed_prevalence(3, 10, 0.2, 0.0) == pytest.approx(0.3)


def test_a_fleet_that_knows_one_class_has_no_threshold_but_half():
    for labels in (np.zeros(30), np.ones(30)):
        fleet = fleet_of([histogram(np.linspace(0, 1, 30), labels)], F1, 0)
        assert fleet.is_one_sided
        assert fleet.threshold(F1) == 0.5
    assert fleet_of([], F1, 0).threshold(F1) == 0.5


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.1, 1.1])
def test_scores_that_are_none(bad):
    for act in (
        lambda: best_threshold([0.1, bad, 0.9], [0, 1, 1], F1, 0.5),
        lambda: histogram([0.1, bad, 0.9], [0, 1, 1]),
    ):
        with pytest.raises(ArgumentError) as raised:
            act()
        assert raised.value.argument == "scores"
        assert repr(raised.value.value) == repr(bad)  # NaN is not equal to itself


def test_no_scores_and_chances_that_are_none():
    for scores, chances, argument in (
        ([], [], "shape of chances"),
        ([0.1, 0.2], [1], "shape of chances"),
        ([0.1, 0.2], [1, math.nan], "chances"),
    ):
        with pytest.raises(ArgumentError) as raised:
            best_threshold(scores, chances, F1, 0.5)
        assert raised.value.argument == argument


@pytest.mark.parametrize(
    "values",
    [
        {"name": "auc"},
        {"cost_ratio": 0.0},
        {"cost_ratio": math.nan},
        {"recall": 0.0},
        {"recall": 1.5},
    ],
)
def test_objectives_that_are_none(values):
    with pytest.raises(ArgumentError) as raised:
        Objective(**values)
    assert {raised.value.argument: raised.value.value} == values


def test_histograms_that_are_none():
    good = [0] * (2 * BINS)
    assert check_histogram(good).shape == (2, BINS)
    for bad, value in (
        (good[1:], "399 of type int64"),
        ([-1, *good[1:]], -1),
        ([2**40, *good[1:]], 2**40),
        ([0.5, *good[1:]], "400 of type float64"),
    ):
        with pytest.raises(ArgumentError) as raised:
            check_histogram(bad)
        assert (raised.value.argument, raised.value.value) == ("counts", value)
