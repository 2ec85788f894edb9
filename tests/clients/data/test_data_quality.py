"""Noise, reliability and what follows from them, against closed forms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from clients import (
    Classification,
    ClientDetails,
    PersonalClient,
    Regression,
    assign_scopes,
    in_memory_loader,
)
from clients.data.data_quality import (
    DataQuality,
    calibration,
    noise_of_replicates,
    reliability_of,
)
from clients.measurement_error.multiple_imputation import average_predictions
from strategies.errors import ArgumentError
from strategies.protocol import EFFECTIVE_EXAMPLES, MISSING_RATE, RELIABILITY
from strategies.randomness import generator

shares = st.floats(0, 1)


def quality(examples=10, missing_rate=0.0, noise=(0.0,), reliability=(1.0,)):
    return DataQuality(examples, missing_rate, np.array(noise), np.array(reliability))


@pytest.mark.parametrize(
    ("options", "argument", "value"),
    [
        ({"missing_rate": -0.1}, "missing_rate", -0.1),
        ({"missing_rate": math.nan}, "missing_rate", math.nan),
        ({"noise": (-1.0,)}, "noise", -1.0),
        ({"noise": (math.inf,)}, "noise", math.inf),
        ({"noise": (math.nan,)}, "noise", math.nan),
        ({"reliability": (1.1,)}, "reliability", 1.1),
        ({"reliability": (-0.1,)}, "reliability", -0.1),
        ({"reliability": (math.nan,)}, "reliability", math.nan),
        ({"noise": (0.0, 0.0)}, "shapes of noise and reliability", ((2,), (1,))),
        (
            {"noise": ((0.0,),), "reliability": ((1.0,),)},
            "shapes of noise and reliability",
            ((1, 1), (1, 1)),
        ),
    ],
)
def test_quality_that_cannot_be_is_refused(options, argument, value):
    with pytest.raises(ArgumentError) as raised:
        quality(**options)
    assert raised.value.argument == argument
    assert repr(raised.value.value) == repr(value)  # NaN is not equal to itself


@given(st.integers(0, 1000), shares, st.lists(shares, min_size=1, max_size=5))
def test_effective_examples_are_at_most_the_examples(examples, missing, reliability):
    found = quality(examples, missing, [0.0] * len(reliability), reliability)
    assert found.effective_examples == pytest.approx(
        examples * (1 - missing) * np.mean(reliability)
    )
    assert 0 <= found.effective_examples <= examples * (1 + 1e-12)


def test_reliability_is_the_share_of_the_variance_that_is_true():
    found = reliability_of([0.0, 1.0, 3.0, 0.0, 1.0], [2.0, 4.0, 2.0, 0.0, 0.0])
    assert found.tolist() == [1.0, 0.75, 0.0, 1.0, 0.0]


def test_noise_is_found_in_replicates():
    draw = generator(100, "replicates")
    deviations = np.array([0.5, 2.0])
    things = draw.normal(size=(4000, 2))
    measurements = things + deviations * draw.normal(size=(3, 4000, 2))
    np.testing.assert_allclose(noise_of_replicates(measurements), deviations**2, rtol=0.05)
    with pytest.raises(ArgumentError) as raised:
        noise_of_replicates(measurements[:1])
    assert raised.value.argument == "shape of replicates"
    assert raised.value.value == (1, 4000, 2)
    measurements[0, 0, 0] = math.nan
    with pytest.raises(ArgumentError) as raised:
        noise_of_replicates(measurements)
    assert raised.value.argument == "replicates"
    assert math.isnan(raised.value.value)


# ---------------------------------------------------------------------- calibration

TRUTH = np.array([2.0, -1.0])
COVARIANCE = np.array([[1.0, 0.5], [0.5, 1.0]])
NOISE = np.array([0.5625, 0.2])


def benchmark(count=20_000):
    """True values, measurements and outcomes of a linear model."""
    draw = generator(100, "errors in variables")
    true = draw.normal(size=(count, 2)) @ np.linalg.cholesky(COVARIANCE).T
    measurements = true + np.sqrt(NOISE) * draw.normal(size=(count, 2))
    return true, measurements, true @ TRUTH + 0.1 * draw.normal(size=count)


def slopes(inputs, outcomes):
    away = inputs - inputs.mean(axis=0)
    return np.linalg.lstsq(away, outcomes - outcomes.mean(), rcond=None)[0]


def calibrated(measurements, noise):
    matrix, mean = calibration(measurements, noise)
    return mean + (measurements - mean) @ matrix.T


def test_the_naive_slope_is_attenuated_by_the_reliability():
    true, measurements, _ = benchmark()
    outcomes = 2.0 * true[:, 0]
    reliability = reliability_of(NOISE[:1], measurements[:, :1].var(axis=0))[0]
    assert reliability == pytest.approx(1 / 1.5625, rel=0.02)
    assert slopes(measurements[:, :1], outcomes)[0] == pytest.approx(2.0 * reliability, rel=0.02)


def test_calibrated_inputs_give_the_true_slopes():
    _, measurements, outcomes = benchmark()
    assert np.abs(slopes(measurements, outcomes) / TRUTH - 1).max() > 0.2
    np.testing.assert_allclose(slopes(calibrated(measurements, NOISE), outcomes), TRUTH, rtol=0.02)


def test_calibration_is_the_closed_form():
    _, measurements, _ = benchmark(500)
    total = np.cov(measurements.T)
    matrix, mean = calibration(measurements, NOISE)
    np.testing.assert_allclose(mean, measurements.mean(axis=0))
    np.testing.assert_allclose(matrix, np.eye(2) - np.diag(NOISE) @ np.linalg.inv(total))


def test_one_feature_is_shrunk_by_its_reliability():
    _, measurements, _ = benchmark(500)
    one = measurements[:, :1]
    matrix, _ = calibration(one, NOISE[:1])
    np.testing.assert_allclose(matrix[0], reliability_of(NOISE[:1], one.var(axis=0, ddof=1)))


def test_without_noise_measurements_stay_what_they_are():
    few = np.array([[1.0, 2.0, 3.0]])
    matrix, _ = calibration(few, np.zeros(3))
    np.testing.assert_array_equal(matrix, np.eye(3))


def test_more_noise_than_there_is_variance_leaves_the_mean():
    _, measurements, _ = benchmark(500)
    found = calibrated(measurements, np.array([100.0, 100.0]))
    np.testing.assert_allclose(found, np.broadcast_to(measurements.mean(axis=0), found.shape))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**16), st.integers(1, 20), st.integers(1, 12))
def test_no_calibrated_feature_varies_more_than_its_measurements(seed, count, size):
    draw = generator(seed, "few measurements")
    measurements = draw.normal(size=(count, size)) + draw.normal(size=(count, 1))
    measurements[:, draw.integers(size)] = 3.0  # a sensor that is stuck
    matrix, _ = calibration(measurements, draw.choice([0.0, 0.01, 2.0], size=size))
    found = (measurements - measurements.mean(axis=0)) @ matrix.T
    assert (found.var(axis=0) <= measurements.var(axis=0) + 1e-9).all()


@pytest.mark.parametrize("count", [10, 25, 30, 31, 35, 60])
def test_few_measurements_are_not_made_worse(count):
    draw = generator(100, "as few measurements as features", count)
    loading = draw.normal(size=(3, 30))
    noise = np.where(draw.random(30) < 0.5, 0.01, draw.uniform(0.1, 3.0, 30))

    def take(number):
        true = draw.normal(size=(number, 3)) @ loading + 0.3 * draw.normal(size=(number, 30))
        return true, true + np.sqrt(noise) * draw.normal(size=true.shape)

    matrix, mean = calibration(take(count)[1], noise)
    true, measurements = take(500)
    found = mean + (measurements - mean) @ matrix.T
    noisy = noise > 0.05
    assert ((found - true)[:, noisy] ** 2).mean() < ((measurements - true)[:, noisy] ** 2).mean()


@pytest.mark.parametrize("noise", [(0.5625, 0.2), (3.0, 0.5)])
def test_calibration_does_not_depend_on_units(noise):
    _, measurements, _ = benchmark(500)
    units = np.array([1000.0, 0.01])
    matrix, _ = calibration(measurements, np.array(noise))
    other, _ = calibration(measurements * units, np.array(noise) * units**2)
    np.testing.assert_allclose(other, units[:, None] * matrix / units, rtol=1e-6, atol=1e-9)


def test_what_is_read_without_error_stays_what_it_is():
    measurements = generator(100, "exact").normal(size=(3, 5))
    noise = np.array([0.0, 5.0, 0.0, 0.1, 0.0])
    exact = noise == 0
    new = generator(100, "new").normal(size=(4, 5))
    matrix, mean = calibration(measurements, noise)
    np.testing.assert_allclose((mean + (new - mean) @ matrix.T)[:, exact], new[:, exact])


@pytest.mark.parametrize(
    ("measurements", "noise", "argument", "value"),
    [
        (np.ones((3, 2)), np.ones(3), "shapes of measurements and noise", ((3, 2), (3,))),
        (np.ones((0, 2)), np.ones(2), "shapes of measurements and noise", ((0, 2), (2,))),
        (np.full((3, 2), math.nan), np.ones(2), "measurements", math.nan),
        (np.ones((3, 2)), -np.ones(2), "noise", -1.0),
    ],
)
def test_calibration_refuses_what_cannot_be(measurements, noise, argument, value):
    with pytest.raises(ArgumentError) as raised:
        calibration(measurements, noise)
    assert raised.value.argument == argument
    assert repr(raised.value.value) == repr(value)  # NaN is not equal to itself


# ---------------------------------------------------------------------- what a client reports


def client(**options):
    model = nn.Sequential(nn.Linear(3, 2))
    loader = in_memory_loader(torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64), 4)
    return PersonalClient(model, assign_scopes(model), loader, **options)


def test_a_client_reports_its_data_quality():
    reported = quality(4, 0.5, (1.0, 0.0), (0.5, 1.0))
    reporting = client(details=ClientDetails(quality=reported))
    _, _, metrics = reporting.fit(reporting.get_parameters({}), {})
    assert metrics[MISSING_RATE] == 0.5
    assert metrics[RELIABILITY] == 0.75
    assert metrics[EFFECTIVE_EXAMPLES] == 1.5


def test_a_client_that_knows_nothing_of_it_tells_nothing():
    knows_nothing = client()
    _, _, metrics = knows_nothing.fit(knows_nothing.get_parameters({}), {})
    assert not {MISSING_RATE, RELIABILITY, EFFECTIVE_EXAMPLES} & set(metrics)


# ---------------------------------------------------------------------- averaged predictions


@pytest.fixture
def model():
    with torch.random.fork_rng():
        torch.manual_seed(100)
        return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4))


FILLINGS = torch.from_numpy(generator(100, "fillings").normal(size=(6, 5, 3))).float()


def test_probabilities_are_averaged_over_fillings(model):
    by_hand = torch.stack([model(FILLINGS[:, m]).softmax(dim=1) for m in range(5)]).mean(dim=0)
    average_predictions(model, Classification())
    average_predictions(model, Classification())  # again is once
    torch.testing.assert_close(model(FILLINGS).softmax(dim=1), by_hand)
    torch.testing.assert_close(model(FILLINGS).exp(), by_hand)


def test_outputs_are_averaged_in_a_regression(model):
    by_hand = torch.stack([model(FILLINGS[:, m]) for m in range(5)]).mean(dim=0)
    average_predictions(model, Regression())
    torch.testing.assert_close(model(FILLINGS), by_hand)


def test_single_examples_and_parameters_stay_what_they_were(model):
    names, single = list(model.state_dict()), model(FILLINGS[:, 0])
    average_predictions(model, Classification())
    model(FILLINGS)
    assert torch.equal(model(FILLINGS[:, 0]), single)
    assert list(model.state_dict()) == names
