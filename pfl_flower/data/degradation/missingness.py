"""Missing-data mechanisms: completely at random, at random (observed), or not at random (value)."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from pfl_flower.data.errors import DataError

Floats = NDArray[np.float64]


def ranks(values: Floats, reference: Floats) -> Floats:
    """Return the rank of every value in a reference: the share below it plus half of the ties.

    The mean over the reference is 1/2, with or without ties. A missing value has rank 1/2.

    Parameters
    ----------
    values : ndarray
        ``(N, d)``.
    reference : ndarray
        ``(M, d)``; missing values are left out.

    Returns
    -------
    ndarray
        ``(N, d)``, 0 to 1, for each column separately.
    """
    found = np.full(values.shape, 0.5)
    for column in range(values.shape[1]):
        known = np.sort(reference[:, column][np.isfinite(reference[:, column])])
        there = np.isfinite(values[:, column])
        if len(known):
            sides = (np.searchsorted(known, values[there, column], s) for s in ("left", "right"))
            found[there, column] = sum(sides) / (2 * len(known))
    return found


def increasing(rank: Floats, rate: float) -> Floats:
    """Return probabilities that increase with a rank of mean 1/2, and have the mean ``rate``.

    ``2 rate rank`` for rates up to 1/2, and ``1 - 2 (1 - rate) (1 - rank)`` above.

    Parameters
    ----------
    rank : ndarray
        Ranks, 0 to 1.
    rate : float
        The mean, 0 to 1.
    """
    if rate <= 0.5:
        return 2 * rate * rank
    chances: Floats = 1 - 2 * (1 - rate) * (1 - rank)
    return chances


def check_share(missingness: str, rate: float, size: int) -> None:
    """Check that the missingness can reach a share of missing values.

    The first feature is never missing with ``"observed"``.

    Parameters
    ----------
    missingness : str
        A key of :data:`MISSINGNESS`.
    rate : float
        Share of values that shall be missing.
    size : int
        Number of features.

    Raises
    ------
    DataError
        If all other features together have fewer values.
    """
    if missingness == "observed" and rate * size > size - 1:
        raise DataError(
            f"missingness 'observed' never hides the first of {size} features, so at most the "
            f"share {1 - 1 / size:g} can be missing, not {rate:g}; use less, or 'random'",
            key="missing",
            value=rate,
        )


Chances = Callable[[Floats, Floats, float], Floats]
"""(values ``(N, d)``, training values ``(M, d)``, share) -> the probability that each is missing,
``(N, d)``. Over the training values the mean of the probabilities is the share."""


def _at_random(values: Floats, reference: Floats, rate: float) -> Floats:
    """All values have the same probability (missing completely at random)."""
    return np.full(values.shape, rate)


def _by_observed(values: Floats, reference: Floats, rate: float) -> Floats:
    """Return probabilities that grow with the first feature, never missing (missing at random)."""
    size = values.shape[1]
    check_share("observed", rate, size)
    rest = rate * size / max(size - 1, 1)
    chances = np.repeat(increasing(ranks(values[:, :1], reference[:, :1]), rest), size, axis=1)
    chances[:, 0] = 0.0
    return chances


def _by_value(values: Floats, reference: Floats, rate: float) -> Floats:
    """Return probabilities that grow with the value itself (missing not at random)."""
    return increasing(ranks(values, reference), rate)


MISSINGNESS: Mapping[str, Chances] = {
    "random": _at_random,
    "observed": _by_observed,
    "value": _by_value,
}
"""Name of a missing-data mechanism -> its probabilities. A new one is one row."""
