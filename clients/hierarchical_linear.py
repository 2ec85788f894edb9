"""The client of linear models with a common Gaussian prior: its own data, weighed against it."""

import math
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from clients.evaluation import Evaluation, evaluate
from clients.joining import ALL, take_examples
from clients.loaders import Loader
from clients.newton import laplace
from clients.personal import NDArrays, PersonalClient, Scalars
from clients.state import Snapshot
from clients.task import Regression
from clients.training import device_of
from strategies.gaussian import (
    Floats,
    Moments,
    Posterior,
    half_width,
    moments,
    posterior,
    predict,
    shrinkage,
)
from strategies.gaussian_fit import contribution
from strategies.hierarchical_linear import (
    NAMES,
    PROTOCOLS,
    contribution_arrays,
    first_prior,
    moments_arrays,
    prior_arrays,
    prior_of,
)
from strategies.protocol import PROTOCOL

LEVEL = 0.9
"""Probability of the predictive intervals that are reported."""

_PLAIN = (nn.Linear, nn.Flatten, nn.Identity)


def linear_layer(model: nn.Module) -> nn.Linear:
    """Return the one linear layer that a model is.

    Raises
    ------
    ValueError
        If it is more than that, or the layer has no bias.
    """
    leaves = [module for module in model.modules() if not list(module.children())]
    layers = [module for module in leaves if isinstance(module, nn.Linear)]
    odd = sorted({type(module).__name__ for module in leaves if not isinstance(module, _PLAIN)})
    if odd or len(layers) != 1 or layers[0].bias is None or len(model.state_dict()) != 2:
        found = f"{len(layers)} linear layers" + (f" and {', '.join(odd)}" if odd else "")
        raise ValueError(
            f"an exact posterior needs a linear model, one torch.nn.Linear with a bias; this one "
            f"has {found}. Set model='linear'"
        )
    return layers[0]


