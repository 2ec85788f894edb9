"""Fine-tuning at evaluation, and the choice among models by validation examples."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clients.data.indexed_loader import Batch
from clients.data.inputs import take
from clients.data.loaders import Loader, copied, gathered, parted
from clients.entries import entries_of, put_entries
from clients.evaluation import Evaluation, evaluate
from clients.local_training.local_step import Optimization
from clients.local_training.training import EVERYTHING, Phase, TrainingDivergedError, train
from clients.scopes import Scope
from clients.task import Classification, Task
from strategies.errors import ArgumentError

__all__ = ["FineTuning", "fine_tune"]


def quality(found: Evaluation, task: Task) -> tuple[float, float]:
    """Return the key by which models are compared, higher is better: score, then negative loss.

    An undefined score counts as the worst one, so that the loss decides; an undefined loss, too.
    """
    score = found.scores[task.score]
    loss = math.inf if math.isnan(found.loss) else found.loss
    if math.isnan(score):
        return (0.0 if task.higher_is_better else -math.inf), -loss
    return (score if task.higher_is_better else -score), -loss


@dataclass(frozen=True)
class FineTuning:
    """Fine-tuning at evaluation: a few epochs of training, starting from the current model.

    Attributes
    ----------
    trains : frozenset of Scope, default EVERYTHING
        Scopes whose parameters are trained.
    epochs : tuple of int, default (0, 1, 2, 5)
        Candidates in ascending order; 0 is allowed. Each client takes the one with the best score
        on its validation examples (ties: the lower loss, then fewer epochs), or the last candidate
        if it has no validation examples.
    every_round : bool, default False
        Fine-tune at every evaluation (FedBABU, whose head is not trained otherwise) instead of only
        after the last round.

    Raises
    ------
    ArgumentError
        If ``epochs`` is empty, not ascending or negative.
    """

    trains: frozenset[Scope] = EVERYTHING
    epochs: tuple[int, ...] = (0, 1, 2, 5)
    every_round: bool = False

    def __post_init__(self) -> None:
        if not self.epochs or min(self.epochs) < 0 or sorted(set(self.epochs)) != list(self.epochs):
            wanted = "numbers that ascend from 0 or more"
            raise ArgumentError("epochs", self.epochs, wanted)


class Choice:
    """Choose among models of a client by its validation examples.

    Parameters
    ----------
    validation : Loader or None
        The validation examples.
    task : Task
        Defines the score.
    """

    def __init__(self, validation: Loader | None, task: Task) -> None:
        self._validation = validation
        self._task = task
        self._halves = _halves(validation)
        self._found: list[list[Evaluation]] = []
        self._best: tuple[float, float] | None = None
        self.chosen = -1
        """Index of the best candidate by :func:`quality`; of equals the first. Without validation
        examples it is the last one."""

    def add(self, model: nn.Module) -> bool:
        """Score the next candidate, the current ``model``; return whether it is the best so far."""
        whole = evaluate(model, self._validation, self._task)
        self._found.append([evaluate(model, [copied(h)], self._task) for h in self._halves])
        score = quality(whole, self._task) if whole.examples else (float(len(self._found)), 0.0)
        if self._best is not None and score <= self._best:
            return False
        self._best, self.chosen = score, len(self._found) - 1
        return True

    @property
    def validation(self) -> Evaluation:
        """Cross-fitted estimate of the score of the chosen model.

        Each half of the validation examples is scored by the candidate that the other half chooses.
        (The score of the chosen candidate on the examples that chose it is optimistic.) It is NaN
        with fewer than two examples.
        """
        return cross_fitted(self._found, self._task)


@dataclass(frozen=True)
class FineTuned:
    """Result of fine-tuning: the chosen number of epochs and its validation score.

    Attributes
    ----------
    epochs : int
        The chosen candidate.
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
    """Fine-tune ``model`` in place, for the number of epochs that validation examples choose.

    There is one training run: each candidate continues from the one before, with a new optimizer.
    If training diverges, only the candidates before count.

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
            best = {name: tensor.clone() for name, tensor in entries_of(model).items()}
    put_entries(model, best)
    return FineTuned(fine_tuning.epochs[choice.chosen], choice.validation)


def _halves(validation: Loader | None) -> list[Batch]:
    """Return the validation examples with even and odd index; nothing if fewer than 2."""
    batches = list(validation or ())
    if sum(len(parted(batch)[1]) for batch in batches) < 2:
        return []
    inputs, targets = gathered(batches)
    return [(take(inputs, slice(start, None, 2)), targets[start::2]) for start in (0, 1)]


def cross_fitted(found: Sequence[Sequence[Evaluation]], task: Task) -> Evaluation:
    """Return the mean score over two halves, each scored by the candidate that the other chooses.

    Parameters
    ----------
    found : sequence of sequence of Evaluation
        ``found[candidate][half]``; no halves if there are too few examples.
    task : Task
        Defines the scores. Errors are averaged as root mean squares. Scores that are not means over
        examples (``r2``) are NaN.
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
