"""Multiple imputation: predictions averaged over several imputations of an example.

Predictions are averaged, never parameters: the loss of a network is not convex, so the mean of
several good networks need not be good.
"""

from typing import Any

from torch import Tensor, nn

from clients.inference.gaussian_posterior import averaging
from clients.task import Task

_AVERAGE, DRAWS = "average_over_draws", "draws_at_hand"


def average_predictions(model: nn.Module, task: Task) -> None:
    """Make a model average its predictions over the imputations of an example.

    For inputs ``(N, M, d)``, N examples with M imputations each, the model returns one output per
    example: the log of the mean probability of each class, or the mean of the outputs. Inputs
    ``(N, d)`` are predicted as before. No parameter is renamed or added. The function may be called
    again for the same model.

    Parameters
    ----------
    model : nn.Module
        A model of inputs ``(N, d)``; it gets hooks.
    task : Task
        Determines the average: of probabilities, or of outputs.
    """
    if not hasattr(model, _AVERAGE):
        model.register_forward_pre_hook(_spread)
        model.register_forward_hook(_gather)
    setattr(model, _AVERAGE, averaging(task))


def _spread(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Turn all imputations into separate examples."""
    values = inputs[0]
    setattr(model, DRAWS, values.shape[1] if values.ndim == 3 else 0)
    return (values.flatten(0, 1), *inputs[1:]) if values.ndim == 3 else inputs


def _gather(model: nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> Any:
    """Average the outputs over the imputations of each example."""
    draws = getattr(model, DRAWS)
    if not draws:
        return outputs
    by_draw = outputs.reshape(-1, draws, *outputs.shape[1:])
    return getattr(model, _AVERAGE)(by_draw.transpose(0, 1))
