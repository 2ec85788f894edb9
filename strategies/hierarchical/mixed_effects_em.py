"""Expectation-maximization (EM) for linear mixed-effects models: REML and ML estimation.

Restricted maximum likelihood (REML) by the algorithm of Laird & Ware (1982, Biometrics 38): ``mu``
has a flat prior. Two steps alternate. Both need only sums over clients, of ``d x d`` numbers:

- *centre*: ``mu`` becomes the generalized least squares mean for the current ``Sigma`` and ``s2``,
  and ``G`` its covariance;
- *spread*: ``Sigma`` and ``s2`` become their expectations given all data.

The restricted likelihood never decreases from one centre step to the next. With ``G = 0`` the
algorithm is plain maximum likelihood, which underestimates ``Sigma``, roughly by a factor of
``1 - 1 / clients``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from strategies.errors import ArgumentError
from strategies.hierarchical.mixed_effects import (
    NOISE_FLOOR,
    UNKNOWN,
    Floats,
    Moments,
    Prior,
    information,
    pooled,
    posterior,
    residual,
    score_at_prior,
    symmetric,
    transposed,
)

STRUCTURES: Mapping[str, Callable[[Floats], Floats]] = {
    "full": lambda values: values,
    "diagonal": lambda values: np.diag(np.diag(values)),
    "isotropic": lambda values: np.eye(len(values)) * np.trace(values) / len(values),
}
"""Structure of the covariance of clients' coefficients -> projection onto that structure, which
also maximizes the expected likelihood."""

COVARIANCE_FLOOR = 1e-12
"""Lower bound of the eigenvalues of the correlation matrix of ``Sigma``, relative to the largest;
without it rounding could make one negative."""

START_NOISE = 0.01
"""Lower bound of the first ``s2``, in units of the mean squared target: a model can fit a few
examples exactly, and then the residuals do not show the noise."""


@dataclass(frozen=True)
class Contribution:
    """Summands of a client in the sums that both steps need.

    Attributes
    ----------
    score : ndarray
        Gradient of ``log p(y_i)`` in ``mu``: ``Sigma^-1 (m_i - mu)``, ``(..., d)``.
    spread : ndarray
        Expectation of ``(theta_i - mu)(theta_i - mu)^T``: ``(m_i - mu)(m_i - mu)^T + V_i + B_i G
        B_i^T`` with ``B_i = V_i Sigma^-1 - I``.
    information : ndarray
        Fisher information of its data on ``mu``, ``W_i``, ``(..., d, d)``; see
        :func:`strategies.hierarchical.mixed_effects.information`.
    noise : ndarray
        Expectation of ``||y_i - X_i theta_i||^2``, and ``n_i``, ``(..., 2)``.
    """

    score: Floats
    spread: Floats
    information: Floats
    noise: Floats


def contribution(moments: Moments, prior: Prior) -> Contribution:
    """Return each client's summands, from its moments and the current prior (E step)."""
    found = posterior(moments, prior)
    known = information(moments, prior)
    # Sigma^-1 (m - mu) = T^T (b - A mu)/s2, since V = T Sigma
    score = np.einsum("...ji,...j->...i", found.weight, score_at_prior(moments, prior))
    step = found.mean - prior.mean
    back = prior.covariance @ known  # I - V Sigma^-1
    spread = step[..., :, None] * step[..., None, :] + found.covariance
    spread = spread + back @ prior.uncertainty @ transposed(back)
    total = found.total_covariance(prior)
    squares = residual(moments, found.mean) + np.einsum("...ij,...ji->...", moments.gram, total)
    noise = np.stack([squares, np.broadcast_to(moments.examples, squares.shape)], axis=-1)
    return Contribution(score, symmetric(spread), known, noise)


def centre(prior: Prior, mean: Contribution, clients: int, restricted: bool = True) -> Prior:
    """Return the prior with the generalized least squares mean and its covariance.

    ``mu + (sum W_i)^-1 sum Sigma^-1 (m_i - mu)`` and ``G = (sum W_i)^-1``. A direction on which
    no client has information (a feature that is zero everywhere) keeps its mean, and its
    uncertainty is set to zero.

    Parameters
    ----------
    prior : Prior
        The prior that the contributions were computed with.
    mean : Contribution
        Mean of the clients' contributions.
    clients : int
        Number of clients.
    restricted : bool, default True
        Use restricted maximum likelihood; False sets ``G = 0``, which is maximum likelihood.
    """
    inverse = _inverse(mean.information)
    uncertainty = inverse / clients if restricted else np.zeros_like(inverse)
    return replace(prior, mean=prior.mean + inverse @ mean.score, uncertainty=uncertainty)


