"""How much each parameter matters for what a model predicts: the diagonal of the Fisher matrix."""

from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from clients.graphs.graph import GraphNetwork
from clients.loaders import Loader
from clients.task import Classification, Task
from clients.training import device_of

GRADIENT_VALUES = 2**22
"""Values of per-example gradients that are held at once (16 MB of float32)."""

MOST_AT_ONCE = 256
"""Examples, whose activations take memory too."""

GRAPH_VALUES = 2**26
"""The same of a graph, all of whose nodes and edges have a gradient for every example (256 MB)."""


def fisher_diagonal(
    model: nn.Module,
    loader: Loader,
    task: Task = Classification(),
    *,
    samples: int = 0,
    names: Collection[str] | None = None,
) -> dict[str, Tensor]:
    """Return ``F_j = mean_n E_{y ~ p(y|x_n)} (d log p(y|x_n) / d theta_j)^2`` (Kirkpatrick 2017).

    The expectation is over what the *model* predicts, not over the labels, so it does not vanish
    where the model fits its labels; and every example's gradient is squared by itself (the square
    of a batch's mean gradient is another thing, and about a batch size too small). The model is in
    eval mode meanwhile: batch norm uses its running statistics, dropout is off.

    Parameters
    ----------
    model : nn.Module
        On its device; parameters without ``requires_grad`` are left out.
    loader : Loader
        Yields batches of the examples, once.
    task : Task, default Classification()
        Says what the model holds possible, and its loss.
    samples : int, default 0
        Draw so many labels for each example from the model's prediction; 0 takes the exact
        expectation, at the price of a gradient for every class.
    names : collection of str or None, default None
        The parameters to take it of; all by default.

    Returns
    -------
    dict of str to Tensor
        Parameter name -> tensor of its shape, >= 0; zeros without examples.
    """
    parameters = {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (names is None or name in names)
    }
    fixed = {n: t.detach() for n, t in model.state_dict().items() if n not in parameters}

    def loss(values: Mapping[str, Tensor], inputs: Tensor, target: Tensor) -> Tensor:
        outputs = functional_call(model, {**fixed, **values}, (inputs[None],))
        return task.criterion(outputs, target[None])

    gradients = vmap(grad(loss), in_dims=(None, 0, 0))
    found = {name: torch.zeros_like(value) for name, value in parameters.items()}
    size = _at_once(model, parameters)
    was_training, count = model.training, 0
    model.eval()
    try:
        for inputs in _gathered(loader, size, device_of(model)):
            count += len(inputs)
            with torch.no_grad():
                targets, shares = task.outcomes(model(inputs))
            if samples:
                targets, shares = _draw(targets, shares, samples)
            # every pair of an outcome and an example, as many at once as memory allows
            places = torch.arange(len(inputs), device=inputs.device).repeat(len(targets))
            flat = (places, targets.reshape(-1), shares.reshape(-1))
            for place, target, share in zip(*(torch.split(t, size) for t in flat), strict=True):
                for name, each in gradients(parameters, inputs[place], target).items():
                    found[name] += torch.einsum("n,n...->...", share, each.square())
    finally:
        model.train(was_training)
    return {name: total / max(count, 1) for name, total in found.items()}


def normalized(fisher: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the Fisher divided by its mean over all parameters, so that strengths have one scale.

    Without it the scale of ``lambda`` would depend on the network and on how sure it is. All zeros
    stay zeros.
    """
    count = sum(value.numel() for value in fisher.values())
    mean = sum(float(value.sum()) for value in fisher.values()) / max(count, 1)
    return {name: value / mean if mean > 0 else value for name, value in fisher.items()}


def _at_once(model: nn.Module, parameters: Mapping[str, Tensor]) -> int:
    """Return how many examples' gradients are taken at once, so that memory suffices."""
    size = min(MOST_AT_ONCE, GRADIENT_VALUES // max(1, sum(p.numel() for p in parameters.values())))
    if isinstance(model, GraphNetwork) and model.graph is not None:
        width = max((len(p) for p in parameters.values() if p.ndim), default=1)
        places = len(model.graph) + model.graph.edges.shape[1]
        size = min(size, GRAPH_VALUES // max(1, places * width))
    return max(1, size)


def _gathered(loader: Loader, size: int, device: torch.device) -> Iterator[Tensor]:
    """Yield the inputs of several batches together, at least ``size`` examples where there are."""
    held: list[Tensor] = []
    for batch in loader:
        held.append(batch[0])
        if sum(len(inputs) for inputs in held) >= size:
            yield torch.cat(held).to(device)
            held = []
    if held:
        yield torch.cat(held).to(device)


def _draw(targets: Tensor, shares: Tensor, samples: int) -> tuple[Tensor, Tensor]:
    """Draw outcomes ``(samples, N)`` from what the model holds possible."""
    places = torch.multinomial(shares.T, samples, replacement=True).T
    return targets.gather(0, places), shares.new_full(places.shape, 1.0 / samples)
