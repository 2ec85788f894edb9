"""Diagonal of the Fisher information matrix: the importance of each parameter for predictions."""

from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor, nn

from clients.data.inputs import Inputs, clone, concatenated, num_examples, take, to_device
from clients.data.loaders import Loader, parted
from clients.frozen import trained_parameters
from clients.graphs.graph import GraphNetwork
from clients.inference.example_gradients import ExampleGradients
from clients.local_training.training import device_of
from clients.task import Classification, Task

__all__ = ["fisher_diagonal"]

GRADIENT_VALUES = 2**22
"""Largest number of per-example gradient values in memory at once (16 MB of float32)."""

MOST_AT_ONCE = 256
"""Largest number of examples at once, because activations take memory too."""

GRAPH_VALUES = 2**26
"""As :data:`GRADIENT_VALUES`, for the nodes and edges of a graph (256 MB): all of them have a
gradient for every example."""


def fisher_diagonal(
    model: nn.Module,
    loader: Loader,
    task: Task = Classification(),
    *,
    samples: int = 0,
    names: Collection[str] | None = None,
) -> dict[str, Tensor]:
    """Return ``F_j = mean_n E_{y ~ p(y|x_n)} (d log p(y|x_n) / d theta_j)^2`` (Kirkpatrick 2017).

    The expectation is over the *model's* predictive distribution, not over the labels, so it does
    not vanish if the model fits its labels. The gradient of every example is squared separately
    (the square of a batch's mean gradient is too small, by about the batch size). The model is in
    eval mode during the computation: batch norm uses its running statistics, dropout is off.
    Where ``vmap`` cannot differentiate the network, examples are taken one after another.

    Parameters
    ----------
    model : nn.Module
        The model, on its device. Frozen parameters are left out.
    loader : Loader
        Batches of the examples; it is iterated once.
    task : Task, default Classification()
        Defines the loss and the predictive distribution.
    samples : int, default 0
        Number of labels to draw for each example from the model's prediction. 0 computes the exact
        expectation, which takes a gradient for every class.
    names : collection of str or None, default None
        Names of the parameters; all by default.

    Returns
    -------
    dict of str to Tensor
        Parameter name -> tensor of its shape, >= 0. Without examples it is zero.
    """
    parameters = {
        name: parameter.detach() for name, parameter in trained_parameters(model, names).items()
    }
    found = {name: torch.zeros_like(value) for name, value in parameters.items()}
    size = _at_once(model, parameters)
    was_training, count = model.training, 0
    model.eval()
    gradients = ExampleGradients(model, task, parameters)
    try:
        for inputs in _gathered(loader, size, device_of(model)):
            own = num_examples(inputs)
            count += own
            with torch.no_grad():
                targets, shares = task.outcomes(model(clone(inputs)))  # it may write in them
            if samples:
                targets, shares = _draw(targets, shares, samples)
            # every pair of an outcome and an example, as many at once as memory allows
            places = torch.arange(own, device=targets.device).repeat(len(targets))
            flat = (places, targets.reshape(-1), shares.reshape(-1))
            for place, target, share in zip(*(torch.split(t, size) for t in flat), strict=True):
                for name, each in gradients(take(inputs, place), target).items():
                    found[name] += torch.einsum("n,n...->...", share, each.square())
    finally:
        model.train(was_training)
    return {name: total / max(count, 1) for name, total in found.items()}


def normalized(fisher: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Divide the Fisher information by its mean over all parameters.

    Otherwise the scale of ``lambda`` would depend on the network and on its confidence. All zeros
    stay zeros.
    """
    count = sum(value.numel() for value in fisher.values())
    mean = sum(float(value.sum()) for value in fisher.values()) / max(count, 1)
    return {name: value / mean if mean > 0 else value for name, value in fisher.items()}


def _at_once(model: nn.Module, parameters: Mapping[str, Tensor]) -> int:
    """Return the number of examples whose gradients fit in memory at once."""
    size = min(MOST_AT_ONCE, GRADIENT_VALUES // max(1, sum(p.numel() for p in parameters.values())))
    if isinstance(model, GraphNetwork) and model.graph is not None:
        width = max((len(p) for p in parameters.values() if p.ndim), default=1)
        places = len(model.graph) + model.graph.edges.shape[1]
        size = min(size, GRAPH_VALUES // max(1, places * width))
    return max(1, size)


def _gathered(loader: Loader, size: int, device: torch.device) -> Iterator[Inputs]:
    """Merge the inputs of batches to at least ``size`` examples, if there are as many."""
    held: list[Inputs] = []
    for batch in loader:
        held.append(parted(batch)[0])
        if sum(map(num_examples, held)) >= size:
            yield to_device(concatenated(held), device)
            held = []
    if held:
        yield to_device(concatenated(held), device)


def _draw(targets: Tensor, shares: Tensor, samples: int) -> tuple[Tensor, Tensor]:
    """Draw outcomes ``(samples, N)`` from the predictive distribution."""
    places = torch.multinomial(shares.T, samples, replacement=True).T
    return targets.gather(0, places), shares.new_full(places.shape, 1.0 / samples)
