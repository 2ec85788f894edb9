from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.errors import ArgumentError
from strategies.hierarchical.mixed_effects import (
    Prior,
    half_width,
    information,
    log_likelihood,
    moments,
    pooled,
    posterior,
    predict,
    residual,
    restricted_log_likelihood,
    shrinkage,
    stack,
)
from strategies.hierarchical.mixed_effects_em import (
    STRUCTURES,
    Contribution,
    centre,
    contribution,
    fit,
    spread,
    start,
)

SIZE = 3
FLOOR = 1e-10


def positive_definite(draw, size=SIZE, scale=1.0):
    factor = draw.normal(size=(size, 2 * size))
    return scale * factor @ factor.T / (2 * size)


def some_prior(draw, size=SIZE):
    uncertainty = positive_definite(draw, size, 0.1)
    covariance = positive_definite(draw, size)
    return Prior(draw.normal(size=size), covariance, uncertainty, 0.7, FLOOR)


def problem(seed, sizes, prior=None):
    """Examples of clients drawn from a prior, and their true coefficients."""
    draw = np.random.default_rng(seed)
    prior = prior or some_prior(draw)
    data, truth = [], []
    for count in sizes:
        inputs = np.column_stack([draw.normal(size=(count, len(prior.mean) - 1)), np.ones(count)])
        own = draw.multivariate_normal(prior.mean, prior.covariance)
        data.append((inputs, inputs @ own + np.sqrt(prior.noise) * draw.normal(size=count)))
        truth.append(own)
    return prior, data, np.array(truth)


def mean_of(many):
    return Contribution(
        *(a.mean(axis=0) for a in (many.score, many.spread, many.information, many.noise))
    )


