"""What clients borrow from the fleet for a threshold of their own: strength, prevalence, shift."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from strategies.randomness import generator
from strategies.thresholds.search import (
    BINS,
    HALF,
    Counts,
    Floats,
    Objective,
    best_of_histogram,
    best_of_histograms,
)

FEWEST = 5
"""A client with fewer positives, or fewer negatives, has no threshold of its own."""

RESAMPLES = 200
"""Bootstrap resamples behind the variance of a threshold."""

_FLOOR = 0.5 / BINS
"""The logit of a threshold is that of one at least so far from 0 and 1: half a bin."""


def logit(values: ArrayLike) -> Floats:
    """Return ``log(p / (1 - p))``, of values moved half a bin away from 0 and 1 if need be."""
    inside = np.clip(np.asarray(values, dtype=np.float64), _FLOOR, 1 - _FLOOR)
    found: Floats = np.log(inside) - np.log1p(-inside)
    return found


def shrink(own: float, fleet: float, share: float) -> float:
    """Return a threshold between a client's own and the fleet's, on the logit scale.

    ``logit t = share logit(own) + (1 - share) logit(fleet)``; at a share of 0 and of 1 it is the
    fleet's and the own one, bit for bit.
    """
    if share <= 0.0:
        return fleet
    if share >= 1.0:
        return own
    middle = share * logit(own) + (1 - share) * logit(fleet)
    return float(1.0 / (1.0 + np.exp(-middle)))


def has_enough(counts: ArrayLike) -> bool:
    """Whether a histogram has at least :data:`FEWEST` positives, and as many negatives."""
    return bool((np.asarray(counts).sum(axis=-1) >= FEWEST).all())


def bootstrap_variance(
    counts: Counts, objective: Objective, near: float, draw: np.random.Generator
) -> float:
    """Return the variance of the logit of a client's best threshold over resamples of its scores.

    Parameters
    ----------
    counts : ndarray
        ``(2, BINS)`` its histogram, not empty.
    objective, near : Objective
        As in :func:`strategies.thresholds.search.best_of_histogram`.
    draw : np.random.Generator
        What resamples are drawn with.
    """
    total = int(counts.sum())
    resampled = draw.multinomial(total, counts.ravel() / total, size=RESAMPLES)
    found = best_of_histograms(resampled.reshape(RESAMPLES, 2, BINS), objective, near)
    return float(logit(found).var(ddof=1))


def spread_of(
    histograms: ArrayLike, objective: Objective, near: float, seed: int, *names: int | str
) -> float:
    """Return how much clients' best thresholds truly differ: their variance, on the logit scale.

    ``tau^2 = max(0, Var_i logit(t_i) - mean_i v_i)`` over clients with enough of both classes,
    where ``t_i`` is the best threshold on client i's histogram and ``v_i`` its
    :func:`bootstrap_variance` (moments with equal weights: Hedges 1983, Psychological Bulletin 93).
    0 with fewer than two such clients.

    Parameters
    ----------
    histograms : array_like
        ``(clients, 2, BINS)``.
    objective, near : Objective
        As in :func:`strategies.thresholds.search.best_of_histogram`.
    seed, names : int
        Of the resamples.
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
    """Return a client's share of positives, smoothed towards the fleet's.

    ``(positives + weight fleet) / (total + weight)``: the mean of the posterior where clients'
    shares have a beta distribution of mean ``fleet`` and ``weight`` examples' worth of evidence.
    The fleet's where there is neither.
    """
    if math.isinf(weight) or total + weight <= 0:
        return fleet
    return (positives + weight * fleet) / (total + weight)


def prevalence_weight(histograms: ArrayLike) -> float:
    """Return how many examples the fleet's share of positives is worth to a client.

    The method of moments of the beta-binomial distribution (Kleinman 1973, Journal of the American
    Statistical Association 68, with weights by examples): with client shares ``p_i`` of ``n_i``
    examples, C clients, the share ``p`` of all together and ``q = 1 - p``,

        ``phi = (S / (p q) - (C - 1)) / (sum_i n_i - sum_i n_i^2 / sum_i n_i - (C - 1))``,
        ``S = sum_i n_i (p_i - p)^2``, ``weight = 1 / phi - 1``.

    Infinity where shares differ no more than by chance, or there are fewer than two clients or
    classes; never below 0.

    Parameters
    ----------
    histograms : array_like
        ``(clients, 2, BINS)``.
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
    """Return the numbers of positives, and of all examples, of the clients that have any."""
    counts = np.asarray(histograms, dtype=np.float64).sum(axis=-1)
    counts = counts[counts.sum(axis=1) > 0]
    return counts[:, 0], counts.sum(axis=1)


def shift(scores: ArrayLike, own: float, fleet: float) -> Floats:
    """Return scores that are calibrated to a prevalence, from those calibrated to another.

    ``s r / (s r + 1 - s)`` with ``r`` the ratio of the odds of the two prevalences: Bayes' rule
    where the distribution of the features within a class is the same (Saerens et al. 2002).

    Parameters
    ----------
    scores : array_like
        ``(N,)`` in [0, 1], calibrated to the ``fleet`` prevalence.
    own, fleet : float
        Prevalences, strictly between 0 and 1.

    Raises
    ------
    ValueError
        If a prevalence is 0 or 1.
    """
    if not (0 < own < 1 and 0 < fleet < 1):
        raise ValueError(f"prevalences must be between 0 and 1, got {own} and {fleet}")
    values = np.asarray(scores, dtype=np.float64)
    positive = values * (own / fleet)
    negative = (1 - values) * ((1 - own) / (1 - fleet))
    found: Floats = positive / (positive + negative)
    return found


@dataclass(frozen=True, eq=False)
class Fleet:
    """What clients are told of all their scores together, of one class against the rest.

    Attributes
    ----------
    pooled : ndarray
        ``(2, BINS)`` int64, the sum of the clients' histograms.
    spread : float
        See :func:`spread_of`.
    weight : float
        See :func:`prevalence_weight`.
    """

    pooled: Counts
    spread: float
    weight: float

    @property
    def is_one_sided(self) -> bool:
        """Whether there is not a single positive, or not a single negative, to learn from."""
        return not bool(self.pooled.sum(axis=1).all())

    @property
    def prevalence(self) -> float:
        """The share of positives; not known without examples."""
        positives, negatives = self.pooled.sum(axis=1)
        total = positives + negatives
        return float(positives / total) if total else math.nan

    def threshold(self, objective: Objective) -> float:
        """Return the global threshold; 0.5 where only one class is known."""
        return HALF if self.is_one_sided else best_of_histogram(self.pooled, objective, HALF)


def fleet_of(histograms: ArrayLike, objective: Objective, seed: int, *names: int | str) -> Fleet:
    """Return what all clients' histograms say together.

    Parameters
    ----------
    histograms : array_like
        ``(clients, 2, BINS)``, in an order that depends on the clients only.
    objective : Objective
        What thresholds are to be good at.
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
