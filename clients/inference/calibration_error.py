"""Expected calibration error (ECE) of classifiers."""

import math

import torch
from torch import Tensor

from clients.task import Classification

BINS = 15
"""Number of bins of the confidence."""


def calibration_gaps(confidence: Tensor, right: Tensor, bins: int = BINS) -> Tensor:
    """Return the sum of accuracy less confidence in each bin of the confidence.

    Parameters
    ----------
    confidence : Tensor
        Probability of the predicted class, ``(N,)``, in [0, 1].
    right : Tensor
        Whether the prediction was correct, ``(N,)``.
    bins : int, default BINS
        Number of bins of equal width, ``((m - 1) / bins, m / bins]``.

    Returns
    -------
    Tensor
        Sums ``(bins,)`` float64 of ``right - confidence`` over the examples of each bin. The sums
        of several batches add up.
    """
    claimed = confidence.double()
    places = (claimed * bins).ceil().long().sub(1).clamp(0, bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64, device=claimed.device)
    return gaps.index_add(0, places, right.double() - claimed)


def expected_calibration_error(gaps: Tensor, count: int) -> float:
    """Return ``sum_m n_m / N |accuracy_m - confidence_m|`` (Guo et al. 2017, eq. 3).

    Parameters
    ----------
    gaps : Tensor
        Sums from :func:`calibration_gaps`.
    count : int
        Number of examples ``N``; for 0 the result is NaN.

    Notes
    -----
    arXiv:1706.04599. With few examples the error is biased upwards, because it is a sum of absolute
    values, which include noise.
    """
    return float(gaps.abs().sum()) / count if count else math.nan


class CalibratedClassification(Classification):
    """Classification, scored by accuracy and by ``calibration-error`` over :data:`BINS` bins.

    Both are NaN unless outputs are logits ``(N, classes)`` and targets are integers.
    """

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the number of correct predictions and the gaps of all bins, ``(1 + BINS,)``."""
        answers = super().sums(outputs, targets)
        if bool(answers.isnan().any()):
            return torch.full((1 + BINS,), math.nan, dtype=torch.float64)
        chances = self.outcomes(outputs)[1].T
        confidence, chosen = chances.max(dim=1)
        right = chosen == targets.reshape(len(chosen))
        return torch.cat([answers, calibration_gaps(confidence, right)])

    def scores(self, sums: Tensor, count: int) -> dict[str, float]:
        """Return the accuracy and the calibration error."""
        error = expected_calibration_error(sums[1:], count)
        return super().scores(sums, count) | {"calibration-error": error}