def test_the_posterior_is_the_closed_form_of_one_client_and_of_many():
    prior, data, _ = problem(0, (1, 2, 5, 40))
    every = [moments(*each) for each in data]
    together = posterior(stack(every), prior)
    inverse = np.linalg.inv(prior.covariance)
    for place, own in enumerate(every):
        covariance = np.linalg.inv(inverse + own.gram / prior.noise)
        mean = covariance @ (inverse @ prior.mean + own.cross / prior.noise)
        alone = posterior(own, prior)
        for found in (alone.mean, together.mean[place]):
            np.testing.assert_allclose(found, mean, rtol=1e-10)
        for found in (alone.covariance, together.covariance[place]):
            np.testing.assert_allclose(found, covariance, rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(alone.weight, covariance @ inverse, rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(
            information(own, prior), inverse - inverse @ covariance @ inverse, rtol=1e-7, atol=1e-9
        )


def test_the_uncertain_prior_mean_widens_the_posterior_as_a_joint_gaussian_has_it():
    prior, data, _ = problem(1, (4,))
    own = moments(*data[0])
    # (mu, theta) jointly: precision of mu 1/G, of theta given mu 1/Sigma, of the data A/s2
    inverse, known = np.linalg.inv(prior.covariance), np.linalg.inv(prior.uncertainty)
    whole = np.block([[known + inverse, -inverse], [-inverse, inverse + own.gram / prior.noise]])
    joint = np.linalg.inv(whole)
    # of an estimate that does not have this client's data, G is what it is beforehand; the total
    # covariance is of G given all data
    after = replace(prior, uncertainty=joint[:SIZE, :SIZE])
    found = posterior(own, prior).total_covariance(after)
    np.testing.assert_allclose(found, joint[SIZE:, SIZE:], rtol=1e-9)


def test_precision_weighted_identity():
    prior, data, _ = problem(2, (20,))
    own, found = moments(*data[0]), posterior(moments(*data[0]), prior)
    alone = np.linalg.lstsq(*data[0], rcond=None)[0]
    left = np.linalg.solve(found.covariance, found.mean)
    right = np.linalg.solve(prior.covariance, prior.mean) + own.gram / prior.noise @ alone
    np.testing.assert_allclose(left, right, rtol=1e-9)


@pytest.mark.parametrize("count", [1, 2, 30])
def test_no_covariance_is_the_prior_and_an_infinite_one_least_squares(count):
    prior, data, _ = problem(3, (count,))
    own = moments(*data[0])
    none = posterior(own, replace(prior, covariance=np.zeros((SIZE, SIZE))))
    assert none.mean.tolist() == prior.mean.tolist()
    assert not none.covariance.any()
    assert shrinkage(none) == 1.0
    wide = posterior(own, replace(prior, covariance=1e9 * np.eye(SIZE)))
    if count >= SIZE:
        alone = np.linalg.lstsq(*data[0], rcond=None)[0]
        np.testing.assert_allclose(wide.mean, alone, rtol=1e-6)
        assert shrinkage(wide) < 1e-6
    else:  # one direction an example is known, the others are the prior's
        np.testing.assert_allclose(shrinkage(wide), (SIZE - count) / SIZE, atol=1e-6)
        np.testing.assert_allclose(residual(own, wide.mean), 0.0, atol=1e-6)


def test_an_isotropic_covariance_is_ridge_regression_to_the_mean():
    prior, data, _ = problem(4, (8,))
    inputs, targets = data[0]
    isotropic = replace(prior, covariance=0.25 * np.eye(SIZE))
    found = posterior(moments(inputs, targets), isotropic).mean
    penalty = prior.noise / 0.25
    step = np.linalg.solve(
        inputs.T @ inputs + penalty * np.eye(SIZE), inputs.T @ (targets - inputs @ prior.mean)
    )
    np.testing.assert_allclose(found, prior.mean + step, rtol=1e-10)


@given(st.integers(0, 10**6), st.sampled_from([1, 2, 3, 7]))
@settings(max_examples=20)
def test_the_log_likelihood_is_that_of_the_targets(seed, count):
    prior, data, _ = problem(seed, (count,))
    inputs, targets = data[0]
    covariance = inputs @ prior.covariance @ inputs.T + prior.noise * np.eye(count)
    miss = targets - inputs @ prior.mean
    _, logarithm = np.linalg.slogdet(2 * np.pi * covariance)
    wanted = -0.5 * (logarithm + miss @ np.linalg.solve(covariance, miss))
    np.testing.assert_allclose(log_likelihood(moments(inputs, targets), prior), wanted, rtol=1e-8)


@given(
    st.integers(0, 10**6),
    st.lists(st.integers(1, 12), min_size=2, max_size=8),
    st.sampled_from([True, False]),
    st.sampled_from(list(STRUCTURES)),
)
@settings(max_examples=40)
def test_the_likelihood_never_falls(seed, sizes, restricted, structure):
    """Of maximum likelihood in no step, of the restricted one from centre to centre."""
    _, data, _ = problem(seed, [*sizes, 6])
    every = stack([moments(*each) for each in data])
    prior, before = start(every, structure), -np.inf
    for _ in range(15):
        current = mean_of(contribution(every, prior))
        prior = centre(prior, current, len(data), restricted)
        if restricted:
            after = restricted_log_likelihood(every, prior)
        else:
            after = log_likelihood(every, prior).sum()
        assert after >= before - 1e-7 * max(1.0, abs(before))
        before = after
        prior = spread(prior, mean_of(contribution(every, prior)), structure)
        if not restricted:
            after = log_likelihood(every, prior).sum()
            assert after >= before - 1e-7 * max(1.0, abs(before))
            before = after


def test_at_convergence_the_mean_is_that_of_generalized_least_squares():
    _, data, _ = problem(5, [6, 8, 10, 20] * 6)
    every = stack([moments(*each) for each in data])
    found = fit(every)
    weights, weighted = np.zeros((SIZE, SIZE)), np.zeros(SIZE)
    for inputs, targets in data:
        precision = np.linalg.inv(
            inputs @ found.covariance @ inputs.T + found.noise * np.eye(len(targets))
        )
        weights += inputs.T @ precision @ inputs
        weighted += inputs.T @ precision @ targets
    np.testing.assert_allclose(found.mean, np.linalg.solve(weights, weighted), rtol=1e-7)
    np.testing.assert_allclose(found.uncertainty, np.linalg.inv(weights), rtol=1e-6, atol=1e-12)
    # and another step changes nothing
    again = spread(found, mean_of(contribution(every, found)))
    np.testing.assert_allclose(again.covariance, found.covariance, rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(again.noise, found.noise, rtol=1e-8)


def test_the_end_is_a_maximum_of_the_restricted_likelihood():
    _, data, _ = problem(6, [6, 8, 10, 20] * 6)
    every = stack([moments(*each) for each in data])
    found = fit(every)
    best = restricted_log_likelihood(every, found)
    draw = np.random.default_rng(0)
    for _ in range(20):
        step = draw.normal(size=(SIZE, SIZE)) * 0.05 * np.trace(found.covariance)
        other = replace(
            found,
            covariance=found.covariance + step @ step.T,
            noise=found.noise * draw.uniform(0.8, 1.25),
        )
        other = centre(other, mean_of(contribution(every, other)), len(data))
        assert restricted_log_likelihood(every, other) < best


def test_restricted_likelihood_is_less_biased():
    """With N clients maximum likelihood takes the covariance for (N - 1)/N of what it is."""
    clients, found = 6, {True: [], False: []}
    prior = Prior(np.zeros(2), np.eye(2), np.zeros((2, 2)), 0.1, FLOOR)
    for seed in range(60):
        _, data, _ = problem(seed, [30] * clients, prior)
        every = stack([moments(*each) for each in data])
        for restricted, traces in found.items():
            fitted = fit(every, restricted=restricted, iterations=60)
            traces.append(np.trace(fitted.covariance) / 2)
    error = np.std(found[True]) / np.sqrt(60)
    assert abs(np.mean(found[True]) - 1.0) < 3 * error
    np.testing.assert_allclose(np.mean(found[False]) / np.mean(found[True]), 5 / 6, rtol=0.03)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_covariance_has_the_structure_that_was_asked_for(structure):
    _, data, _ = problem(7, [10] * 8)
    found = fit(stack([moments(*each) for each in data]), structure, iterations=30).covariance
    np.testing.assert_allclose(STRUCTURES[structure](found), found, rtol=1e-12)
    assert structure == "full" or not (found - np.diag(np.diag(found))).any()


def test_predictive_intervals_hold_what_they_say():
    """Of new targets of clients with few examples, under the fitted prior; 20000 of them."""
    inside = []
    for seed in range(20):
        prior = Prior(np.zeros(3), 0.5 * np.eye(3), np.zeros((3, 3)), 1.0, FLOOR)
        _, data, truth = problem(seed, [4, 8, 16, 32] * 10, prior)
        every = stack([moments(*each) for each in data])
        fitted = fit(every, iterations=200)
        found = posterior(every, fitted)
        covariances = found.total_covariance(fitted)
        draw = np.random.default_rng(1000 + seed)
        for own, mean, covariance in zip(truth, found.mean, covariances, strict=True):
            inputs = np.column_stack([draw.normal(size=(25, 2)), np.ones(25)])
            targets = inputs @ own + draw.normal(size=25)
            middle, variance = predict(inputs, mean, covariance, fitted.noise)
            inside.append(np.abs(targets - middle) <= half_width(variance))
    assert 0.88 < np.mean(inside) < 0.915


def test_half_width_of_a_standard_normal():
    assert half_width(np.array(4.0), 0.9) == pytest.approx(2 * 1.6448536269514722)


# ---------------------------------------------------------------------- bad input


def test_a_feature_that_is_zero_everywhere_keeps_its_mean_and_harms_nobody():
    _, data, _ = problem(8, [5, 9, 14] * 5)
    plain = fit(stack([moments(*each) for each in data]))
    wider = [(np.insert(inputs, 1, 0.0, axis=1), targets) for inputs, targets in data]
    found = fit(stack([moments(*each) for each in wider]))
    others = [0, 2, 3]
    np.testing.assert_allclose(found.mean[others], plain.mean, rtol=1e-6)
    np.testing.assert_allclose(found.noise, plain.noise, rtol=1e-6)
    assert abs(found.mean[1]) < 1e-9
    assert all(np.isfinite(values).all() for values in (found.mean, found.covariance))


def test_units_of_features_and_targets_do_not_matter():
    _, data, _ = problem(13, [5, 9, 14, 30] * 5)
    plain = fit(stack([moments(*each) for each in data]))
    units, unit = np.array([1e6, 1e-3, 1.0]), 1e3
    other = fit(stack([moments(inputs * units, unit * targets) for inputs, targets in data]))
    np.testing.assert_allclose(other.mean * units / unit, plain.mean, rtol=1e-5)
    covariance = other.covariance * np.outer(units, units) / unit**2
    np.testing.assert_allclose(covariance, plain.covariance, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(other.noise / unit**2, plain.noise, rtol=1e-6)


@pytest.mark.parametrize("sizes", [[1], [1, 1], [12], [2, 1, 1]])
def test_few_clients_and_examples_still_give_a_prior(sizes):
    _, data, _ = problem(9, sizes)
    every = stack([moments(*each) for each in data])
    found = fit(every)
    values = (found.mean, found.covariance, found.uncertainty, found.noise)
    assert all(np.isfinite(value).all() for value in values)
    assert found.noise > 0
    assert np.isfinite(posterior(every, found).mean).all()


def test_all_clients_identical_end_in_the_pooled_model():
    draw = np.random.default_rng(10)
    inputs = np.column_stack([draw.normal(size=(40, 2)), np.ones(40)])
    targets = inputs @ [1.0, -2.0, 0.5] + draw.normal(size=40)
    every = stack([moments(inputs, targets)] * 10)
    found = fit(every)
    alone = np.linalg.lstsq(inputs, targets, rcond=None)[0]
    np.testing.assert_allclose(found.mean, alone, rtol=1e-8)
    np.testing.assert_allclose(posterior(every, found).mean, np.tile(alone, (10, 1)), rtol=1e-8)
    assert np.trace(found.covariance) < 0.01


def test_data_without_noise_end_at_the_floor():
    draw = np.random.default_rng(11)
    inputs = [np.column_stack([draw.normal(size=(9, 2)), np.ones(9)]) for _ in range(6)]
    coefficients = draw.normal(size=(6, 3))
    every = stack([moments(x, x @ own) for x, own in zip(inputs, coefficients, strict=True)])
    found = fit(every)
    assert found.noise >= found.noise_floor > 0
    np.testing.assert_allclose(posterior(every, found).mean, coefficients, atol=1e-3)
    same = fit(stack([moments(x, x @ coefficients[0]) for x in inputs]))
    np.testing.assert_allclose(same.mean, coefficients[0], rtol=1e-6)
    nothing = fit(stack([moments(x, np.zeros(9)) for x in inputs]))
    assert not nothing.mean.any()


def test_no_examples_are_refused():
    with pytest.raises(ArgumentError) as raised:
        fit(stack([moments(np.zeros((0, 2)), np.zeros(0))]))
    assert (raised.value.argument, raised.value.value) == ("many.examples", [0.0])


def test_moments_of_all_are_the_sums():
    _, data, _ = problem(12, (3, 4))
    both = moments(*(np.concatenate(parts) for parts in zip(*data, strict=True)))
    found = pooled(stack([moments(*each) for each in data]))
    np.testing.assert_allclose(found.gram, both.gram)
    np.testing.assert_allclose([*found.cross, found.square], [*both.cross, both.square])
    assert found.examples == both.examples == 7
