"""Data quality of a client: missing values, measurement noise, reliability; regression calibration.

A measurement is ``W = X + U``: the true value plus an independent error of mean zero. Its
reliability is ``var X / var W`` (Fuller 1987, Measurement Error Models, section 1.1). The client
declares the noise, or estimates it from replicates; it is never assumed.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from strategies.errors import ArgumentError
from strategies.measurement_error.corrected_moments import reliable_axes

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class DataQuality:
    """Quality of a client's training examples, as it reports it.

    Attributes
    ----------
    examples : int
        Number of training examples.
    missing_rate : float
        Share of missing values among all features of all examples, 0 to 1.
    noise : ndarray
        Error variance of each feature, ``(d,)`` float64, in the unit that the model sees; 0 for
        exact measurements. Imputed values have no measurement error: if a feature is known for a
        share ``p`` of the examples, its noise is ``p`` times that of a measurement.
    reliability : ndarray
        Reliability of each feature's measurements, ``(d,)`` float64, 0 to 1.

    Raises
    ------
    ArgumentError
        If a share is not in [0, 1], if a variance is negative or not finite, or if the shapes
        differ.
    """

    examples: int
    missing_rate: float
    noise: Floats
    reliability: Floats

    def __post_init__(self) -> None:
        if not 0.0 <= self.missing_rate <= 1.0:
            raise ArgumentError("missing_rate", self.missing_rate, "in [0, 1]")
        check_reliability(self.reliability)
        _check_noise(self.noise)
        if self.noise.shape != self.reliability.shape or self.noise.ndim != 1:
            shapes = (self.noise.shape, self.reliability.shape)
            wanted = "those of two vectors of the same length"
            raise ArgumentError("shapes of noise and reliability", shapes, wanted)

    @cached_property
    def mean_reliability(self) -> float:
        """Mean reliability over the features; 1 without features."""
        return float(self.reliability.mean()) if len(self.reliability) else 1.0

    @property
    def effective_examples(self) -> float:
        """Number of exact and complete examples with about as much information.

        ``n (1 - missing) reliability``. In a linear model with calibrated measurements (see
        :func:`calibration`) the information on a coefficient, the inverse of its variance, is
        proportional to this if all features have the same quality.
        """
        return self.examples * (1.0 - self.missing_rate) * self.mean_reliability


def check_reliability(reliability: ArrayLike) -> None:
    """Raise an error unless every reliability is in [0, 1].

    Raises
    ------
    ArgumentError
        If one is below 0, above 1 or NaN.
    """
    values = np.asarray(reliability, dtype=np.float64)
    odd = values[~((values >= 0.0) & (values <= 1.0))]
    if odd.size:
        wanted = "in [0, 1]: the share of the true values in the variance of the measurements"
        raise ArgumentError("reliability", float(odd.ravel()[0]), wanted)


def _check_noise(noise: Floats) -> None:
    odd = noise[~((noise >= 0.0) & (noise < math.inf))]
    if odd.size:
        wanted = "a variance, finite and not negative"
        raise ArgumentError("noise", float(odd[0]), wanted)


def reliability_of(noise: ArrayLike, variance: ArrayLike) -> Floats:
    """Return the reliability of measurements, ``1 - noise / variance``, at least 0, ``(d,)``.

    Parameters
    ----------
    noise : array_like
        Declared variance of the errors, ``(d,)``.
    variance : array_like
        Variance of the measurements, ``(d,)``. Where it is 0, the reliability is 1 without noise
        and 0 with noise.

    Raises
    ------
    ArgumentError
        If a noise is negative or not finite.
    """
    errors, total = np.asarray(noise, dtype=np.float64), np.asarray(variance, dtype=np.float64)
    _check_noise(np.atleast_1d(errors))
    ratio = np.where(errors > 0, np.inf, 0.0)
    np.divide(errors, total, out=ratio, where=total > 0)
    found: Floats = np.clip(1.0 - ratio, 0.0, 1.0)
    return found


def noise_of_replicates(replicates: ArrayLike) -> Floats:
    """Estimate the error variance from replicate measurements of the same items.

    It is the mean over items of the variance among their replicates (one-way analysis of variance).

    Parameters
    ----------
    replicates : array_like
        Measurements ``(R, N, d)``: R replicates, at least 2, of each of N items; all finite.

    Returns
    -------
    ndarray
        Error variance of each feature, ``(d,)`` float64.

    Raises
    ------
    ArgumentError
        If there are fewer than two replicates, or a value is not finite.
    """
    values = np.asarray(replicates, dtype=np.float64)
    if values.ndim != 3 or len(values) < 2 or not values.shape[1]:
        raise ArgumentError("shape of replicates", values.shape, "(2 or more, 1 or more, d)")
    if not np.isfinite(values).all():
        raise ArgumentError("replicates", float(values[~np.isfinite(values)][0]), "finite")
    found: Floats = values.var(axis=0, ddof=1).mean(axis=0)
    return found


def calibration(measurements: ArrayLike, noise: ArrayLike) -> tuple[Floats, Floats]:
    """Return the linear map of regression calibration.

    ``E[X | W] = mu + (S_WW - S_UU) S_WW^+ (W - mu)``, the best linear prediction of the true value
    (Carroll et al. 2006, Measurement Error in Nonlinear Models, section 4.4.2), with the mean and
    the covariance (divided by ``N - 1``) of these measurements. Features without error do not
    change. With few measurements, or if the declared errors are too large, some directions vary
    less than their errors alone would (their reliability, see
    :func:`strategies.measurement_error.corrected_moments.reliable_axes`, is negative); there the
    prediction is the mean. So no calibrated feature varies more than its measurements.

    Parameters
    ----------
    measurements : array_like
        Measurements ``(N, d)``, N at least 1, finite.
    noise : array_like
        Variance of the errors, ``(d,)``; the errors of different features are independent.

    Returns
    -------
    tuple of 2 ndarray
        Matrix ``(d, d)`` and mean ``(d,)`` of ``E[X | W] = mean + (W - mean) @ matrix.T``.

    Raises
    ------
    ArgumentError
        If shapes do not match, a measurement is not finite, or a noise is negative or not finite.
    """
    values = np.asarray(measurements, dtype=np.float64)
    errors = np.asarray(noise, dtype=np.float64)
    if values.ndim != 2 or not len(values) or errors.shape != values.shape[1:]:
        shapes = (values.shape, errors.shape)
        raise ArgumentError("shapes of measurements and noise", shapes, "(N, d) and (d,), N > 0")
    if not np.isfinite(values).all():
        odd = float(values[~np.isfinite(values)][0])
        raise ArgumentError("measurements", odd, "finite; impute missing values first")
    _check_noise(errors)
    mean: Floats = values.mean(axis=0)
    if not errors.any():
        return np.eye(len(errors)), mean
    away = values - mean
    total = away.T @ away / max(len(values) - 1, 1)
    axes, reliabilities = reliable_axes(total, errors)
    matrix = total @ (axes * np.clip(reliabilities, 0.0, None)) @ axes.T
    return np.where(errors[:, None] > 0, matrix, np.eye(len(errors))), mean
