"""Scores of classifiers beside accuracy: macro F1, AUROC, AUPRC, log loss, Brier, calibration.

All are computed in one pass from the probabilities of a client's examples.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clients.inference.calibration_error import (
    CalibratedClassification,
    calibration_gaps,
    expected_calibration_error,
)
from clients.task import Classification

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

ACCURACY, CALIBRATION = "accuracy", "calibration-error"


def accuracy(chances: Floats, targets: Labels) -> float:
    """Return the share of examples whose most probable class is their own."""
    return float((chances.argmax(axis=1) == targets).mean())


def macro_f1(chances: Floats, targets: Labels) -> float:
    """Return the mean of F1 over the classes that an example has or is given."""
    from sklearn.metrics import f1_score

    return float(f1_score(targets, chances.argmax(axis=1), average="macro", zero_division=0.0))


def _over_classes(
    ranked: Callable[[NDArray[np.bool_], Floats], float], chances: Floats, targets: Labels
) -> float:
    """Return a score of class 1 of two; of more the mean of each that examples have, to the rest.

    A class that no example has, or all have, has no ranks: it is left out of this mean.
    """
    classes = range(1, 2) if chances.shape[1] == 2 else np.unique(targets).tolist()
    return float(np.mean([ranked(targets == label, chances[:, label]) for label in classes]))


def auroc(chances: Floats, targets: Labels) -> float:
    """Return the area under the ROC curve, one class to the rest."""
    from sklearn.metrics import roc_auc_score

    return _over_classes(roc_auc_score, chances, targets)


def auprc(chances: Floats, targets: Labels) -> float:
    """Return the average precision, the area under the precision-recall curve."""
    from sklearn.metrics import average_precision_score

    return _over_classes(average_precision_score, chances, targets)


def log_loss(chances: Floats, targets: Labels) -> float:
    """Return the mean negative logarithm of the probability of the own class.

    A probability is at least the rounding error of float64, about 2e-16, so that it is finite.
    """
    own = chances[np.arange(len(targets)), targets]
    return float(-np.log(np.maximum(own, np.finfo(np.float64).eps)).mean())


def brier(chances: Floats, targets: Labels) -> float:
    """Return the mean squared error of the probabilities (Brier 1950, eq. 2).

    The sum over the classes, from 0 to 2; of two classes that of class 1 alone, from 0 to 1.
    """
    squares = (chances - np.eye(chances.shape[1])[targets]) ** 2
    return float((squares[:, 1] if chances.shape[1] == 2 else squares.sum(axis=1)).mean())


def calibration(chances: Floats, targets: Labels) -> float:
    """Return the expected calibration error (:mod:`clients.inference.calibration_error`)."""
    confidence = torch.from_numpy(chances.max(axis=1))
    right = torch.from_numpy(chances.argmax(axis=1) == targets)
    return expected_calibration_error(calibration_gaps(confidence, right), len(targets))


@dataclass(frozen=True)
class ClassScore:
    """A score of a classifier.

    Attributes
    ----------
    value : callable
        (probabilities ``(N, K)`` float64, classes ``(N,)`` int64) -> the score; N is 1 or more.
    name : str
        As it stands in a sentence.
    higher_is_better : bool, default True
        Whether a higher score is better.
    contrasts : bool, default False
        Whether it compares classes: it is then NaN where all examples are of one class.
    """

    value: Callable[[Floats, Labels], float]
    name: str
    higher_is_better: bool = True
    contrasts: bool = False


CLASS_SCORES: Mapping[str, ClassScore] = {
    ACCURACY: ClassScore(accuracy, "accuracy"),
    "macro-f1": ClassScore(macro_f1, "macro F1", contrasts=True),
    "auroc": ClassScore(auroc, "AUROC", contrasts=True),
    "auprc": ClassScore(auprc, "AUPRC", contrasts=True),
    "log-loss": ClassScore(log_loss, "log loss", higher_is_better=False),
    "brier": ClassScore(brier, "Brier score", higher_is_better=False),
    CALIBRATION: ClassScore(calibration, "calibration error", higher_is_better=False),
}
"""Name of a score -> how it is computed. A new one is one row."""

SELECTING = tuple(name for name, row in CLASS_SCORES.items() if row.higher_is_better)
"""Scores that models can be compared by: of classifiers more is better."""


def class_scores(chances: Floats, targets: Labels, names: Iterable[str]) -> dict[str, float]:
    """Return name -> score; NaN where it is undefined.

    Parameters
    ----------
    chances : ndarray
        ``(N, K)`` probabilities.
    targets : ndarray
        ``(N,)`` classes.
    names : iterable of str
        Keys of :data:`CLASS_SCORES`.
    """
    one_class = len(np.unique(targets)) < 2
    wanted = {name: CLASS_SCORES[name] for name in names}
    return {
        name: math.nan if one_class and row.contrasts else row.value(chances, targets)
        for name, row in wanted.items()
    }


@dataclass(frozen=True)
class ScoredClassification(Classification):
    """Classification with further scores.

    All are NaN where :class:`~clients.task.Classification` has no accuracy, and those that compare
    classes where all examples are of one.

    Attributes
    ----------
    names : tuple of str, default ("accuracy",)
        Keys of :data:`CLASS_SCORES`.
    select_by : str, default "accuracy"
        The one of them by which models are compared.
    """

    names: tuple[str, ...] = (ACCURACY,)
    select_by: str = ACCURACY

    @property
    def score(self) -> str:
        """Name of the score by which models are compared."""
        return self.select_by

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the probabilities and the class of each example, ``(N, K + 1)``; else NaN."""
        if bool(super().sums(outputs, targets).isnan().any()):
            return torch.full((len(outputs), 2), math.nan, dtype=torch.float64)
        chances = self.outcomes(outputs.cpu().double())[1].T  # not every device has float64
        wanted = targets.cpu().double().reshape(len(chances), 1)
        return torch.cat([chances, wanted], dim=1)

    def total(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the rows of all parts; NaN if a part is."""
        unknown = next((part for part in parts if bool(part.isnan().any())), None)
        return torch.cat(tuple(parts)) if unknown is None else unknown

    def scores(self, sums: Tensor, count: int) -> dict[str, float]:
        """Return the scores."""
        if not count or bool(sums.isnan().any()):
            return dict.fromkeys(self.names, math.nan)
        rows = sums.numpy()
        return class_scores(rows[:, :-1], rows[:, -1].astype(np.int64), self.names)


def classification(names: Iterable[str], select_by: str) -> Classification:
    """Return classification with some scores; accuracy is always one of them.

    Parameters
    ----------
    names : iterable of str
        Keys of :data:`CLASS_SCORES`.
    select_by : str
        One of :data:`SELECTING`.
    """
    wanted = tuple(dict.fromkeys((ACCURACY, *names, select_by)))
    if wanted == (ACCURACY,):
        return Classification()
    return ScoredClassification(names=wanted, select_by=select_by)


def calibrated(task: Classification) -> Classification:
    """Return a classification that has the calibration error among its scores.

    Parameters
    ----------
    task : Classification
        With its loss and scores.
    """
    if isinstance(task, ScoredClassification):
        return replace(task, names=tuple(dict.fromkeys((*task.names, CALIBRATION))))
    return CalibratedClassification(task.criterion)
