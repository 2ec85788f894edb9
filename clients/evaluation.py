"""How good is a model on a client's own examples, and fine-tuning it just before."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
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


@dataclass(frozen=True)
class FineTuned:
    """What fine-tuning chose, and how good that is on validation examples.

    Attributes
    ----------
    epochs : the candidate that the validation examples chose
    validation : how good such a choice is on examples that had no part in it: each half of the
        validation examples is scored by the candidate that the other half chose. (The score of
        the chosen candidate on the examples that chose it would always be too good.) NaN with
        fewer than two examples
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
    halves = _halves(validation)
    done = 0
    best: tuple[tuple[float, float], int, dict[str, Tensor]] | None = None
    found: list[list[Evaluation]] = []
    for epochs in fine_tuning.epochs:
        schedule = (Phase(fine_tuning.trains, epochs - done),)
        try:
            train(
                model, loader, schedule, scopes, criterion=task.criterion, optimization=optimization
            )
        except TrainingDivergedError:
            if best is None:
                raise
            break  # fewer epochs were fine
        done = epochs
        whole = evaluate(model, validation, task)
        found.append([evaluate(model, [half], task) for half in halves])
        score = quality(whole, task) if whole.examples else (float(epochs), 0.0)
        if best is None or score > best[0]:
            state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            best = score, epochs, state
    assert best is not None  # there is at least one candidate
    model.load_state_dict(best[2])
    return FineTuned(best[1], cross_fitted(found, task))


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
    found : ``found[candidate][half]``, no halves if there are too few examples
    task : decides what is better, and which scores there are; of errors the root mean square is
        taken, of scores that are no means over examples (``r2``) nothing is known
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
