"""Errors-in-variables regression and discriminant analysis from moments corrected for attenuation.

A client measures ``W = X + U``: true values plus errors of mean zero, which are uncorrelated with
everything else and have a declared variance. Least squares on ``W`` is biased towards zero
(attenuation). An unbiased estimate is

    beta = (sum_i n_i (S_WW,i - S_UU,i))^-1 sum_i n_i S_Wy,i,

with moments about the means of all clients' examples, so that there is one common intercept
(Fuller 1987, Measurement Error Models, section 2.2; Carroll et al. 2006, Measurement Error in
Nonlinear Models, section 3.4). For classes the same correction makes Gaussian discriminant
analysis of it, whose coefficients are those of the logistic model where features are Gaussian
given the class (Efron 1975, JASA 70).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from strategies.arrays import is_finite
from strategies.errors import ArgumentError
from strategies.hierarchical.mixed_effects import Floats

LEAST_RELIABILITY = 0.05
"""Lower bound of the reliability of a direction of the inputs: no coefficient is corrected by more
than a factor of 20. (Declared errors may even exceed the variance of the measurements.)"""

ABSENT = -1e4
"""Intercept of a class without examples, so that it is never predicted."""

_ROUNDING = 1e-6
_SINGULAR = 1e-10
"""Eigenvalues of the inputs' correlation below this part of the largest count as zero."""

_NO_VARIANCE = 1e-12
"""Variances of a feature below this part of its mean square are rounding errors."""


@dataclass(frozen=True)
class ErrorMoments:
    """Sufficient statistics of the corrected equations.

    Attributes
    ----------
    cross : ndarray
        ``T^T W``, ``(K, d + 1)``. ``T`` is the target of a regression (K = 1) or the one-hot class;
        the last column of ``W`` is ones.
    gram : ndarray
        ``W^T W``, ``(d + 1, d + 1)``.
    errors : ndarray
        Sum over examples of the error variance of each feature, ``(d,)``.
    """

    cross: Floats
    gram: Floats
    errors: Floats

    @property
    def examples(self) -> float:
        """Number of examples."""
        return float(self.gram[-1, -1])


def error_moments(inputs: Floats, targets: Floats, noise: Floats) -> ErrorMoments:
    """Return the moments of one client's examples.

    Parameters
    ----------
    inputs : ndarray
        Measurements ``(n, d)``.
    targets : ndarray
        Targets ``(n,)`` of a regression, or classes ``(n, K)``, one-hot.
    noise : ndarray
        Variance ``(d,)`` of the measurement error of each feature.
    """
    design = np.column_stack([np.asarray(inputs, np.float64), np.ones(len(inputs))])
    columns = np.asarray(targets, np.float64).reshape(len(inputs), -1)
    errors = len(inputs) * np.asarray(noise, np.float64)
    return ErrorMoments(columns.T @ design, design.T @ design, errors)


def pooled_errors(parts: Sequence[ErrorMoments]) -> ErrorMoments:
    """Return the moments of all parts' examples, pooled; there must be at least one part."""
    return ErrorMoments(
        np.sum([part.cross for part in parts], axis=0),
        np.sum([part.gram for part in parts], axis=0),
        np.sum([part.errors for part in parts], axis=0),
    )


def reliable_axes(covariance: Floats, errors: Floats) -> tuple[Floats, Floats]:
    """Return coordinates in which ``S_WW`` is the identity and ``S_WW - S_UU`` is diagonal.

    The coordinates do not depend on the units of the features.

    Parameters
    ----------
    covariance : ndarray
        ``S_WW``, ``(d, d)``, positive semidefinite. Directions without variance are left out.
    errors : ndarray
        Diagonal ``(d,)`` of ``S_UU``.

    Returns
    -------
    tuple of 2 ndarray
        The axes: columns of ``A``, ``(d, r)``. ``A^T S_WW A`` is the identity, and ``A A^T`` the
        (pseudo-)inverse of ``S_WW``. Then the reliability of each axis, ``(r,)``: the diagonal of
        ``A^T (S_WW - S_UU) A``. It is at most 1, and negative if the declared error variance
        exceeds the variance of the measurements.
    """
    deviations = np.sqrt(np.diag(covariance))
    scale = np.where(deviations > 0, deviations, 1.0)  # so that units do not decide what is zero
    values, vectors = np.linalg.eigh(covariance / np.outer(scale, scale))
    there = values > _SINGULAR * max(values.max(initial=0.0), 0.0)
    whiten = vectors[:, there] / np.sqrt(values[there]) / scale[:, None]
    reliability = np.eye(int(there.sum())) - whiten.T @ (errors[:, None] * whiten)
    reliabilities, directions = np.linalg.eigh((reliability + reliability.T) / 2)
    return whiten @ directions, reliabilities


