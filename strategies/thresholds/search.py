"""From which score on is an example called positive? The threshold that is best for a metric.

A threshold t calls an example positive when its score s, in [0, 1], is at least t. What a fleet
needs to know of its clients' scores are two integer histograms each, of positives and of negatives.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

BINS = 200
"""Bins of equal width of [0, 1]. A score on an edge is in the bin above it, 1 in the last."""

EDGES: Floats = np.arange(BINS) / BINS
"""``(BINS,)`` the lower edges."""

NOBODY = float(np.nextafter(1.0, 2.0))
"""The threshold that calls nobody positive: just above every score."""

HALF = 0.5
"""The threshold that needs no choice."""

_MOST = 2**31
"""Examples of a client in a bin; more would be a lie, and could overflow the sum over clients."""

MOST_TOGETHER = 2**53
"""Examples of all clients in a bin; beyond, float64 would not tell every count from the next."""

_TIE = 1e-12
"""Values of a metric that differ by less are equal: sums in another order differ so much."""


@dataclass(frozen=True)
class Objective:
    """What a threshold is to be good at.

    Attributes
    ----------
    name : str, default "f1"
        One of :data:`METRICS`.
    cost_ratio : float, default 1.0
        Of ``cost``, what a positive that is missed costs in false alarms, above 0.
    recall : float, default 0.9
        Of ``precision-at-recall``, the share of positives that must be found, above 0 to 1.

    Raises
    ------
    ValueError
        If one of them is none of these.
    """

    name: str = "f1"
    cost_ratio: float = 1.0
    recall: float = 0.9

    def __post_init__(self) -> None:
        if self.name not in METRICS:
            raise ValueError(f"unknown metric {self.name!r}; use {', '.join(METRICS)}")
        if not 0 < self.cost_ratio < np.inf:
            raise ValueError(f"cost_ratio must be above 0 and finite, got {self.cost_ratio}")
        if not 0 < self.recall <= 1:
            raise ValueError(f"recall must be above 0 and at most 1, got {self.recall}")

    def value(self, tp: ArrayLike, fp: ArrayLike, fn: ArrayLike, tn: ArrayLike) -> Floats:
        """Return the metric of a table of true and predicted classes; more is better.

        ``f1`` is ``2 tp / (2 tp + fp + fn)``. ``balanced-accuracy`` is the mean of the shares of
        positives and of negatives that are told right. ``cost`` is the cost of an example times
        -1, ``-(fp + cost_ratio fn) / n``. ``precision-at-recall`` is ``tp / (tp + fp)`` where
        the recall is reached, and what the recall lacks, times -1, where it is not. A share of
        nothing is 0.

        Parameters
        ----------
        tp, fp, fn, tn : array_like
            Numbers of true positives, false positives, false negatives and true negatives, of the
            same shape; expected numbers are fine.
        """
        table = [np.asarray(part, dtype=np.float64) for part in (tp, fp, fn, tn)]
        return METRICS[self.name](self, *table)


def share(part: ArrayLike, whole: ArrayLike) -> Floats:
    """Return ``part / whole``; 0 where the whole is 0."""
    over, under = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    found: Floats = np.divide(over, under, out=np.zeros_like(over + under), where=under != 0)
    return found


def _f1(_: Objective, tp: Floats, fp: Floats, fn: Floats, tn: Floats) -> Floats:
    return share(2 * tp, 2 * tp + fp + fn)


def _balanced_accuracy(_: Objective, tp: Floats, fp: Floats, fn: Floats, tn: Floats) -> Floats:
    return (share(tp, tp + fn) + share(tn, tn + fp)) / 2


def _cost(about: Objective, tp: Floats, fp: Floats, fn: Floats, tn: Floats) -> Floats:
    return -share(fp + about.cost_ratio * fn, tp + fp + fn + tn)


def _precision_at_recall(
    about: Objective, tp: Floats, fp: Floats, fn: Floats, tn: Floats
) -> Floats:
    recall = share(tp, tp + fn)
    reached = recall >= about.recall - _TIE
    return np.where(reached, share(tp, tp + fp), recall - about.recall)


METRICS: Mapping[str, Callable[[Objective, Floats, Floats, Floats, Floats], Floats]] = {
    "f1": _f1,
    "balanced-accuracy": _balanced_accuracy,
    "cost": _cost,
    "precision-at-recall": _precision_at_recall,
}
"""Name of a metric -> (objective, tp, fp, fn, tn) -> its value, more is better."""


def check_scores(scores: ArrayLike) -> Floats:
    """Return scores as ``(N,)`` float64.

    Raises
    ------
    ValueError
        If they are no vector, or one of them is not in [0, 1], such as NaN.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"scores must be a vector, they have shape {values.shape}")
    odd = values[~((values >= 0) & (values <= 1))]
    if odd.size:
        raise ValueError(
            f"scores must be in [0, 1], but {odd.size} of {values.size} are not, such as {odd[0]}"
        )
    return values


def histogram(scores: ArrayLike, labels: ArrayLike) -> Counts:
    """Return how many positives and negatives have a score in each bin.

    At a threshold ``t`` that is an edge, the bins from it on hold exactly the scores ``s >= t``.

    Parameters
    ----------
    scores : array_like
        ``(N,)`` in [0, 1].
    labels : array_like
        ``(N,)`` 1 or True for positives, 0 for negatives.

    Returns
    -------
    ndarray
        ``(2, BINS)`` int64, positives first.

    Raises
    ------
    ValueError
        If a score is not in [0, 1].
    """
    values, positive = check_scores(scores), np.asarray(labels).astype(bool)
    bins = np.searchsorted(EDGES, values, side="right") - 1
    rows = [np.bincount(bins[rows], minlength=BINS) for rows in (positive, ~positive)]
    return np.stack(rows).astype(np.int64)


