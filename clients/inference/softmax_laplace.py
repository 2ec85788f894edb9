"""Logistic regression under a Gaussian prior: the mode by Newton's method, and Laplace's moments.

A model of ``K`` classes has coefficients ``theta`` ``(K, d)``, kept as one vector ``(K d,)``, and
``p(y = k | x) = softmax(theta x)_k``; two classes are no special case.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from strategies.hierarchical.mixed_effects import Floats, Moments, Prior, symmetric

MOST_STEPS = 100
"""Of Newton's method; some ten are usual."""

TOLERANCE = 1e-10
"""Ends the search where the gradient, in units of the prior, is below."""

SHORTEST_STEP = 1e-6
"""Of a whole one."""

ROUNDING = 1e-12
"""Relative; near the mode heights differ by less, and a whole step is the best there is."""

Labels = NDArray[np.int64]


def log_likelihood(coefficients: Floats, inputs: Floats, labels: Labels) -> float:
    """Return ``sum_n log p(y_n | x_n)``.

    Parameters
    ----------
    coefficients : ndarray
        ``(K d,)``.
    inputs : ndarray
        ``(n, d)``.
    labels : ndarray
        ``(n,)``, in ``0..K-1``.
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
    """Return the coefficients of the highest posterior density, ``(K d,)``.

    Damped Newton's method on ``-log p(y | theta) + w^T Sigma w / 2`` with ``theta = mu + Sigma w``,
    which is convex and in need of no inverse of ``Sigma``: at the mode ``w`` is the gradient of the
    log likelihood. A step is halved until it goes down.

    Parameters
    ----------
    inputs, labels : ndarray
        As in :func:`log_likelihood`.
    prior : Prior
        Of the coefficients.
    """
    pull = np.zeros_like(prior.mean)
    place = prior.mean
    lowest: Any = -log_likelihood(prior.mean, inputs, labels)
    for _ in range(MOST_STEPS):
        gradient, hessian = derivatives(place, inputs, labels)
        slope = gradient - pull
        if slope @ prior.covariance @ slope <= TOLERANCE**2:
            break
        system = np.eye(len(place)) + _product(hessian, prior.covariance)
        step = np.linalg.solve(system, slope)
        size = 1.0
        while size > SHORTEST_STEP:
            tried = pull + size * step
            shift = prior.covariance @ tried
            height = tried @ shift / 2 - log_likelihood(prior.mean + shift, inputs, labels)
            if height <= lowest + ROUNDING * (1 + abs(lowest)):
                break
            size /= 2
        pull, place, lowest = tried, prior.mean + shift, height
    return place


def _product(hessian: Floats, covariance: Floats) -> Floats:
    """Return ``H Sigma``; quickly where no coefficients go together, as is usual for classes."""
    diagonal = np.diag(covariance)
    if np.count_nonzero(covariance) == np.count_nonzero(diagonal):
        return hessian * diagonal
    return hessian @ covariance


def laplace(inputs: Floats, labels: Labels, prior: Prior) -> Moments:
    """Return moments that make the Gaussian posterior Laplace's approximation at the mode.

    ``A = H``, the negative Hessian at the mode ``m``, and ``b = H m + g`` with the gradient ``g``
    there: the log likelihood to second order around ``m``, as if it was that of a regression with
    ``s2 = 1``. Then :func:`strategies.hierarchical.mixed_effects.posterior` gives ``m`` back, and
    ``V = (Sigma^-1 + H)^-1``. Their ``y^T y`` says nothing.

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
    """Return the logarithm of the probability of every class, ``(n, K)``."""
    logits = inputs @ coefficients.reshape(-1, inputs.shape[1]).T
    logits = logits - logits.max(axis=1, keepdims=True)
    logarithms: Floats = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return logarithms
