import numpy as np
import pytest
from scipy.optimize import check_grad
from sklearn.linear_model import LogisticRegression

from clients.hierarchical.softmax_laplace import derivatives, laplace, log_likelihood, mode
from strategies.hierarchical.mixed_effects import Prior, posterior

FEATURES = 3


def classes(count, number, seed=0):
    """Inputs with a column of ones, and labels that depend on them."""
    draw = np.random.default_rng(seed)
    inputs = np.column_stack([draw.normal(size=(count, FEATURES)), np.ones(count)])
    labels = (inputs @ draw.normal(size=(FEATURES + 1, number))).argmax(axis=1)
    return inputs, labels


def prior_for(number, variance=2.0, mean=None):
    size = number * (FEATURES + 1)
    mean = np.zeros(size) if mean is None else mean
    return Prior(mean, variance * np.eye(size), np.zeros((size, size)), 1.0, 1e-6)


def test_derivatives_are_those_of_the_log_likelihood():
    inputs, labels = classes(20, 3)
    at = np.random.default_rng(1).normal(size=12)

    def value(x):
        return log_likelihood(x, inputs, labels)

    def slope(x):
        return derivatives(x, inputs, labels)[0]

    assert check_grad(value, slope, at) < 1e-4
    _, hessian = derivatives(at, inputs, labels)
    for place in range(12):
        step = np.zeros(12)
        step[place] = 1e-6
        column = (slope(at - step) - slope(at + step)) / 2e-6
        np.testing.assert_allclose(hessian[:, place], column, atol=1e-6)


@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize("count", [1, 4, 60])
def test_at_the_mode_the_gradient_of_the_posterior_is_zero(number, count):
    inputs, labels = classes(count, number)
    draw = np.random.default_rng(2)
    factor = draw.normal(size=(number * 4, 20))
    prior = Prior(
        draw.normal(size=number * 4), factor @ factor.T / 20, np.zeros((number * 4,) * 2), 1.0, 1e-6
    )
    best = mode(inputs, labels, prior)
    gradient, _ = derivatives(best, inputs, labels)
    gradient_of_prior = np.linalg.solve(prior.covariance, best - prior.mean)
    np.testing.assert_allclose(gradient, gradient_of_prior, atol=1e-7)


def test_the_mode_is_a_fixed_point_of_the_gaussian_posterior():
    inputs, labels = classes(30, 3)
    prior = prior_for(3)
    best = mode(inputs, labels, prior)
    found = posterior(laplace(inputs, labels, prior), prior)
    np.testing.assert_allclose(found.mean, best, atol=1e-9)
    _, hessian = derivatives(best, inputs, labels)
    precision = np.eye(12) / 2.0 + hessian
    np.testing.assert_allclose(found.covariance, np.linalg.inv(precision), atol=1e-9)


@pytest.mark.parametrize("number", [2, 3])
def test_it_is_scikit_learns_ridge_penalized_regression(number):
    inputs, labels = classes(80, number, seed=3)
    best = mode(inputs, labels, prior_for(number, variance=1.7)).reshape(number, -1)
    model = LogisticRegression(C=1.7, fit_intercept=False, tol=1e-10, max_iter=2000)
    theirs = model.fit(inputs, labels).predict_proba(inputs)
    if number == 2:  # two rows of coefficients have a difference of twice the variance
        model = LogisticRegression(C=2 * 1.7, fit_intercept=False, tol=1e-10, max_iter=2000)
        theirs = model.fit(inputs, labels).predict_proba(inputs)
    logits = inputs @ best.T
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares, theirs, atol=1e-6)


def test_separable_classes_and_no_covariance():
    inputs = np.array([[-50.0, 1.0], [50.0, 1.0]])
    labels = np.array([0, 1])
    mean = np.array([3.0, 0.0, -3.0, 0.0])  # surely wrong
    prior = Prior(mean, 1e4 * np.eye(4), np.zeros((4, 4)), 1.0, 1e-6)
    best = mode(inputs, labels, prior).reshape(2, 2)
    assert ((inputs @ best.T).argmax(axis=1) == labels).all()
    none = Prior(mean, np.zeros((4, 4)), np.zeros((4, 4)), 1.0, 1e-6)
    assert mode(inputs, labels, none).tolist() == mean.tolist()
