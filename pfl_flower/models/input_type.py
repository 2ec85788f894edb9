"""Inputs to try a network on; whether it takes floats, or integers as an embedding does."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from clients.data.inputs import MASK, Inputs
from clients.graphs.graph import Graph, GraphNetwork, bind
from clients.model_components.layer_types import is_a
from pfl_flower.models.architecture import Architecture
from pfl_flower.models.networks import Shape
from strategies.errors import ArgumentError


def zeros_example(
    shape: Shape, integers: bool, count: int = 1, names: Sequence[str] = ()
) -> Inputs:
    """Return examples of zeros, to try a network on.

    Parameters
    ----------
    shape : tuple of int
        Shape of one example.
    integers : bool
        Whether examples are int64; otherwise they are float32.
    count : int, default 1
        Number of examples.
    names : sequence of str, default ()
        Names of several inputs of this shape. A mask is all ones: nothing is padding.

    Returns
    -------
    Tensor, or dict of str to Tensor
        ``(count, *shape)``.
    """
    kind = torch.int64 if integers or names else torch.float32
    if not names:
        return torch.zeros(count, *shape, dtype=kind)
    return {name: torch.full((count, *shape), int(name == MASK), dtype=kind) for name in names}


@contextmanager
def trial_inputs(
    model: nn.Module,
    shape: Shape,
    integers: bool = False,
    links: bool = False,
    names: Sequence[str] = (),
) -> Iterator[Inputs]:
    """Give two examples to try a network on, in eval mode and with random numbers of its own.

    A graph network has a graph of two nodes meanwhile. Every module is in its own mode afterwards.

    Parameters
    ----------
    model : nn.Module
        The network.
    shape : tuple of int
        Shape of one example; ``(features,)`` of a node.
    integers : bool, default False
        Whether examples are integers.
    links : bool, default False
        Whether examples of a graph are pairs of nodes.
    names : sequence of str, default ()
        Names of several inputs, which the network gets by name.
    """
    modes = [(module, module.training) for module in model.modules()]
    graph = model.graph if isinstance(model, GraphNetwork) else None
    inputs = zeros_example(shape, integers, count=2, names=names)
    if isinstance(model, GraphNetwork):
        nodes = torch.tensor([0, 1])
        pairs = torch.stack([nodes, nodes.flip(0)])
        bind(model, Graph(inputs, pairs))
        inputs = pairs if links else nodes
    model.eval()
    try:
        with torch.random.fork_rng(devices=[]):
            yield inputs
    finally:
        bind(model, graph)
        for module, mode in modes:
            module.training = mode


def check_input_names(model: nn.Module, architecture: Architecture) -> None:
    """Refuse inputs that a network of transformers would pass on to where nobody reads them.

    Its ``forward`` takes any name (``**kwargs``). Others are tried, and refuse by themselves.

    Parameters
    ----------
    model : nn.Module
        The network.
    architecture : Architecture
        Its ``inputs``.

    Raises
    ------
    ArgumentError
        With the names that ``forward`` does have as choices.
    """
    if not is_a(type(model), "transformers", "PreTrainedModel"):
        return
    arguments = inspect.signature(model.forward).parameters.values()
    any_name = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    known = [each.name for each in arguments if each.kind not in any_name]
    if unknown := [name for name in architecture.inputs if name not in known]:
        wanted = f"a network that takes {', '.join(unknown)}; its inputs are {', '.join(known)}"
        raise ArgumentError("model", architecture.model, wanted, known)


def needs_integers(model: nn.Module, shape: Shape) -> bool:
    """Return whether a network takes no floats, as one with an embedding.

    It is tried on two examples of zeros, without gradients and in eval mode. A network that takes
    floats gets floats, whatever else it takes. Whether it takes integers is not tried: zeros are
    padding for many, and a sequence of nothing else is more than some can do.

    Parameters
    ----------
    model : nn.Module
        The network; its mode is as before afterwards.
    shape : tuple of int
        Shape of one example.
    """
    with trial_inputs(model, shape) as inputs, torch.no_grad():
        try:
            model(inputs)
        except Exception:  # a user's network can raise anything
            return True
    return False


def gives_probabilities(
    model: nn.Module, shape: Shape, integers: bool, names: Sequence[str] = ()
) -> bool:
    """Return whether a network's outputs for two examples of zeros are probabilities, not logits.

    Cross-entropy would take the softmax of a softmax: training is slow, and what is predicted is
    hardly more than even.

    Parameters
    ----------
    model : nn.Module
        The network; its mode is as before afterwards.
    shape : tuple of int
        Shape of one example.
    integers : bool
        Whether it takes integers.
    names : sequence of str, default ()
        Names of several inputs.
    """
    with trial_inputs(model, shape, integers, names=names) as inputs, torch.no_grad():
        try:
            outputs = model(inputs)
            sums = outputs.sum(dim=1)
            found = outputs.ndim == 2 and bool((outputs >= 0).all())
            return found and outputs.shape[1] > 1 and torch.allclose(sums, torch.ones(2), atol=1e-4)
        except Exception:  # zeros may be no input that the network knows
            return False


def has_embedding(model: nn.Module) -> bool:
    """Return whether a network has an embedding, whose inputs have to be integers.

    Parameters
    ----------
    model : nn.Module
        The network.
    """
    return any(isinstance(module, nn.Embedding | nn.EmbeddingBag) for module in model.modules())
