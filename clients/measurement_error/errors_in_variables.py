"""The client of a linear model fitted to true values: it predicts from calibrated measurements."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn.functional import one_hot

from clients.base_client import NDArrays
from clients.data.data_quality import calibration
from clients.entries import by_name
from clients.evaluation import evaluate
from clients.linear_client import LinearClient, numbers
from clients.local_training.adaptation import ALL
from clients.method_hooks import LocalRound
from clients.state.personal_state import Snapshot
from strategies.errors import ArgumentError
from strategies.hierarchical.mixed_effects import Floats
from strategies.measurement_error.corrected_moments import error_moments
from strategies.measurement_error.errors_in_variables import (
    COEFFICIENTS,
    NAMES,
    model_arrays,
    moments_arrays,
)

__all__ = ["ErrorsInVariablesClient"]

FEWEST_MEASUREMENTS = 2
"""A client calibrates if it has at least so many measurements for each feature: the covariance of
fewer would replace most of what they say by nothing."""


class Calibrated(nn.Module):
    """Replace measurements by the mean of the true values given them, then apply a model.

    Parameters
    ----------
    model : Module
        Takes true values.
    matrix : ndarray
        ``(d, d)`` of the calibration ``E[X | W] = mean + matrix (W - mean)``.
    mean : ndarray
        ``(d,)``.
    """

    def __init__(self, model: nn.Module, matrix: Floats, mean: Floats) -> None:
        super().__init__()
        like = next(model.parameters())
        self.model = model
        self.register_buffer("matrix", torch.from_numpy(matrix).to(like))
        self.register_buffer("mean", torch.from_numpy(mean).to(like))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the model's outputs."""
        matrix, mean = self.get_buffer("matrix"), self.get_buffer("mean")
        values = mean + (inputs.flatten(1) - mean) @ matrix.T
        outputs: Tensor = self.model(values.reshape(inputs.shape))
        return outputs


class ErrorsInVariablesClient(LinearClient):
    """Report the moments of noisy measurements; predict by the fleet's model of the true values.

    The coefficients that :class:`strategies.ErrorsInVariables` finds are those of true values, the
    same for all devices however well they measure. For prediction from measurements as noisy as
    those of training they alone would be worse than the biased ones; so each client puts its own
    calibration ``E[X | W]`` before them, made of its own training measurements and its declared
    noise: one common model, a reliability of each client's own. With fewer than
    :data:`FEWEST_MEASUREMENTS` measurements a feature it predicts from them as they are.

    Parameters
    ----------
    args, kwargs
        As in :class:`clients.linear_client.LinearClient`; ``details.quality`` declares the noise,
        without it measurements count as exact.

    Raises
    ------
    ArgumentError
        If the model is not one linear layer, or the declared noise is not that of its features.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._noise = np.zeros(self.layer.in_features)
        if self.details.quality is not None:
            declared, expected = self.details.quality.noise, self._noise.shape
            if declared.shape != expected:
                raise ArgumentError("shape of noise", declared.shape, f"{expected}, one a feature")
            self._noise = declared
        self.shared_names = list(NAMES)
        self._outgoing = model_arrays(self._coefficients())
        self._calibrates_on = ALL

    def get_parameters(self, config: dict[str, Any]) -> NDArrays:
        """Return what is to be sent, in the order of ``shared_names``."""
        return [self._outgoing[name] for name in self.shared_names]

    # ------------------------------------------------------------------ what a message asks for

    def receive(
        self, parameters: NDArrays, before: int = 0, stored: bool = True
    ) -> Snapshot | None:
        """Take over the received coefficients."""
        received = by_name(self.shared_names, parameters)
        found, expected = received[COEFFICIENTS].shape, self._coefficients().shape
        if found != expected:
            raise ArgumentError(f"shape of {COEFFICIENTS}", found, f"{expected}")
        self._outgoing = received
        self._put(received[COEFFICIENTS])
        return None

    def train_locally(self, current: LocalRound) -> tuple[float, dict[str, Tensor]]:
        """Train, and say what is kept; as :meth:`PersonalClient.train_locally`."""
        with self.random(current.number, "train"):
            loss = evaluate(self.predictor(), self.training_batches, self.task).loss
        if (found := self._first_examples(ALL)) is not None:
            inputs, targets = found
            if not self.is_regression:
                targets = one_hot(targets, self.layer.out_features)
            moments = error_moments(numbers(inputs.flatten(1)), numbers(targets), self._noise)
            self._outgoing = moments_arrays(moments)
        return loss, {}

    def adapt(self, examples: int, steps: int) -> None:
        """Calibrate on a few examples; there are no steps to be taken."""
        self._calibrates_on = examples

    def predictor(self) -> nn.Module:
        """Return the model behind the client's calibration.

        Exact measurements need none, and of too few training examples there is none to be made.
        """
        found = self._first_examples(self._calibrates_on) if self._noise.any() else None
        if found is None or len(found[0]) < FEWEST_MEASUREMENTS * self.layer.in_features:
            return self.model
        # One thread: how many there are would decide on the last bits of eigenvectors.
        with threadpool_limits(1, user_api="blas"):
            matrix, mean = calibration(numbers(found[0].flatten(1)), self._noise)
        return Calibrated(self.model, matrix, mean)

    def whole_model(self) -> Mapping[str, Tensor]:
        """Return the layer with the calibration in it: ``w C x + w (m - C m) + b``."""
        predictor = self.predictor()
        if not isinstance(predictor, Calibrated):
            return super().whole_model()
        matrix, mean = predictor.get_buffer("matrix"), predictor.get_buffer("mean")
        weight, bias = self.layer.weight.detach(), self.layer.bias.detach()
        folded = {
            id(self.layer.weight): weight @ matrix,
            id(self.layer.bias): bias + weight @ (mean - matrix @ mean),
        }
        return {name: folded[id(own)] for name, own in self.model.named_parameters()}
