"""Metrics of decision thresholds: F1, balanced accuracy, cost, precision at a recall."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from strategies.errors import ArgumentError

Floats = NDArray[np.float64]

TIE = 1e-12
"""Values of a metric that differ by less count as equal, because of rounding errors."""


@dataclass(frozen=True)
class Objective:
    """Metric that a threshold maximizes.

    Attributes
    ----------
    name : str, default "f1"
        A key of :data:`METRICS`.
    cost_ratio : float, default 1.0
        For ``cost``: the cost of a false negative in false positives, above 0.
    recall : float, default 0.9
        For ``precision-at-recall``: the least recall, above 0 and at most 1.

    Raises
    ------
    ArgumentError
        If an attribute is not allowed.
    """

    name: str = "f1"
    cost_ratio: float = 1.0
    recall: float = 0.9

    def __post_init__(self) -> None:
        if self.name not in METRICS:
            raise ArgumentError("name", self.name, choices=METRICS)
        if not 0 < self.cost_ratio < np.inf:
            raise ArgumentError("cost_ratio", self.cost_ratio, "above 0 and finite")
        if not 0 < self.recall <= 1:
            raise ArgumentError("recall", self.recall, "above 0 and at most 1")

    def value(self, tp: ArrayLike, fp: ArrayLike, fn: ArrayLike, tn: ArrayLike) -> Floats:
        """Return the metric of a confusion matrix; higher is better.

        ``f1`` is ``2 tp / (2 tp + fp + fn)``. ``balanced-accuracy`` is the mean of sensitivity and
        specificity. ``cost`` is ``-(fp + cost_ratio fn) / n``, the negative mean cost.
        ``precision-at-recall`` is ``tp / (tp + fp)`` if the recall is reached, otherwise the
        (negative) difference to it. 0 / 0 counts as 0.

        Parameters
        ----------
        tp, fp, fn, tn : array_like
            Numbers of true positives, false positives, false negatives and true negatives, of the
            same shape; expected numbers are allowed.
        """
        table = [np.asarray(part, dtype=np.float64) for part in (tp, fp, fn, tn)]
        return METRICS[self.name](self, *table)


def share(part: ArrayLike, whole: ArrayLike) -> Floats:
    """Return ``part / whole``, and 0 where the whole is 0."""
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
    reached = recall >= about.recall - TIE
    return np.where(reached, share(tp, tp + fp), recall - about.recall)


METRICS: Mapping[str, Callable[[Objective, Floats, Floats, Floats, Floats], Floats]] = {
    "f1": _f1,
    "balanced-accuracy": _balanced_accuracy,
    "cost": _cost,
    "precision-at-recall": _precision_at_recall,
}
"""Name of a metric -> (objective, tp, fp, fn, tn) -> its value; higher is better."""
