"""What a network keeps outside of its state dict, such as counters and non-persistent buffers.

It is in no message and no file. Clients of a simulation share one network object, one after
another, so what one client's forward passes left there would be in the next client's.
"""

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clients.graphs.graph import GraphNetwork
from clients.measurement_error.multiple_imputation import DRAWS

_OTHERS = frozenset({*vars(nn.Module()), DRAWS})
"""Attributes that every module has, where parameters, buffers and submodules are, or ours."""

_OF_GRAPHS = frozenset(GraphNetwork.__annotations__)
"""Attributes of a graph network that are set anew for every client."""

_ATOMS = (type(None), bool, int, float, complex, str, bytes, np.ndarray, np.generic)


class HiddenState:
    """The first values of what a network keeps outside of its state dict.

    Attributes that are values count: numbers, words, tensors, arrays, and lists, sets and mappings
    of them. Other objects do not.

    Parameters
    ----------
    model : nn.Module
        The network, new.
    """

    def __init__(self, model: nn.Module) -> None:
        self._first = {place: copy.deepcopy(value) for place, value in _values(model)}

    def restore(self, model: nn.Module) -> list[str]:
        """Put the first values back; return the names of those that were others.

        Parameters
        ----------
        model : nn.Module
            The network, or a copy of it.
        """
        changed = []
        for place, value in list(_values(model)):
            path, name = place
            if place not in self._first:
                delattr(model.get_submodule(path), name)
            elif not _same(value, self._first[place]):
                setattr(model.get_submodule(path), name, copy.deepcopy(self._first[place]))
            else:
                continue
            changed.append(f"{path}.{name}" if path else name)
        return changed


def _values(model: nn.Module) -> Iterator[tuple[tuple[str, str], Any]]:
    """Yield ((path of a module, name), value) of what counts."""
    for path, module in model.named_modules():
        for name in module._non_persistent_buffers_set:
            yield (path, name), module._buffers[name]
        own = _OTHERS | _OF_GRAPHS if isinstance(module, GraphNetwork) else _OTHERS
        for name, value in vars(module).items():
            if name not in own and _is_value(value):
                yield (path, name), value


def _is_value(value: Any) -> bool:
    if isinstance(value, _ATOMS):
        return True
    if isinstance(value, Tensor):
        return not isinstance(value, nn.Parameter)
    if isinstance(value, dict):
        return all(_is_value(each) for each in value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return all(_is_value(each) for each in value)
    return False


def _same(one: Any, two: Any) -> bool:
    if one is two or type(one) is not type(two):  # numbers and words that nobody changed are one
        return one is two
    if isinstance(one, Tensor):
        alike = (one.shape, one.dtype) == (two.shape, two.dtype)
        there = two.to(one.device)
        return alike and torch.allclose(one, there, rtol=0.0, atol=0.0, equal_nan=True)
    if isinstance(one, np.ndarray):
        return bool(np.array_equal(one, two, equal_nan=one.dtype.kind in "fc"))
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(_same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(_same, one, two))
    if isinstance(one, set | frozenset):
        one, two = sorted(map(repr, one)), sorted(map(repr, two))
    return repr(one) == repr(two)  # NaN is no other value than NaN
