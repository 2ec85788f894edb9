import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import ErrorsInVariables
from strategies.arrays import to_record, view
from strategies.errors import ArgumentError
from strategies.measurement_error.corrected_moments import (
    ABSENT,
    LEAST_RELIABILITY,
    coefficients,
    corrected_inverse,
    discriminant_coefficients,
    error_moments,
    pooled_errors,
    regression_coefficients,
)
from strategies.measurement_error.errors_in_variables import (
    COEFFICIENTS,
    NAMES,
    model_arrays,
    moments_arrays,
)
from tests.errors import refused
from tests.helpers import decoded, reply

SLOPES = np.array([1.0, -2.0, 0.5])
INTERCEPT = 0.7
CORRELATED = np.array([[1.0, 0.5, 0.2], [0.5, 1.0, 0.0], [0.2, 0.0, 1.0]])


def true_values(count, seed=0, mean=0.0):
    draw = np.random.default_rng(seed)
    return mean + draw.normal(size=(count, 3)) @ np.linalg.cholesky(CORRELATED).T


def numbers(count, seed=0, noise=0.0):
    """Readings of a noise of this variance, and targets of the true values."""
    draw = np.random.default_rng(seed + 1000)
    inputs = true_values(count, seed)
    targets = inputs @ SLOPES + INTERCEPT + 0.5 * draw.normal(size=count)
    return inputs + np.sqrt(noise) * draw.normal(size=inputs.shape), targets


def classes(count, seed=0, noise=0.0):
    draw = np.random.default_rng(seed + 2000)
    labels = draw.choice(3, size=count, p=[0.5, 0.3, 0.2])
    centres = np.array([[0.0, 0.0, 0.0], [1.5, 0.0, -1.0], [0.0, 2.0, 1.0]])
    inputs = centres[labels] + true_values(count, seed)
    return inputs + np.sqrt(noise) * draw.normal(size=inputs.shape), labels


def one_hot(labels):
    return np.eye(3)[labels]


def least_squares(inputs, targets):
    design = np.column_stack([inputs, np.ones(len(inputs))])
    return np.linalg.lstsq(design, targets, rcond=None)[0]


# ---------------------------------------------------------------------- the equations


@pytest.mark.parametrize("count", [4, 30, 1000])
def test_without_errors_it_is_least_squares(count):
    inputs, targets = numbers(count)
    inputs = inputs * [1.0, 30.0, 0.01] + [5.0, -100.0, 0.0]
    found, lowest = regression_coefficients(error_moments(inputs, targets, np.zeros(3)))
    np.testing.assert_allclose(found[0], least_squares(inputs, targets), rtol=1e-9, atol=1e-9)
    assert lowest == pytest.approx(1.0)


def test_the_naive_slope_is_attenuated_by_the_reliability_and_the_corrected_one_is_not():
    """n = 20,000: attenuation to 2 %, the corrected slope within 2 % of the truth."""
    draw = np.random.default_rng(3)
    true = draw.normal(size=(20_000, 1))
    measured = true + 0.75 * draw.normal(size=true.shape)
    targets = 2.0 * true[:, 0] + 0.5 * draw.normal(size=20_000)
    reliability = 1 / (1 + 0.75**2)
    naive, _ = coefficients(error_moments(measured, targets, np.zeros(1)))
    corrected, lowest = coefficients(error_moments(measured, targets, np.full(1, 0.75**2)))
    assert naive[0, 0] == pytest.approx(2.0 * reliability, rel=0.02)
    assert corrected[0, 0] == pytest.approx(2.0, rel=0.02)
    assert lowest == pytest.approx(reliability, rel=0.02)


