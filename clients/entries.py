"""One name for each tensor of a network (tied weights, a module registered twice), and buffers.

A state dict has every name of a tensor, ``named_parameters`` only the first. Whatever travels, is
kept or is computed with goes by the first name, so that both always speak of the same tensors.
"""

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
import torch
from flwr.app import Array
from numpy.typing import NDArray
from torch import Tensor, nn

from strategies.arrays import view
from strategies.errors import ArgumentError

__all__ = ["entries_of"]

UNKNOWN_TO_NUMPY = (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)
"""Types of numbers that cannot travel, because an array of a message is NumPy's."""


def canonical_names(model: nn.Module) -> dict[str, str]:
    """Return every name in the state dict -> the first name of the same tensor."""
    return _first_names(model, model.state_dict(keep_vars=True))


def entries_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict with one name for each tensor, as views of the network's own."""
    state = model.state_dict(keep_vars=True)
    names = _first_names(model, state)
    # an extra state is no tensor, and no network with one gets further than its scopes
    return {
        name: value.detach() if isinstance(value, Tensor) else value
        for name, value in state.items()
        if name == names[name]
    }


@torch.no_grad()
def put_entries(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Put values, by the names of :func:`entries_of`, into a network."""
    tensors = {name: held[key] for name, (held, key) in _places(model)}
    for name, value in values.items():
        tensors[name].copy_(value)


Place = tuple[MutableMapping[str, Any], str]
"""Where a network has a tensor: a module's parameters or buffers, and the name there."""

Places = Mapping[str, list[Place]]
"""First name of a tensor -> all places of it."""


def places_of(model: nn.Module) -> Places:
    """Return where a network has its tensors: of tied weights, every place of them.

    A module that is registered twice is one place: what is put in it under one name is there under
    the other.
    """
    same: dict[int, list[Place]] = {}
    found: dict[str, list[Place]] = {}
    for name, (held, key) in _places(model):
        places = same.setdefault(id(held[key]), [])
        if not places:
            found[name] = places
        places.append((held, key))
    return found


def check_replaceable(model: nn.Module) -> None:
    """Refuse a network that cannot be called with other tensors in the place of its own.

    Raises
    ------
    ArgumentError
        With the type of the network.
    """
    if isinstance(model, nn.DataParallel | torch.jit.ScriptModule):
        wanted = "the network inside it: torch cannot put other tensors into this one for a call"
        raise ArgumentError("model", type(model).__name__, wanted)


def check_types(entries: Mapping[str, Tensor]) -> None:
    """Refuse entries of a type of numbers that NumPy does not have, which cannot be sent.

    Raises
    ------
    ArgumentError
        With the first such entry.
    """
    for name, tensor in entries.items():
        if tensor.dtype in UNKNOWN_TO_NUMPY:
            kind = str(tensor.dtype).removeprefix("torch.")
            wanted = "one that NumPy has, so that the entry can be sent"
            raise ArgumentError(f"dtype of {name}", kind, wanted)


def functional(
    model: nn.Module,
    values: MutableMapping[str, Tensor],
    inputs: tuple[Any, ...],
    places: Places | None = None,
) -> Any:
    """Call a network with tensors in the place of its own, under whatever names it has them.

    ``torch.func.functional_call`` refuses two names for one tensor, where a module is registered
    twice it leaves the given tensors in the network, and it looks for all places at every call.

    Parameters
    ----------
    model : nn.Module
        The network.
    values : mutable mapping
        By the names of :func:`entries_of`; what is not there stays the network's own. Where the
        network puts another tensor in the place of one (``self.mean = 0.9 * self.mean + ...``), it
        is in ``values`` afterwards.
    inputs : tuple
        Positional arguments.
    places : mapping, optional
        :func:`places_of` the network, where they are known.
    """
    places = places_of(model) if places is None else places
    own = [(name, held, key, held[key]) for name in values for held, key in places[name]]
    try:
        for name, held, key, _ in own:
            held[key] = values[name]
        return model(*inputs)
    finally:
        for name, held, key, tensor in own:
            values[name], held[key] = held[key], tensor


def _first_names(model: nn.Module, state: Mapping[str, Any]) -> dict[str, str]:
    if len({id(tensor) for tensor in state.values()}) == len(state):
        return {name: name for name in state}  # most networks; spares them a walk at every message
    first: dict[int, str] = {}
    for name, (held, key) in _places(model):
        first.setdefault(id(held[key]), name)
    return {name: first.setdefault(id(tensor), name) for name, tensor in state.items()}


def _places(model: nn.Module) -> Iterator[tuple[str, Place]]:
    """Yield every place of a parameter or buffer once, by its first name."""
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        held: MutableMapping[str, Any]
        for held in (module._parameters, module._buffers):
            for key, tensor in held.items():
                if tensor is not None:
                    yield prefix + key, (held, key)


def match(arrays: Mapping[str, Array], names: list[str]) -> list[NDArray[np.generic]]:
    """Return the arrays of a message in the order of ``names``.

    Raises
    ------
    ArgumentError
        If a name is missing or unexpected, or an array cannot be read; the message says which.
    """
    known = set(names)
    missing = [name for name in names if name not in arrays]
    unexpected = [name for name in arrays if name not in known]
    if missing or unexpected:
        wanted = f"those this client shares: missing {missing}, unexpected {unexpected}"
        raise ArgumentError("arrays", list(arrays), wanted)
    return [view(arrays[name]) for name in names]


def by_name(names: Sequence[str], parameters: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return received arrays by the names of those that the client shares.

    Raises
    ------
    ArgumentError
        If there are more or fewer arrays than names.
    """
    if len(parameters) != len(names):
        raise ArgumentError("number of arrays", len(parameters), f"{len(names)}: {list(names)}")
    return dict(zip(names, parameters, strict=True))
