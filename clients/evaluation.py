"""How good is a model on a client's own examples, and fine-tuning it just before."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from clients.loaders import Loader
from clients.scopes import Scope
from clients.training import EVERYTHING, Criterion, Optimization, Phase, device_of, train


@dataclass(frozen=True)
class Evaluation:
    """A model's scores on some examples; NaN without examples."""

    loss: float
    accuracy: float
    examples: int


@torch.no_grad()
def evaluate(
    model: nn.Module, loader: Loader | None, criterion: Criterion = cross_entropy
) -> Evaluation:
    """Return mean loss and accuracy (share of examples whose largest output is their class).

    Accuracy is NaN unless outputs are ``(N, classes)`` and targets whole numbers.
    """
    model.eval()
    device = device_of(model)
    loss, correct, count, classification = 0.0, 0, 0, True
    for batch in loader or ():
        inputs, targets = batch[0].to(device), batch[-1].to(device)
        outputs = model(inputs)
        loss += float(criterion(outputs, targets)) * len(targets)
        if classification := outputs.ndim == 2 and not targets.is_floating_point():
            correct += int((outputs.argmax(dim=1) == targets).sum())
        count += len(targets)
    if not count:
        return Evaluation(math.nan, math.nan, 0)
    return Evaluation(loss / count, correct / count if classification else math.nan, count)


@dataclass(frozen=True)
class FineTuning:
    """Personalization at evaluation: a few epochs of training from the model as it stands.

    Attributes
    ----------
    trains : scopes whose parameters move
    epochs : candidates, ascending, 0 allowed; each client takes the one with the highest
        accuracy on its own validation examples (ties: the lower loss, then fewer epochs), or the
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
    criterion: Criterion = cross_entropy,
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
        train(model, loader, schedule, scopes, criterion=criterion, optimization=optimization)
        done = epochs
        found = evaluate(model, validation, criterion)
        accuracy = 0.0 if math.isnan(found.accuracy) else found.accuracy  # then the loss decides
        score = (accuracy, -found.loss) if found.examples else (float(epochs), 0.0)
        if best_score is None or score > best_score:
            best, best_score = epochs, score
            best_state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(best_state)
    return best
