"""Linear mixed-effects models (hierarchical linear regression): moments, posteriors, likelihoods.

Client ``i`` has inputs ``X_i`` ``(n_i, d)`` and targets ``y_i`` ``(n_i,)``, with

    theta_i ~ N(mu, Sigma),    y_i | X_i, theta_i ~ N(X_i theta_i, s2 I)

(Lindley & Smith 1972; Laird & Ware 1982). The moments ``A = X^T X``, ``b = X^T y``, ``y^T y`` and
``n`` are sufficient statistics of a client's data. All computations are exact, in float64. None
needs an inverse of ``A``, which is singular with fewer than ``d`` examples, or of ``Sigma``, which
is zero if clients do not differ. All functions take the moments of one client or of many: ``...``
in a shape stands for any number of leading dimensions, such as one of clients.
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
    """Sufficient statistics of a linear regression.

    Attributes
    ----------
    gram : ndarray
        ``X^T X``, ``(..., d, d)``.
    cross : ndarray
        ``X^T y``, ``(..., d)``.
    square : ndarray
        ``y^T y``, ``(...)``.
    examples : ndarray
        Number of examples ``n``, ``(...)``.
    """

    gram: Floats
    cross: Floats
    square: Floats
    examples: Floats


@dataclass(frozen=True)
class Prior:
    """Prior of clients' coefficients and variance of the noise in targets.

    Attributes
    ----------
    mean : ndarray
        ``mu``, ``(d,)``.
    covariance : ndarray
        ``Sigma``, ``(d, d)``, positive semidefinite; zero where clients do not differ.
    uncertainty : ndarray
        ``G``, ``(d, d)``: covariance of the estimate of ``mu``. It is zero for plain maximum
        likelihood, which treats ``mu`` as known.
    noise : float
        Noise variance ``s2``, above zero.
    noise_floor : float
        Lower bound of estimates of ``s2``, above zero.
    """

    mean: Floats
    covariance: Floats
    uncertainty: Floats
    noise: float
    noise_floor: float


@dataclass(frozen=True)
class Posterior:
    """Gaussian posterior of clients' coefficients.

    Attributes
    ----------
    mean : ndarray
        ``m``, ``(..., d)``.
    covariance : ndarray
        ``V``, ``(..., d, d)``, given ``mu``.
    weight : ndarray
        ``T = V Sigma^-1 = (I + Sigma A / s2)^-1``, ``(..., d, d)``: the weight of the prior mean in
        ``m = T mu + (I - T) theta_OLS``.
    """

    mean: Floats
    covariance: Floats
    weight: Floats

    def total_covariance(self, prior: Prior) -> Floats:
        """Return ``V + T G T^T``, ``(..., d, d)``, which includes the uncertainty of ``mu``.

        Without it, intervals are too narrow (Kackar & Harville 1984).
        """
        spread = self.weight @ prior.uncertainty @ transposed(self.weight)
        return symmetric(self.covariance + spread)


def moments(inputs: Floats, targets: Floats) -> Moments:
    """Return the moments of one client's examples.

    Parameters
    ----------
    inputs : ndarray
        ``(n, d)``, including the column of ones for the intercept.
    targets : ndarray
        ``(n,)``.
    """
    inputs, targets = np.asarray(inputs, np.float64), np.asarray(targets, np.float64)
    count = np.float64(len(targets))
    return Moments(inputs.T @ inputs, inputs.T @ targets, targets @ targets, np.asarray(count))


def stack(parts: Sequence[Moments]) -> Moments:
    """Stack the moments of several clients along a new first dimension."""
    return Moments(
        np.stack([part.gram for part in parts]),
        np.stack([part.cross for part in parts]),
        np.stack([part.square for part in parts]),
        np.stack([part.examples for part in parts]),
    )


def pooled(many: Moments) -> Moments:
    """Return the moments of all clients' examples, pooled."""
    return Moments(
        *(np.sum(a, axis=0) for a in (many.gram, many.cross, many.square, many.examples))
    )


