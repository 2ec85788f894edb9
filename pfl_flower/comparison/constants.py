"""Models that always answer the same: what everything in a comparison has to beat.

Their answer is the best one without any input: the mean of the training targets, or the commonest
class among them, of all clients together or each client's own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from clients import Task
from pfl_flower.data.schema import Split, TaskName

if TYPE_CHECKING:
    from pfl_flower.comparison.cells import CellResult


def _commonest(targets: Tensor) -> Tensor:
    counts = torch.bincount(targets)
    return torch.nn.functional.one_hot(counts.argmax(), len(counts)).float()


def _no_preference(targets: Tensor) -> Tensor:
    return targets.new_zeros(())


ANSWERS: Mapping[TaskName, Callable[[Tensor], Tensor]] = {
    "classification": _commonest,
    "regression": torch.mean,
    "link-prediction": _no_preference,
}
"""Task -> training targets ``(N,)`` -> the best output that is the same for every example."""

NAMES: Mapping[TaskName, tuple[str, ...]] = {
    "classification": ("commonest class", "own commonest class"),
    "regression": ("mean target", "own mean target"),
    "link-prediction": ("no preference",),
}
"""Task -> the rows of a comparison: the answer of all clients together, and each client's own."""


def constant_scores(
    task: Task, name: TaskName, splits: Sequence[tuple[Split, Split, Split]]
) -> dict[str, np.ndarray]:
    """Return what always answering the same scores, as fields of a :class:`CellResult`.

    Parameters
    ----------
    task, name : Task and TaskName
        Its scores, and what it is called.
    splits : sequence of tuple of Split
        Training, validation and test examples of the clients that take part, C of them.

    Returns
    -------
    dict of str to ndarray
        ``constant_validation``, ``constant_test`` and ``constant_r2``, each ``(K, C)``, a row for
        each of :data:`NAMES`. The last is NaN where it is not defined.
    """
    answer = ANSWERS[name]
    shared = answer(torch.cat([train[1] for train, _, _ in splits]))
    answers = [[shared for _ in splits], [answer(train[1]) for train, _, _ in splits]]
    rows = answers[: len(NAMES[name])]

    def table(split: int, metric: str) -> np.ndarray:
        return np.array(
            [
                [_score(task, output, each[split][1], metric) for output, each in pairs]
                for pairs in (zip(row, splits, strict=True) for row in rows)
            ]
        )

    return {
        "constant_validation": table(1, task.score),
        "constant_test": table(2, task.score),
        "constant_r2": table(2, "r2"),
    }


def _score(task: Task, output: Tensor, targets: Tensor, metric: str) -> float:
    outputs = output.expand(len(targets), *output.shape)
    return task.scores(task.sums(outputs, targets), len(targets)).get(metric, float("nan"))


def constant_cells(cells: Sequence["CellResult"]) -> list["CellResult"]:
    """Return the cells of always answering the same, made of those that ran: one a name and seed.

    They have one round, sent nothing and trained nothing.
    """
    ran = {c.seed: c for c in reversed(cells) if not c.failure and c.constant_test.size}
    names = dict.fromkeys(name for cell in ran.values() for name in NAMES[cell.task])
    return [
        _constant_cell(ran[seed], name, place)
        for place, name in enumerate(names)
        for seed in sorted(ran)
    ]


def _constant_cell(cell: "CellResult", name: str, place: int) -> "CellResult":
    without: dict[str, Any] = {"config": {}, "parameters": {}, "network": ""}
    without |= {"bytes_down": 0.0, "bytes_up": 0.0, "seconds_per_round": 0.0}
    without |= {"unseen_examples": np.zeros(0, int), "unseen_clients": np.zeros(0, int)}
    return replace(
        cell,
        method=name,
        constant=True,
        rounds=np.zeros(1, int),
        validation=cell.constant_validation[[place]],
        test=cell.constant_test[[place]],
        r2=cell.constant_r2[[place]],
        unseen_test=np.zeros((0, 0)),
        score_names=(),
        scores=np.zeros((0, 0)),
        **without,
    )
