"""Mean and variance of features and targets, told by each client and put together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Count, mean and variance (divided by the count) of some columns.

    Attributes
    ----------
    count : number of rows
    means, variances : one value a column, 0 where the count is
    counts : number of known values of each column, where some are missing; () where none are
    """

    count: int
    means: tuple[float, ...]
    variances: tuple[float, ...]
    counts: tuple[int, ...] = ()

    @property
    def finite(self) -> bool:
        """Whether all of them are finite numbers; one client's overflow must not be everybody's.

        Counts, where they are told, must be of every column, and none negative.
        """
        counted = len(self.counts) in (0, len(self.means)) and min(self.counts, default=0) >= 0
        return counted and all(map(math.isfinite, (*self.means, *self.variances)))


FEWEST_ROWS = 5
"""A client with fewer rows tells no moments: the mean of one row is that row."""


def moments(values: Tensor) -> Moments:
    """Return the moments of every column of ``(N, ...)`` values, N at least 1.

    Missing values (NaN) are left out. Of a column with fewer than :data:`FEWEST_ROWS` others
    nothing is told: its count is 0.
    """
    columns = values.double().flatten(1) if values.ndim > 1 else values.double()[:, None]
    if columns.isnan().any():
        return _moments_of_known(columns.numpy())
    variances = columns.var(dim=0, correction=0)
    return Moments(len(columns), tuple(columns.mean(dim=0).tolist()), tuple(variances.tolist()))


@dataclass(frozen=True)
class KnownValues:
    """What the known values of some columns come to; a value is missing if it is NaN.

    Attributes
    ----------
    number : ``(d,)`` of known values
    means : ``(d,)``, 0 where there are none
    squares : ``(d,)``, sum of their squared distances from the mean
    """

    number: NDArray[np.int64]
    means: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> "KnownValues":
        """Return those of ``(N, d)`` values."""
        known = ~np.isnan(values)
        number = known.sum(axis=0)
        means = np.where(known, values, 0.0).sum(axis=0) / np.maximum(number, 1)
        squares = np.where(known, (values - means) ** 2, 0.0).sum(axis=0)
        return cls(number, means, squares)

    @property
    def variances(self) -> NDArray[np.float64]:
        """Unbiased variances, 0 of fewer than two values."""
        found: NDArray[np.float64] = self.squares / np.maximum(self.number - 1, 1)
        return found


def _moments_of_known(columns: NDArray[np.float64]) -> Moments:
    """Return the moments of the known values of every column."""
    found = KnownValues.of(columns)
    told = found.number >= FEWEST_ROWS
    variances = np.where(told, found.squares / np.maximum(found.number, 1), 0.0)
    means, counts = np.where(told, found.means, 0.0), np.where(told, found.number, 0)
    return Moments(
        len(columns), tuple(means.tolist()), tuple(variances.tolist()), tuple(counts.tolist())
    )


def merge_moments(parts: Sequence[Moments]) -> Moments:
    """Return the moments of all rows together, from those of each part (Chan et al. 1979, eq. 2.1).

    A column that nobody has a value of has mean and variance 0.

    Raises
    ------
    ValueError
        If there are no parts, or they differ in their number of columns.
    """
    if not parts or len({len(part.means) for part in parts}) != 1:
        raise ValueError("moments of the same columns, of at least one part, are needed")
    size = len(parts[0].means)
    counts = np.array([part.counts or (part.count,) * size for part in parts], dtype=float)
    known = counts.sum(axis=0)
    shares = counts / np.maximum(known, 1.0)
    means = np.array([part.means for part in parts])
    mean = (shares * means).sum(axis=0)
    within = (shares * np.array([part.variances for part in parts])).sum(axis=0)
    between = (shares * (means - mean) ** 2).sum(axis=0)
    lacks = any(part.counts for part in parts)
    return Moments(
        sum(part.count for part in parts),
        tuple(mean.tolist()),
        tuple((within + between).tolist()),
        tuple(known.astype(int).tolist()) if lacks else (),
    )


def feature_deviations(features: Moments) -> NDArray[np.float64]:
    """Return the deviation of every feature, 0 of a constant one.

    Rounding gives a constant feature a tiny deviation; dividing by that would blow up an unseen
    client.
    """
    deviations = np.sqrt(features.variances)
    tiny = deviations <= 1e-7 * np.maximum(np.abs(features.means), 1e-30)
    found: NDArray[np.float64] = np.where(tiny, 0.0, deviations)
    return found
