"""Laplace approximation of softmax regression with a Gaussian prior, by Newton's method.

A model of ``K`` classes has coefficients ``theta`` ``(K, d)``, stored as a vector ``(K d,)``, and
``p(y = k | x) = softmax(theta x)_k``. Two classes are not a special case.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from strategies.hierarchical.mixed_effects import Floats, Moments, Prior, symmetric

MOST_STEPS = 100
"""Largest number of Newton steps; about ten are usual."""

TOLERANCE = 1e-10
"""Newton's method stops if the gradient, in units of the prior, is smaller."""

SHORTEST_STEP = 1e-6
"""Shortest damped step, relative to a full one."""

ROUNDING = 1e-12
"""Relative rounding error of the objective, which a step may increase it by."""

Labels = NDArray[np.int64]


def log_likelihood(coefficients: Floats, inputs: Floats, labels: Labels) -> float:
    """Return ``sum_n log p(y_n | x_n)``.

    Parameters
    ----------
    coefficients : ndarray
        Coefficients ``(K d,)``.
    inputs : ndarray
        Features ``(n, d)``.
    labels : ndarray
        Classes ``(n,)``, in ``0..K-1``.
    """
    logarithms = _log_softmax(coefficients, inputs)
    return float(np.take_along_axis(logarithms, labels[:, None], axis=1).sum())


def derivatives(coefficients: Floats, inputs: Floats, labels: Labels) -> tuple[Floats, Floats]:
    """Return the gradient ``(K d,)`` and the negative Hessian ``(K d, K d)`` of the log likelihood.

    ``g_k = sum_n ([y_n = k] - p_nk) x_n`` and ``H_kl = sum_n p_nk ([k = l] - p_nl) x_n x_n^T``.

    Parameters
    ----------
    coefficients, inputs, labels : ndarray
        As in :func:`log_likelihood`.
    """
    shares = np.exp(_log_softmax(coefficients, inputs))
    classes, size = shares.shape[1], len(coefficients)
    hits = np.eye(classes)[labels]
    gradient = ((hits - shares).T @ inputs).ravel()
    weighted = (shares[:, :, None] * inputs[:, None, :]).reshape(len(inputs), size)
    hessian = -weighted.T @ weighted
    for number in range(classes):
        block = slice(number * inputs.shape[1], (number + 1) * inputs.shape[1])
        hessian[block, block] += weighted[:, block].T @ inputs
    return gradient, symmetric(hessian)


def mode(inputs: Floats, labels: Labels, prior: Prior) -> Floats:
    """Return the posterior mode of the coefficients, ``(K d,)``.

    Damped Newton's method on ``-log p(y | theta) + w^T Sigma w / 2`` with ``theta = mu + Sigma w``.
    The objective is convex and needs no inverse of ``Sigma``; at the mode, ``w`` is the gradient of
    the log likelihood. A step is halved until the objective decreases.

    Parameters
    ----------
    inputs, labels : ndarray
        As in :func:`log_likelihood`.
    prior : Prior
        Prior of the coefficients.
    """
    dual = np.zeros_like(prior.mean)  # w
    place = prior.mean
    lowest: Any = -log_likelihood(prior.mean, inputs, labels)
    for _ in range(MOST_STEPS):
        gradient, hessian = derivatives(place, inputs, labels)
        slope = gradient - dual
        if slope @ prior.covariance @ slope <= TOLERANCE**2:
            break
        system = np.eye(len(place)) + _product(hessian, prior.covariance)
        step = np.linalg.solve(system, slope)
        size = 1.0
        while size > SHORTEST_STEP:
            tried = dual + size * step
            shift = prior.covariance @ tried
            height = tried @ shift / 2 - log_likelihood(prior.mean + shift, inputs, labels)
            if height <= lowest + ROUNDING * (1 + abs(lowest)):
                break
            size /= 2
        dual, place, lowest = tried, prior.mean + shift, height
    return place


def _product(hessian: Floats, covariance: Floats) -> Floats:
    """Return ``H Sigma``, with a shortcut for a diagonal ``Sigma``, the usual case for classes."""
    diagonal = np.diag(covariance)
    if np.count_nonzero(covariance) == np.count_nonzero(diagonal):
        return hessian * diagonal
    return hessian @ covariance


def laplace(inputs: Floats, labels: Labels, prior: Prior) -> Moments:
    """Return the moments whose Gaussian posterior is Laplace's approximation at the mode.

    ``A = H``, the negative Hessian at the mode ``m``, and ``b = H m + g`` with the gradient ``g``
    at ``m``. This is the log likelihood to second order around ``m``, written as that of a linear
    regression with ``s2 = 1``. :func:`strategies.hierarchical.mixed_effects.posterior` then returns
    the mean ``m`` and ``V = (Sigma^-1 + H)^-1``. ``y^T y`` is set to 0 and has no meaning.

    Parameters
    ----------
    inputs, labels, prior : ndarray
        As in :func:`mode`.
    """
    best = mode(inputs, labels, prior)
    gradient, hessian = derivatives(best, inputs, labels)
    count = np.asarray(np.float64(len(labels)))
    return Moments(hessian, hessian @ best + gradient, np.asarray(np.float64(0.0)), count)


def _log_softmax(coefficients: Floats, inputs: Floats) -> Floats:
    """Return the log probability of every class, ``(n, K)``."""
    logits = inputs @ coefficients.reshape(-1, inputs.shape[1]).T
    logits = logits - logits.max(axis=1, keepdims=True)
    logarithms: Floats = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return logarithms
