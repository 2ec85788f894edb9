"""The one local training loop. Methods differ in data only: phases, scopes, proximal terms."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm

from clients.loaders import Batch, Loader, merge_lone_examples
from clients.proximal import ProximalStep, ProximalTerm
from clients.scopes import Scope
from clients.task import Criterion

__all__ = [
    "Optimization",
    "Phase",
    "TrainingDivergedError",
    "body_only",
    "head_then_body",
    "joint",
    "train",
]

EVERYTHING = frozenset(Scope)


class TrainingDivergedError(RuntimeError):
    """Local training produced a loss or a parameter that is not finite."""


@dataclass(frozen=True)
class Phase:
    """A stretch of local training: which scopes are trained and for how long.

    Attributes
    ----------
    trains : scopes whose parameters move; everything else is frozen, buffers included
    epochs : passes over the client's training data
    steps : if positive, this many minibatches instead of ``epochs``
    repeats : steps on every minibatch (pFedMe takes several)
    """

    trains: frozenset[Scope] = EVERYTHING
    epochs: int = 1
    steps: int = 0
    repeats: int = 1

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.steps < 0:
            raise ValueError(f"epochs and steps must be >= 0, got {self.epochs} and {self.steps}")
        if self.repeats < 1:
            raise ValueError(f"repeats must be at least 1, got {self.repeats}")


Schedule = tuple[Phase, ...]
_OTHERS = frozenset({Scope.SHARED, Scope.GROUP})


def joint(epochs: int, steps: int = 0) -> Schedule:
    """Train everything together (FedAvg, FedPer)."""
    return (Phase(EVERYTHING, epochs, steps),)


def head_then_body(epochs: int, steps: int = 0, head_epochs: int = 1) -> Schedule:
    """Train what is personal, then what is not (FedRep, Collins et al. 2021, Algorithm 1)."""
    return (Phase(frozenset({Scope.PERSONAL}), head_epochs), Phase(_OTHERS, epochs, steps))


def body_only(epochs: int, steps: int = 0) -> Schedule:
    """Train what is not personal; the head keeps its first values (FedBABU, Oh et al. 2022)."""
    return (Phase(_OTHERS, epochs, steps),)


SCHEDULES: Mapping[str, Callable[[int, int, int], Schedule]] = {
    "joint": lambda epochs, steps, head_epochs: joint(epochs, steps),
    "head-then-body": head_then_body,
    "body-only": lambda epochs, steps, head_epochs: body_only(epochs, steps),
}
"""Name of a schedule -> (local epochs, local steps, head epochs) -> phases."""


@dataclass(frozen=True)
class Optimization:
    """How a client steps. The optimizer starts afresh in every phase of every round.

    Attributes
    ----------
    optimizer : ``"sgd"`` (with ``momentum``) or ``"adam"``
    learning_rate : > 0
    momentum : in [0, 1), SGD only
    weight_decay : >= 0, of the trained parameters only
    gradient_clip : largest Euclidean norm of the data loss's whole gradient; 0 for none
    """

    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    gradient_clip: float = 0.0

    def __post_init__(self) -> None:
        if self.optimizer not in ("sgd", "adam"):
            raise ValueError(f"optimizer must be 'sgd' or 'adam', got {self.optimizer!r}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be > 0, got {self.learning_rate}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {self.momentum}")
        if self.weight_decay < 0 or self.gradient_clip < 0:
            raise ValueError("weight_decay and gradient_clip must be >= 0")

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Return a new optimizer over these parameters."""
        if self.optimizer == "adam":
            return torch.optim.Adam(
                parameters, lr=self.learning_rate, weight_decay=self.weight_decay
            )
        return torch.optim.SGD(
            parameters,
            lr=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )


@dataclass(frozen=True)
class TrainingResult:
    """What a client's training did.

    Attributes
    ----------
    loss : mean data loss over the batches of the last phase that took a step, NaN without steps
    steps : optimizer steps over all phases
    """

    loss: float
    steps: int


