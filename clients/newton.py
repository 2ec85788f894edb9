"""Logistic regression under a Gaussian prior: the mode by Newton's method, and Laplace's moments.

A model of ``K`` classes has coefficients ``theta`` ``(K, d)``, kept as one vector ``(K d,)``, and
``p(y = k | x) = softmax(theta x)_k``; two classes are no special case.
"""

import numpy as np
from numpy.typing import NDArray

from strategies.gaussian import Floats, Moments, Prior, symmetric

MOST_STEPS = 100
"""Of Newton's method; some ten are usual."""

TOLERANCE = 1e-10
"""Ends the search where the gradient, in units of the prior, is below."""

Labels = NDArray[np.int64]


def log_likelihood(coefficients: Floats, inputs: Floats, labels: Labels) -> float:
    """Return ``sum_n log p(y_n | x_n)``.

    Parameters
    ----------
    coefficients : ``(K d,)``
    inputs : ``(n, d)``
    labels : ``(n,)``, in ``0..K-1``
    """
    logarithms = _log_softmax(coefficients, inputs)
    return float(np.take_along_axis(logarithms, labels[:, None], axis=1).sum())


def derivatives(coefficients: Floats, inputs: Floats, labels: Labels) -> tuple[Floats, Floats]:
    """Return the gradient ``(K d,)`` and the negative Hessian ``(K d, K d)`` of the log likelihood.

    ``g_k = sum_n ([y_n = k] - p_nk) x_n`` and ``H_kl = sum_n p_nk ([k = l] - p_nl) x_n x_n^T``.

    Parameters
    ----------
    coefficients, inputs, labels : as in :func:`log_likelihood`
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

    Damped Newton's method on ``-log p(y | theta) + |u|^2/2`` with ``theta = mu + Sigma^(1/2) u``:
    strictly convex, and in need of no inverse of ``Sigma``. A step is halved until it goes down.

    Parameters
    ----------
    inputs, labels : as in :func:`log_likelihood`
    prior : of the coefficients
    """
    values, vectors = np.linalg.eigh(prior.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    place = np.zeros_like(prior.mean)

    def height(at: Floats) -> float:
        return float(at @ at / 2 - log_likelihood(prior.mean + root @ at, inputs, labels))

    lowest = height(place)
    for _ in range(MOST_STEPS):
        gradient, hessian = derivatives(prior.mean + root @ place, inputs, labels)
        slope = root @ gradient - place
        if np.abs(slope).max() <= TOLERANCE:
            break
        step = np.linalg.solve(np.eye(len(place)) + root @ hessian @ root, slope)
        size = 1.0
        while (reached := height(place + size * step)) > lowest and size > TOLERANCE:
            size /= 2
        if reached > lowest:
            break  # what is left to gain is less than rounding
        place, lowest = place + size * step, reached
    found: Floats = prior.mean + root @ place
    return found


def laplace(inputs: Floats, labels: Labels, prior: Prior) -> Moments:
    """Return moments that make the Gaussian posterior Laplace's approximation at the mode.

    ``A = H``, the negative Hessian at the mode ``m``, and ``b = H m + g`` with the gradient ``g``
    there: the log likelihood to second order around ``m``, as if it was that of a regression with
    ``s2 = 1``. Then :func:`strategies.gaussian.posterior` gives ``m`` back, and
    ``V = (Sigma^-1 + H)^-1``. Their ``y^T y`` says nothing.

    Parameters
    ----------
    inputs, labels, prior : as in :func:`mode`
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