def test_several_correlated_covariates_of_clients_that_see_differently():
    parts, everything = [], []
    for client, noise in enumerate((0.0, 0.3, 1.0)):
        inputs, targets = numbers(20_000, client, noise)
        parts.append(error_moments(inputs, targets, np.full(3, noise)))
        everything.append((inputs, targets))
    found, _ = coefficients(pooled_errors(parts))
    wanted = np.append(SLOPES, INTERCEPT)
    np.testing.assert_allclose(found[0], wanted, rtol=0.02, atol=0.02)
    naive = least_squares(*(np.concatenate(part) for part in zip(*everything, strict=True)))
    assert np.abs(naive - wanted).max() > 0.3


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 99), max_size=6, unique=True), st.booleans())
def test_federated_equations_are_the_pooled_ones_however_examples_are_split(cuts, is_classes):
    inputs, targets = classes(100) if is_classes else numbers(100)
    columns = one_hot(targets) if is_classes else targets
    noise = np.array([0.1, 0.0, 0.2])
    whole, _ = coefficients(error_moments(inputs, columns, noise))
    places = np.split(np.arange(100), sorted(cuts))
    parts = [error_moments(inputs[place], columns[place], noise) for place in places]
    found, _ = coefficients(pooled_errors(parts))
    np.testing.assert_allclose(found, whole, rtol=1e-9, atol=1e-9)


def test_units_of_features_do_not_matter():
    inputs, targets = numbers(200, noise=0.5)
    scale = np.array([1e-3, 1.0, 1e4])
    found, lowest = coefficients(error_moments(inputs, targets, np.full(3, 0.5)))
    other, same = coefficients(error_moments(inputs * scale, targets, 0.5 * scale**2))
    np.testing.assert_allclose(other[0, :3] * scale, found[0, :3], rtol=1e-8)
    assert same == pytest.approx(lowest, rel=1e-8)


def test_what_is_not_positive_definite_is_clipped():
    covariance = np.diag([1.0, 2.0])
    inverse, lowest = corrected_inverse(covariance, np.array([0.5, 3.0]))
    assert lowest == pytest.approx(-0.5)
    np.testing.assert_allclose(inverse, np.diag([2.0, 1 / (2 * LEAST_RELIABILITY)]), atol=1e-12)
    inverse, lowest = corrected_inverse(covariance, np.zeros(2))
    np.testing.assert_allclose(inverse, np.diag([1.0, 0.5]), rtol=1e-12)


@given(st.integers(0, 10_000), st.floats(0, 5))
def test_nothing_is_corrected_by_more_than_the_least_reliability_allows(seed, noise):
    draw = np.random.default_rng(seed)
    factor = draw.normal(size=(3, 5))
    covariance = factor @ factor.T
    inverse, _ = corrected_inverse(covariance, np.full(3, noise))
    assert np.linalg.eigvalsh(inverse)[0] > 0
    ratio = np.linalg.eigvalsh(
        np.linalg.cholesky(covariance).T @ inverse @ np.linalg.cholesky(covariance)
    )
    assert ratio.max() <= 1 / LEAST_RELIABILITY * (1 + 1e-6)
    assert ratio.min() >= 1 - 1e-6  # never shrunk either


def test_features_that_never_vary_or_are_twice_there_are_no_harm():
    inputs, targets = numbers(50)
    twice = np.column_stack([inputs, inputs[:, 0], np.full(50, 4.0)])
    found, _ = coefficients(error_moments(twice, targets, np.zeros(5)))
    fitted = twice @ found[0, :-1] + found[0, -1]
    wanted = np.column_stack([inputs, np.ones(50)]) @ least_squares(inputs, targets)
    np.testing.assert_allclose(fitted, wanted, atol=1e-8)


@pytest.mark.parametrize("value", [0.1, 4.0, 1234.567])
def test_a_feature_that_never_varies_but_for_rounding_is_left_out(value):
    inputs, targets = numbers(50, noise=0.3)
    constant = np.column_stack([inputs, np.full(50, value)])
    wanted, lowest = coefficients(error_moments(inputs, targets, np.full(3, 0.3)))
    found, same = coefficients(error_moments(constant, targets, np.full(4, 0.3)))
    np.testing.assert_allclose(found[0, [0, 1, 2, 4]], wanted[0], rtol=1e-8)
    assert found[0, 3] == 0
    assert same == pytest.approx(lowest)


def test_the_discriminant_is_scikit_learns_without_errors():
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    inputs, labels = classes(300)
    found, _ = discriminant_coefficients(error_moments(inputs, one_hot(labels), np.zeros(3)))
    model = LinearDiscriminantAnalysis(solver="lsqr").fit(inputs, labels)
    np.testing.assert_allclose(found[:, :-1], model.coef_, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found[:, -1], model.intercept_, rtol=1e-9, atol=1e-9)


