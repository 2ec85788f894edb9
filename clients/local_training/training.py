"""The one local training loop. Methods differ in data only: phases, scopes, proximal terms."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm

from clients.data.datasets import reading
from clients.data.indexed_loader import Batch
from clients.data.inputs import to_device
from clients.data.loaders import Loader, batches_for_batch_norm, copied, parted
from clients.entries import places_of
from clients.frozen import modules_at_rest, trained_parameters
from clients.local_training.local_step import LocalState, Optimization, Step, gradient, local_step
from clients.local_training.proximal import ProximalTerm, anchors_of
from clients.scopes import MOVING, Scope
from clients.task import Criterion
from strategies.errors import ArgumentError

__all__ = [
    "Phase",
    "TrainingDivergedError",
    "body_only",
    "head_then_body",
    "joint",
    "train",
]

EVERYTHING = MOVING


class TrainingDivergedError(RuntimeError):
    """Local training produced a loss or a parameter that is not finite."""


@dataclass(frozen=True)
class Phase:
    """A stretch of local training: which scopes are trained and for how long.

    Attributes
    ----------
    trains : frozenset of Scope, default EVERYTHING
        Scopes whose parameters move; everything else stays, buffers included. What is frozen never
        moves.
    epochs : int, default 1
        Passes over the client's training data.
    steps : int, default 0
        If positive, this many minibatches instead of ``epochs``.
    repeats : int, default 1
        Steps on every minibatch (pFedMe takes several).
    """

    trains: frozenset[Scope] = EVERYTHING
    epochs: int = 1
    steps: int = 0
    repeats: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "trains", self.trains & MOVING)
        for name, least in (("epochs", 0), ("steps", 0), ("repeats", 1)):
            if getattr(self, name) < least:
                raise ArgumentError(name, getattr(self, name), f"at least {least}")


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
class TrainingResult:
    """What a client's training did.

    Attributes
    ----------
    loss : float
        Mean data loss over the batches of the last phase that took a step, NaN without steps.
    steps : int
        Optimizer steps over all phases.
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
    after_step: Callable[[Step], None] | None = None,
    by_hand: Collection[str] = (),
) -> TrainingResult:
    """Train ``model`` in place on a client's batches.

    A client with fewer examples than a batch trains on one smaller batch; one without examples
    takes no step. Under batch norm a last batch of less than half the size shares evenly with the
    one before, if the loader is an :func:`clients.in_memory_loader` or a
    :func:`clients.dataset_loader`; of another one a batch of one is merged with its neighbour.
    Where it has none (a client with a single example) batch norm uses its running statistics for
    that step and leaves them as they are. What the user froze (``requires_grad`` false) stays
    frozen.

    Parameters
    ----------
    model : nn.Module
        On the device where it is to be trained.
    loader : iterable
        Yields batches; iterated once an epoch.
    schedule : sequence of Phase
        Phases, in order.
    scopes : mapping
        Scope of every state-dict entry, from :func:`clients.scopes.assign_scopes`.
    criterion : callable
        Mean loss of a batch from the model's outputs and the targets.
    optimization : Optimization
        How to step.
    proximal_terms : sequence of ProximalTerm
        Beside the data loss; solved implicitly: stable whatever their strength.
    after_step : callable, optional
        Called with every step.
    by_hand : collection of str
        Parameters whose gradient is taken, and which ``after_step`` moves.

    Raises
    ------
    TrainingDivergedError
        If the loss or a trained parameter stops being finite.
    """
    result = TrainingResult(math.nan, 0)
    try:
        for phase in schedule:
            done = _train_phase(
                *(model, loader, phase, scopes, criterion, optimization),
                *(proximal_terms, after_step, frozenset(by_hand)),
            )
            if done.steps:
                result = TrainingResult(done.loss, result.steps + done.steps)
    finally:
        model.eval()
    return result


