"""Inputs of a network: one tensor, or several by name or in order, as token ids and their mask.

The first dimension of each is the example. A mapping reaches a network as keyword arguments, and a
tuple as positional ones, unless its ``forward`` takes one object.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from strategies.errors import ArgumentError

__all__ = ["pad_sequences"]

Inputs = Any
"""``Tensor``, mapping of str to ``Tensor``, or tuple of ``Tensor``."""

MASK = "attention_mask"
"""Name of the tensor ``(N, L)`` that is 1 where a sequence has a token, and 0 where it is padded.
That is what transformers calls it."""

TOKENS = "input_ids"
"""Name of the token ids, as transformers calls them."""


def mapped(function: Callable[[Tensor], Tensor], inputs: Inputs) -> Inputs:
    """Return the results of a function on each tensor of inputs, in the same form."""
    if isinstance(inputs, Tensor):
        return function(inputs)
    if isinstance(inputs, Mapping):
        return {name: function(tensor) for name, tensor in inputs.items()}
    return tuple(function(tensor) for tensor in inputs)


def tensors_of(inputs: Inputs) -> list[Tensor]:
    """Return the tensors of inputs.

    Raises
    ------
    ArgumentError
        If there is none, or something else.
    """
    if isinstance(inputs, Tensor):
        return [inputs]
    several = isinstance(inputs, Mapping | tuple | list)
    found = list(inputs.values() if isinstance(inputs, Mapping) else inputs) if several else []
    if not found or not all(isinstance(each, Tensor) for each in found):
        wanted = "a tensor, or a mapping or tuple of tensors"
        kinds = [type(each).__name__ for each in found] if found else type(inputs).__name__
        raise ArgumentError("inputs", kinds, wanted)
    return found


def num_examples(inputs: Inputs) -> int:
    """Return the number of examples.

    Raises
    ------
    ArgumentError
        If tensors have different numbers of examples.
    """
    counts = [each.shape[0] for each in tensors_of(inputs)]
    if counts.count(counts[0]) != len(counts):
        raise ArgumentError("inputs", counts, "tensors of as many examples each")
    return counts[0]


def take(inputs: Inputs, places: Tensor | slice) -> Inputs:
    """Return some examples, by their indices or a slice."""
    return mapped(lambda tensor: tensor[places], inputs)


def to_device(inputs: Inputs, device: torch.device) -> Inputs:
    """Return inputs on a device."""
    return mapped(lambda tensor: tensor.to(device), inputs)


def clone(inputs: Inputs) -> Inputs:
    """Return a copy, for a network that may write in its inputs (``x /= 255``)."""
    return mapped(torch.clone, inputs)


def concatenated(parts: Sequence[Inputs]) -> Inputs:
    """Return the examples of several batches, as one.

    Where sequences have a mask, those of shorter batches are padded by zeros at their end.

    Parameters
    ----------
    parts : sequence
        Inputs of the same form, at least one.
    """
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(list(parts))
    if not isinstance(first, Mapping):
        return tuple(torch.cat(each) for each in zip(*parts, strict=True))
    if MASK in first:
        longest = max(part[MASK].shape[1] for part in parts)
        parts = [_padded(part, longest) for part in parts]
    return {name: torch.cat([part[name] for part in parts]) for name in first}


def _padded(inputs: Mapping[str, Tensor], length: int) -> dict[str, Tensor]:
    own = inputs[MASK].shape[1]
    return {
        name: nn.functional.pad(each, (0, length - own)) if _is_sequence(each, own) else each
        for name, each in inputs.items()
    }


def _is_sequence(tensor: Tensor, length: int) -> bool:
    return tensor.ndim == 2 and tensor.shape[1] == length


def trimmed(inputs: Inputs) -> Inputs:
    """Return inputs without the columns at the end that are padding in all examples.

    Only of a mapping with a mask; it saves the time of computing on padding.
    """
    if not isinstance(inputs, Mapping) or MASK not in inputs:
        return inputs
    mask = inputs[MASK]
    if mask.ndim != 2 or mask.numel() == 0:
        return inputs
    used = int(mask.any(dim=0).nonzero().max()) + 1 if bool(mask.any()) else 1
    own = mask.shape[1]
    return {n: each[:, :used] if _is_sequence(each, own) else each for n, each in inputs.items()}


def pad_sequences(
    sequences: Iterable[Sequence[int] | Tensor], length: int = 0, pad: int = 0
) -> dict[str, Tensor]:
    """Return token ids of different lengths as one tensor, padded at the end, with their mask.

    In the collate function of a ``DataLoader``: ``lambda rows: (pad_sequences([ids for ids, _ in
    rows]), torch.tensor([label for _, label in rows]))``.

    Parameters
    ----------
    sequences : iterable of sequence of int
        Token ids, one sequence an example.
    length : int, default 0
        Number of columns at least; 0 for those of the longest sequence.
    pad : int, default 0
        What is put after a shorter sequence. A network that heeds the mask does not look at it.
        Those of transformers that classify by the last token (GPT-2, Llama) need their own:
        ``config.pad_token_id``.

    Returns
    -------
    dict
        ``input_ids`` and ``attention_mask``, both ``(N, L)`` int64.

    Raises
    ------
    ArgumentError
        If a sequence is empty, or is not of whole numbers in one row.
    """
    rows = [torch.as_tensor(each) for each in sequences]
    for place, row in enumerate(rows):
        if row.ndim != 1 or not len(row) or row.is_floating_point() or row.is_complex():
            found = f"{tuple(row.shape)} of {str(row.dtype).removeprefix('torch.')}"
            raise ArgumentError(f"sequences[{place}]", found, "one row of token ids, at least one")
    columns = max([length, *map(len, rows)])
    ids = torch.full((len(rows), columns), pad, dtype=torch.int64)
    mask = torch.zeros((len(rows), columns), dtype=torch.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
        mask[place, : len(row)] = 1
    return {TOKENS: ids, MASK: mask}


def named_inputs(stacked: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Return inputs by name from one tensor of all.

    Parameters
    ----------
    stacked : Tensor
        ``(N, names, ...)``.
    names : sequence of str
        Their names, in this order.
    """
    return {name: stacked[:, place] for place, name in enumerate(names)}


