"""Moments: means and variances of features and targets, per client and merged (federated)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from strategies.errors import ArgumentError


@dataclass(frozen=True)
class Moments:
    """Count, mean and variance (divided by the count) of some columns.

    Attributes
    ----------
    count : int
        Number of rows.
    means, variances : tuple of float
        One value per column; 0 where the column has no values.
    counts : tuple of int, default ()
        Number of known values of each column; () where no value is missing.
    """

    count: int
    means: tuple[float, ...]
    variances: tuple[float, ...]
    counts: tuple[int, ...] = ()

    @property
    def finite(self) -> bool:
        """Whether all values are finite, and counts (if any) are one per column and not negative.

        The moments of a client with an overflow would otherwise spoil those of all clients.
        """
        counted = len(self.counts) in (0, len(self.means)) and min(self.counts, default=0) >= 0
        return counted and all(map(math.isfinite, (*self.means, *self.variances)))


FEWEST_ROWS = 5
"""A client with fewer rows sends no moments: the mean of one row is that row."""


def moments(values: Tensor) -> Moments:
    """Return the moments of every column; missing values (NaN) are left out.

    A column with missing values and fewer than :data:`FEWEST_ROWS` known ones gets count 0.

    Parameters
    ----------
    values : Tensor
        ``(N, ...)``, N at least 1; one column per entry of a row.
    """
    columns = values.double().flatten(1) if values.ndim > 1 else values.double()[:, None]
    if columns.isnan().any():
        return _moments_of_known(columns.numpy())
    if not columns.shape[1]:  # torch has no variance of nothing
        return Moments(len(columns), (), ())
    variances = columns.var(dim=0, correction=0)
    return Moments(len(columns), tuple(columns.mean(dim=0).tolist()), tuple(variances.tolist()))


@dataclass(frozen=True)
class KnownValues:
    """Statistics of the known values of columns; a value is missing if it is NaN.

    Attributes
    ----------
    number : ndarray
        Number of known values, ``(d,)``.
    means : ndarray
        ``(d,)``, 0 where no value is known.
    squares : ndarray
        Sum of squared distances from the mean, ``(d,)``.
    """

    number: NDArray[np.int64]
    means: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> "KnownValues":
        """Return the statistics of values.

        Parameters
        ----------
        values : ndarray
            ``(N, d)``.
        """
        known = ~np.isnan(values)
        number = known.sum(axis=0)
        means = np.where(known, values, 0.0).sum(axis=0) / np.maximum(number, 1)
        squares = np.where(known, (values - means) ** 2, 0.0).sum(axis=0)
        return cls(number, means, squares)

    @property
    def variances(self) -> NDArray[np.float64]:
        """Unbiased variances, ``(d,)``; 0 with fewer than two values."""
        found: NDArray[np.float64] = self.squares / np.maximum(self.number - 1, 1)
        return found


def _moments_of_known(columns: NDArray[np.float64]) -> Moments:
    """Return the moments of the known values of every column."""
    found = KnownValues.of(columns)
    enough = found.number >= FEWEST_ROWS
    variances = np.where(enough, found.squares / np.maximum(found.number, 1), 0.0)
    means, counts = np.where(enough, found.means, 0.0), np.where(enough, found.number, 0)
    return Moments(
        len(columns), tuple(means.tolist()), tuple(variances.tolist()), tuple(counts.tolist())
    )


def merge_moments(parts: Sequence[Moments]) -> Moments:
    """Return the moments of all rows from those of each part (Chan et al. 1979, eq. 2.1).

    A column without any known value has mean and variance 0.

    Parameters
    ----------
    parts : sequence of Moments
        At least one; all have the same columns.

    Raises
    ------
    ArgumentError
        If there are no parts, or they differ in their number of columns.
    """
    sizes = [len(part.means) for part in parts]
    if len(set(sizes)) != 1:
        raise ArgumentError("parts", sizes, "at least one, with the same number of columns")
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
    """Return the deviation of every feature, ``(d,)``; 0 for a constant feature.

    Rounding gives a constant feature a tiny deviation. Division by it would give an unseen client
    huge values. A feature that moves by a billionth of its mean is no constant: a time in seconds
    since 1970 is known to a second.

    Parameters
    ----------
    features : Moments
        Moments of the features.
    """
    deviations = np.sqrt(features.variances)
    tiny = deviations <= 1e-9 * np.maximum(np.abs(features.means), 1e-30)
    found: NDArray[np.float64] = np.where(tiny, 0.0, deviations)
    return found


def feature_scales(features: Moments) -> NDArray[np.float64]:
    """Return what every feature is divided by, ``(d,)``: its deviation.

    Of a constant feature it is the largest float, so that the feature is 0 whatever value it has in
    an example to come: no weight has been fitted to it.

    Parameters
    ----------
    features : Moments
        Moments of the features.
    """
    deviations = feature_deviations(features)
    found: NDArray[np.float64] = np.where(deviations > 0, deviations, np.finfo(np.float64).max)
    return found
