"""What is learnt, kept and forgotten over the phases of a stream.

All are functions of a matrix: ``a[t, j]`` is the accuracy on the test examples of phase j once
phases 0 to t have been learnt. With one phase there is nothing to transfer or forget: both are NaN.

Lopez-Paz and Ranzato 2017, "Gradient Episodic Memory for Continual Learning" (arXiv:1706.08840),
section 2; Chaudhry et al. 2018, "Riemannian Walk for Incremental Learning: Understanding
Forgetting and Intransigence" (arXiv:1801.10112), section 3.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from strategies.errors import ArgumentError

Matrix = NDArray[np.float64]


def accuracy_matrix(accuracies: ArrayLike, phase_of_round: ArrayLike) -> Matrix:
    """Return the (T, T) matrix of accuracies after the last round of each phase.

    Parameters
    ----------
    accuracies : array_like
        (R, T) accuracy on each phase after each round; NaN for a phase not met yet.
    phase_of_round : array_like
        (R,) phase at hand in each round, from 0 to T - 1, never descending.

    Raises
    ------
    ArgumentError
        If shapes do not fit, phases are out of range or descend, or a phase had no round.
    """
    scores = np.asarray(accuracies, dtype=np.float64)
    phases = np.asarray(phase_of_round)
    if scores.ndim != 2 or not scores.shape[1]:
        raise ArgumentError("accuracies", scores.shape, "of shape (rounds, phases)")
    if phases.shape != (len(scores),):
        raise ArgumentError("phase_of_round", phases.shape, f"of shape ({len(scores)},)")
    if phases.size and phases.dtype.kind not in "iu":
        raise ArgumentError("phase_of_round", str(phases.dtype), "whole numbers")
    if (np.diff(phases.astype(np.int64)) < 0).any():
        raise ArgumentError("phase_of_round", phases.tolist(), "ascending: no phase comes back")
    expected = np.arange(scores.shape[1])
    if not np.array_equal(np.unique(phases), expected):
        raise ArgumentError(
            "phase_of_round",
            phases.tolist(),
            f"such that each of 0 to {expected[-1]} has a round; run more rounds",
        )
    last = np.searchsorted(phases, expected, side="right") - 1
    return scores[last]


def average_accuracy(matrix: ArrayLike) -> float:
    """Return the mean accuracy on all phases in the end (ACC of Lopez-Paz and Ranzato).

    Raises
    ------
    ArgumentError
        If the matrix is not square, is empty, or lacks a value on or below the diagonal; so in all
        of these functions.
    """
    return float(_checked(matrix)[-1].mean())


def plasticity(matrix: ArrayLike) -> float:
    """Return the mean accuracy on each phase when it has just been learnt."""
    return float(np.diag(_checked(matrix)).mean())


def backward_transfer(matrix: ArrayLike) -> float:
    """Return how much better each phase but the last is known in the end than when learnt.

    Negative where it was forgotten (BWT of Lopez-Paz and Ranzato). NaN with a single phase.
    """
    values = _checked(matrix)
    if len(values) == 1:
        return float("nan")
    return float((values[-1] - np.diag(values))[:-1].mean())


def forgetting(matrix: ArrayLike) -> float:
    """Return how much worse each phase but the last is known in the end than it ever was before.

    The best is over the phases from its own to the last but one (F of Chaudhry et al., who also
    look at those before its own). Negative where a phase is known better than ever. NaN with a
    single phase.
    """
    values = _checked(matrix)
    if len(values) == 1:
        return float("nan")
    best = [values[phase:-1, phase].max() for phase in range(len(values) - 1)]
    return float((np.array(best) - values[-1, :-1]).mean())


def _checked(matrix: ArrayLike) -> Matrix:
    values = np.asarray(matrix, dtype=np.float64)
    if values.ndim != 2 or values.shape[0] != values.shape[1] or not len(values):
        raise ArgumentError("matrix", values.shape, "of shape (phases, phases)")
    if np.isnan(values[np.tril_indices(len(values))]).any():
        raise ArgumentError("matrix", values.tolist(), "without NaN on and below its diagonal")
    return values