def train(
    model: nn.Module,
    loader: Loader,
    schedule: Schedule,
    scopes: Mapping[str, Scope],
    *,
    criterion: Criterion = cross_entropy,
    optimization: Optimization = Optimization(),
    proximal_terms: Sequence[ProximalTerm] = (),
    after_step: Callable[[], None] | None = None,
) -> TrainingResult:
    """Train ``model`` in place on a client's batches.

    A client with fewer examples than a batch trains on one smaller batch; one without examples
    takes no step. Batch norm never sees a batch of one: such a batch joins its neighbour, and
    where it has none (a client with a single example) batch norm uses its running statistics for
    that step and leaves them as they are.

    Parameters
    ----------
    model : on the device where it is to be trained
    loader : yields batches; iterated once an epoch
    schedule : phases, in order
    scopes : scope of every state-dict entry, from :func:`clients.scopes.assign_scopes`
    criterion : mean loss of a batch from the model's outputs and the targets
    optimization : see there
    proximal_terms : pulls beside the data loss, solved implicitly: stable whatever their strength
    after_step : called after every step

    Raises
    ------
    TrainingDivergedError
        If the loss or a trained parameter stops being finite.
    """
    was_trainable = {name: p.requires_grad for name, p in model.named_parameters()}
    result = TrainingResult(math.nan, 0)
    trainable = frozenset(name for name, asked in was_trainable.items() if asked)
    try:
        for phase in schedule:
            done = _train_phase(
                *(model, loader, phase, scopes, trainable, criterion, optimization),
                *(proximal_terms, after_step),
            )
            if done.steps:
                result = TrainingResult(done.loss, result.steps + done.steps)
    finally:
        for name, parameter in model.named_parameters():
            if was_trainable[name]:
                parameter.requires_grad_(True)
            parameter.grad = None
        model.eval()
    _check_finite(model)
    return result


def _train_phase(
    model: nn.Module,
    loader: Loader,
    phase: Phase,
    scopes: Mapping[str, Scope],
    trainable: frozenset[str],
    criterion: Criterion,
    optimization: Optimization,
    proximal_terms: Sequence[ProximalTerm],
    after_step: Callable[[], None] | None,
) -> TrainingResult:
    parameters = _freeze_all_but(model, phase.trains, scopes, trainable)
    if not parameters:
        return TrainingResult(math.nan, 0)
    optimizer = optimization.build(parameters.values())
    proximal = ProximalStep(proximal_terms, parameters)
    live_norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training]
    device = device_of(model)
    total, count, steps = torch.zeros((), device=device), 0, 0
    for batch in _batches(loader, phase, merge=bool(live_norms)):
        inputs, targets = batch[0].to(device), batch[-1].to(device)
        size = len(targets)
        for norm in live_norms:
            norm.train(size > 1)
        optimizer.zero_grad(set_to_none=True)
        loss = criterion(model(inputs), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        if optimization.gradient_clip:
            nn.utils.clip_grad_norm_(parameters.values(), optimization.gradient_clip)
        optimizer.step()
        proximal.apply(optimizer)
        if after_step:
            after_step()
        total += loss.detach() * size
        count, steps = count + size, steps + 1
    mean = float(total) / count if count else math.nan
    if count and not math.isfinite(mean):
        raise TrainingDivergedError(
            f"the training loss became {mean} within {steps} steps at learning rate "
            f"{optimization.learning_rate:g}; a smaller one or gradient_clip would help"
        )
    return TrainingResult(mean, steps)


def _freeze_all_but(
    model: nn.Module,
    trained: frozenset[Scope],
    scopes: Mapping[str, Scope],
    trainable: frozenset[str],
) -> dict[str, nn.Parameter]:
    """Freeze what a phase does not train, and return the parameters that it does.

    What the user froze (``requires_grad`` false) stays frozen.

    Frozen for good: no gradient, so nothing for momentum or weight decay to act on, and a module
    whose own buffers are not trained (the batch norm of a frozen body) is in eval mode, so that
    its statistics stay as they are.
    """
    model.train()
    for path, module in model.named_modules():
        own = [
            f"{path}.{name}" if path else name for name, _ in module.named_buffers(recurse=False)
        ]
        if any(name in scopes and scopes[name] not in trained for name in own):
            module.training = False
    for name, parameter in model.named_parameters():
        if name in trainable:
            parameter.requires_grad_(scopes[name] in trained)
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _batches(loader: Loader, phase: Phase, merge: bool) -> Iterator[Batch]:
    epochs, steps = phase.epochs, phase.steps
    taken = 0
    while steps or epochs:
        before = taken
        for batch in merge_lone_examples(loader) if merge else loader:
            for _ in range(phase.repeats):
                yield batch
            taken += 1
            if steps and taken == steps:
                return
        if taken == before:
            return  # no data
        epochs -= 0 if steps else 1


def _check_finite(model: nn.Module) -> None:
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise TrainingDivergedError(f"{name!r} is not finite after training")


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's parameters."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))