def test_the_corrected_discriminant_is_that_of_true_values():
    inputs, labels = classes(60_000, noise=0.8)
    exact, _ = classes(60_000)
    wanted, _ = coefficients(error_moments(exact, one_hot(labels), np.zeros(3)))
    naive, _ = coefficients(error_moments(inputs, one_hot(labels), np.zeros(3)))
    found, _ = coefficients(error_moments(inputs, one_hot(labels), np.full(3, 0.8)))
    contrast = wanted[1:, :-1] - wanted[0, :-1]
    miss = np.abs(found[1:, :-1] - found[0, :-1] - contrast).max()
    assert miss < 0.05 * np.abs(contrast).max()
    assert np.abs(naive[1:, :-1] - naive[0, :-1] - contrast).max() > 0.4 * np.abs(contrast).max()


def test_a_class_that_nobody_has_is_never_predicted():
    inputs, labels = classes(100)
    inputs, labels = inputs[labels < 2], labels[labels < 2]
    found, _ = coefficients(error_moments(inputs, one_hot(labels), np.zeros(3)))
    assert found[2].tolist() == [0.0, 0.0, 0.0, ABSENT]
    scores = np.column_stack([inputs, np.ones(len(inputs))]) @ found.T
    assert 2 not in scores.argmax(axis=1)


# ---------------------------------------------------------------------- the strategy

NOISE = (0.0, 0.2, 0.5)


def moments_of_client(client, noise):
    inputs, targets = numbers(50 + 10 * client, client, noise)
    return error_moments(inputs, targets, np.full(3, noise))


DATA = [moments_of_client(client, noise) for client, noise in enumerate(NOISE)]


def reported(client, own=None, examples=None, **changes):
    own = own or DATA[client]
    arrays = moments_arrays(own) | changes
    return reply(100 + client, arrays, {"num-examples": examples or int(own.examples)})


def solved(strategy, replies, sent=None):
    strategy.round.arrays = to_record(model_arrays(np.zeros((1, 4)))) if sent is None else sent
    arrays, _ = strategy.aggregate_train(1, replies)
    return None if arrays is None else decoded(arrays)[COEFFICIENTS]


def test_the_strategy_solves_the_pooled_equations_in_one_round_and_then_gives_the_same():
    strategy = ErrorsInVariables()
    found = solved(strategy, [reported(c) for c in range(3)])
    wanted, _ = coefficients(pooled_errors(DATA))
    assert found.tobytes() == wanted.tobytes()
    assert solved(strategy, [reported(c) for c in range(3)]).tobytes() == wanted.tobytes()
    assert solved(strategy, [reported(1)]).tobytes() == wanted.tobytes()  # others are kept


def test_the_order_of_replies_changes_no_bit():
    forward = solved(ErrorsInVariables(), [reported(c) for c in range(3)])
    backward = solved(ErrorsInVariables(), [reported(c) for c in (2, 1, 0)])
    assert forward.tobytes() == backward.tobytes()


def test_in_which_round_a_client_reported_changes_no_bit():
    strategy, other = ErrorsInVariables(), ErrorsInVariables()
    for client in (2, 0, 1):
        late = solved(strategy, [reported(client)])
    assert late.tobytes() == solved(other, [reported(c) for c in range(3)]).tobytes()


def test_a_checkpoint_carries_what_clients_reported():
    strategy, other = ErrorsInVariables(), ErrorsInVariables()
    solved(strategy, [reported(0), reported(1)])
    other.load_state_arrays(strategy.state_arrays())
    assert solved(other, [reported(2)]).tobytes() == solved(strategy, [reported(2)]).tobytes()
    assert sorted(other.moments) == [0, 1, 2]


BAD = {
    "not finite": {"gram": np.full((4, 4), np.nan)},
    "infinite errors": {"errors": np.full(3, np.inf)},
    "negative errors": {"errors": np.array([0.1, -0.1, 0.0])},
    "not positive semidefinite": {"gram": np.diag([-1.0, 1.0, 1.0, 50.0])},
    "not symmetric": {"gram": np.triu(np.full((4, 4), 50.0))},
    "more examples than it says": {"gram": np.diag([1.0, 1.0, 1.0, 51.0])},
    "half an example": {"gram": np.diag([1.0, 1.0, 1.0, 2.5])},
    "another shape": {"errors": np.zeros(4)},
    "another dtype": {"errors": np.zeros(3, dtype=np.float32)},
}