def posterior(moments: Moments, prior: Prior) -> Posterior:
    """Return the posterior of each client: the precision-weighted mean of prior and data.

    ``V = (Sigma^-1 + A/s2)^-1`` and ``m = V (Sigma^-1 mu + b/s2)``, computed as
    ``V = (I + Sigma A/s2)^-1 Sigma`` and ``m = mu + V (b - A mu)/s2``. A covariance of zero gives
    ``mu`` (complete pooling), an infinite one each client's least squares (no pooling), and
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
    step = _times(covariance, score_at_prior(moments, prior))
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
    score = score_at_prior(moments, prior)
    logarithm = -np.linalg.slogdet(found.weight)[1]
    square = residual(moments, prior.mean) / prior.noise
    explained = np.einsum("...i,...ij,...j->...", score, found.covariance, score)
    constant = moments.examples * np.log(2 * np.pi * prior.noise)
    value: Floats = -0.5 * (constant + logarithm + square - explained)
    return value


def information(moments: Moments, prior: Prior) -> Floats:
    """Return the Fisher information of each client's data on ``mu``: ``W_i``, ``(..., d, d)``.

    ``W = Sigma^-1 - Sigma^-1 V Sigma^-1 = (I + A Sigma/s2)^-1 A/s2``, which is
    ``(Sigma + s2 A^-1)^-1`` if ``A`` is invertible.
    """
    precision = moments.gram / prior.noise
    system = np.eye(len(prior.mean)) + precision @ prior.covariance
    found: NDArray[Any] = np.linalg.solve(system, precision)
    return symmetric(found)


def restricted_log_likelihood(many: Moments, prior: Prior) -> float:
    """Return the restricted log likelihood, up to a constant (Harville 1974).

    It is ``log p(y)`` with ``mu`` integrated out under a flat prior:
    ``sum_i log p(y_i) - 1/2 log det sum_i W_i`` at the generalized least squares mean. The
    determinant leaves out directions on which no client has information.

    Parameters
    ----------
    many : Moments
        Moments of all clients, ``(clients, ...)``.
    prior : Prior
        Its ``mean`` must be the generalized least squares mean for its covariance and noise.
    """
    values = np.linalg.eigvalsh(information(many, prior).sum(axis=0))
    known = values[values > UNKNOWN * values.max()] if values.max() > 0 else values[:0]
    return float(log_likelihood(many, prior).sum() - 0.5 * np.log(known).sum())


UNKNOWN = 1e-8
"""Eigenvalues of an information matrix below this part of the largest count as zero. (Rounding
leaves that much of a zero if targets are explained up to :data:`NOISE_FLOOR`.)"""

NOISE_FLOOR = 1e-6
"""Lower bound of ``s2`` in units of the mean squared target. A residual of a thousandth of a target
counts as zero, so data without noise cause no division by zero."""


def residual(moments: Moments, coefficients: Floats) -> Floats:
    """Return the residual sums of squares ``||y - X theta||^2``, ``(...)``."""
    explained = 2 * moments.cross - _times(moments.gram, coefficients)
    value: Floats = moments.square - np.einsum("...i,...i->...", coefficients, explained)
    return np.maximum(value, 0.0)


def predict(
    inputs: Floats, mean: Floats, covariance: Floats, noise: float
) -> tuple[Floats, Floats]:
    """Return the predictive mean and variance of targets, each ``(n,)``.

    Parameters
    ----------
    inputs : ndarray
        ``(n, d)``.
    mean, covariance : ndarray
        Mean ``(d,)`` and covariance ``(d, d)`` of the coefficients, see
        :meth:`Posterior.total_covariance`.
    noise : float
        Noise variance ``s2``.
    """
    variance = np.einsum("ni,ij,nj->n", inputs, covariance, inputs) + noise
    return inputs @ mean, variance


def half_width(variance: Floats, level: float = 0.9) -> Floats:
    """Return half the width of central prediction intervals.

    Parameters
    ----------
    variance : ndarray
        Variance of the predictive distributions, which are normal.
    level : float, default 0.9
        Coverage probability, in (0, 1).
    """
    quantile = NormalDist().inv_cdf(0.5 + level / 2)
    return quantile * np.sqrt(variance)


def symmetric(values: NDArray[Any]) -> Floats:
    """Return the symmetric part of matrices, to undo rounding errors."""
    return (values + transposed(values)) / 2


def transposed(values: Floats) -> Floats:
    """Return the transposes of matrices ``(..., d, d)``."""
    return np.swapaxes(values, -1, -2)


def score_at_prior(moments: Moments, prior: Prior) -> Floats:
    """Return ``(b - A mu) / s2``, ``(..., d)``: the gradient in ``theta`` at the prior mean."""
    return (moments.cross - moments.gram @ prior.mean) / prior.noise


def _times(matrices: Floats, vectors: Floats) -> Floats:
    """Return the product of each matrix and its vector, ``(..., d)``."""
    product: Floats = np.einsum("...ij,...j->...i", matrices, vectors)
    return product
