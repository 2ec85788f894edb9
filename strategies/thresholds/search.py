"""Decision thresholds: search for the threshold that maximizes a metric, from scores or histograms.

A threshold t classifies an example as positive if its score s, in [0, 1], is at least t. The server
needs two integer histograms of each client's scores: one of positives and one of negatives.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from strategies.errors import ArgumentError
from strategies.thresholds.metrics import TIE, Floats, Objective

Counts = NDArray[np.int64]

BINS = 200
"""Number of equal bins of [0, 1]. A score on an edge is in the bin above it; 1 is in the last."""

EDGES: Floats = np.arange(BINS) / BINS
"""Lower edges of the bins, ``(BINS,)``."""

NOBODY = float(np.nextafter(1.0, 2.0))
"""Threshold just above every score: no example is positive."""

HALF = 0.5
"""Default threshold."""

_MOST = 2**31
"""Limit of a client's examples in a bin: more are implausible, and their sum could overflow."""

MOST_TOGETHER = 2**53
"""Limit of all clients' examples in a bin: float64 represents every integer up to it."""


def check_scores(scores: ArrayLike) -> Floats:
    """Validate scores and return them as ``(N,)`` float64.

    Raises
    ------
    ArgumentError
        If ``scores`` is not a vector, or one of them is not in [0, 1], such as NaN.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1:
        raise ArgumentError("shape of scores", values.shape, "that of a vector")
    odd = values[~((values >= 0) & (values <= 1))]
    if odd.size:
        raise ArgumentError("scores", float(odd[0]), "in [0, 1], for every example")
    return values


def histogram(scores: ArrayLike, labels: ArrayLike) -> Counts:
    """Count the positives and the negatives whose score is in each bin.

    If a threshold ``t`` is an edge, the bins from it on contain exactly the scores ``s >= t``.

    Parameters
    ----------
    scores : array_like
        Scores ``(N,)`` in [0, 1].
    labels : array_like
        Labels ``(N,)``: 1 or True for positives, 0 for negatives.

    Returns
    -------
    ndarray
        Histogram ``(2, BINS)`` int64, positives first.

    Raises
    ------
    ArgumentError
        If a score is not in [0, 1].
    """
    values, positive = check_scores(scores), np.asarray(labels).astype(bool)
    bins = np.searchsorted(EDGES, values, side="right") - 1
    rows = [np.bincount(bins[rows], minlength=BINS) for rows in (positive, ~positive)]
    return np.stack(rows).astype(np.int64)


def check_histogram(counts: ArrayLike, most: int = _MOST) -> Counts:
    """Validate a histogram that a client sent.

    Parameters
    ----------
    counts : array_like
        ``2 * BINS`` integers, those of positives first.
    most : int, default _MOST
        Largest count of a bin; :data:`MOST_TOGETHER` for the sums over all clients.

    Returns
    -------
    ndarray
        Histogram ``(2, BINS)`` int64.

    Raises
    ------
    ArgumentError
        If the number, the type or the size of the counts is wrong.
    """
    found = np.asarray(counts)
    if found.size != 2 * BINS or found.dtype.kind not in "iu":
        content = f"{found.size} of type {found.dtype}"
        raise ArgumentError("counts", content, f"{2 * BINS} integers")
    if found.min() < 0 or found.max() > most:
        odd = found.min() if found.min() < 0 else found.max()
        raise ArgumentError("counts", int(odd), f"from 0 to {most}, in every bin")
    return found.reshape(2, BINS).astype(np.int64)


def from_here_on(counts: Floats) -> Floats:
    """Return sums from each position to the end of the last axis, then 0: ``(..., M + 1)``."""
    sums = np.cumsum(counts[..., ::-1], axis=-1)[..., ::-1]
    return np.concatenate([sums, np.zeros_like(sums[..., :1])], axis=-1)


def _values(positives: Floats, negatives: Floats, objective: Objective) -> Floats:
    """Return the metric for every threshold between sorted scores, ``(..., M + 1)``.

    Parameters
    ----------
    positives, negatives : ndarray
        Numbers ``(..., M)`` of positives and negatives at each of M ascending scores.
    """
    tp, fp = from_here_on(positives), from_here_on(negatives)
    return objective.value(tp, fp, tp[..., :1] - tp, fp[..., :1] - fp)


def _nearest_best(values: Floats, candidates: Floats, near: float) -> NDArray[np.intp]:
    """Return the index of the best value along the last axis; of ties, the one nearest to ``near``.

    Of two that are equally near, it is the lower one.
    """
    equal = values >= values.max(axis=-1, keepdims=True) - TIE
    found: NDArray[np.intp] = np.where(equal, np.abs(candidates - near), np.inf).argmin(axis=-1)
    return found


def best_threshold(
    scores: ArrayLike, chances: ArrayLike, objective: Objective, near: float
) -> float:
    """Return the threshold that maximizes the expected metric, in O(N log N).

    The metric of the expected confusion matrix approximates the expected metric. For F1 of
    calibrated scores the best threshold is then half of the best F1 (Lipton et al. 2014,
    arXiv:1402.1892). Candidates are the midpoints of adjacent distinct scores, 0 (all examples are
    positive) and :data:`NOBODY`.

    Parameters
    ----------
    scores : array_like
        Scores ``(N,)`` in [0, 1].
    chances : array_like
        Probability ``(N,)`` that each example is positive: its label, 0 or 1, or a calibrated
        probability.
    objective : Objective
        The metric to maximize.
    near : float
        Among equally good thresholds, the one nearest to this is returned.

    Raises
    ------
    ArgumentError
        If there are no scores, or a score or a probability is not in [0, 1].
    """
    values = check_scores(scores)
    weights = np.asarray(chances, dtype=np.float64)
    if not len(values) or weights.shape != values.shape:
        wanted = f"that of the scores, {values.shape}, and not empty"
        raise ArgumentError("shape of chances", weights.shape, wanted)
    if not ((weights >= 0) & (weights <= 1)).all():
        odd = weights[~((weights >= 0) & (weights <= 1))]
        raise ArgumentError("chances", float(odd[0]), "in [0, 1], for every example")
    order = np.lexsort((weights, values))  # so that sums do not depend on the order of examples
    values, weights = values[order], weights[order]
    distinct, starts = np.unique(values, return_index=True)
    positives = np.add.reduceat(weights, starts)
    negatives = np.add.reduceat(1.0 - weights, starts)
    middle = distinct[:-1] + (distinct[1:] - distinct[:-1]) / 2
    middle = np.where(middle > distinct[:-1], middle, distinct[1:])  # of neighbouring floats
    candidates = np.concatenate([[0.0], middle, [NOBODY]])
    found = _values(positives, negatives, objective)
    return float(candidates[_nearest_best(found, candidates, near)])


_CANDIDATES: Floats = np.append(EDGES, NOBODY)


def best_of_histogram(counts: ArrayLike, objective: Objective, near: float) -> float:
    """Return the edge of a bin, or :data:`NOBODY`, that maximizes the metric.

    Parameters
    ----------
    counts : array_like
        Histogram ``(2, BINS)`` of one client or summed over several; fractions are allowed.
    objective, near : Objective
        As in :func:`best_threshold`.
    """
    return float(best_of_histograms(np.asarray(counts)[None], objective, near)[0])


def best_of_histograms(counts: ArrayLike, objective: Objective, near: float) -> Floats:
    """Return :func:`best_of_histogram`, ``(R,)``, of each of R histograms ``(R, 2, BINS)``."""
    found = np.asarray(counts, dtype=np.float64)
    values = _values(found[:, 0], found[:, 1], objective)
    return _CANDIDATES[_nearest_best(values, _CANDIDATES, near)]


def shared_curve_threshold(
    pooled: ArrayLike, prevalence: float, objective: Objective, near: float
) -> float:
    """Return the best threshold on the pooled ROC curve at a client's prevalence.

    The true and false positive rates (TPR, FPR) at every edge are those of all clients. The
    confusion matrix is ``tp = prevalence TPR``, ``fp = (1 - prevalence) FPR`` and so on.

    Parameters
    ----------
    pooled : array_like
        Sum ``(2, BINS)`` of the clients' histograms, with positives and negatives.
    prevalence : float
        Share of positives at the client, 0 to 1.
    objective, near : Objective
        As in :func:`best_threshold`.
    """
    counts = np.asarray(pooled, dtype=np.float64)
    rates = counts / counts.sum(axis=1, keepdims=True)
    weights = np.array([[prevalence], [1.0 - prevalence]])
    return best_of_histogram(rates * weights, objective, near)