class HierarchicalLinearClient(PersonalClient):
    """Weigh a linear model of the client's own data against the prior that all clients share.

    Its model is the posterior mean under the prior it receives, computed from its training
    examples whenever it is asked: there is nothing to train for epochs, and nothing to keep.
    Regression is exact. Classification (softmax) is Laplace's approximation at the mode.

    What it sends for the prior's sake (:class:`strategies.HierarchicalLinear`) is made of all its
    training examples: its term of each sum, or its moments. The terms of a single client tell
    much of its model, and its moments tell all of it.

    Parameters
    ----------
    args, kwargs : as in :class:`PersonalClient`, with nothing personal in ``scopes``; schedule and
        optimization have no use
    protocol : ``"iterative"`` or ``"one-shot"``, as the server has it

    Raises
    ------
    ValueError
        If the model is not linear, a part of it is personal, a regression has several outputs, or
        the protocol is one-shot in classification.
    """

    uses_pulls = False
    makes_own_model = True
    takes_draws = False

    def __init__(
        self, *args: Any, protocol: Literal["iterative", "one-shot"] = "iterative", **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        if protocol not in PROTOCOLS:
            raise ValueError(f"protocol must be one of {PROTOCOLS}, got {protocol!r}")
        if self.personal_names:
            raise ValueError(
                f"the whole model is the client's own, so nothing can be personal beside it; "
                f"{self.personal_names} are"
            )
        self.layer = linear_layer(self.model)
        self.is_regression = isinstance(self.task, Regression)
        check_protocol(protocol, self.is_regression)
        if self.is_regression and self.layer.out_features != 1:
            raise ValueError(f"a regression has 1 output, not {self.layer.out_features}")
        self.protocol = protocol
        self.shared_names = list(NAMES)
        self._prior = first_prior(self._coefficients())
        self._outgoing = prior_arrays(self._prior)

    def get_parameters(self, config: dict[str, Any]) -> NDArrays:
        """Return what is to be sent, in the order of ``shared_names``."""
        return [self._outgoing[name] for name in self.shared_names]

    def fit(self, parameters: NDArrays, config: dict[str, Any]) -> tuple[NDArrays, int, Scalars]:
        """Tell of the training examples, by the protocol; as :meth:`PersonalClient.fit`.

        Raises
        ------
        ValueError
            If the server has another protocol.
        """
        asked = config.get(PROTOCOL, self.protocol)
        if asked != self.protocol:
            raise ValueError(f"the server's protocol is {asked!r}, this client's {self.protocol!r}")
        return super().fit(parameters, config)

    # ------------------------------------------------------------------ what a message asks for

    def _load(self, parameters: NDArrays, before: int = 0, stored: bool = True) -> Snapshot | None:
        """Take over the received prior; the model is its mean."""
        if len(parameters) != len(self.shared_names):
            raise ValueError(f"received {len(parameters)} arrays instead of {self.shared_names}")
        prior = prior_of(dict(zip(self.shared_names, parameters, strict=True)))
        if prior.mean.shape != self._prior.mean.shape:
            raise ValueError(
                f"received a prior of {len(prior.mean)} coefficients for a model of "
                f"{len(self._prior.mean)}"
            )
        if not self.is_regression:  # the noise of a class is no parameter, whatever others tell
            prior = replace(prior, noise=1.0)
        self._prior, self._outgoing = prior, dict(zip(self.shared_names, parameters, strict=True))
        self._put(prior.mean)
        return None

    def _train(self, server_round: int, before: Snapshot | None) -> tuple[float, dict[str, Tensor]]:
        own = self._moments(ALL)
        if self.protocol == "one-shot":
            self._outgoing = moments_arrays(own)
        else:
            told = contribution(own, self._prior)
            if not self.is_regression:  # the noise of a class is no parameter: s2 stays 1
                told = replace(told, noise=np.full(2, float(own.examples)))
            self._outgoing = contribution_arrays(told)
        self._put(posterior(own, self._prior).mean)
        with self._random(server_round, "train"):
            return evaluate(self.model, self._examples, self.task).loss, {}

    def _personalize(
        self, server_round: int, last: bool, before: Snapshot | None
    ) -> tuple[Scalars, Evaluation | None]:
        found = posterior(self._moments(ALL), self._prior)
        self._put(found.mean)
        distance = float(np.linalg.norm(found.mean - self._prior.mean))
        about: Scalars = {"shrinkage": float(shrinkage(found)), "prior-distance": distance}
        return about | (self._intervals(found) if self.is_regression else {}), None

    def _join(self, examples: int, steps: int) -> None:
        """Take the posterior of a few examples; there are no steps to be taken."""
        self._put(posterior(self._moments(examples), self._prior).mean)

    def _intervals(self, found: Posterior) -> Scalars:
        """Return how often test targets are in their intervals, and how wide those are."""
        coverage = width = math.nan
        if test := list(self.test_loader or ()):
            inputs, targets = (torch.cat([batch[part] for batch in test]) for part in (0, -1))
            targets = targets.reshape(len(targets))
            covariance = found.total_covariance(self._prior)
            mean, variance = predict(
                self._design(inputs), found.mean, covariance, self._prior.noise
            )
            half = half_width(variance, LEVEL)
            coverage = float((np.abs(_numbers(targets) - mean) <= half).mean())
            unit = self.task.unit if isinstance(self.task, Regression) else 1.0
            width = float(2 * unit * half.mean())
        return {"interval-coverage": coverage, "interval-width": width}

    # ------------------------------------------------------------------ the inside

    def _moments(self, count: int) -> Moments:
        """Return the moments of the first training examples; zero where there are none.

        They are drawn in one order for all purposes, so that the same examples give the same bits
        in every round, and those of fewer are among those of more.
        """
        size = len(self._prior.mean)
        loader: Loader = self._examples
        if not (self.num_examples and count):
            return moments(np.zeros((0, size)), np.zeros(0))
        with self._random(0, "join"):
            inputs, targets, _ = take_examples(loader, count)
        self._check_linear(inputs[:1])
        design = self._design(inputs)
        if self.is_regression:
            return moments(design, _numbers(targets).reshape(len(targets)))
        return laplace(design, targets.cpu().numpy().astype(np.int64), self._prior)

    def _design(self, inputs: Tensor) -> Floats:
        """Return the flattened inputs with a column of ones, ``(n, features + 1)``."""
        flat = _numbers(inputs).reshape(len(inputs), -1)
        return np.column_stack([flat, np.ones(len(flat))])

    @torch.no_grad()
    def _check_linear(self, inputs: Tensor) -> None:
        """Refuse a model that does something else with its linear layer's outputs.

        Raises
        ------
        ValueError
            If its answer to an example is not the layer's.
        """
        self.model.eval()
        on_device = inputs.to(device_of(self.model))
        answer = self.model(on_device).reshape(-1)
        wanted = self.layer(on_device.flatten(1).to(self.layer.weight.dtype)).reshape(-1)
        if answer.shape != wanted.shape or not torch.allclose(
            answer, wanted, rtol=1e-3, equal_nan=True
        ):
            raise ValueError(
                "an exact posterior needs a linear model, but this one does more than its "
                "torch.nn.Linear. Set model='linear'"
            )

    def _coefficients(self) -> Floats:
        """Return the model's coefficients, the intercept of each output after its weights."""
        weight, bias = _numbers(self.layer.weight.detach()), _numbers(self.layer.bias.detach())
        return np.column_stack([weight, bias]).ravel()

    @torch.no_grad()
    def _put(self, coefficients: Floats) -> None:
        """Put coefficients into the model."""
        table = torch.from_numpy(coefficients.reshape(self.layer.out_features, -1).copy())
        self.layer.weight.copy_(table[:, :-1])
        self.layer.bias.copy_(table[:, -1])


def check_protocol(protocol: str, is_regression: bool) -> None:
    """Refuse what is not exact.

    Raises
    ------
    ValueError
        If the protocol is one-shot in classification.
    """
    if protocol == "one-shot" and not is_regression:
        raise ValueError(
            "protocol 'one-shot' is for regression: a class has no moments that tell all of the "
            "data. Use protocol='iterative'"
        )


def _numbers(values: Tensor) -> Floats:
    """Return a tensor as float64."""
    numbers: Floats = values.cpu().double().numpy()
    return numbers
