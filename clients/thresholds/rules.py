"""Threshold rules: local, global, partially pooled, by calibration, by prior shift.

Every rule returns a threshold on the raw score. A rule that calibrates scores, or shifts them to
the client's prevalence, returns the raw score at its threshold for calibrated scores, since
calibration is monotone. So a rule's threshold is never applied to scores that another rule changed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from strategies.randomness import generator
from strategies.thresholds.metrics import Objective
from strategies.thresholds.partial_pooling import (
    Fleet,
    bootstrap_variance,
    has_enough,
    logit,
    shift,
    shrink,
    smoothed_prevalence,
)
from strategies.thresholds.search import (
    HALF,
    Counts,
    best_threshold,
    histogram,
    shared_curve_threshold,
)

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Evidence:
    """Data from which a client finds a threshold, for one class against the rest.

    Attributes
    ----------
    scores, labels : ndarray
        For each validation example, ``(N,)``: the probability of the class in [0, 1], and whether
        the example belongs to it.
    positives, examples : float
        Number of examples of the class, and of all examples, in training and validation data.
    fleet : Fleet
        Pooled statistics of all clients.
    objective : Objective
        Metric that the threshold maximizes.
    seed, names : int, default 0
        Seed and names of the random streams.
    """

    scores: Floats
    labels: NDArray[np.bool_]
    positives: float
    examples: float
    fleet: Fleet
    objective: Objective
    seed: int = 0
    names: tuple[int | str, ...] = ()

    @cached_property
    def common(self) -> float:
        """The global threshold."""
        return self.fleet.threshold(self.objective)

    @cached_property
    def counts(self) -> Counts:
        """The client's histogram of scores."""
        return histogram(self.scores, self.labels)

    @property
    def is_enough(self) -> bool:
        """Whether the client has enough scores for a local threshold."""
        return has_enough(self.counts)

    @property
    def prevalence(self) -> float:
        """The client's prevalence, smoothed towards the pooled prevalence."""
        fleet = self.fleet
        return smoothed_prevalence(self.positives, self.examples, fleet.prevalence, fleet.weight)

    def expecting(self, chances: Floats) -> float:
        """Return the best threshold if examples are positive with these probabilities ``(N,)``."""
        return best_threshold(self.scores, chances, self.objective, self.common)


def half(_: Evidence) -> float:
    """Return 0.5."""
    return HALF


def common(evidence: Evidence) -> float:
    """Return the best threshold of all clients' pooled scores."""
    return evidence.common


def personal(evidence: Evidence) -> float:
    """Return the best threshold of the client's scores; the global one if there are few scores."""
    if not evidence.is_enough:
        return evidence.common
    return evidence.expecting(evidence.labels.astype(np.float64))


def shrunk(evidence: Evidence) -> float:
    """Return the client's best threshold, shrunk towards the global one (empirical Bayes).

    The weight of the local threshold is ``tau^2 / (tau^2 + v)``, where ``tau^2`` is the variance of
    thresholds between clients and ``v`` the bootstrap variance of the client's threshold, both on
    the logit scale (Efron & Morris 1975, Journal of the American Statistical Association 70).
    """
    if not evidence.is_enough:
        return evidence.common
    draw = generator(evidence.seed, "threshold", "own", *evidence.names)
    noise = bootstrap_variance(evidence.counts, evidence.objective, evidence.common, draw)
    spread = evidence.fleet.spread
    own = spread / (spread + noise) if spread else 0.0
    return shrink(personal(evidence), evidence.common, own)


def shared_curve(evidence: Evidence) -> float:
    """Return the best threshold on the pooled ROC curve at the client's prevalence."""
    return shared_curve_threshold(
        evidence.fleet.pooled, evidence.prevalence, evidence.objective, evidence.common
    )


def prior_shift(evidence: Evidence) -> float:
    """Return the best threshold after shifting scores to the client's prevalence.

    The rule assumes that scores are calibrated to the pooled prevalence. Without scores, or if the
    smoothed prevalence is 0 or 1, it returns the global threshold.
    """
    own, fleet = evidence.prevalence, evidence.fleet.prevalence
    if not len(evidence.scores) or not 0 < own < 1:
        return evidence.common
    return evidence.expecting(shift(evidence.scores, own, fleet))


def platt(evidence: Evidence) -> float:
    """Return the best threshold after calibrating scores by a logistic curve.

    Platt (1999): logistic regression on the logit of the score, without his smoothed targets, with
    scikit-learn's default ridge penalty. If the curve does not increase, the rule returns the
    global threshold.
    """
    if not evidence.is_enough:
        return evidence.common
    from sklearn.linear_model import LogisticRegression  # a second to import

    inputs = logit(evidence.scores)[:, None]
    fitted = LogisticRegression().fit(inputs, evidence.labels)
    if fitted.coef_[0, 0] <= 0:  # then high scores would be the negatives
        return evidence.common
    return evidence.expecting(fitted.predict_proba(inputs)[:, 1])


Rule = Callable[[Evidence], float]

RULES: Mapping[str, Rule] = {
    "half": half,
    "global": common,
    "personal": personal,
    "shrunk": shrunk,
    "shared-curve": shared_curve,
    "prior-shift": prior_shift,
    "platt": platt,
}
"""Name of a rule -> evidence -> threshold."""


def thresholds_of(evidence: Evidence) -> dict[str, float]:
    """Return the threshold of every rule; 0.5 for all if there is only one class."""
    if evidence.fleet.is_one_sided:
        return dict.fromkeys(RULES, HALF)
    return {name: rule(evidence) for name, rule in RULES.items()}
