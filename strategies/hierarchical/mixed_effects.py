"""Linear regressions that borrow strength: clients' coefficients have a common Gaussian prior.

Client ``i`` has inputs ``X_i`` ``(n_i, d)`` and targets ``y_i`` ``(n_i,)``, with

    theta_i ~ N(mu, Sigma),    y_i | X_i, theta_i ~ N(X_i theta_i, s2 I)

(Lindley & Smith 1972; Laird & Ware 1982). Of a client's data nothing matters but its moments
``A = X^T X``, ``b = X^T y``, ``y^T y`` and ``n``. Everything is float64 and exact, nothing needs
an inverse of ``A`` (singular with fewer than ``d`` examples) or of ``Sigma`` (zero where clients do
not differ), and all functions take the moments of one client or of many: ``...`` in a shape is
any number of leading dimensions, such as one of clients.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """All that a linear regression needs of some examples.

    Attributes
    ----------
    gram : ndarray
        ``X^T X``, ``(..., d, d)``.
    cross : ndarray
        ``X^T y``, ``(..., d)``.
    square : ndarray
        ``y^T y``, ``(...)``.
    examples : ndarray
        Their number, ``(...)``.
    """

    gram: Floats
    cross: Floats
    square: Floats
    examples: Floats


@dataclass(frozen=True)
class Prior:
    """What is known of a client's coefficients before its data, and of the noise of targets.

    Attributes
    ----------
    mean : ndarray
        ``mu``, ``(d,)``.
    covariance : ndarray
        ``Sigma``, ``(d, d)``, positive semidefinite; zero where clients do not differ.
    uncertainty : ndarray
        ``G``, ``(d, d)``: covariance of the estimate of ``mu``; zero where that counts as known,
        which is plain maximum likelihood.
    noise : float
        ``s2``, above zero.
    noise_floor : float
        The least that an estimate of ``s2`` may become, above zero.
    """

    mean: Floats
    covariance: Floats
    uncertainty: Floats
    noise: float
    noise_floor: float


@dataclass(frozen=True)
class Posterior:
    """What is known of a client's coefficients after its data.

    Attributes
    ----------
    mean : ndarray
        ``m``, ``(..., d)``.
    covariance : ndarray
        ``V``, ``(..., d, d)``, as if ``mu`` was known.
    weight : ndarray
        ``T = V Sigma^-1 = (I + Sigma A / s2)^-1``, ``(..., d, d)``: the part of the prior in ``m =
        T mu + (I - T) theta_OLS``.
    """

    mean: Floats
    covariance: Floats
    weight: Floats

    def total_covariance(self, prior: Prior) -> Floats:
        """Return ``V + T G T^T``, ``(..., d, d)``, which counts in that ``mu`` is an estimate.

        Without it intervals are too narrow (Kackar & Harville 1984).
        """
        spread = self.weight @ prior.uncertainty @ transposed(self.weight)
        return symmetric(self.covariance + spread)


def moments(inputs: Floats, targets: Floats) -> Moments:
    """Return the moments of examples.

    Parameters
    ----------
    inputs : ndarray
        ``(n, d)``, the column of ones for the intercept included.
    targets : ndarray
        ``(n,)``.
    """
    inputs, targets = np.asarray(inputs, np.float64), np.asarray(targets, np.float64)
    count = np.float64(len(targets))
    return Moments(inputs.T @ inputs, inputs.T @ targets, targets @ targets, np.asarray(count))


def stack(parts: Sequence[Moments]) -> Moments:
    """Return the moments of several clients as one, with a dimension of clients in front."""
    return Moments(
        np.stack([part.gram for part in parts]),
        np.stack([part.cross for part in parts]),
        np.stack([part.square for part in parts]),
        np.stack([part.examples for part in parts]),
    )


def pooled(many: Moments) -> Moments:
    """Return the moments of all clients' examples together."""
    return Moments(
        *(np.sum(a, axis=0) for a in (many.gram, many.cross, many.square, many.examples))
    )


def posterior(moments: Moments, prior: Prior) -> Posterior:
    """Return the posterior of each client: the precision-weighted mean of prior and data.

    ``V = (Sigma^-1 + A/s2)^-1`` and ``m = V (Sigma^-1 mu + b/s2)``, computed as
    ``V = (I + Sigma A/s2)^-1 Sigma`` and ``m = mu + V (b - A mu)/s2``: a covariance of zero gives
    ``mu`` (the pooled model), an infinite one each client's least squares, and
    ``Sigma = tau^2 I`` ridge regression towards ``mu`` with penalty ``s2/tau^2``.
    """
    precision = moments.gram / prior.noise
    size = len(prior.mean)
    system = np.eye(size) + prior.covariance @ precision
    right = np.broadcast_to(
        np.hstack([prior.covariance, np.eye(size)]), (*system.shape[:-1], 2 * size)
    )
    both = np.linalg.solve(system, right)
    covariance, weight = symmetric(both[..., :size]), both[..., size:]
    step = _times(covariance, _pull(moments, prior))
    return Posterior(prior.mean + step, covariance, weight)


