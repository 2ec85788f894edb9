"""Gradients of single examples: all at once by vmap, or in a loop where a network does not allow.

``torch.func.vmap`` has no rule for GRU and RNN, and refuses a forward pass that looks at values
(``if x.sum() > 0``, ``.item()``) or writes in place.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.nn.modules.batchnorm import _BatchNorm

from clients.data.inputs import Inputs, clone, mapped, take
from clients.entries import entries_of, functional, places_of
from clients.task import Task

Tensors = dict[str, Tensor]


class ExampleGradients:
    """Return gradients of the losses of single examples, stacked along the first axis.

    Whether ``vmap`` can is found out on the first example that it is asked for.

    Parameters
    ----------
    model : nn.Module
        The network, in eval mode and on its device.
    task : Task
        The loss.
    parameters : mapping
        Name -> value of what is differentiated.
    """

    def __init__(self, model: nn.Module, task: Task, parameters: Mapping[str, Tensor]) -> None:
        self.model = model
        self.task = task
        self.parameters = dict(parameters)
        entries = entries_of(model)
        self.fixed = {n: t.detach() for n, t in entries.items() if n not in parameters}
        trained = {name for name, _ in model.named_parameters()}
        self.buffers = [name for name in self.fixed if name not in trained]
        self.places = places_of(model)
        self._mapped: Callable[..., Tensors] | None = vmap(grad(self._loss), in_dims=(None, 0, 0))
        self._tried = False

    def __call__(self, inputs: Inputs, targets: Tensor) -> Tensors:
        """Return parameter -> ``(N, ...)``, for ``N`` examples."""
        mapped = self._mapped if self.mappable(inputs, targets) else None
        if mapped is not None:
            return mapped(self.parameters, inputs, targets)
        rows = [self._one(_example(inputs, place), y) for place, y in enumerate(targets)]
        return {name: torch.stack([row[name] for row in rows]) for name in self.parameters}

    def mappable(self, inputs: Inputs, targets: Tensor) -> bool:
        """Return whether ``vmap`` can differentiate the network at such examples."""
        if not self._tried and self._mapped is not None and len(targets):
            try:
                self._mapped(self.parameters, clone(take(inputs, slice(1))), targets[:1])
            except Exception:  # whatever is wrong with the network itself, the loop raises again
                self._mapped = None
            self._tried = True
        return self._mapped is not None

    def _loss(self, values: Mapping[str, Tensor], inputs: Inputs, target: Tensor) -> Tensor:
        batch = mapped(_as_batch, inputs)
        outputs = functional(self.model, {**self.fixed, **values}, (batch,), self.places)
        return self.task.criterion(outputs, target[None])

    def _one(self, inputs: Inputs, target: Tensor) -> Tensors:
        leaves = {name: t.detach().requires_grad_() for name, t in self.parameters.items()}
        buffers = {name: self.fixed[name].clone() for name in self.buffers}  # if it writes in them
        # cuDNN differentiates recurrent layers in training mode only
        with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
            loss = self._loss({**buffers, **leaves}, clone(inputs), target)
            found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        return {
            name: torch.zeros_like(leaf) if each is None else each
            for (name, leaf), each in zip(leaves.items(), found, strict=True)
        }


def _example(inputs: Inputs, place: int) -> Inputs:
    return mapped(lambda tensor: tensor[place], inputs)


def _as_batch(example: Tensor) -> Tensor:
    return example[None]


def mixing_layers(model: nn.Module) -> list[str]:
    """Return the layers under which an example has no prediction of its own, in eval mode either.

    Batch norm without running statistics normalizes by the batch at hand.
    """
    return [
        path
        for path, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is None
    ]
