"""A client that finds decision thresholds of its own, after training, whatever the method."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from flwr.client import NumPyClient
from numpy.typing import NDArray
from torch import Tensor

from clients.base_client import NDArrays, Scalars
from clients.evaluation import Predictions
from clients.personal_client import PersonalClient
from clients.state.model_file import THRESHOLDS
from clients.state.state_file import PersonalStateError
from clients.thresholds.rules import RULES, Evidence, thresholds_of
from strategies.errors import ArgumentError
from strategies.protocol import (
    PARTITION_ID,
    SERVER_ROUND,
    THRESHOLD,
    THRESHOLD_HISTOGRAM,
    THRESHOLD_SPREADS,
    THRESHOLD_WEIGHTS,
)
from strategies.randomness import named_seed
from strategies.thresholds.metrics import Objective, share
from strategies.thresholds.partial_pooling import Fleet, logit
from strategies.thresholds.search import (
    BINS,
    MOST_TOGETHER,
    check_histogram,
    check_scores,
    histogram,
)

SCORES = ("f1", "balanced-accuracy", "precision", "recall", "accuracy")
"""What every rule is scored by, on test examples: metrics ``<score>-<rule>``."""

REPORTED = tuple(f"{score}-{rule}" for score in SCORES for rule in RULES)
"""The metrics in the answer to ``choose``: shares, NaN where not known."""

Floats = NDArray[np.float64]

_WHEN = "when"
"""Beside the values: in which run they were found, and after which round."""


class ThresholdClient(NumPyClient):
    """Find a client's decision thresholds on its own validation examples.

    Two evaluations after the last round: first it counts its validation scores, two integer
    histograms a class; then it is sent those of all clients together, finds the threshold of every
    rule, keeps that of one of them as personal state and reports how good each is on its test
    examples. No threshold is ever sent.

    With two classes there is one threshold, of class 1. With more each class has one, against the
    rest, and the scores are means over classes.

    Parameters
    ----------
    client : PersonalClient
        Any that predicts classes.
    rule : str
        Name in :data:`clients.thresholds.rules.RULES`, whose thresholds are kept.
    objective : Objective
        What thresholds are to be good at.
    num_classes : int
        Number of classes, at least 2.

    Attributes
    ----------
    shared_names : list of str
        As the client's.

    Raises
    ------
    ArgumentError
        If there are fewer than 2 classes, or no such rule.
    """

    def __init__(
        self, client: PersonalClient, rule: str, objective: Objective, num_classes: int
    ) -> None:
        if num_classes < 2:
            raise ArgumentError("num_classes", num_classes, "at least 2")
        if rule not in RULES:
            raise ArgumentError("rule", rule, choices=RULES)
        self.client = client
        self.rule = rule
        self.objective = objective
        self.num_classes = num_classes
        self.shared_names = client.shared_names

    def evaluate(self, parameters: NDArrays, config: dict[str, Any]) -> tuple[float, int, Scalars]:
        """Count scores, or choose thresholds.

        Parameters
        ----------
        parameters : list of ndarray
            In the order of ``shared_names``.
        config : dict of str to object
            As in :meth:`PersonalClient.evaluate`, and ``threshold``: ``count`` or ``choose``; the
            latter comes with ``threshold-histogram``, ``threshold-spreads`` and
            ``threshold-weights`` of the fleet.

        Returns
        -------
        tuple of float, int and dict
            Loss and number of validation examples (``count``) or of test examples (``choose``);
            ``partition-id``, and ``threshold-histogram`` or the scores of every rule.

        Raises
        ------
        ArgumentError
            If it is neither, the examples to count are missing, a score is not finite, or what is
            sent of the fleet does not fit the model.
        """
        steps = {"count": self._count, "choose": self._choose}
        step = str(config.get(THRESHOLD))
        if step not in steps:
            raise ArgumentError(THRESHOLD, step, choices=steps)
        known = self.client.predictions(parameters, config, self.num_classes)
        number = self.client.partition_id
        identity: Scalars = {} if number is None else {PARTITION_ID: number}
        loss, examples, metrics = steps[step](known, config)
        return loss, examples, identity | metrics

    def _count(
        self, known: Mapping[str, Predictions], _: Mapping[str, Any]
    ) -> tuple[float, int, Scalars]:
        found = known["validation"]
        if not len(found.targets):
            wanted = "non-empty: the scores of its examples are counted"
            raise ArgumentError("validation_loader", [], wanted)
        counts = [histogram(s, y).ravel() for s, y in one_against_rest(found)]
        report: Any = {THRESHOLD_HISTOGRAM: np.concatenate(counts).tolist()}
        return found.loss, len(found.targets), report

    def _choose(
        self, known: Mapping[str, Predictions], config: Mapping[str, Any]
    ) -> tuple[float, int, Scalars]:
        validation, test = known["validation"], known["test"]
        check_scores(test.chances.ravel())
        fleets = _fleets(config)
        classes = one_against_rest(validation)
        if len(fleets) != len(classes):
            wanted = f"{len(classes)}, those of the model"
            raise ArgumentError("number of classes", len(fleets), wanted)
        positives, examples = self._tally(validation.targets)
        chosen = [
            thresholds_of(
                Evidence(
                    scores=scores,
                    labels=wanted,
                    positives=positives[place],
                    examples=examples,
                    fleet=fleets[place],
                    objective=self.objective,
                    seed=self.client.seed,
                    names=(self.client.partition_id or 0, place),
                )
            )
            for place, (scores, wanted) in enumerate(classes)
        ]
        by_rule = {rule: [each[rule] for each in chosen] for rule in RULES}
        kept = {"values": torch.tensor(by_rule[self.rule], dtype=torch.float64)}
        server_round = int(config.get(SERVER_ROUND, 0))
        when = {_WHEN: _when(self.client, server_round)}
        self.client.keep(server_round, THRESHOLDS, kept | when)
        self.client.keep_model(server_round, kept)
        metrics: Scalars = {}
        for rule, thresholds in by_rule.items():
            found = scores_at(test, thresholds)
            metrics |= {f"{name}-{rule}": value for name, value in found.items()}
        return test.loss, len(test.targets), metrics

    def _tally(self, validation: NDArray[np.int64]) -> tuple[list[float], float]:
        """Return how many examples to learn from are of each class, and how many there are.

        A training example counts once, however often it is there with other fillings.
        """
        training = self.client.training_labels()
        once = self.client.num_examples / max(1, len(training))
        pairs = zip(
            _against_rest(training, self.num_classes),
            _against_rest(validation, self.num_classes),
            strict=True,
        )
        positives = [once * float(own.sum()) + float(held.sum()) for own, held in pairs]
        return positives, once * len(training) + len(validation)


def kept_thresholds(client: PersonalClient) -> tuple[float, ...] | None:
    """Return the thresholds that a client keeps; None if it has none."""
    kept = client.kept(THRESHOLDS)
    return tuple(kept["values"].tolist()) if kept else None


def thresholds_of_round(client: PersonalClient, server_round: int) -> dict[str, Tensor]:
    """Return the thresholds that a client found after a round of this run; empty without any.

    A client keeps those of an earlier run until it finds others, but they are of another model.
    """
    try:
        kept = client.kept(THRESHOLDS)
    except PersonalStateError:  # for the same reason none could be kept
        return {}
    fresh = _WHEN in kept and torch.equal(kept[_WHEN], _when(client, server_round))
    return {"values": kept["values"]} if fresh else {}


def _when(client: PersonalClient, server_round: int) -> Tensor:
    return torch.tensor([named_seed(server_round, client.state.run)], dtype=torch.int64)


def _fleets(config: Mapping[str, Any]) -> list[Fleet]:
    """Return what is sent of all clients together, of each class."""
    counts = np.asarray(config[THRESHOLD_HISTOGRAM])
    spreads, weights = config[THRESHOLD_SPREADS], config[THRESHOLD_WEIGHTS]
    checked = [check_histogram(each, MOST_TOGETHER) for each in counts.reshape(-1, 2 * BINS)]
    return [Fleet(*each) for each in zip(checked, spreads, weights, strict=True)]


def _against_rest(targets: NDArray[np.int64], classes: int) -> list[NDArray[np.bool_]]:
    """Return, of each class that has a threshold, which examples are of it."""
    return [targets == c for c in ((1,) if classes == 2 else range(classes))]


def one_against_rest(found: Predictions) -> list[tuple[Floats, NDArray[np.bool_]]]:
    """Return the scores and labels of each class that has a threshold.

    Of class 1 where there are two classes, of every class where there are more.
    """
    classes = found.chances.shape[1]
    columns = found.chances[:, 1:].T if classes == 2 else found.chances.T
    return list(zip(columns, _against_rest(found.targets, classes), strict=True))


def decide(chances: Floats, thresholds: Sequence[float]) -> NDArray[np.int64]:
    """Return the class of each example under some thresholds.

    With two classes, 1 where its probability is at least the threshold. With more, the class whose
    probability is furthest above its threshold on the logit scale, ``logit p_c - logit t_c``; the
    first one in a tie.

    Parameters
    ----------
    chances : ndarray
        ``(N, K)`` probabilities of the classes.
    thresholds : sequence of float
        One for two classes, K for K more.
    """
    if chances.shape[1] == 2:
        return (chances[:, 1] >= thresholds[0]).astype(np.int64)
    found: NDArray[np.int64] = (logit(chances) - logit(thresholds)).argmax(axis=1)
    return found


def scores_at(found: Predictions, thresholds: Sequence[float]) -> dict[str, float]:
    """Return :data:`SCORES` on some examples: of class 1, or the means over more classes.

    Where nobody is of a class, nothing of it is known (NaN), and it is left out of the means; nor
    is balanced accuracy where everybody is. The precision of calling nobody positive is 0.
    Accuracy is that of :func:`decide`.
    """
    pairs = zip(one_against_rest(found), thresholds, strict=True)
    rows = [_binary_scores(scores >= threshold, labels) for (scores, labels), threshold in pairs]
    means = {}
    for name in SCORES[:-1]:
        known = [row[name] for row in rows if not np.isnan(row[name])]
        means[name] = float(np.mean(known)) if known else float("nan")
    right = decide(found.chances, thresholds) == found.targets
    return means | {"accuracy": float(right.mean()) if len(right) else float("nan")}


def _binary_scores(called: NDArray[np.bool_], labels: NDArray[np.bool_]) -> dict[str, float]:
    tp, fp = int((called & labels).sum()), int((called & ~labels).sum())
    fn, tn = int((~called & labels).sum()), int((~called & ~labels).sum())
    if not tp + fn:
        return dict.fromkeys(SCORES[:-1], float("nan"))
    recall, specificity = float(share(tp, tp + fn)), tn / (tn + fp) if tn + fp else float("nan")
    return {
        "f1": float(Objective("f1").value(tp, fp, fn, tn)),
        "balanced-accuracy": (recall + specificity) / 2,
        "precision": float(share(tp, tp + fp)),
        "recall": recall,
    }
