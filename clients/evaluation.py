"""How good is a model on a client's own examples, and fine-tuning it just before."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clients.loaders import Batch, Loader
from clients.scopes import Scope
from clients.task import Classification, Task
from clients.training import (
    EVERYTHING,
    Optimization,
    Phase,
    TrainingDivergedError,
    device_of,
    train,
)


@dataclass(frozen=True)
class Evaluation:
    """A model on some examples: their number, the mean loss and the task's scores.

    Everything but the number is NaN without examples.
    """

    examples: int
    loss: float
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Stream:
    """Where a client is in data that come in phases.

    Attributes
    ----------
    phase : int
        Number of the phase at hand.
    test_loaders : sequence of Loader
        The test examples of each phase, those to come included.
    """

    phase: int
    test_loaders: Sequence[Loader]


@torch.no_grad()
def evaluate(model: nn.Module, loader: Loader | None, task: Task = Classification()) -> Evaluation:
    """Return how good ``model`` is on the examples of a loader."""
    model.eval()
    device = device_of(model)
    loss, count = 0.0, 0
    parts: list[Tensor] = []
    for batch in loader or ():
        inputs, targets = batch[0].to(device), batch[-1].to(device)
        outputs = model(inputs)
        loss += float(task.criterion(outputs, targets)) * len(targets)
        parts.append(task.sums(outputs, targets).cpu())
        count += len(targets)
    scores = task.scores(task.total(parts) if parts else torch.zeros(0), count)
    return Evaluation(count, loss / count if count else math.nan, scores)


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a classifier says of some examples.

    Attributes
    ----------
    loss : float
        The mean loss; NaN without examples.
    chances : ndarray
        ``(N, K)`` float64, the probabilities of the classes.
    targets : ndarray
        ``(N,)`` int64, the true classes.
    """

    loss: float
    chances: NDArray[np.float64]
    targets: NDArray[np.int64]


@torch.no_grad()
def predictions(
    model: nn.Module, loader: Loader | None, num_classes: int, task: Task = Classification()
) -> Predictions:
    """Return what ``model`` says of the examples of a loader, in its order.

    Parameters
    ----------
    model : nn.Module
        A classifier, whose outputs are logits.
    loader : Loader or None
        The examples; none if it is None.
    num_classes : int
        Number of classes.
    task : Task, default Classification()
        Its loss, and what turns outputs into probabilities.
    """
    model.eval()
    device = device_of(model)
    loss = 0.0
    chances = [torch.zeros(0, num_classes, dtype=torch.float64)]
    targets = [torch.zeros(0, dtype=torch.int64)]
    for batch in loader or ():
        outputs, wanted = model(batch[0].to(device)), batch[-1].to(device)
        loss += float(task.criterion(outputs, wanted)) * len(wanted)
        chances.append(task.outcomes(outputs.cpu().double())[1].T)  # not every device has float64
        targets.append(wanted.cpu())
    every = torch.cat(targets).numpy()
    mean = loss / len(every) if len(every) else math.nan
    return Predictions(mean, torch.cat(chances).numpy(), every)


def quality(found: Evaluation, task: Task) -> tuple[float, float]:
    """Return what to compare models by, more is better: the task's score, then the loss.

    An accuracy that is undefined counts as 0, so that the loss decides.
    """
    score = found.scores[task.score]
    if math.isnan(score):
        return (0.0 if task.higher_is_better else -math.inf), -found.loss
    return (score if task.higher_is_better else -score), -found.loss


@dataclass(frozen=True)
class FineTuning:
    """Personalization at evaluation: a few epochs of training from the model as it stands.

    Attributes
    ----------
    trains : frozenset of Scope, default EVERYTHING
        Scopes whose parameters move.
    epochs : tuple of int, default (0, 1, 2, 5)
        Candidates, ascending, 0 allowed; each client takes the one with the best score on its own
        validation examples (ties: the lower loss, then fewer epochs), or the last candidate if it
        has no validation examples.
    every_round : bool, default False
        Fine-tune at every evaluation (FedBABU, whose head is not trained otherwise), or only after
        the last round.
    """

    trains: frozenset[Scope] = EVERYTHING
    epochs: tuple[int, ...] = (0, 1, 2, 5)
    every_round: bool = False

    def __post_init__(self) -> None:
        if not self.epochs or min(self.epochs) < 0 or sorted(set(self.epochs)) != list(self.epochs):
            raise ValueError(f"epochs must ascend from 0 or more, got {self.epochs}")