@pytest.mark.parametrize("what", BAD)
def test_a_reply_that_cannot_be_is_dropped_and_the_others_count(what):
    strategy = ErrorsInVariables()
    found = solved(strategy, [reported(0, **BAD[what]), reported(1), reported(2)])
    np.testing.assert_array_equal(found, coefficients(pooled_errors(DATA[1:]))[0])
    (bad,) = [report for report in strategy.reports if report.dropped]
    assert bad.client == 0
    assert sorted(strategy.moments) == [1, 2]


def test_counts_of_classes_must_fit():
    inputs, labels = classes(40)
    own = error_moments(inputs, one_hot(labels), np.zeros(3))
    wrong = own.cross.copy()
    wrong[0, -1] += 1
    sent = to_record(model_arrays(np.zeros((3, 4))))
    strategy = ErrorsInVariables()
    replies = [reported(0, own, coefficients=wrong), reported(1, own)]
    found = solved(strategy, replies, sent)
    np.testing.assert_array_equal(found, coefficients(own)[0])
    assert "cross is [" in next(r.dropped for r in strategy.reports if r.client == 0)


def test_errors_beyond_what_there_is_are_clipped_with_a_warning(caplog):
    strategy = ErrorsInVariables()
    too_much = moments_arrays(DATA[0])["errors"] + 1e4
    with caplog.at_level(logging.WARNING):
        found = solved(strategy, [reported(0, errors=too_much), reported(1)])
    assert np.isfinite(found).all()
    assert "it is held to be 0.05" in caplog.text


def scaled(own, times):
    """Sums of products of measurements so many times as large, of as many examples."""
    units = np.append(np.full(3, times), 1.0)
    return {"coefficients": own.cross * units, "gram": own.gram * np.outer(units, units)}


FAR = {
    "measurements": scaled(DATA[0], 1e10),
    "measurements whose squares are too large to add up": scaled(DATA[0], 1e152),
    "targets": {"coefficients": 1e12 * DATA[0].cross},
    "errors": {"errors": np.full(3, 1.7e308)},
}


@pytest.mark.parametrize("what", FAR)
def test_what_is_far_beyond_what_most_tell_is_dropped(what):
    strategy = ErrorsInVariables()
    found = solved(strategy, [reported(0, **FAR[what]), reported(1), reported(2)])
    np.testing.assert_array_equal(found, coefficients(pooled_errors(DATA[1:]))[0])
    (bad,) = [report for report in strategy.reports if report.dropped]
    assert bad.client == 0
    assert "outlier" in bad.dropped or "largest value" in bad.dropped


def test_sums_beyond_all_numbers_never_end_a_run():
    strategy = ErrorsInVariables()
    replies = [reported(c, errors=np.full(3, 1.7e308)) for c in range(2)]
    assert solved(strategy, replies) is None
    assert all("largest value in ['errors']" in report.dropped for report in strategy.reports)
    assert not strategy.moments
    wanted, _ = coefficients(DATA[2])
    np.testing.assert_array_equal(solved(strategy, [reported(2)]), wanted)


def test_nobody_who_can_be_believed_leaves_what_was_sent():
    strategy = ErrorsInVariables()
    assert solved(strategy, [reported(0, **BAD["not finite"])]) is None
    assert not strategy.moments


def test_the_first_coefficients_are_the_models_own():
    layer = {"weight": np.arange(6.0).reshape(2, 3), "bias": np.array([7.0, 8.0])}
    first = ErrorsInVariables().first_arrays(to_record(layer))
    assert tuple(first) == NAMES
    np.testing.assert_array_equal(view(first[COEFFICIENTS]), [[0, 1, 2, 7], [3, 4, 5, 8]])
    with refused(ArgumentError, argument="shapes of the shared arrays", value=[(2, 3)]):
        ErrorsInVariables().first_arrays(to_record({"weight": np.zeros((2, 3))}))


def test_no_momentum():
    with refused(ArgumentError, argument="server_momentum", value=0.5):
        ErrorsInVariables(server_momentum=0.5, parameter_names=("w",))
