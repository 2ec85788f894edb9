"""The client of a linear model that needs its examples as they are, not batches to step on."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clients.local_training.adaptation import take_examples
from clients.local_training.training import device_of
from clients.personal_client import PersonalClient
from clients.task import Regression
from strategies.errors import ArgumentError
from strategies.hierarchical.mixed_effects import Floats

_PLAIN = (nn.Linear, nn.Flatten, nn.Identity)


def linear_layer(model: nn.Module) -> nn.Linear:
    """Return the one linear layer that a model is.

    Raises
    ------
    ArgumentError
        If it is more than that, or the layer has no bias.
    """
    leaves = [module for module in model.modules() if not list(module.children())]
    layers = [module for module in leaves if isinstance(module, nn.Linear)]
    odd = sorted({type(module).__name__ for module in leaves if not isinstance(module, _PLAIN)})
    if odd or len(layers) != 1 or layers[0].bias is None or len(model.state_dict()) != 2:
        found = f"{len(layers)} linear layers" + (f" and {', '.join(odd)}" if odd else "")
        wanted = "linear, one torch.nn.Linear with a bias; set model='linear'"
        raise ArgumentError("model", found, wanted)
    return layers[0]


class LinearClient(PersonalClient):
    """What clients have in common whose model is one linear layer, and solved for.

    Parameters
    ----------
    args, kwargs
        As in :class:`PersonalClient`, with nothing personal in ``scopes``; schedule and
        optimization have no use.

    Raises
    ------
    ArgumentError
        If the model is not linear, a part of it is personal, or a regression has several outputs.
    """

    takes_server_mu = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.personal_names:
            wanted = "empty: the whole model is solved for"
            raise ArgumentError("personal_names", self.personal_names, wanted)
        self.layer = linear_layer(self.model)
        self.is_regression = isinstance(self.task, Regression)
        if self.is_regression and self.layer.out_features != 1:
            raise ArgumentError("out_features", self.layer.out_features, "1 for a regression")

    def _first_examples(self, count: int) -> tuple[Tensor, Tensor] | None:
        """Return the first training examples, inputs and targets; None where there are none.

        They are drawn in one order for all purposes, so that the same examples give the same bits
        in every round, and those of fewer are among those of more.
        """
        if not (self.num_examples and count):
            return None
        with self.random(0, "join"):
            inputs, targets, _ = take_examples(self.training_batches, count)
        if not isinstance(inputs, Tensor):
            wanted = "one tensor: a linear model has a coefficient for each feature"
            raise ArgumentError("inputs", type(inputs).__name__, wanted)
        self._check_linear(inputs[:1])
        return inputs, targets

    @torch.no_grad()
    def _check_linear(self, inputs: Tensor) -> None:
        """Refuse a model that does something else with its linear layer's outputs.

        Raises
        ------
        ArgumentError
            If its answer to an example is not the layer's.
        """
        self.model.eval()
        on_device = inputs.to(device_of(self.model))
        answer = self.model(on_device).reshape(-1)
        wanted = self.layer(on_device.flatten(1).to(self.layer.weight.dtype)).reshape(-1)
        if answer.shape != wanted.shape or not torch.allclose(
            answer, wanted, rtol=1e-3, equal_nan=True
        ):
            wanted = "linear, and do no more than its torch.nn.Linear; set model='linear'"
            raise ArgumentError("model", type(self.model).__name__, wanted)

    def _coefficients(self) -> Floats:
        """Return the model's coefficients, ``(outputs, features + 1)``, intercepts last."""
        weight, bias = numbers(self.layer.weight.detach()), numbers(self.layer.bias.detach())
        return np.column_stack([weight, bias])

    @torch.no_grad()
    def _put(self, coefficients: Floats) -> None:
        """Put coefficients into the model."""
        table = torch.from_numpy(coefficients.reshape(self.layer.out_features, -1).copy())
        self.layer.weight.copy_(table[:, :-1])
        self.layer.bias.copy_(table[:, -1])


def numbers(values: Tensor) -> Floats:
    """Return a tensor as float64."""
    found: Floats = values.cpu().double().numpy()
    return found
