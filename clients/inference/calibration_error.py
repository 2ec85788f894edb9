"""Does a classifier know how sure it may be? The expected calibration error."""

import math

import torch
from torch import Tensor

from clients.task import Classification

BINS = 15


def calibration_gaps(confidence: Tensor, right: Tensor, bins: int = BINS) -> Tensor:
    """Return, for each bin of the confidence, how much oftener answers were right than claimed.

    Parameters
    ----------
    confidence : Tensor
        ``(N,)``, the probability of the predicted class, in [0, 1].
    right : Tensor
        ``(N,)``, whether that was the class.
    bins : int, default BINS
        Number of bins of equal width, each open below: ``((m - 1) / bins, m / bins]``.

    Returns
    -------
    Tensor
        ``(bins,)`` float64, the sum of ``right - confidence`` over the examples of each bin. Sums
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
        From :func:`calibration_gaps`.
    count : int
        ``N``; NaN is returned for 0.

    Notes
    -----
    arXiv:1706.04599. Of few examples it is too large: it is an absolute value, of noise as well.
    """
    return float(gaps.abs().sum()) / count if count else math.nan


class CalibratedClassification(Classification):
    """Classes, scored by accuracy and by ``calibration-error``, over :data:`BINS` bins.

    Both are NaN unless outputs are logits ``(N, classes)`` and targets whole numbers.
    """

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the number of right answers, and the gaps of all bins."""
        answers = super().sums(outputs, targets)
        if bool(answers.isnan().any()):
            return torch.full((1 + BINS,), math.nan, dtype=torch.float64)
        confidence, chosen = outputs.softmax(dim=1).max(dim=1)
        return torch.cat([answers, calibration_gaps(confidence, chosen == targets)])

    def scores(self, sums: Tensor, count: int) -> dict[str, float]:
        """Return the accuracy and the calibration error."""
        error = expected_calibration_error(sums[1:], count)
        return super().scores(sums, count) | {"calibration-error": error}
