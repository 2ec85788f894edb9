"""Which parameters make a network's outputs: one forward pass, followed back to its last layers."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from clients.data.inputs import clone, spread_inputs
from clients.entries import entries_of, functional
from clients.model_components.outputs import logits_of

CONTRACTION = re.compile(
    r"(Addmm|Mm|Bmm|Baddbmm|Addbmm|Mv|Addmv|Dot|Linear|\w*Linear|Trilinear|\w*Conv\w*|Embedding\w*|"
    r"\w*(Rnn|Lstm|Gru)\w*|\w*Mm|\w*Sparse\w*)Backward\d*"
)
"""Name of a step that makes new features of old ones. What only shifts or scales (a bias,
normalization) is passed, and what is behind it is looked at, too."""

INPUTS = ""
"""Stands for the inputs, in the place of a parameter's name."""


@dataclass(frozen=True)
class Makers:
    """What makes the outputs.

    Parameters
    ----------
    steps : tuple of frozenset of str
        Parameters of each of the last steps before the outputs that make features of features.
    passed : frozenset of str
        Parameters between these steps and the outputs, such as biases, scales and norms.
    widths : tuple of bool
        Whether each step makes as many features as there are outputs.
    """

    steps: tuple[frozenset[str], ...]
    passed: frozenset[str]
    widths: tuple[bool, ...]


def makers_of(model: nn.Module, example: Any) -> Makers:
    """Return which parameters make the outputs of a network for an example.

    The network is called once, in eval mode, and does not change.

    Parameters
    ----------
    model : nn.Module
        The network.
    example : object
        Inputs of a batch, such as ``(2, *shape)``.
    """
    entries = entries_of(model)
    trainable = {name for name, each in model.named_parameters() if each.is_floating_point()}
    leaves = {
        name: tensor.detach().requires_grad_() if name in trainable else tensor.detach().clone()
        for name, tensor in entries.items()
    }
    names = {id(tensor): name for name, tensor in leaves.items()}
    with _trial(model), torch.random.fork_rng(devices=[]), torch.enable_grad():
        if isinstance(example, Tensor):
            start = example.detach().clone()
            if start.is_floating_point():
                names[id(start.requires_grad_())] = INPUTS
            example = start.clone()  # the network may write in it
        elif isinstance(example, Mapping | tuple | list):
            example = clone(example)
        outputs = logits_of(functional(model, leaves, (example,)))
    steps: dict[frozenset[str], bool] = {}
    passed: set[str] = set()
    for each in _tensors_in(outputs):
        found, between = _last_steps(each.grad_fn, names)
        passed |= between
        wide = set(each.shape[1:]) or {1}
        for step in found:
            fits = any(wide & set(leaves[name].shape[:2]) for name in step)
            steps[step] = steps.get(step, False) or fits
    return Makers(tuple(steps), frozenset(passed), tuple(steps.values()))


@contextmanager
def _trial(model: nn.Module) -> Iterator[None]:
    """Put a network into eval mode, and every module back into its own afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    spread_inputs(model)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _tensors_in(outputs: Any) -> Iterator[Tensor]:
    if isinstance(outputs, Tensor):
        if outputs.grad_fn is not None:
            yield outputs
    elif isinstance(outputs, Mapping):
        for each in outputs.values():
            yield from _tensors_in(each)
    elif isinstance(outputs, tuple | list):
        for each in outputs:
            yield from _tensors_in(each)


def _last_steps(start: Any, names: Mapping[int, str]) -> tuple[list[frozenset[str]], set[str]]:
    """Return the parameters of the last steps before ``start``, and those between."""
    steps, passed = [], set()
    waiting, seen = [start], {start}
    while waiting:
        node = waiting.pop()
        own = _parameter(node, names)
        if own is not None:
            passed |= {own} - {INPUTS}
            continue
        before = [each for each, _ in node.next_functions if each is not None]
        if CONTRACTION.fullmatch(node.name()):
            weights = frozenset[str]().union(*(_weight(each, names) for each in before))
            if weights:
                steps.append(weights)
                continue
        new = [each for each in before if each not in seen]
        seen.update(new)
        waiting += new
    return steps, passed


def _weight(start: Any, names: Mapping[int, str]) -> frozenset[str]:
    """Return the parameters that an operand is a form of; none if it depends on the inputs.

    A weight may be transposed, normalized or parametrized, but no layer is between.
    """
    found: set[str] = set()
    layers = False
    waiting, seen = [start], {start}
    while waiting:
        node = waiting.pop()
        own = _parameter(node, names)
        if own == INPUTS:
            return frozenset()
        if own is not None:
            found.add(own)
            continue
        layers = layers or CONTRACTION.fullmatch(node.name()) is not None
        if layers and not all(map(_is_reparametrized, found)):
            return frozenset()
        new = [each for each, _ in node.next_functions if each is not None and each not in seen]
        seen.update(new)
        waiting += new
    return frozenset() if layers and not all(map(_is_reparametrized, found)) else frozenset(found)


def _is_reparametrized(name: str) -> bool:
    """Return whether a weight is computed of this parameter, as under spectral norm."""
    return ".parametrizations." in name or name.endswith("_orig")


def _parameter(node: Any, names: Mapping[int, str]) -> str | None:
    variable = getattr(node, "variable", None)
    return None if variable is None else names.get(id(variable))
