"""Gradient at the common initial model, by which clients with similar optima are clustered."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from clients.data.inputs import Inputs, take, to_device
from clients.entries import functional
from clients.frozen import modules_at_rest
from clients.graphs.graph import GraphNetwork
from clients.local_training.training import device_of
from clients.model_components.layer_types import is_norm
from clients.task import Task

__all__ = ["start_gradient"]

BLOCK = 512
"""Largest number of examples whose activations are in memory at a time."""


def balanced_loss(outputs: Tensor, targets: Tensor, task: Task) -> Tensor:
    """Return the mean over classes of the mean loss of each class's examples, a scalar tensor.

    All classes that occur have the same weight, so the loss does not depend on their frequencies.
    For numeric targets it is the mean loss.
    """
    if targets.is_floating_point():
        return task.criterion(outputs, targets)
    classes: Tensor = torch.unique(targets)
    losses = [task.criterion(outputs[targets == c], targets[targets == c]) for c in classes]
    return torch.stack(losses).mean()


def start_gradient(
    model: nn.Module, names: list[str], inputs: Inputs, targets: Tensor, task: Task
) -> Tensor:
    """Return the gradient of the :func:`balanced_loss`, as one vector.

    Normalization layers use the statistics of the examples. That removes what all examples have in
    common (brightness, say), which would dominate the gradient of a randomly initialized model.
    Those of a frozen base keep their own. Dropout is off. The model does not change, buffers
    included.

    Parameters
    ----------
    model : nn.Module
        The model, at which the gradient is computed.
    names : list of str
        Names of the parameters to differentiate, in this order.
    inputs : Inputs
        Examples ``(n, ...)``: a tensor, or several by name or in order.
    targets : Tensor
        Their targets ``(n, ...)``. Examples are processed in blocks of equal size, at most
        :data:`BLOCK` each, whose gradients are averaged; the nodes of a graph all at once.
    task : Task
        The loss.

    Returns
    -------
    Tensor
        A float32 vector on the CPU.
    """
    device = device_of(model)
    model.eval()
    at_rest = set(modules_at_rest(model))
    for module in model.modules():
        if is_norm(module) and module not in at_rest:
            module.train(len(targets) > 1)  # one example has no statistics
    parameters = dict(model.named_parameters())
    # Every block of a graph's nodes would encode the whole graph again.
    blocks = 1 if isinstance(model, GraphNetwork) else math.ceil(len(targets) / BLOCK)
    total: Tensor | None = None
    for places in torch.arange(len(targets)).tensor_split(blocks):
        x, y = take(inputs, places), targets[places]
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        # A network may write in its inputs, which are those of the next gradient, too.
        outputs = functional(model, {**parameters, **buffers}, (to_device(x, device),))
        loss = balanced_loss(outputs, y.to(device), task) * (len(y) / len(targets))
        found = torch.autograd.grad(loss, [parameters[n] for n in names], allow_unused=True)
        parts = [
            torch.zeros_like(parameters[n]) if g is None else g
            for n, g in zip(names, found, strict=True)
        ]
        vector = torch.cat([part.flatten().float() for part in parts])
        total = vector if total is None else total + vector
    assert total is not None  # there is at least one example
    return total.cpu()


def halves(targets: Tensor, draw: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return the indices of two random halves of the examples, stratified by class."""
    order = torch.from_numpy(draw.permutation(len(targets)))
    if not targets.is_floating_point():
        order = order[targets[order].argsort(stable=True)]
    return order[::2], order[1::2]
