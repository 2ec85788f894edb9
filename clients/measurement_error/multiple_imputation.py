"""Predictions for examples that are filled in several times: the average over the fillings.

Parameters are never averaged over fillings: the loss of a network is not convex, so the mean of
several good networks need not be good. The mean of their predictions is.
"""

from typing import Any

from torch import Tensor, nn

from clients.inference.gaussian_posterior import averaging
from clients.task import Task

_AVERAGE, _DRAWS = "average_over_draws", "draws_at_hand"


def average_predictions(model: nn.Module, task: Task) -> None:
    """Let a model of vectors average its predictions over the fillings of an example.

    Inputs ``(N, M, d)`` give one output for each of the N examples: the log of the mean
    probability of each class, or the mean of the outputs. Inputs ``(N, d)`` are predicted as ever.
    No parameter is renamed or added. May be called again for the same model.

    Parameters
    ----------
    model : nn.Module
        Of inputs ``(N, d)``.
    task : Task
        Decides what is averaged.
    """
    if not hasattr(model, _AVERAGE):
        model.register_forward_pre_hook(_spread)
        model.register_forward_hook(_gather)
    setattr(model, _AVERAGE, averaging(task))


def _spread(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Make examples of their own of all fillings."""
    values = inputs[0]
    setattr(model, _DRAWS, values.shape[1] if values.ndim == 3 else 0)
    return (values.flatten(0, 1), *inputs[1:]) if values.ndim == 3 else inputs


def _gather(model: nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> Any:
    """Average the outputs of the fillings of each example."""
    draws = getattr(model, _DRAWS)
    if not draws:
        return outputs
    apart = outputs.reshape(-1, draws, *outputs.shape[1:])
    return getattr(model, _AVERAGE)(apart.transpose(0, 1))