def check_histogram(counts: ArrayLike, most: int = _MOST) -> Counts:
    """Return what was told as a histogram.

    Parameters
    ----------
    counts : array_like
        ``2 BINS`` integers, those of positives first.
    most : int, default _MOST
        How many there can be in a bin; :data:`MOST_TOGETHER` for those of all clients.

    Returns
    -------
    ndarray
        ``(2, BINS)`` int64.

    Raises
    ------
    ValueError
        If these are no such counts.
    """
    found = np.asarray(counts)
    if found.size != 2 * BINS or found.dtype.kind not in "iu":
        raise ValueError(
            f"a histogram is {2 * BINS} integers; these are {found.size} of type {found.dtype}"
        )
    if found.min() < 0 or found.max() > most:
        odd = found.min() if found.min() < 0 else found.max()
        raise ValueError(f"a histogram counts examples; there cannot be {odd}")
    return found.reshape(2, BINS).astype(np.int64)


def from_here_on(counts: Floats) -> Floats:
    """Return the sums from every place to the end, and 0 for none, along the last axis."""
    sums = np.cumsum(counts[..., ::-1], axis=-1)[..., ::-1]
    return np.concatenate([sums, np.zeros_like(sums[..., :1])], axis=-1)


def _values(positives: Floats, negatives: Floats, objective: Objective) -> Floats:
    """Return the metric at every place from which on examples are called positive, and at none.

    Parameters
    ----------
    positives, negatives : ndarray
        ``(..., M)`` numbers of them at each of M ascending scores.
    """
    tp, fp = from_here_on(positives), from_here_on(negatives)
    return objective.value(tp, fp, tp[..., :1] - tp, fp[..., :1] - fp)


def _nearest_best(values: Floats, candidates: Floats, near: float) -> NDArray[np.intp]:
    """Return, along the last axis, the place of the best value; of equals the nearest candidate.

    Of two that are equally near it is the lower one.
    """
    equal = values >= values.max(axis=-1, keepdims=True) - _TIE
    found: NDArray[np.intp] = np.where(equal, np.abs(candidates - near), np.inf).argmin(axis=-1)
    return found


def best_threshold(
    scores: ArrayLike, chances: ArrayLike, objective: Objective, near: float
) -> float:
    """Return the threshold whose expected metric is best.

    The metric of the expected table of true and predicted classes is taken for the expected
    metric; for F1 of calibrated scores the best threshold is then half of the best F1 (Lipton et
    al. 2014, arXiv:1402.1892). Candidates are the midpoints of neighbouring distinct scores, 0
    (everybody is positive) and :data:`NOBODY`. Takes O(N log N).

    Parameters
    ----------
    scores : array_like
        ``(N,)`` in [0, 1].
    chances : array_like
        ``(N,)`` the probability that each example is positive: its label, 0 or 1, or a calibrated
        probability.
    objective : Objective
        What is to be best.
    near : float
        Of thresholds that are equally good, the nearest to this one is returned.

    Raises
    ------
    ValueError
        If there are no scores, one of them is not in [0, 1], or a chance is none.
    """
    values = check_scores(scores)
    weights = np.asarray(chances, dtype=np.float64)
    if not len(values) or weights.shape != values.shape:
        raise ValueError(f"{weights.shape} chances for {values.shape} scores; both must be there")
    if not ((weights >= 0) & (weights <= 1)).all():
        raise ValueError("the chance of being positive must be in [0, 1]")
    order = np.lexsort((weights, values))  # so that sums do not depend on the order of patients
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
    """Return the edge of a bin, or :data:`NOBODY`, at which the metric is best.

    Parameters
    ----------
    counts : array_like
        ``(2, BINS)`` from :func:`histogram`, of one client or of several together; fractions are
        fine.
    objective, near : Objective
        As in :func:`best_threshold`.
    """
    return float(best_of_histograms(np.asarray(counts)[None], objective, near)[0])


def best_of_histograms(counts: ArrayLike, objective: Objective, near: float) -> Floats:
    """Return :func:`best_of_histogram` of each of several, ``(R, 2, BINS)``: ``(R,)``."""
    found = np.asarray(counts, dtype=np.float64)
    values = _values(found[:, 0], found[:, 1], objective)
    return _CANDIDATES[_nearest_best(values, _CANDIDATES, near)]


def shared_curve_threshold(
    pooled: ArrayLike, prevalence: float, objective: Objective, near: float
) -> float:
    """Return the threshold that is best where positives are as frequent as stated.

    The rates at which positives and negatives are called positive are the fleet's, at every edge
    of its histogram; the metric is that of ``prevalence TPR``, ``(1 - prevalence) FPR`` and so on.

    Parameters
    ----------
    pooled : array_like
        ``(2, BINS)`` the sum of the clients' histograms, with positives and negatives.
    prevalence : float
        Share of positives, 0 to 1.
    objective, near : Objective
        As in :func:`best_threshold`.
    """
    counts = np.asarray(pooled, dtype=np.float64)
    rates = counts / counts.sum(axis=1, keepdims=True)
    weights = np.array([[prevalence], [1.0 - prevalence]])
    return best_of_histogram(rates * weights, objective, near)
