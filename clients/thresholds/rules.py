"""The rules by which a client finds its threshold. Each gives one number on the raw score.

A rule that calibrates scores, or shifts them to the client's prevalence, says at which raw score
its calibrated score calls an example positive; calibration is monotone. So a rule's threshold is
never applied to scores that another rule has changed.
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
    """What a client has to find a threshold with, of one class against the rest.

    Attributes
    ----------
    scores, labels : ndarray
        ``(N,)`` of its validation examples: the probability of the class in [0, 1], and whether
        they are of it.
    positives, examples : float
        How many of all its examples to learn from, training and validation, are of the class, and
        how many there are.
    fleet : Fleet
        What it was told of all clients.
    objective : Objective
        What the threshold is to be good at.
    seed, names : int, default 0
        Of what is drawn at random.
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
        """The fleet's threshold."""
        return self.fleet.threshold(self.objective)

    @cached_property
    def counts(self) -> Counts:
        """The client's own histogram."""
        return histogram(self.scores, self.labels)

    @property
    def is_enough(self) -> bool:
        """Whether the client may have a threshold of its own scores."""
        return has_enough(self.counts)

    @property
    def prevalence(self) -> float:
        """The client's share of positives, smoothed towards the fleet's."""
        fleet = self.fleet
        return smoothed_prevalence(self.positives, self.examples, fleet.prevalence, fleet.weight)

    def expecting(self, chances: Floats) -> float:
        """Return the best threshold where examples are positive with these probabilities."""
        return best_threshold(self.scores, chances, self.objective, self.common)


def half(_: Evidence) -> float:
    """Return 0.5."""
    return HALF


def common(evidence: Evidence) -> float:
    """Return the best threshold of all clients' scores together."""
    return evidence.common


def personal(evidence: Evidence) -> float:
    """Return the best threshold of the client's own scores; the fleet's where they are few."""
    if not evidence.is_enough:
        return evidence.common
    return evidence.expecting(evidence.labels.astype(np.float64))


def shrunk(evidence: Evidence) -> float:
    """Return its own best threshold, shrunk towards the fleet's by what it is known better.

    The share of its own is ``tau^2 / (tau^2 + v)``, with ``tau^2`` the spread of the fleet's
    thresholds and ``v`` the bootstrap variance of its own, on the logit scale (empirical Bayes,
    Efron and Morris 1975).
    """
    if not evidence.is_enough:
        return evidence.common
    draw = generator(evidence.seed, "threshold", "own", *evidence.names)
    noise = bootstrap_variance(evidence.counts, evidence.objective, evidence.common, draw)
    spread = evidence.fleet.spread
    own = spread / (spread + noise) if spread else 0.0
    return shrink(personal(evidence), evidence.common, own)


def shared_curve(evidence: Evidence) -> float:
    """Return what the fleet's rates and the client's own prevalence say is best."""
    return shared_curve_threshold(
        evidence.fleet.pooled, evidence.prevalence, evidence.objective, evidence.common
    )


def prior_shift(evidence: Evidence) -> float:
    """Return where scores, shifted to the client's prevalence, have the best expected metric.

    Scores are taken to be calibrated to the fleet. The fleet's threshold without scores, or where
    the smoothed prevalence is 0 or 1.
    """
    own, fleet = evidence.prevalence, evidence.fleet.prevalence
    if not len(evidence.scores) or not 0 < own < 1:
        return evidence.common
    return evidence.expecting(shift(evidence.scores, own, fleet))


def platt(evidence: Evidence) -> float:
    """Return where scores, calibrated by a logistic curve, have the best expected metric.

    Platt 1999: logistic regression on the logit of the score, without his smoothed targets, with
    scikit-learn's default ridge. The fleet's threshold where the curve does not rise.
    """
    if not evidence.is_enough:
        return evidence.common
    from sklearn.linear_model import LogisticRegression  # a second to import

    inputs = logit(evidence.scores)[:, None]
    fitted = LogisticRegression().fit(inputs, evidence.labels)
    if fitted.coef_[0, 0] <= 0:  # then high scores would be the negatives
        return evidence.common
    return evidence.expecting(fitted.predict_proba(inputs)[:, 1])


def isotonic(evidence: Evidence) -> float:
    """Return where scores, calibrated by a rising step function, have the best expected metric.

    Zadrozny and Elkan 2002: isotonic regression of the labels on the scores. The steps are those of
    the convex hull of the curve of true and false positive rates. The best table of F1, of
    balanced accuracy and of a cost is on that hull, and there the expected numbers are the
    observed ones: for these metrics the rule finds the personal threshold again, but for ties.
    """
    if not evidence.is_enough:
        return evidence.common
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(y_min=0.0, y_max=1.0)
    chances = fitted.fit_transform(evidence.scores, evidence.labels.astype(np.float64))
    return evidence.expecting(np.clip(chances, 0.0, 1.0))


Rule = Callable[[Evidence], float]

RULES: Mapping[str, Rule] = {
    "half": half,
    "global": common,
    "personal": personal,
    "shrunk": shrunk,
    "shared-curve": shared_curve,
    "prior-shift": prior_shift,
    "platt": platt,
    "isotonic": isotonic,
}
"""Name of a rule -> evidence -> threshold."""


def thresholds_of(evidence: Evidence) -> dict[str, float]:
    """Return the threshold of every rule; all 0.5 in a fleet that knows one class only."""
    if evidence.fleet.is_one_sided:
        return dict.fromkeys(RULES, HALF)
    return {name: rule(evidence) for name, rule in RULES.items()}
