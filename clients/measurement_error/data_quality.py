"""How well a client sees: values that are missing, readings that are off. Told, never assumed.

A reading is ``W = X + U``, the true value and an error of mean zero that has nothing to do with it.
Its reliability is ``var X / var W`` (Fuller 1987, Measurement Error Models, section 1.1).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from strategies.measurement_error.corrected_moments import reliable_axes

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class DataQuality:
    """What a client tells of the quality of its training examples.

    Attributes
    ----------
    examples : int
        Number of training examples.
    missing_rate : float
        Share of the features' values that are missing, 0 to 1.
    noise : ndarray
        ``(d,)`` float64, variance of the error of each feature of an example, in the unit that the
        model sees; 0 for exact readings. A value that was filled in has none: of a feature that is
        known of a share ``p`` of the examples it is ``p`` times that of a reading.
    reliability : ndarray
        ``(d,)`` float64, share of the variance of each feature's readings that is the true values',
        0 to 1.

    Raises
    ------
    ValueError
        If a share is outside of 0 to 1, a variance is negative, or one of them is not finite.
    """

    examples: int
    missing_rate: float
    noise: Floats
    reliability: Floats

    def __post_init__(self) -> None:
        if not 0.0 <= self.missing_rate <= 1.0:
            raise ValueError(f"missing_rate must be in [0, 1], got {self.missing_rate}")
        check_reliability(self.reliability)
        _check_noise(self.noise)
        if self.noise.shape != self.reliability.shape or self.noise.ndim != 1:
            raise ValueError(
                f"noise and reliability must be vectors of the same length, they have shapes "
                f"{self.noise.shape} and {self.reliability.shape}"
            )

    @property
    def mean_reliability(self) -> float:
        """The mean reliability over the features; 1 without features."""
        return float(self.reliability.mean()) if len(self.reliability) else 1.0

    @property
    def effective_examples(self) -> float:
        """The number of exact and complete examples that would tell as much (approximately).

        ``n (1 - missing) reliability``: of a linear model whose readings are calibrated (a reading
        replaced by the mean of the true value given it) the information on a coefficient, which
        is the inverse of its variance, is in proportion to this where all features are alike.
        """
        return self.examples * (1.0 - self.missing_rate) * self.mean_reliability


def check_reliability(reliability: ArrayLike) -> None:
    """Raise unless every reliability is a share.

    Raises
    ------
    ValueError
        If one is below 0, above 1 or not a number.
    """
    values = np.asarray(reliability, dtype=np.float64)
    odd = values[~((values >= 0.0) & (values <= 1.0))]
    if odd.size:
        raise ValueError(
            f"reliability is the share of a reading's variance that is the true value's, 0 to 1; "
            f"got {odd.ravel()[0]}"
        )


def _check_noise(noise: Floats) -> None:
    odd = noise[~((noise >= 0.0) & (noise < math.inf))]
    if odd.size:
        raise ValueError(f"the variance of an error must be finite and not negative, got {odd[0]}")


def reliability_of(noise: ArrayLike, variance: ArrayLike) -> Floats:
    """Return the reliability of readings of a stated noise: ``1 - noise / variance``, at least 0.

    Parameters
    ----------
    noise : array_like
        ``(d,)`` variance of the errors.
    variance : array_like
        ``(d,)`` variance of the readings; where it is 0 there is nothing to tell apart, and the
        reliability is 1 without noise and 0 with it.

    Raises
    ------
    ValueError
        If a noise is negative or not finite.
    """
    errors, total = np.asarray(noise, dtype=np.float64), np.asarray(variance, dtype=np.float64)
    _check_noise(np.atleast_1d(errors))
    ratio = np.where(errors > 0, np.inf, 0.0)
    np.divide(errors, total, out=ratio, where=total > 0)
    found: Floats = np.clip(1.0 - ratio, 0.0, 1.0)
    return found


def noise_of_replicates(readings: ArrayLike) -> Floats:
    """Return the variance of the errors, from several readings of the same things.

    The mean over things of the variance among their readings (one-way analysis of variance).

    Parameters
    ----------
    readings : array_like
        ``(R, N, d)``, R readings of each of N things, R at least 2, finite.

    Returns
    -------
    ndarray
        ``(d,)`` float64.

    Raises
    ------
    ValueError
        If there are fewer than two readings, or one is not finite.
    """
    values = np.asarray(readings, dtype=np.float64)
    if values.ndim != 3 or len(values) < 2 or not values.shape[1]:
        raise ValueError(f"replicates have shape (2 or more, N, d), got {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("replicates must be finite")
    found: Floats = values.var(axis=0, ddof=1).mean(axis=0)
    return found


def calibration(readings: ArrayLike, noise: ArrayLike) -> tuple[Floats, Floats]:
    """Return what turns readings into the expected true values: regression calibration.

    ``E[X | W] = mu + (S_WW - S_UU) S_WW^+ (W - mu)``, the best linear prediction of the true value
    (Carroll et al. 2006, Measurement Error in Nonlinear Models, section 4.4.2), with the mean and
    the covariance (divided by ``N - 1``) of the readings at hand. What is read without error stays
    what it is. Of few readings, or where errors are said to be larger than they can be, some
    directions vary less than their errors alone would (their reliability, as in
    :func:`strategies.measurement_error.corrected_moments.reliable_axes`, is negative): there the
    mean is expected. So no calibrated feature varies more than its readings did.

    Parameters
    ----------
    readings : array_like
        ``(N, d)``, N at least 1, finite.
    noise : array_like
        ``(d,)`` variance of the errors, which are independent of one another.

    Returns
    -------
    tuple of 2 ndarray
        Matrix ``(d, d)`` and mean ``(d,)``: ``mean + (W - mean) @ matrix.T``.

    Raises
    ------
    ValueError
        If shapes do not fit, a reading is not finite, or a noise is negative or not finite.
    """
    values, errors = np.asarray(readings, dtype=np.float64), np.asarray(noise, dtype=np.float64)
    if values.ndim != 2 or not len(values) or errors.shape != values.shape[1:]:
        raise ValueError(
            f"readings have shape (N, d) and noise (d,), got {values.shape} and {errors.shape}"
        )
    if not np.isfinite(values).all():
        raise ValueError("readings must be finite; fill in what is missing first")
    _check_noise(errors)
    mean: Floats = values.mean(axis=0)
    if not errors.any():
        return np.eye(len(errors)), mean
    away = values - mean
    total = away.T @ away / max(len(values) - 1, 1)
    axes, reliabilities = reliable_axes(total, errors)
    matrix = total @ (axes * np.clip(reliabilities, 0.0, None)) @ axes.T
    return np.where(errors[:, None] > 0, matrix, np.eye(len(errors))), mean
