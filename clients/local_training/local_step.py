"""One step of local training as a pure function: gradient, clipping, SGD or Adam, proximal terms.

Every client trains by :func:`local_step`, whatever its method. It has no state of its own and
changes nothing in place, so an engine may stack clients along a new axis and map it over them
(``torch.func.vmap``, with :func:`stackable_gradient`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import grad_and_value

from clients.entries import Places, functional
from clients.local_training.proximal import Anchors, proximal_step
from strategies.errors import ArgumentError

__all__ = ["LocalState", "Optimization", "gradient", "local_step"]

Tensors = dict[str, Tensor]
"""Name in the state dict -> tensor."""

Criterion = Callable[[Any, Tensor], Tensor]
"""(the model's outputs, targets) -> mean loss, a scalar tensor."""


@dataclass(frozen=True)
class Optimization:
    """How a client steps. The optimizer starts afresh in every phase of every round.

    Parameters
    ----------
    optimizer : str, default "sgd"
        ``"sgd"`` (with ``momentum``) or ``"adam"`` (Kingma & Ba 2015, with their betas).
    learning_rate : float, default 0.1
        > 0.
    momentum : float, default 0.9
        In [0, 1), SGD only.
    weight_decay : float, default 0
        >= 0, of the trained parameters only.
    gradient_clip : float, default 0
        Largest Euclidean norm of the data loss's whole gradient; 0 for none.

    Raises
    ------
    ArgumentError
        If a value is out of range.
    """

    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    gradient_clip: float = 0.0

    def __post_init__(self) -> None:
        if self.optimizer not in ("sgd", "adam"):
            raise ArgumentError("optimizer", self.optimizer, choices=("sgd", "adam"))
        if not self.learning_rate > 0:
            raise ArgumentError("learning_rate", self.learning_rate, "> 0")
        if not 0 <= self.momentum < 1:
            raise ArgumentError("momentum", self.momentum, "in [0, 1)")
        for name in ("weight_decay", "gradient_clip"):
            if getattr(self, name) < 0:
                raise ArgumentError(name, getattr(self, name), ">= 0")


@dataclass(frozen=True)
class LocalState:
    """What a step takes and returns.

    Parameters
    ----------
    parameters : dict
        Those that are trained.
    buffers : dict
        Entries that are no parameters, such as running statistics.
    first, second : dict
        Moments of the optimizer: of SGD the momentum buffers; of Adam the means of gradients and
        of their squares. Empty before the first step.
    steps : int
        Steps that were taken.
    """

    parameters: Tensors
    buffers: Tensors
    first: Tensors = field(default_factory=dict)
    second: Tensors = field(default_factory=dict)
    steps: int = 0


@dataclass(frozen=True)
class Step:
    """A step that was taken.

    Parameters
    ----------
    state : LocalState
        After it.
    loss : Tensor
        Mean data loss of the batch, before the step; a scalar.
    gradients : dict
        Of the data loss, clipped; also of what ``by_hand`` names.
    """

    state: LocalState
    loss: Tensor
    gradients: Tensors


Gradient = Callable[[nn.Module, Criterion, Tensors, Tensors, Any, Tensor], Any]
"""(model, criterion, parameters, buffers, inputs, targets) -> (loss, gradients, buffers)."""


def gradient(
    model: nn.Module,
    criterion: Criterion,
    parameters: Tensors,
    buffers: Tensors,
    inputs: Any,
    targets: Tensor,
    places: Places | None = None,
) -> tuple[Tensor, Tensors, Tensors]:
    """Return the mean loss of a batch, its gradient, and the buffers after the forward pass.

    Parameters
    ----------
    model : nn.Module
        Called with ``parameters`` and ``buffers`` in the place of its own; what is in neither
        stays its own.
    criterion : callable
        See :data:`Criterion`.
    parameters, buffers : dict
        Name -> tensor; not changed.
    inputs, targets
        Of the batch.
    places : mapping, optional
        :func:`clients.entries.places_of` the model; given, they are not looked for again.

    Returns
    -------
    tuple of Tensor, dict and dict
        A parameter that the loss does not depend on has no gradient, as in PyTorch: it stays where
        it is, whatever weight decay there is.
    """
    leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    values = {**leaves, **{name: value.clone() for name, value in buffers.items()}}
    outputs = functional(model, values, (inputs,), places)
    after = {name: values[name].detach() for name in buffers}
    loss = criterion(outputs, targets)
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    gradients = {n: each for n, each in zip(leaves, found, strict=True) if each is not None}
    return loss.detach(), gradients, after


def stackable_gradient(
    model: nn.Module,
    criterion: Criterion,
    parameters: Tensors,
    buffers: Tensors,
    inputs: Any,
    targets: Tensor,
) -> tuple[Tensor, Tensors, Tensors]:
    """Return what :func:`gradient` returns, by transforms that ``torch.func.vmap`` can map."""

    def loss_of(values: Tensors) -> tuple[Tensor, Tensors]:
        given = {**values, **{name: value.clone() for name, value in buffers.items()}}
        outputs = functional(model, given, (inputs,))
        return criterion(outputs, targets), {name: given[name].detach() for name in buffers}

    gradients, (loss, after) = grad_and_value(loss_of, has_aux=True)(parameters)
    return loss, gradients, after


def local_step(
    state: LocalState,
    inputs: Any,
    targets: Tensor,
    *,
    model: nn.Module,
    criterion: Criterion,
    optimization: Optimization,
    anchors: Anchors,
    by_hand: frozenset[str] = frozenset(),
    differentiate: Gradient = gradient,
) -> Step:
    """Take one step on a batch: down the gradient of the data loss, then the proximal step.

    Parameters
    ----------
    state : LocalState
        Before the step; not changed.
    inputs, targets
        Of the batch.
    model, criterion
        As in :func:`gradient`.
    optimization : Optimization
        How to step.
    anchors : mapping
        Parameter -> what holds it near an anchor, see
        :func:`clients.local_training.proximal.anchors_of`.
    by_hand : frozenset of str
        Parameters whose gradient is taken, and which are moved by the caller.
    differentiate : callable
        :func:`gradient`, or :func:`stackable_gradient` under ``vmap``.
    """
    loss, gradients, buffers = differentiate(
        *(model, criterion, state.parameters, state.buffers, inputs, targets)
    )
    with torch.no_grad():
        moved = {name: each for name, each in gradients.items() if name not in by_hand}
        if optimization.gradient_clip:
            moved = clipped(moved, optimization.gradient_clip)
        step = _adam if optimization.optimizer == "adam" else _sgd
        after = step(state, moved, buffers, optimization)
        if anchors:
            parameters, first = proximal_step(
                after.parameters,
                after.first if optimization.optimizer == "sgd" else {},
                anchors,
                optimization.learning_rate,
                _adam_scale(after) if optimization.optimizer == "adam" else None,
            )
            first = first or after.first
            after = LocalState(parameters, buffers, first, after.second, after.steps)
    return Step(after, loss, {**gradients, **moved})


def clipped(gradients: Tensors, largest: float) -> Tensors:
    """Return gradients scaled down so that their common Euclidean norm is at most ``largest``."""
    norms = [torch.linalg.vector_norm(each) for each in gradients.values()]
    total = torch.linalg.vector_norm(torch.stack(norms))
    factor = torch.clamp(largest / (total + 1e-6), max=1.0)
    return {name: each * factor for name, each in gradients.items()}


def _sgd(
    state: LocalState, gradients: Tensors, buffers: Tensors, settings: Optimization
) -> LocalState:
    """Return the state after a step of SGD with (heavy ball) momentum."""
    parameters, first = dict(state.parameters), dict(state.first)
    for name, found in gradients.items():
        before = state.parameters[name]
        step = _decayed(found, before, settings.weight_decay)
        if settings.momentum:
            if name in first:
                step = first[name].mul(settings.momentum).add_(step)
            first[name] = step
        parameters[name] = torch.add(before, step, alpha=-settings.learning_rate)
    return LocalState(parameters, buffers, first, {}, state.steps + 1)


_BETAS, _EPSILON = (0.9, 0.999), 1e-8  # as in Kingma & Ba 2015, and torch.optim.Adam


def _adam(
    state: LocalState, gradients: Tensors, buffers: Tensors, settings: Optimization
) -> LocalState:
    """Return the state after a step of Adam (Kingma & Ba 2015, Algorithm 1)."""
    parameters, first, second = dict(state.parameters), dict(state.first), dict(state.second)
    steps = state.steps + 1
    size = settings.learning_rate / (1.0 - _BETAS[0] ** steps)
    root = (1.0 - _BETAS[1] ** steps) ** 0.5
    for name, found in gradients.items():
        before = state.parameters[name]
        step = _decayed(found, before, settings.weight_decay)
        mean = first[name] if name in first else torch.zeros_like(before)
        square = second[name] if name in second else torch.zeros_like(before)
        first[name] = mean.lerp(step, 1.0 - _BETAS[0])
        second[name] = square.mul(_BETAS[1]).addcmul_(step, step, value=1.0 - _BETAS[1])
        scale = (second[name].sqrt() / root).add_(_EPSILON)
        parameters[name] = torch.addcdiv(before, first[name], scale, value=-size)
    return LocalState(parameters, buffers, first, second, steps)


def _adam_scale(state: LocalState) -> Mapping[str, Tensor]:
    """Return the distances that Adam measures in: the roots of its second moments."""
    correction = 1.0 - _BETAS[1] ** float(state.steps)
    return {n: (each / correction).sqrt_().add_(_EPSILON) for n, each in state.second.items()}


def _decayed(found: Tensor, parameter: Tensor, weight_decay: float) -> Tensor:
    return found.add(parameter, alpha=weight_decay) if weight_decay else found