def corrected_inverse(
    covariance: Floats, errors: Floats, least: float = LEAST_RELIABILITY
) -> tuple[Floats, float]:
    """Return ``(S_WW - S_UU)^+`` with clipped reliabilities, and the lowest unclipped reliability.

    Reliabilities of :func:`reliable_axes` are clipped to at least ``least``, so the corrected
    matrix is positive definite. Without errors the result is the (pseudo-)inverse of ``S_WW``.

    Parameters
    ----------
    covariance, errors : ndarray
        As in :func:`reliable_axes`.
    least : float, default LEAST_RELIABILITY
        Lower bound of reliabilities, above zero.

    Returns
    -------
    tuple of ndarray and float
        Inverse ``(d, d)``, and the lowest reliability.
    """
    axes, reliabilities = reliable_axes(covariance, errors)
    inverse: Floats = (axes / np.maximum(reliabilities, least)) @ axes.T
    return inverse, float(reliabilities.min(initial=1.0))


def _left(squares: Floats, taken: Floats) -> Floats:
    """Subtract the second moments of means; set features whose rest is rounding error to 0."""
    left = squares - taken
    varies = np.diag(left) > _NO_VARIANCE * np.diag(squares)
    kept: Floats = np.where(np.outer(varies, varies), left, 0.0)
    return kept


def regression_coefficients(own: ErrorMoments) -> tuple[Floats, float]:
    """Return the corrected coefficients of a regression, and the lowest reliability.

    The regression goes through the common mean of all examples (Fuller 1987, section 2.2).

    Parameters
    ----------
    own : ErrorMoments
        Moments of all examples, at least one.

    Returns
    -------
    tuple of ndarray and float
        Coefficients ``(1, d + 1)``, the intercept last; for the reliability see
        :func:`corrected_inverse`.
    """
    count = own.examples
    mean, target = own.gram[-1, :-1] / count, own.cross[0, -1] / count
    covariance = _left(own.gram[:-1, :-1] / count, np.outer(mean, mean))
    inverse, lowest = corrected_inverse(covariance, own.errors / count)
    slopes = inverse @ (own.cross[0, :-1] / count - mean * target)
    return np.append(slopes, target - mean @ slopes)[None], lowest


def discriminant_coefficients(own: ErrorMoments) -> tuple[Floats, float]:
    """Return the corrected coefficients of a linear discriminant, and the lowest reliability.

    ``beta_k = S^-1 mu_k`` and ``a_k = log pi_k - mu_k^T S^-1 mu_k / 2``, where ``S`` is the
    covariance within classes less that of the errors (the maximum likelihood estimate, divided by
    the number of examples). The softmax of ``beta_k^T x + a_k`` is the probability of the class.

    Parameters
    ----------
    own : ErrorMoments
        Moments of all examples, at least one.

    Returns
    -------
    tuple of ndarray and float
        Coefficients ``(K, d + 1)``, the intercept last; for the reliability see
        :func:`corrected_inverse`.
    """
    counts, count = own.cross[:, -1], own.examples
    present = counts > 0
    means = np.zeros((len(counts), own.cross.shape[1] - 1))
    means[present] = own.cross[present, :-1] / counts[present, None]
    between = (counts[:, None] * means).T @ means
    within = _left(own.gram[:-1, :-1] / count, between / count)
    inverse, lowest = corrected_inverse(within, own.errors / count)
    slopes = means @ inverse
    intercepts = np.full(len(counts), ABSENT)
    priors = np.log(counts[present] / count)
    intercepts[present] = priors - (slopes * means).sum(axis=1)[present] / 2
    return np.column_stack([slopes, intercepts]), lowest


def coefficients(own: ErrorMoments) -> tuple[Floats, float]:
    """Return the corrected coefficients of a regression (K = 1) or a discriminant."""
    find = regression_coefficients if len(own.cross) == 1 else discriminant_coefficients
    return find(own)


def check_moments(own: ErrorMoments, examples: float) -> None:
    """Raise an error for moments that no data can have.

    Parameters
    ----------
    own : ErrorMoments
        Moments that the client reported.
    examples : float
        Number of examples that the client reported.

    Raises
    ------
    ArgumentError
        If a value is not finite, the numbers of examples differ, a variance of errors is negative,
        or the sums of products are not positive semidefinite. ``argument`` is ``cross``, ``gram``,
        ``errors`` or ``examples``.
    """
    for name in ("cross", "gram", "errors"):
        if not is_finite(values := getattr(own, name)):
            raise ArgumentError(name, values.tolist(), "finite")
    count = own.examples
    if count != round(count) or not 1 <= count <= examples:
        raise ArgumentError("examples", count, f"an integer from 1 to {examples:g}")
    if own.errors.min(initial=0.0) < 0:
        raise ArgumentError("errors", own.errors.tolist(), "at least 0")
    slack = _ROUNDING * float(np.abs(own.gram).max())
    uneven = np.abs(own.gram - own.gram.T).max() > slack
    if uneven or np.linalg.eigvalsh(own.gram)[0] < -slack:
        raise ArgumentError("gram", own.gram.tolist(), "symmetric and positive semidefinite")
    if len(own.cross) > 1:
        counts = own.cross[:, -1]
        if (counts < 0).any() or (counts != np.round(counts)).any() or counts.sum() != count:
            wanted = f"numbers of examples that add up to {count:g}"
            raise ArgumentError("cross", counts.tolist(), wanted)