def _train_phase(
    model: nn.Module,
    loader: Loader,
    phase: Phase,
    scopes: Mapping[str, Scope],
    criterion: Criterion,
    optimization: Optimization,
    proximal_terms: Sequence[ProximalTerm],
    after_step: Callable[[Step], None] | None,
    by_hand: frozenset[str],
) -> TrainingResult:
    start = state = start_of_phase(model, phase, scopes)
    if not state.parameters:
        return TrainingResult(math.nan, 0)
    anchors = anchors_of(proximal_terms, state.parameters)
    live_norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training]
    device = device_of(model)
    differentiate = partial(gradient, places=places_of(model))
    total, count = torch.zeros((), device=device), 0
    for batch in _batches(loader, phase, bool(live_norms)):
        inputs, targets = (to_device(part, device) for part in parted(batch))
        size = len(targets)
        for norm in live_norms:
            norm.train(size > 1)
        step = local_step(
            *(state, inputs, targets),
            model=model,
            criterion=criterion,
            optimization=optimization,
            anchors=anchors,
            by_hand=by_hand,
            differentiate=differentiate,
        )
        state = step.state
        if after_step:
            after_step(step)
        total += step.loss * size
        count += size
    mean = float(total) / count if count else math.nan
    if count and not math.isfinite(mean):
        raise TrainingDivergedError(
            f"the training loss became {mean} within {state.steps} steps at learning rate "
            f"{optimization.learning_rate:g}; a smaller one or gradient_clip would help"
        )
    _put(start, state)
    _check_finite(state.parameters | state.buffers)
    return TrainingResult(mean, state.steps)


def start_of_phase(model: nn.Module, phase: Phase, scopes: Mapping[str, Scope]) -> LocalState:
    """Put a model in training mode, and return the parameters and buffers that a phase trains.

    What is not trained gets no gradient, so there is nothing for momentum or weight decay to act
    on, and a module whose own buffers are not trained (the batch norm of a body at rest, or of a
    frozen one, whosever it is) is in eval mode, so that its statistics stay as they are. What is
    returned are the model's own tensors.
    """
    model.train()
    buffers: dict[str, Tensor] = {}
    resting = set(modules_at_rest(model))
    for path, module in model.named_modules():
        own = {
            f"{path}.{name}" if path else name: buffer
            for name, buffer in module._buffers.items()
            if buffer is not None
        }
        if module in resting or any(
            name in scopes and scopes[name] not in phase.trains for name in own
        ):
            module.training = False
        elif module.training:
            buffers |= {name: buffer for name, buffer in own.items() if name in scopes}
    parameters = {
        name: parameter.detach()
        for name, parameter in trained_parameters(model).items()
        if scopes[name] in phase.trains
    }
    return LocalState(parameters, buffers)


@torch.no_grad()
def _put(start: LocalState, state: LocalState) -> None:
    """Put what was trained into the model, whose own tensors are those at the start."""
    entries = start.parameters | start.buffers
    for name, value in (state.parameters | state.buffers).items():
        entries[name].copy_(value)


def _batches(loader: Loader, phase: Phase, has_batch_norm: bool) -> Iterator[Batch]:
    epochs, steps = phase.epochs, phase.steps
    taken = 0
    while steps or epochs:
        before = taken
        for batch in reading(batches_for_batch_norm(loader) if has_batch_norm else loader):
            for _ in range(phase.repeats):
                yield batch if phase.repeats == 1 else copied(batch)
            taken += 1
            if steps and taken == steps:
                return
        if taken == before:
            return  # no data
        epochs -= 0 if steps else 1


def _check_finite(trained: Mapping[str, Tensor]) -> None:
    for name, tensor in trained.items():
        # One sum is enough, and faster than a look at every entry, unless it overflows by itself.
        if not tensor.is_floating_point() or math.isfinite(float(tensor.sum())):
            continue
        if not bool(torch.isfinite(tensor).all()):
            raise TrainingDivergedError(f"{name!r} is not finite after training")


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's parameters."""
    for module in model.modules():  # a small client asks seven times a round: no sets of names
        for parameter in module._parameters.values():
            if parameter is not None:
                return parameter.device
    return torch.device("cpu")