class Choice:
    """Choose among models of one client on its own validation examples.

    Parameters
    ----------
    validation : Loader or None
        The validation examples.
    task : Task
        Decides what is better.
    """

    def __init__(self, validation: Loader | None, task: Task) -> None:
        self._validation = validation
        self._task = task
        self._halves = _halves(validation)
        self._found: list[list[Evaluation]] = []
        self._best: tuple[float, float] | None = None
        self.chosen = -1
        """Place of the best candidate: by :func:`quality`, and of equals the first; the last one
        without validation examples."""

    def add(self, model: nn.Module) -> bool:
        """Score the next candidate, ``model`` as it stands; return whether it is the best yet."""
        whole = evaluate(model, self._validation, self._task)
        self._found.append([evaluate(model, [half], self._task) for half in self._halves])
        score = quality(whole, self._task) if whole.examples else (float(len(self._found)), 0.0)
        if self._best is not None and score <= self._best:
            return False
        self._best, self.chosen = score, len(self._found) - 1
        return True

    @property
    def validation(self) -> Evaluation:
        """How good such a choice is on examples that had no part in it.

        Each half of the validation examples is scored by the candidate that the other half chose.
        (The score of the chosen candidate on the examples that chose it would always be too
        good.) NaN with fewer than two examples.
        """
        return cross_fitted(self._found, self._task)


@dataclass(frozen=True)
class FineTuned:
    """What fine-tuning chose, and how good that is on validation examples.

    Attributes
    ----------
    epochs : int
        The candidate that the validation examples chose.
    validation : Evaluation
        See :attr:`Choice.validation`.
    """

    epochs: int
    validation: Evaluation


def fine_tune(
    model: nn.Module,
    loader: Loader,
    validation: Loader | None,
    fine_tuning: FineTuning,
    scopes: Mapping[str, Scope],
    *,
    task: Task = Classification(),
    optimization: Optimization = Optimization(),
) -> FineTuned:
    """Fine-tune ``model`` in place, for the number of epochs that validation chooses.

    One run through the candidates: each continues from the one before (with a fresh optimizer).
    Where training diverges, the candidates before count.

    Raises
    ------
    TrainingDivergedError
        If the first candidate diverges.
    """
    choice = Choice(validation, task)
    done = 0
    best: dict[str, Tensor] = {}
    for epochs in fine_tuning.epochs:
        schedule = (Phase(fine_tuning.trains, epochs - done),)
        try:
            train(
                model, loader, schedule, scopes, criterion=task.criterion, optimization=optimization
            )
        except TrainingDivergedError:
            if not best:
                raise
            break  # fewer epochs were fine
        done = epochs
        if choice.add(model):
            best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(best)
    return FineTuned(fine_tuning.epochs[choice.chosen], choice.validation)


def _halves(validation: Loader | None) -> list[Batch]:
    """Return every second validation example and the others; nothing if there are fewer than 2."""
    batches = list(validation or ())
    if sum(len(batch[-1]) for batch in batches) < 2:
        return []
    inputs, targets = (torch.cat([batch[part] for batch in batches]) for part in (0, -1))
    return [(inputs[start::2], targets[start::2]) for start in (0, 1)]


def cross_fitted(found: Sequence[Sequence[Evaluation]], task: Task) -> Evaluation:
    """Return the mean score over two halves, each by the candidate that the other half chose.

    Parameters
    ----------
    found : sequence of sequence of Evaluation
        ``found[candidate][half]``, no halves if there are too few examples.
    task : Task
        Decides what is better, and which scores there are; of errors the root mean square is taken,
        of scores that are no means over examples (``r2``) nothing is known.
    """
    if not found[0]:
        return Evaluation(0, math.nan, task.scores(torch.zeros(0), 0))
    scored = []
    for half, other in ((0, 1), (1, 0)):
        chosen = max(range(len(found)), key=lambda c: quality(found[c][other], task))
        scored.append(found[chosen][half])
    count = sum(part.examples for part in scored)

    def mean(values: Sequence[float]) -> float:
        pairs = zip(scored, values, strict=True)
        return sum(part.examples * value for part, value in pairs) / count

    scores = dict.fromkeys(scored[0].scores, math.nan)
    values = [part.scores[task.score] for part in scored]
    higher = task.higher_is_better
    scores[task.score] = mean(values) if higher else math.sqrt(mean([v**2 for v in values]))
    return Evaluation(count, mean([part.loss for part in scored]), scores)
