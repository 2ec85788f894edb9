"""One name for each tensor of a network (tied weights, a module registered twice), and buffers.

A state dict has every name of a tensor, ``named_parameters`` only the first. Whatever travels, is
kept or is computed with goes by the first name, so that both always speak of the same tensors.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

__all__ = ["canonical_names", "entries_of", "functional"]


def canonical_names(model: nn.Module) -> dict[str, str]:
    """Return every name in the state dict -> the first name of the same tensor."""
    first: dict[int, str] = {}
    for name, tensor in _places(model):
        first.setdefault(id(tensor), name)
    state = model.state_dict(keep_vars=True)
    return {name: first.setdefault(id(tensor), name) for name, tensor in state.items()}


def entries_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict with one name for each tensor, as views of the network's own."""
    state = model.state_dict()
    return {n: state[n] for n, first in canonical_names(model).items() if n == first}


@torch.no_grad()
def put_entries(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Put values, by the names of :func:`entries_of`, into a network."""
    entries = entries_of(model)
    for name, value in values.items():
        entries[name].copy_(value)


def other_names(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return the first name of a tensor -> where else in the network it is; only where it is.

    A module that is registered twice is one place: what is put in it under one name is there under
    the other.
    """
    names: dict[int, list[str]] = {}
    for name, tensor in _places(model):
        names.setdefault(id(tensor), []).append(name)
    return {first: tuple(others) for first, *others in names.values() if others}


def functional(
    model: nn.Module,
    values: Mapping[str, Tensor],
    inputs: tuple[Any, ...],
    others: Mapping[str, tuple[str, ...]] | None = None,
) -> Any:
    """Call a network with tensors in the place of its own, under whatever names it has them.

    ``torch.func.functional_call`` refuses two names for one tensor, and where a module is
    registered twice it leaves the given tensors in the network.

    Parameters
    ----------
    model : nn.Module
        The network.
    values : mapping
        By the names of :func:`entries_of`; what is not there stays the network's own.
    inputs : tuple
        Positional arguments.
    others : mapping, optional
        :func:`other_names` of the network, where they are known.
    """
    others = other_names(model) if others is None else others
    same = {also: values[n] for n, names in others.items() if n in values for also in names}
    return functional_call(model, {**values, **same}, inputs, tie_weights=False)


def _places(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield every place of a parameter or buffer once, by its first name."""
    for path, module in model.named_modules():
        own = [*module.named_parameters(recurse=False, remove_duplicate=False)]
        own += module.named_buffers(recurse=False, remove_duplicate=False)
        for name, tensor in own:
            yield f"{path}.{name}" if path else name, tensor
