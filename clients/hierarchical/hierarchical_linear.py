"""The client of linear models with a common Gaussian prior: its own data, weighed against it."""

import math
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from torch import Tensor

from clients.base_client import NDArrays, Scalars
from clients.data.loaders import gathered
from clients.entries import by_name
from clients.evaluation import Evaluation, evaluate
from clients.hierarchical.softmax_laplace import laplace
from clients.linear_client import LinearClient, numbers
from clients.local_training.adaptation import ALL
from clients.method_hooks import LocalRound
from clients.state.personal_state import Snapshot
from clients.task import Regression
from strategies.errors import ArgumentError
from strategies.hierarchical.hierarchical_linear import first_prior
from strategies.hierarchical.linear_arrays import (
    MEAN,
    NAMES,
    PROTOCOLS,
    contribution_arrays,
    moments_arrays,
    prior_arrays,
    prior_of,
)
from strategies.hierarchical.mixed_effects import (
    Floats,
    Moments,
    Posterior,
    half_width,
    moments,
    posterior,
    predict,
    shrinkage,
)
from strategies.hierarchical.mixed_effects_em import contribution
from strategies.protocol import PROTOCOL

__all__ = ["HierarchicalLinearClient"]

LEVEL = 0.9
"""Probability of the predictive intervals that are reported."""


class HierarchicalLinearClient(LinearClient):
    """Weigh a linear model of the client's own data against the prior that all clients share.

    Its model is the posterior mean under the prior it receives, computed from its training
    examples whenever it is asked: there is nothing to train for epochs, and nothing to keep.
    Regression is exact. Classification (softmax) is Laplace's approximation at the mode.

    What it sends for the prior's sake (:class:`strategies.HierarchicalLinear`) is made of all its
    training examples: its term of each sum, or its moments. The terms of a single client reveal
    much of its model, and its moments all of it.

    Parameters
    ----------
    args, kwargs
        As in :class:`PersonalClient`, with nothing personal in ``scopes``; schedule and
        optimization have no use.
    protocol : {"iterative", "one-shot"}, default "iterative"
        As the server has it.

    Raises
    ------
    ArgumentError
        If the model is not linear, a part of it is personal, a regression has several outputs, or
        the protocol is one-shot in classification.
    """

    def __init__(
        self, *args: Any, protocol: Literal["iterative", "one-shot"] = "iterative", **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        if protocol not in PROTOCOLS:
            raise ArgumentError("protocol", protocol, choices=PROTOCOLS)
        check_protocol(protocol, self.is_regression)
        self.protocol = protocol
        self.shared_names = list(NAMES)
        self._prior = first_prior(self._coefficients().ravel())
        self._outgoing = prior_arrays(self._prior)

    def get_parameters(self, config: dict[str, Any]) -> NDArrays:
        """Return what is to be sent, in the order of ``shared_names``."""
        return [self._outgoing[name] for name in self.shared_names]

    def fit(self, parameters: NDArrays, config: dict[str, Any]) -> tuple[NDArrays, int, Scalars]:
        """Tell of the training examples, by the protocol; as :meth:`PersonalClient.fit`.

        Raises
        ------
        ArgumentError
            If the server has another protocol.
        """
        asked = config.get(PROTOCOL, self.protocol)
        if asked != self.protocol:
            raise ArgumentError(PROTOCOL, asked, f"{self.protocol!r}, this client's")
        return super().fit(parameters, config)

    # ------------------------------------------------------------------ what a message asks for

    def receive(
        self, parameters: NDArrays, before: int = 0, stored: bool = True
    ) -> Snapshot | None:
        """Take over the received prior; the model is its mean."""
        received = by_name(self.shared_names, parameters)
        prior = prior_of(received)
        expected = self._prior.mean.shape
        if prior.mean.shape != expected:
            raise ArgumentError(f"shape of {MEAN}", prior.mean.shape, f"{expected}")
        if not self.is_regression:  # the noise of a class is no parameter, whatever others report
            prior = replace(prior, noise=1.0)
        self._prior, self._outgoing = prior, received
        self._put(prior.mean)
        return None

    def train_locally(self, current: LocalRound) -> tuple[float, dict[str, Tensor]]:
        """Train, and say what is kept; as :meth:`PersonalClient.train_locally`."""
        own = self._moments(ALL)
        if self.protocol == "one-shot":
            self._outgoing = moments_arrays(own)
        else:
            sent = contribution(own, self._prior)
            if not self.is_regression:  # the noise of a class is no parameter: s2 stays 1
                sent = replace(sent, noise=np.full(2, float(own.examples)))
            self._outgoing = contribution_arrays(sent)
        self._put(posterior(own, self._prior).mean)
        with self.random(current.number, "train"):
            return evaluate(self.model, self.training_batches, self.task).loss, {}

    def personalize(self, current: LocalRound) -> tuple[Scalars, Evaluation | None]:
        """Put the client's local model together; as :meth:`PersonalClient.personalize`."""
        found = posterior(self._moments(ALL), self._prior)
        self._put(found.mean)
        distance = float(np.linalg.norm(found.mean - self._prior.mean))
        about: Scalars = {"shrinkage": float(shrinkage(found)), "prior-distance": distance}
        return about | (self._intervals(found) if self.is_regression else {}), None

    def adapt(self, examples: int, steps: int) -> None:
        """Take the posterior of a few examples; there are no steps to be taken."""
        self._put(posterior(self._moments(examples), self._prior).mean)

    def _intervals(self, found: Posterior) -> Scalars:
        """Return how often test targets are in their intervals, and how wide those are."""
        coverage = width = math.nan
        if test := list(self.test_loader or ()):
            inputs, targets = gathered(test)
            targets = targets.reshape(len(targets))
            covariance = found.total_covariance(self._prior)
            mean, variance = predict(
                self._design(inputs), found.mean, covariance, self._prior.noise
            )
            half = half_width(variance, LEVEL)
            coverage = float((np.abs(numbers(targets) - mean) <= half).mean())
            unit = self.task.unit if isinstance(self.task, Regression) else 1.0
            width = float(2 * unit * half.mean())
        return {"interval-coverage": coverage, "interval-width": width}

    # ------------------------------------------------------------------ the inside

    def _moments(self, count: int) -> Moments:
        """Return the moments of the first training examples; zero where there are none."""
        size = len(self._prior.mean)
        if (found := self._first_examples(count)) is None:
            return moments(np.zeros((0, size)), np.zeros(0))
        inputs, targets = found
        design = self._design(inputs)
        if self.is_regression:
            return moments(design, numbers(targets).reshape(len(targets)))
        return laplace(design, targets.cpu().numpy().astype(np.int64), self._prior)

    def _design(self, inputs: Tensor) -> Floats:
        """Return the flattened inputs with a column of ones, ``(n, features + 1)``."""
        flat = numbers(inputs).reshape(len(inputs), -1)
        return np.column_stack([flat, np.ones(len(flat))])


def check_protocol(protocol: str, is_regression: bool) -> None:
    """Refuse what is not exact.

    Raises
    ------
    ArgumentError
        If the protocol is one-shot in classification.
    """
    if protocol == "one-shot" and not is_regression:
        raise ArgumentError(
            "protocol",
            protocol,
            "'iterative' in classification: no moments hold all that classes need of the data",
        )
