"""Scores of classifiers against closed forms and scikit-learn."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score, roc_auc_score
from sklearn.metrics import log_loss as sklearn_log_loss
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from clients.evaluation import evaluate
from clients.inference.calibration_error import CalibratedClassification
from clients.inference.class_scores import (
    CLASS_SCORES,
    SELECTING,
    ScoredClassification,
    calibrated,
    class_scores,
    classification,
)
from clients.task import Classification

ALL = tuple(CLASS_SCORES)


def drawn(classes, count=60, seed=0):
    draw = np.random.default_rng(seed)
    outputs = torch.from_numpy(draw.normal(size=(count, classes))).float()
    return outputs, torch.from_numpy(draw.integers(classes, size=count))


def scores_of(outputs, targets, task=ScoredClassification(names=ALL), size=16):
    batches = [(outputs[i : i + size], targets[i : i + size]) for i in range(0, len(outputs), size)]
    return evaluate(nn.Identity(), batches, task).scores


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_scores_are_those_of_scikit_learn(classes):
    outputs, targets = drawn(classes)
    found, chances = scores_of(outputs, targets), outputs.double().softmax(dim=1).numpy()
    wanted = targets.numpy()
    assert list(found) == list(ALL)
    assert found["accuracy"] == scores_of(outputs, targets, Classification())["accuracy"]
    macro = f1_score(wanted, chances.argmax(axis=1), average="macro")
    assert found["macro-f1"] == pytest.approx(macro)
    ranked = chances[:, 1] if classes == 2 else chances
    assert found["auroc"] == pytest.approx(roc_auc_score(wanted, ranked, multi_class="ovr"))
    of_class_1 = average_precision_score(wanted == 1, chances[:, 1])
    assert classes > 2 or found["auprc"] == pytest.approx(of_class_1)
    assert found["log-loss"] == pytest.approx(sklearn_log_loss(wanted, chances))
    assert found["log-loss"] == pytest.approx(Classification().criterion(outputs, targets).item())
    assert found["brier"] == pytest.approx(brier_score_loss(wanted, chances))
    errors = scores_of(outputs, targets, CalibratedClassification())
    assert found["calibration-error"] == pytest.approx(errors["calibration-error"])


def test_scores_of_four_examples_by_hand():
    chances = np.array([[0.9, 0.1], [0.6, 0.4], [0.65, 0.35], [0.2, 0.8]])
    found = class_scores(chances, np.array([0, 0, 1, 1]), ALL)
    assert found["accuracy"] == 0.75
    assert found["macro-f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert found["auroc"] == 0.75  # of four pairs three are in order
    assert found["auprc"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["log-loss"] == pytest.approx(-math.log(0.9 * 0.6 * 0.35 * 0.8) / 4)
    assert found["brier"] == pytest.approx((0.1**2 + 0.4**2 + 0.65**2 + 0.2**2) / 4)
    assert found["calibration-error"] == pytest.approx((0.1 + 0.4 + 0.65 + 0.2) / 4)


def test_a_class_that_no_example_has_is_left_out_of_the_ranks_of_the_others():
    chances = np.array([[0.8, 0.1, 0.1], [0.3, 0.5, 0.2], [0.5, 0.2, 0.3], [0.1, 0.3, 0.6]])
    found = class_scores(chances, np.array([0, 1, 0, 1]), ("auroc", "auprc"))
    assert found["auroc"] == pytest.approx(1.0)
    assert found["auprc"] == pytest.approx(1.0)


def test_who_has_one_class_only_has_no_score_that_compares_classes():
    outputs, _ = drawn(2)
    found = scores_of(outputs, torch.zeros(len(outputs), dtype=torch.long))
    nan = {name for name, value in found.items() if math.isnan(value)}
    assert nan == {"macro-f1", "auroc", "auprc"}
    assert all(math.isnan(value) for value in scores_of(outputs[:0], torch.zeros(0)).values())


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [
        (torch.tensor([[1.0, math.nan], [0.0, 1.0]]), torch.tensor([0, 1])),
        (torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.long)),
        (torch.zeros(2, 2), torch.tensor([0.5, 1.0])),
    ],
)
def test_where_there_is_no_accuracy_there_is_no_other_score(outputs, targets):
    task = ScoredClassification(criterion=lambda o, t: o.sum(), names=ALL)
    for size in (1, 2):  # one batch may be fine
        assert all(math.isnan(value) for value in scores_of(outputs, targets, task, size).values())


def test_one_output_is_the_logit_of_class_1():
    outputs, targets = drawn(1)
    targets = (outputs[:, 0] > 0.3).long()
    task = ScoredClassification(
        criterion=lambda o, t: binary_cross_entropy_with_logits(o[:, 0], t.double()), names=ALL
    )
    found = scores_of(outputs.double(), targets, task)
    assert found["auroc"] == 1
    two = torch.cat([torch.zeros_like(outputs), outputs], dim=1)
    assert found == pytest.approx(scores_of(two.double(), targets))


@given(st.integers(2, 6), st.integers(1, 40), st.integers(0, 99))
def test_scores_are_in_their_range(classes, count, seed):
    outputs, targets = drawn(classes, count, seed)
    for name, value in scores_of(20 * outputs, targets).items():
        assert math.isnan(value) or 0 <= value <= {"brier": 2, "log-loss": 40}.get(name, 1)


def test_accuracy_alone_costs_nothing_more():
    assert type(classification(["accuracy"], "accuracy")) is Classification
    task = classification(["brier"], "auroc")
    assert (task.names, task.score) == (("accuracy", "brier", "auroc"), "auroc")
    assert all(CLASS_SCORES[name].higher_is_better for name in SELECTING)
    assert calibrated(task).names == ("accuracy", "brier", "auroc", "calibration-error")
    assert calibrated(task).score == "auroc"
    assert isinstance(calibrated(Classification()), CalibratedClassification)
