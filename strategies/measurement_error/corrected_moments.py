"""Linear models whose inputs are read with errors: the truth's coefficients, from moments.

A client reads ``W = X + U``: true values and errors of mean zero, uncorrelated with everything
else, of a variance that it states. Least squares on ``W`` is biased towards zero; what is not is

    beta = (sum_i n_i (S_WW,i - S_UU,i))^-1 sum_i n_i S_Wy,i,

with moments about the means of everybody's examples, so that there is one intercept for all
(Fuller 1987, Measurement Error Models, section 2.2; Carroll et al. 2006, Measurement Error in
Nonlinear Models, section 3.4). For classes the same correction makes Gaussian discriminant
analysis of it, whose coefficients are those of the logistic model where features are Gaussian
given the class (Efron 1975, JASA 70).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from strategies.arrays import is_finite
from strategies.hierarchical.mixed_effects import Floats

LEAST_RELIABILITY = 0.05
"""A direction of the inputs is held to be at least so reliable: nothing is corrected by more than
a factor of 20, and what the errors are said to leave of it may even be negative."""

ABSENT = -1e4
"""Intercept of a class that nobody has: it is never predicted."""

_ROUNDING = 1e-6
_SINGULAR = 1e-10
"""Eigenvalue of the inputs' correlation, beside the largest one, that counts as zero."""

_NO_VARIANCE = 1e-12
"""Variance of a feature, beside its mean square, that is nothing but rounding."""


@dataclass(frozen=True)
class ErrorMoments:
    """All that the corrected equations need of some examples.

    Attributes
    ----------
    cross : ndarray
        ``T^T W``, ``(K, d + 1)``: of a regression ``T`` is the target (K = 1), of classes it says
        with ones and zeros which class an example is of; ``W`` has a column of ones at its end.
    gram : ndarray
        ``W^T W``, ``(d + 1, d + 1)``.
    errors : ndarray
        ``(d,)``, the sum over examples of the variance of the error of each feature.
    """

    cross: Floats
    gram: Floats
    errors: Floats

    @property
    def examples(self) -> float:
        """Their number."""
        return float(self.gram[-1, -1])


def error_moments(inputs: Floats, targets: Floats, noise: Floats) -> ErrorMoments:
    """Return the moments of examples.

    Parameters
    ----------
    inputs : ndarray
        ``(n, d)`` readings.
    targets : ndarray
        ``(n,)`` numbers, or ``(n, K)`` ones and zeros.
    noise : ndarray
        ``(d,)`` variance of the error of a reading.
    """
    design = np.column_stack([np.asarray(inputs, np.float64), np.ones(len(inputs))])
    columns = np.asarray(targets, np.float64).reshape(len(inputs), -1)
    errors = len(inputs) * np.asarray(noise, np.float64)
    return ErrorMoments(columns.T @ design, design.T @ design, errors)


def pooled_errors(parts: Sequence[ErrorMoments]) -> ErrorMoments:
    """Return the moments of all parts' examples together, at least one part."""
    return ErrorMoments(
        np.sum([part.cross for part in parts], axis=0),
        np.sum([part.gram for part in parts], axis=0),
        np.sum([part.errors for part in parts], axis=0),
    )


def reliable_axes(covariance: Floats, errors: Floats) -> tuple[Floats, Floats]:
    """Return coordinates in which ``S_WW`` is the identity and ``S_WW - S_UU`` is diagonal.

    They are the same whatever the units of the features.

    Parameters
    ----------
    covariance : ndarray
        ``S_WW``, ``(d, d)``, positive semidefinite; directions without variance are left out.
    errors : ndarray
        ``S_UU``, ``(d,)``, the diagonal.

    Returns
    -------
    tuple of 2 ndarray
        ``(d, r)`` axes in the columns of ``A``, where ``A^T S_WW A`` is the identity and ``A A^T``
        the (pseudo-)inverse of ``S_WW``; ``(r,)`` the reliability of each, the diagonal of ``A^T
        (S_WW - S_UU) A``: at most 1, negative where more error is stated than there is variance.
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
    """Return ``(S_WW - S_UU)^+`` with reliabilities clipped, and the lowest one before that.

    Reliabilities of :func:`reliable_axes` below ``least`` are replaced by it, which makes of a
    matrix that is not positive definite one that is. Without errors it is the (pseudo-)inverse of
    ``S_WW``.

    Parameters
    ----------
    covariance, errors : ndarray
        As in :func:`reliable_axes`.
    least : float, default LEAST_RELIABILITY
        Above zero.

    Returns
    -------
    tuple of ndarray and float
        ``(d, d)``; the lowest reliability.
    """
    axes, reliabilities = reliable_axes(covariance, errors)
    inverse: Floats = (axes / np.maximum(reliabilities, least)) @ axes.T
    return inverse, float(reliabilities.min(initial=1.0))


def _left(squares: Floats, taken: Floats) -> Floats:
    """Return second moments less those of means; features for which that is rounding become 0."""
    left = squares - taken
    varies = np.diag(left) > _NO_VARIANCE * np.diag(squares)
    kept: Floats = np.where(np.outer(varies, varies), left, 0.0)
    return kept


def regression_coefficients(own: ErrorMoments) -> tuple[Floats, float]:
    """Return the corrected coefficients of a regression, and the lowest reliability.

    The intercept goes through the common mean of everybody's examples.

    Parameters
    ----------
    own : ErrorMoments
        Of all examples, at least one.

    Returns
    -------
    tuple of ndarray and float
        ``(1, d + 1)``, the intercept last; see :func:`corrected_inverse`.
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
    covariance within classes less that of the errors (maximum likelihood: divided by the number
    of examples). The softmax of ``beta_k^T x + a_k`` is the probability of the class.

    Parameters
    ----------
    own : ErrorMoments
        Of all examples, at least one.

    Returns
    -------
    tuple of ndarray and float
        ``(K, d + 1)``, the intercept last; see :func:`corrected_inverse`.
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
    """Refuse moments that no client's data can give.

    Parameters
    ----------
    own : ErrorMoments
        As it tells them.
    examples : float
        Its number of examples, as it says beside them.

    Raises
    ------
    ValueError
        If a value is not finite, the sums are not of so many examples, a variance of errors is
        negative, or the sums of products are not positive semidefinite.
    """
    if not all(is_finite(values) for values in (own.cross, own.gram, own.errors)):
        raise ValueError("its moments are not finite")
    count = own.examples
    if count != round(count) or not 1 <= count <= examples:
        raise ValueError(f"its sums are of {count:g} examples, but it says it has {examples:g}")
    if own.errors.min(initial=0.0) < 0:
        raise ValueError(f"a variance of errors is negative: {own.errors.min():g}")
    slack = _ROUNDING * float(np.abs(own.gram).max())
    uneven = np.abs(own.gram - own.gram.T).max() > slack
    if uneven or np.linalg.eigvalsh(own.gram)[0] < -slack:
        raise ValueError("its sums of products are not symmetric and positive semidefinite")
    if len(own.cross) > 1:
        counts = own.cross[:, -1]
        if (counts < 0).any() or (counts != np.round(counts)).any() or counts.sum() != count:
            raise ValueError(f"its classes have {counts.tolist()} examples, of {count:g}")