def spread(prior: Prior, mean: Contribution, structure: str = "full") -> Prior:
    """Return the prior with the expected covariance and noise (M step).

    Parameters
    ----------
    prior : Prior
        The prior that the contributions were computed with.
    mean : Contribution
        Mean of the clients' contributions.
    structure : str, default "full"
        A key of :data:`STRUCTURES`.
    """
    covariance = _floored(STRUCTURES[structure](symmetric(mean.spread)))
    noise = max(float(mean.noise[0] / mean.noise[1]), prior.noise_floor)
    return replace(prior, covariance=covariance, noise=noise)


def start(many: Moments, structure: str = "full") -> Prior:
    """Return the first prior of the expectation-maximization, with a large covariance.

    (From a small covariance the algorithm converges very slowly to a large one.) ``mu`` is the
    least squares solution of the pooled data, the shortest one if there are many. ``s2`` is its
    mean squared residual, at least :data:`START_NOISE`. Each coefficient has the variance that
    would explain the target by itself.

    Parameters
    ----------
    many : Moments
        Moments of all clients, ``(clients, ...)``.
    structure : str, default "full"
        A key of :data:`STRUCTURES`.
    """
    together = pooled(many)
    examples = float(together.examples)
    mean = _inverse(together.gram) @ together.cross
    square = float(together.square) / examples or 1.0
    scales = np.diag(together.gram) / examples
    variances = square / np.where(scales > 0, scales, 1.0)
    noise = max(float(residual(together, mean)) / examples, START_NOISE * square)
    size = len(mean)
    covariance = STRUCTURES[structure](np.diag(variances))
    return Prior(mean, covariance, np.zeros((size, size)), noise, NOISE_FLOOR * square)


def fit(
    many: Moments,
    structure: str = "full",
    restricted: bool = True,
    *,
    iterations: int = 1000,
    tolerance: float = 1e-10,
    prior: Prior | None = None,
) -> Prior:
    """Estimate the prior by (restricted) maximum likelihood from the moments of all clients.

    Parameters
    ----------
    many : Moments
        Moments of all clients, ``(clients, ...)``, with at least one example.
    structure : str, default "full"
        A key of :data:`STRUCTURES`.
    restricted : bool, default True
        See :func:`centre`.
    iterations : int, default 1000
        Largest number of pairs of steps. If clients do not differ, the covariance converges to
        zero ever more slowly; what remains of it at the end does no harm.
    tolerance : float, default 1e-10
        Stop when neither covariance nor noise changes by more, relatively.
    prior : Prior or None, default None
        First prior; :func:`start` by default.

    Raises
    ------
    ArgumentError
        If there is no example.
    """
    clients = len(many.examples)
    if not many.examples.sum() > 0:
        raise ArgumentError("many.examples", many.examples.tolist(), "above 0 for some client")
    current = prior or start(many, structure)
    for _ in range(iterations):
        current = centre(current, _mean(contribution(many, current)), clients, restricted)
        after = spread(current, _mean(contribution(many, current)), structure)
        moved = np.abs(after.covariance - current.covariance).max()
        quiet = moved <= tolerance * np.abs(current.covariance).max()
        quiet &= abs(after.noise - current.noise) <= tolerance * current.noise
        current = after
        if quiet:
            break
    return centre(current, _mean(contribution(many, current)), clients, restricted)


def _mean(many: Contribution) -> Contribution:
    """Return the mean of clients' contributions."""
    return Contribution(
        *(a.mean(axis=0) for a in (many.score, many.spread, many.information, many.noise))
    )


def _inverse(information: Floats) -> Floats:
    """Return the pseudo-inverse of an information matrix.

    Its rank is decided after scaling the diagonal to ones, so the units of features do not matter.
    """
    scale = _scale(information)
    values, vectors = np.linalg.eigh(symmetric(information) / scale)
    known = values > UNKNOWN * values[-1]
    inverses = np.where(known, 1.0, 0.0) / np.where(known, values, 1.0)
    return symmetric((vectors * inverses) @ vectors.T) / scale


def _floored(covariance: Floats) -> Floats:
    """Raise the eigenvalues of the correlation matrix to :data:`COVARIANCE_FLOOR`."""
    scale = _scale(covariance)
    values, vectors = np.linalg.eigh(covariance / scale)
    floored = np.maximum(values, COVARIANCE_FLOOR * max(values[-1], 0.0))
    if (floored == values).all():
        return covariance
    return symmetric((vectors * floored) @ vectors.T) * scale


def _scale(matrix: Floats) -> Floats:
    """Return ``sqrt(a_ii a_jj)``, ``(d, d)``; a diagonal entry of 0 counts as 1."""
    diagonal = np.diag(matrix)
    roots = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    return np.outer(roots, roots)
