"""Expectation-maximization for linear mixed-effects models: the prior that clients share.

Restricted maximum likelihood by the algorithm of Laird & Ware (1982, Biometrics 38): ``mu`` has a
flat prior of its own. Two steps alternate, each made of sums over clients, of ``d x d`` numbers:

- *centre*: ``mu`` becomes the generalized least squares mean under the current ``Sigma`` and
  ``s2``, and ``G`` its covariance;
- *spread*: ``Sigma`` and ``s2`` become what they are expected to be, given all data.

The restricted likelihood never falls from one centre to the next. With ``G = 0`` it is plain
maximum likelihood, which takes ``Sigma`` for too small: by one of the number of clients, roughly.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

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
    symmetric,
    transposed,
)

STRUCTURES: Mapping[str, Callable[[Floats], Floats]] = {
    "full": lambda values: values,
    "diagonal": lambda values: np.diag(np.diag(values)),
    "isotropic": lambda values: np.eye(len(values)) * np.trace(values) / len(values),
}
"""What clients' coefficients may have for a covariance -> the nearest such matrix, which is also
the one of the largest expected likelihood."""

COVARIANCE_FLOOR = 1e-12
"""Least eigenvalue of an estimated ``Sigma``, scaled to variances of 1, beside its largest, so that
rounding makes none negative."""

START_NOISE = 0.01
"""Least ``s2`` at the start, beside the square of a target: a few examples are explained wholly,
and then nothing of their noise is known."""


@dataclass(frozen=True)
class Contribution:
    """What a client adds to the sums that both steps are made of.

    Attributes
    ----------
    score : ndarray
        Gradient of ``log p(y_i)`` in ``mu``: ``Sigma^-1 (m_i - mu)``, ``(..., d)``.
    spread : ndarray
        Expectation of ``(theta_i - mu)(theta_i - mu)^T``: ``(m_i - mu)(m_i - mu)^T + V_i + B_i G
        B_i^T`` with ``B_i = V_i Sigma^-1 - I``.
    information : ndarray
        Of its data on ``mu``, ``W_i``, ``(..., d, d)``; see
        :func:`strategies.hierarchical.mixed_effects.information`.
    noise : ndarray
        Expectation of ``||y_i - X_i theta_i||^2``, and ``n_i``, ``(..., 2)``.
    """

    score: Floats
    spread: Floats
    information: Floats
    noise: Floats


def contribution(moments: Moments, prior: Prior) -> Contribution:
    """Return what each client adds to the sums, from its data and the current prior."""
    found = posterior(moments, prior)
    known = information(moments, prior)
    # Sigma^-1 (m - mu) = T^T (b - A mu)/s2, since V = T Sigma
    pull = (moments.cross - moments.gram @ prior.mean) / prior.noise
    score = np.einsum("...ji,...j->...i", found.weight, pull)
    step = found.mean - prior.mean
    back = prior.covariance @ known  # I - V Sigma^-1
    spread = step[..., :, None] * step[..., None, :] + found.covariance
    spread = spread + back @ prior.uncertainty @ transposed(back)
    total = found.total_covariance(prior)
    squares = residual(moments, found.mean) + np.einsum("...ij,...ji->...", moments.gram, total)
    noise = np.stack([squares, np.broadcast_to(moments.examples, squares.shape)], axis=-1)
    return Contribution(score, symmetric(spread), known, noise)


def centre(prior: Prior, mean: Contribution, clients: int, restricted: bool = True) -> Prior:
    """Return the prior with the generalized least squares mean, and how uncertain that is.

    ``mu + (sum W_i)^-1 sum Sigma^-1 (m_i - mu)`` and ``G = (sum W_i)^-1``. A direction of which
    no client knows anything (a feature that is zero everywhere) keeps its mean; nothing is said
    of its uncertainty.

    Parameters
    ----------
    prior : Prior
        That the contributions were made with.
    mean : Contribution
        Of the clients' contributions.
    clients : int
        Their number.
    restricted : bool, default True
        False for ``G = 0``: maximum likelihood.
    """
    inverse = _inverse(mean.information)
    uncertainty = inverse / clients if restricted else np.zeros_like(inverse)
    return replace(prior, mean=prior.mean + inverse @ mean.score, uncertainty=uncertainty)


def spread(prior: Prior, mean: Contribution, structure: str = "full") -> Prior:
    """Return the prior with the covariance and noise that clients' data make expect.

    Parameters
    ----------
    prior : Prior
        That the contributions were made with.
    mean : Contribution
        Of the clients' contributions.
    structure : str, default "full"
        A key of :data:`STRUCTURES`.
    """
    covariance = _floored(STRUCTURES[structure](symmetric(mean.spread)))
    noise = max(float(mean.noise[0] / mean.noise[1]), prior.noise_floor)
    return replace(prior, covariance=covariance, noise=noise)


def start(many: Moments, structure: str = "full") -> Prior:
    """Return where the expectation-maximization starts: with clients that differ a lot.

    (Where it starts with clients that hardly differ it takes very long to find that they do.)
    ``mu`` is the least squares solution of the pooled data, the shortest one where there are many,
    ``s2`` its mean squared residual (at least :data:`START_NOISE`), and each coefficient has the
    variance that would explain the target by itself.

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
    """Return the prior of (restricted) maximum likelihood, from the moments of all clients.

    Parameters
    ----------
    many : Moments
        Moments of all clients, ``(clients, ...)``, with at least one example.
    structure : str, default "full"
        A key of :data:`STRUCTURES`.
    restricted : bool, default True
        See :func:`centre`.
    iterations : int, default 1000
        Pairs of steps at most. Where clients do not differ the covariance goes to zero ever more
        slowly; what is left of it when this ends the search does no harm.
    tolerance : float, default 1e-10
        End where neither covariance nor noise changes by more, relatively.
    prior : Prior or None, default None
        Where to start; :func:`start` by default.

    Raises
    ------
    ValueError
        If there is no example.
    """
    clients = len(many.examples)
    if not many.examples.sum() > 0:
        raise ValueError("a prior cannot be fitted without examples")
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
    """Return the inverse, zero in directions of which nothing is known.

    Of the matrix scaled to a diagonal of ones, so that the units of features do not matter.
    """
    scale = _scale(information)
    values, vectors = np.linalg.eigh(symmetric(information) / scale)
    known = values > UNKNOWN * values[-1]
    inverses = np.where(known, 1.0, 0.0) / np.where(known, values, 1.0)
    return symmetric((vectors * inverses) @ vectors.T) / scale


def _floored(covariance: Floats) -> Floats:
    """Return the covariance with no eigenvalue, of its correlations, below the floor."""
    scale = _scale(covariance)
    values, vectors = np.linalg.eigh(covariance / scale)
    floored = np.maximum(values, COVARIANCE_FLOOR * max(values[-1], 0.0))
    if (floored == values).all():
        return covariance
    return symmetric((vectors * floored) @ vectors.T) * scale


def _scale(matrix: Floats) -> Floats:
    """Return ``sqrt(a_ii a_jj)``, and 1 for what has no diagonal, ``(d, d)``."""
    diagonal = np.diag(matrix)
    roots = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    return np.outer(roots, roots)