def spread_inputs(model: nn.Module) -> None:
    """Make a network take a mapping as keyword arguments, and a tuple as positional ones.

    A network whose ``forward`` takes one object gets the mapping or tuple as it is.

    Parameters
    ----------
    model : nn.Module
        The network; it gets a hook, once.
    """
    if _hook not in model._forward_pre_hooks.values():
        model.register_forward_pre_hook(_hook, with_kwargs=True)


def _hook(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if len(args) != 1 or kwargs or isinstance(args[0], Tensor):
        return None
    (inputs,) = args
    if isinstance(inputs, Mapping):
        return _by_name(model, inputs)
    if isinstance(inputs, tuple | list):
        return (tuple(inputs), {}) if len(_positional(model)) != 1 else None
    return None


def _by_name(model: nn.Module, inputs: Mapping[str, Any]) -> Any:
    parameters = inspect.signature(model.forward).parameters
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return (), dict(inputs)
    if unknown := [name for name in inputs if name not in parameters]:
        own = _positional(model)
        if len(own) == 1 and own[0] not in inputs:
            return None  # it takes one object
        wanted = f"among the arguments of {type(model).__name__}.forward: {', '.join(parameters)}"
        raise ArgumentError("names of inputs", unknown, wanted)
    return (), dict(inputs)


def _positional(model: nn.Module) -> list[str]:
    """Return the arguments that ``forward`` takes by position; any number counts as two."""
    parameters = inspect.signature(model.forward).parameters.values()
    if any(each.kind is each.VAR_POSITIONAL for each in parameters):
        return ["first", "others"]
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [each.name for each in parameters if each.kind in kinds]