def shrinkage(found: Posterior) -> Floats:
    """Return ``trace(V Sigma^-1) / d`` of each client, ``(...)``.

    1: it has the prior's coefficients; 0: those of its own data alone.
    """
    share: Floats = np.trace(found.weight, axis1=-2, axis2=-1) / found.weight.shape[-1]
    return share


def log_likelihood(moments: Moments, prior: Prior) -> Floats:
    """Return ``log p(y_i)`` of each client with its coefficients integrated out, ``(...)``.

    ``-1/2 [n log(2 pi s2) + log det(I + Sigma A/s2) + r^2/s2 - q^T V q]`` with
    ``r^2 = ||y - X mu||^2`` and ``q = (b - A mu)/s2``.
    """
    found = posterior(moments, prior)
    pull = _pull(moments, prior)
    logarithm = -np.linalg.slogdet(found.weight)[1]
    square = residual(moments, prior.mean) / prior.noise
    explained = np.einsum("...i,...ij,...j->...", pull, found.covariance, pull)
    constant = moments.examples * np.log(2 * np.pi * prior.noise)
    value: Floats = -0.5 * (constant + logarithm + square - explained)
    return value


def information(moments: Moments, prior: Prior) -> Floats:
    """Return what each client's data tell of ``mu``: ``W_i``, ``(..., d, d)``.

    ``W = Sigma^-1 - Sigma^-1 V Sigma^-1 = (I + A Sigma/s2)^-1 A/s2``, which is
    ``(Sigma + s2 A^-1)^-1`` where ``A`` has an inverse.
    """
    precision = moments.gram / prior.noise
    system = np.eye(len(prior.mean)) + precision @ prior.covariance
    found: NDArray[Any] = np.linalg.solve(system, precision)
    return symmetric(found)


def restricted_log_likelihood(many: Moments, prior: Prior) -> float:
    """Return ``log p(y)`` with ``mu`` integrated out, too, but for a constant (Harville 1974).

    It is ``sum_i log p(y_i) - 1/2 log det sum_i W_i`` with ``prior.mean`` the generalized least
    squares mean. Directions of which no client knows anything are left out of the determinant.

    Parameters
    ----------
    many : Moments
        Moments of all clients, ``(clients, ...)``.
    prior : Prior
        Its ``mean`` must be the one that belongs to its covariance and noise.
    """
    values = np.linalg.eigvalsh(information(many, prior).sum(axis=0))
    known = values[values > UNKNOWN * values.max()] if values.max() > 0 else values[:0]
    return float(log_likelihood(many, prior).sum() - 0.5 * np.log(known).sum())


UNKNOWN = 1e-8
"""Of the largest eigenvalue of an information matrix; what is below counts as unknown. (It is
what rounding leaves of a zero where targets are explained to within :data:`NOISE_FLOOR`.)"""

NOISE_FLOOR = 1e-6
"""Least estimate of ``s2``, beside the square of a target: targets that are explained to a
thousandth count as explained. Data without noise so end in no division by zero."""


def residual(moments: Moments, coefficients: Floats) -> Floats:
    """Return ``||y - X theta||^2`` of each client, ``(...)``, at ``theta`` ``(..., d)``; >= 0."""
    explained = 2 * moments.cross - _times(moments.gram, coefficients)
    value: Floats = moments.square - np.einsum("...i,...i->...", coefficients, explained)
    return np.maximum(value, 0.0)


def predict(
    inputs: Floats, mean: Floats, covariance: Floats, noise: float
) -> tuple[Floats, Floats]:
    """Return mean and variance of the targets of new examples, each ``(n,)``.

    Parameters
    ----------
    inputs : ndarray
        ``(n, d)``.
    mean, covariance : ndarray
        Of the coefficients, ``(d,)`` and ``(d, d)``, see :meth:`Posterior.total_covariance`.
    noise : float
        ``s2``.
    """
    variance = np.einsum("ni,ij,nj->n", inputs, covariance, inputs) + noise
    return inputs @ mean, variance


def half_width(variance: Floats, level: float = 0.9) -> Floats:
    """Return half the width of the central intervals that hold a target at a probability.

    Parameters
    ----------
    variance : ndarray
        Of the predictive distributions, which are normal.
    level : float, default 0.9
        The probability, in (0, 1).
    """
    quantile = NormalDist().inv_cdf(0.5 + level / 2)
    return quantile * np.sqrt(variance)


def symmetric(values: NDArray[Any]) -> Floats:
    """Return the symmetric part of matrices, which rounding took from them."""
    return (values + transposed(values)) / 2


def transposed(values: Floats) -> Floats:
    """Return the transposes of matrices ``(..., d, d)``."""
    return np.swapaxes(values, -1, -2)


def _pull(moments: Moments, prior: Prior) -> Floats:
    """Return ``(b - A mu) / s2``, ``(..., d)``: how a client's data pull at the prior mean."""
    return (moments.cross - moments.gram @ prior.mean) / prior.noise


def _times(matrices: Floats, vectors: Floats) -> Floats:
    """Return the product of each matrix and its vector, ``(..., d)``."""
    product: Floats = np.einsum("...ij,...j->...i", matrices, vectors)
    return product
