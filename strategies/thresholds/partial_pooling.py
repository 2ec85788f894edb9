"""Partial pooling of decision thresholds: shrinkage, smoothed prevalence, prior shift."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from strategies.errors import ArgumentError
from strategies.randomness import generator
from strategies.thresholds.metrics import Floats, Objective
from strategies.thresholds.search import (
    BINS,
    HALF,
    Counts,
    best_of_histogram,
    best_of_histograms,
)

FEWEST = 5
"""A client with fewer positives, or fewer negatives, gets no local threshold."""

RESAMPLES = 200
"""Number of bootstrap resamples for the variance of a threshold."""

_FLOOR = 0.5 / BINS
"""Probabilities are clipped to this distance from 0 and 1, half a bin, before the logit."""


def logit(values: ArrayLike) -> Floats:
    """Return ``log(p / (1 - p))``, with ``p`` clipped to half a bin from 0 and 1."""
    inside = np.clip(np.asarray(values, dtype=np.float64), _FLOOR, 1 - _FLOOR)
    found: Floats = np.log(inside) - np.log1p(-inside)
    return found


def shrink(own: float, fleet: float, share: float) -> float:
    """Shrink a client's local threshold towards the global one, on the logit scale.

    ``logit t = share logit(own) + (1 - share) logit(fleet)``. A share of 0 gives exactly the global
    threshold, a share of 1 exactly the local one.
    """
    if share <= 0.0:
        return fleet
    if share >= 1.0:
        return own
    middle = share * logit(own) + (1 - share) * logit(fleet)
    return float(1.0 / (1.0 + np.exp(-middle)))


def has_enough(counts: ArrayLike) -> bool:
    """Return whether a histogram has at least :data:`FEWEST` positives and as many negatives."""
    return bool((np.asarray(counts).sum(axis=-1) >= FEWEST).all())


def bootstrap_variance(
    counts: Counts, objective: Objective, near: float, draw: np.random.Generator
) -> float:
    """Return the bootstrap variance of the logit of a client's best threshold.

    Parameters
    ----------
    counts : ndarray
        Histogram ``(2, BINS)`` of the client, not empty.
    objective, near : Objective
        As in :func:`strategies.thresholds.search.best_of_histogram`.
    draw : np.random.Generator
        Generator of the resamples.
    """
    total = int(counts.sum())
    resampled = draw.multinomial(total, counts.ravel() / total, size=RESAMPLES)
    found = best_of_histograms(resampled.reshape(RESAMPLES, 2, BINS), objective, near)
    return float(logit(found).var(ddof=1))


def spread_of(
    histograms: ArrayLike, objective: Objective, near: float, seed: int, *names: int | str
) -> float:
    """Return the between-client variance of the best thresholds, on the logit scale.

    ``tau^2 = max(0, Var_i logit(t_i) - mean_i v_i)`` over clients with enough of both classes.
    ``t_i`` is the best threshold on client i's histogram and ``v_i`` its
    :func:`bootstrap_variance` (method of moments with equal weights: Hedges 1983, Psychological
    Bulletin 93). With fewer than two such clients it is 0.

    Parameters
    ----------
    histograms : array_like
        Histograms ``(clients, 2, BINS)``.
    objective, near : Objective
        As in :func:`strategies.thresholds.search.best_of_histogram`.
    seed, names : int
        Seed of the resamples, and the names of their random streams.
    """
    usable = [each for each in np.asarray(histograms) if has_enough(each)]
    if len(usable) < 2:
        return 0.0
    own = logit(best_of_histograms(usable, objective, near))
    noise = [
        bootstrap_variance(each, objective, near, generator(seed, "threshold", *names, place))
        for place, each in enumerate(usable)
    ]
    return max(0.0, float(own.var(ddof=1) - np.mean(noise)))


def smoothed_prevalence(positives: float, total: float, fleet: float, weight: float) -> float:
    """Return a client's prevalence, smoothed towards the pooled prevalence.

    ``(positives + weight fleet) / (total + weight)``: the posterior mean under a beta prior with
    mean ``fleet`` and a weight of ``weight`` examples. Without examples and weight it is ``fleet``.
    """
    if math.isinf(weight) or total + weight <= 0:
        return fleet
    return (positives + weight * fleet) / (total + weight)


def prevalence_weight(histograms: ArrayLike) -> float:
    """Return the weight of the pooled prevalence in a client's, in examples.

    The method of moments of the beta-binomial distribution (Kleinman 1973, Journal of the American
    Statistical Association 68, weighted by examples): with prevalences ``p_i`` among the ``n_i``
    examples of C clients, the pooled prevalence ``p`` and ``q = 1 - p``,

        ``phi = (S / (p q) - (C - 1)) / (sum_i n_i - sum_i n_i^2 / sum_i n_i - (C - 1))``,
        ``S = sum_i n_i (p_i - p)^2``, ``weight = 1 / phi - 1``.

    The weight is never below 0. It is infinite if prevalences differ no more than by chance, or if
    there are fewer than two clients or classes.

    Parameters
    ----------
    histograms : array_like
        Histograms ``(clients, 2, BINS)``.
    """
    positives, totals = _tallies(histograms)
    clients, count = len(totals), totals.sum()
    if clients < 2 or not 0 < positives.sum() < count:
        return math.inf
    mean = positives.sum() / count
    scatter = float((totals * (positives / totals - mean) ** 2).sum() / (mean * (1 - mean)))
    room = float(count - (totals**2).sum() / count - (clients - 1))
    correlation = (scatter - (clients - 1)) / room if room > 0 else 0.0
    return 1 / min(correlation, 1.0) - 1 if correlation > 0 else math.inf


def _tallies(histograms: ArrayLike) -> tuple[Floats, Floats]:
    """Return the numbers of positives and of examples of every client that has examples."""
    counts = np.asarray(histograms, dtype=np.float64).sum(axis=-1)
    counts = counts[counts.sum(axis=1) > 0]
    return counts[:, 0], counts.sum(axis=1)


def shift(scores: ArrayLike, own: float, fleet: float) -> Floats:
    """Adjust calibrated scores to another prevalence (prior shift).

    ``s r / (s r + 1 - s)``, where ``r`` is the ratio of the odds of the two prevalences. This is
    Bayes' rule if the distribution of the features within a class is the same (Saerens et al.
    2002, Neural Computation 14).

    Parameters
    ----------
    scores : array_like
        Scores ``(N,)`` in [0, 1], calibrated to the prevalence ``fleet``.
    own, fleet : float
        The client's and the pooled prevalence, strictly between 0 and 1.

    Raises
    ------
    ArgumentError
        If a prevalence is 0 or 1.
    """
    for name, prevalence in (("own", own), ("fleet", fleet)):
        if not 0 < prevalence < 1:
            raise ArgumentError(name, prevalence, "strictly between 0 and 1")
    values = np.asarray(scores, dtype=np.float64)
    positive = values * (own / fleet)
    negative = (1 - values) * ((1 - own) / (1 - fleet))
    found: Floats = positive / (positive + negative)
    return found


@dataclass(frozen=True, eq=False)
class Fleet:
    """Pooled statistics of all clients' scores, for one class against the rest.

    Attributes
    ----------
    pooled : ndarray
        Sum ``(2, BINS)`` int64 of the clients' histograms.
    spread : float
        Variance between clients; see :func:`spread_of`.
    weight : float
        Weight of the pooled prevalence in examples; see :func:`prevalence_weight`.
    """

    pooled: Counts
    spread: float
    weight: float

    @property
    def is_one_sided(self) -> bool:
        """Whether there are no positives or no negatives."""
        return not bool(self.pooled.sum(axis=1).all())

    @property
    def prevalence(self) -> float:
        """The pooled prevalence; NaN without examples."""
        positives, negatives = self.pooled.sum(axis=1)
        total = positives + negatives
        return float(positives / total) if total else math.nan

    def threshold(self, objective: Objective) -> float:
        """Return the global threshold; 0.5 if there is only one class."""
        return HALF if self.is_one_sided else best_of_histogram(self.pooled, objective, HALF)


def fleet_of(histograms: ArrayLike, objective: Objective, seed: int, *names: int | str) -> Fleet:
    """Pool the histograms of all clients.

    Parameters
    ----------
    histograms : array_like
        Histograms ``(clients, 2, BINS)``, in an order that depends on the clients only.
    objective : Objective
        Metric that thresholds maximize.
    seed, names : int
        As in :func:`spread_of`.
    """
    every = np.asarray(histograms, dtype=np.int64).reshape(-1, 2, BINS)
    pooled = Fleet(every.sum(axis=0), 0.0, math.inf)
    if pooled.is_one_sided:
        return pooled
    near = pooled.threshold(objective)
    spread = spread_of(every, objective, near, seed, *names)
    return Fleet(pooled.pooled, spread, prevalence_weight(every))
