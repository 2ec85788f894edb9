"""Which round of a cell counts, chosen on validation data alone, and the scores at that round."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from clients.inference.class_scores import CLASS_SCORES
from pfl_flower.comparison.cells import CellResult

GLOBAL = "fedavg"
"""The baseline that gives one model to everybody."""

ALONE = "local"
"""The baseline in which every client trains alone."""

BASELINES = (GLOBAL, ALONE)

Examples = Literal["test", "validation"]

DIVERGED = 2.0
"""A regression diverged if its error grows to so many times that of always answering the mean."""


def direction(task: str) -> int:
    """Return 1 if more of the score is better (accuracy), -1 if less is (an error)."""
    return -1 if task == "regression" else 1


def task_of(cells: Sequence[CellResult]) -> str:
    """Return the task of the cells that ran; all have the same."""
    return next((cell.task for cell in cells if not cell.failure), "classification")


def score_of(cells: Sequence[CellResult]) -> str:
    """Return the name of the score of the cells that ran; all have the same."""
    return next((cell.score for cell in cells if not cell.failure), "accuracy")


def score_name(cells: Sequence[CellResult]) -> str:
    """Return the name of the score of the cells that ran, as it stands in a sentence."""
    others = {"regression": "RMSE", "link-prediction": "AUC"}
    return others.get(task_of(cells)) or CLASS_SCORES[score_of(cells)].name


def finished(cells: Sequence[CellResult], method: str) -> list[CellResult]:
    """Return the cells of a method that ran, by seed."""
    found = [cell for cell in cells if cell.method == method]
    return sorted((c for c in found if not c.failure and len(c.rounds)), key=lambda c: c.seed)


def methods_of(cells: Sequence[CellResult]) -> list[str]:
    """Return the methods that ran on at least one seed, in the order in which they occur.

    Always answering the same is no method; see :func:`constants_of`.
    """
    names = dict.fromkeys(cell.method for cell in cells if not cell.constant)
    return [name for name in names if finished(cells, name)]


def constants_of(cells: Sequence[CellResult]) -> list[str]:
    """Return the names of always answering the same, such as ``mean target``."""
    return list(dict.fromkeys(cell.method for cell in cells if cell.constant))


def client_name(cells: Sequence[CellResult], client: int) -> str:
    """Return how a client is called: its number, and its own name if it has one."""
    for cell in cells:
        found = dict(zip(cell.clients.tolist(), cell.names, strict=False))
        if found.get(client):
            return f"client {client}, {found[client]}"
    return f"client {client}"


def known_mean(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Return the mean of the values that are not NaN; NaN where there are none.

    NumPy's ``nanmean`` does the same, but warns where nothing is known, which is no mistake here.
    """
    known = ~np.isnan(values)
    count = known.sum(axis=axis)
    total = np.where(known, values, 0.0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def evaluated(cell: CellResult) -> np.ndarray:
    """Return the (R,) numbers of clients whose evaluation arrived in each round."""
    counts: np.ndarray = (~np.isnan(cell.test)).sum(axis=1)
    return counts


def select_round(cell: CellResult) -> tuple[int, bool]:
    """Return the place of the round with the best mean validation score over clients.

    The earliest of equally good rounds, among those in which the most clients were evaluated. What
    their test scores are has no part in it.

    Parameters
    ----------
    cell : CellResult
        That ran.

    Returns
    -------
    tuple of int and bool
        Index : place in ``cell.rounds``; the last one without any validation score by_validation :
        whether validation scores chose it.
    """
    means = direction(cell.task) * known_mean(cell.validation, axis=1)
    if np.isnan(means).all():
        return len(cell.rounds) - 1, False
    # A round in which a client could not be evaluated is not better for having lost it. (A client
    # that was evaluated may still lack a validation score: one with too few examples after
    # fine-tuning.)
    complete = evaluated(cell) == evaluated(cell).max()
    return int(np.argmax(np.where(complete & ~np.isnan(means), means, -np.inf))), True


def diverged(cell: CellResult, examples: Examples) -> bool:
    """Return whether the training of a regression diverged.

    In the end a client's error is infinite, or the mean error over clients has grown since the
    first round to more than :data:`DIVERGED` times that of always answering the mean of all
    training targets. (One that is large but has not grown is of a model that has learnt nothing
    yet.) False for classes, where a network that is no more finite has no accuracy at all, and
    without examples.
    """
    if cell.task != "regression" or not len(cell.rounds):
        return False
    errors = known_mean(getattr(cell, examples), axis=1)
    constant: np.ndarray = getattr(cell, f"constant_{examples}")
    mean = float(known_mean(constant[0])) if len(constant) else math.nan
    grown = errors[-1] > np.maximum(errors[0], DIVERGED * mean)  # False if one is unknown
    return bool(np.isinf(errors[-1]) or grown)


def scores_at_choice(cell: CellResult, examples: Examples = "test") -> np.ndarray:
    """Return the (C,) scores of the clients at the round that validation data chose."""
    scores: np.ndarray = getattr(cell, examples)
    index, _ = select_round(cell)
    return scores[index] if len(scores) else np.full(len(cell.clients), np.nan)


def mean_at_choice(
    cells: Sequence[CellResult], method: str, examples: Examples = "test"
) -> tuple[float, int]:
    """Return the mean over the clients of all seeds at the chosen rounds, and their number."""
    scores = [scores_at_choice(cell, examples) for cell in finished(cells, method)]
    values = np.concatenate(scores) if scores else np.zeros(0)
    return float(known_mean(values)), int((~np.isnan(values)).sum())
