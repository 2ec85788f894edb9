"""How good is a model on a client's own examples, and fine-tuning it just before."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from clients.loaders import Loader
from clients.scopes import Scope
from clients.task import Classification, Task
from clients.training import EVERYTHING, Optimization, Phase, device_of, train


@dataclass(frozen=True)
class Evaluation:
    """A model on some examples: their number, the mean loss and the task's scores.

    Everything but the number is NaN without examples.
    """

    examples: int
    loss: float
    scores: Mapping[str, float]


@torch.no_grad()
def evaluate(model: nn.Module, loader: Loader | None, task: Task = Classification()) -> Evaluation:
    """Return how good ``model`` is on the examples of a loader."""
    model.eval()
    device = device_of(model)
    loss, count, sums = 0.0, 0, None
    for batch in loader or ():
        inputs, targets = batch[0].to(device), batch[-1].to(device)
        outputs = model(inputs)
        loss += float(task.criterion(outputs, targets)) * len(targets)
        found = task.sums(outputs, targets).cpu()
        sums = found if sums is None else sums + found
        count += len(targets)
    scores = task.scores(torch.zeros(0) if sums is None else sums, count)
    return Evaluation(count, loss / count if count else math.nan, scores)


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
    trains : scopes whose parameters move
    epochs : candidates, ascending, 0 allowed; each client takes the one with the best
        score on its own validation examples (ties: the lower loss, then fewer epochs), or the
        last candidate if it has no validation examples
    every_round : fine-tune at every evaluation (FedBABU, whose head is not trained otherwise),
        or only after the last round
    """

    trains: frozenset[Scope] = EVERYTHING
    epochs: tuple[int, ...] = (0, 1, 2, 5)
    every_round: bool = False

    def __post_init__(self) -> None:
        if not self.epochs or min(self.epochs) < 0 or sorted(set(self.epochs)) != list(self.epochs):
            raise ValueError(f"epochs must ascend from 0 or more, got {self.epochs}")


def fine_tune(
    model: nn.Module,
    loader: Loader,
    validation: Loader | None,
    fine_tuning: FineTuning,
    scopes: Mapping[str, Scope],
    *,
    task: Task = Classification(),
    optimization: Optimization = Optimization(),
) -> int:
    """Fine-tune ``model`` in place; return the number of epochs that validation chose.

    One run through the candidates: each continues from the one before (with a fresh optimizer).
    """
    best, done = 0, 0
    best_score: tuple[float, float] | None = None
    best_state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for epochs in fine_tuning.epochs:
        schedule = (Phase(fine_tuning.trains, epochs - done),)
        train(model, loader, schedule, scopes, criterion=task.criterion, optimization=optimization)
        done = epochs
        found = evaluate(model, validation, task)
        score = quality(found, task) if found.examples else (float(epochs), 0.0)
        if best_score is None or score > best_score:
            best, best_score = epochs, score
            best_state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(best_state)
    return best
