"""Evaluation of a model on a client's examples."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clients.data.datasets import reading
from clients.data.inputs import to_device
from clients.data.loaders import Loader, parted
from clients.local_training.training import device_of
from clients.task import Classification, Task

__all__ = ["evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation: number of examples, mean loss and the task's scores.

    Without examples, loss and scores are NaN.
    """

    examples: int
    loss: float
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Stream:
    """Position of a client in a stream of data that arrives in phases.

    Attributes
    ----------
    phase : int
        Number of the current phase.
    test_loaders : sequence of Loader
        Test examples of every phase, including future ones.
    """

    phase: int
    test_loaders: Sequence[Loader]


@torch.no_grad()
def evaluate(model: nn.Module, loader: Loader | None, task: Task = Classification()) -> Evaluation:
    """Evaluate ``model`` on the examples of a loader; None counts as no examples."""
    if not loader:
        return Evaluation(0, math.nan, task.scores(torch.zeros(0), 0))
    model.eval()
    device = device_of(model)
    loss, count = 0.0, 0
    parts: list[Tensor] = []
    for batch in reading(loader):
        inputs, targets = (to_device(part, device) for part in parted(batch))
        outputs = model(inputs)
        loss += float(task.criterion(outputs, targets)) * len(targets)
        parts.append(task.sums(outputs, targets).cpu())
        count += len(targets)
    scores = task.scores(task.total(parts) if parts else torch.zeros(0), count)
    return Evaluation(count, loss / count if count else math.nan, scores)


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of a classifier.

    Attributes
    ----------
    loss : float
        Mean loss; NaN without examples.
    chances : ndarray
        Probabilities of the classes, ``(N, K)`` float64.
    targets : ndarray
        True classes, ``(N,)`` int64.
    """

    loss: float
    chances: NDArray[np.float64]
    targets: NDArray[np.int64]


@torch.no_grad()
def predictions(
    model: nn.Module, loader: Loader | None, num_classes: int, task: Task = Classification()
) -> Predictions:
    """Return the predictions of ``model`` for the examples of a loader, in its order.

    Parameters
    ----------
    model : nn.Module
        A classifier whose outputs are logits.
    loader : Loader or None
        The examples; None counts as no examples.
    num_classes : int
        Number of classes.
    task : Task, default Classification()
        Defines the loss, and the probabilities of outputs.
    """
    model.eval()
    device = device_of(model)
    loss = 0.0
    chances = [torch.zeros(0, num_classes, dtype=torch.float64)]
    targets = [torch.zeros(0, dtype=torch.int64)]
    for batch in reading(loader or ()):
        inputs, wanted = (to_device(part, device) for part in parted(batch))
        outputs = model(inputs)
        loss += float(task.criterion(outputs, wanted)) * len(wanted)
        chances.append(task.outcomes(outputs.cpu().double())[1].T)  # not every device has float64
        targets.append(wanted.cpu())
    every = torch.cat(targets).numpy()
    mean = loss / len(every) if len(every) else math.nan
    return Predictions(mean, torch.cat(chances).numpy(), every)
