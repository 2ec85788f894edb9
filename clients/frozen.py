"""What of a network is frozen: the pretrained base, which nobody trains, sends or keeps.

The one rule of what that is, by which scopes, training and everything else go:

- A *parameter* is frozen if its builder said so (``requires_grad`` is false).
- A *buffer* is frozen with the module that it belongs to: if that module has parameters of its
  own, with all of them (batch norm over a frozen scale, a table beside a frozen embedding); if it
  has none, with all parameters of the modules in it; and if these have none either (batch norm with
  ``affine=False``, ``FrozenBatchNorm2d``), with all parameters of the smallest module around it
  that has any. A buffer of a network without parameters is not frozen.

A module with frozen buffers stays in eval mode while the rest is trained, so that the running
statistics of a frozen base stay those that it was pretrained with.
"""

import copy
import json
from collections.abc import Collection, Iterable, Mapping
from hashlib import sha256
from typing import TypeVar

import torch
from torch import Tensor, nn

__all__ = ["base_fingerprint", "frozen_entries", "trained_parameters"]

Model = TypeVar("Model", bound=nn.Module)


def trained_parameters(
    model: nn.Module, names: Collection[str] | None = None
) -> dict[str, nn.Parameter]:
    """Return name -> parameter of all that training may move, in the order of the network.

    Parameters
    ----------
    model : nn.Module
        The network.
    names : collection of str, optional
        Those that are meant, by the names of :func:`clients.entries.entries_of`; by default all.
    """
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (names is None or name in names)
    }


def frozen_entries(model: nn.Module) -> frozenset[str]:
    """Return the state-dict entries that are frozen, under all names of each; see the module."""
    frozen = {id(p) for p in model.parameters() if not p.requires_grad}
    frozen |= {id(buffer) for _, buffers in _frozen_buffers(model) for buffer in buffers}
    state = model.state_dict(keep_vars=True)
    return frozenset(name for name, tensor in state.items() if id(tensor) in frozen)


def modules_at_rest(model: nn.Module) -> list[nn.Module]:
    """Return the modules with frozen buffers, which stay in eval mode."""
    return [module for module, _ in _frozen_buffers(model)]


def _frozen_buffers(model: nn.Module) -> list[tuple[nn.Module, list[Tensor]]]:
    """Return every module that has frozen buffers of its own, with these."""
    if all(parameter.requires_grad for parameter in model.parameters()):
        return []  # most networks
    modules = dict(model.named_modules())
    found = []
    for path, module in modules.items():
        buffers = list(module.buffers(recurse=False))
        if buffers and _is_frozen(path, modules):
            found.append((module, buffers))
    return found


def _is_frozen(path: str, modules: Mapping[str, nn.Module]) -> bool:
    """Return whether the buffers of the module at a path are frozen."""
    own = list(modules[path].parameters(recurse=False))
    while not own:
        own = list(modules[path].parameters())
        if not path:
            break
        path = path.rpartition(".")[0]
    return bool(own) and not any(parameter.requires_grad for parameter in own)


def copy_beside(model: Model, shared: Iterable[str]) -> Model:
    """Return a copy of a network that shares some entries with it: those that nobody changes.

    Parameters
    ----------
    model : nn.Module
        The network.
    shared : iterable of str
        The entries of scope ``frozen``. What is frozen and personal is not among them: each client
        has its own values of it.
    """
    entries = model.state_dict(keep_vars=True)
    return copy.deepcopy(model, {id(entries[name]): entries[name] for name in shared})


def base_digests(entries: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, str]:
    """Return entry -> its dtype, its shape and a digest of its values, such as ``float32 (3,) 9f``.

    Parameters
    ----------
    entries : mapping
        Name -> tensor.
    names : iterable of str
        The entries that make up a base.
    """
    return {name: _digest(entries[name]) for name in names}


def _digest(tensor: Tensor) -> str:
    # as bytes, since NumPy does not have every type of number that a base may come in
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    kind = str(tensor.dtype).removeprefix("torch.")
    return f"{kind} {tuple(tensor.shape)} {sha256(content.data).hexdigest()[:16]}"


def base_fingerprint(digests: Mapping[str, str]) -> str:
    """Return 16 hexadecimal digits that tell bases apart by names, shapes, dtypes and values.

    Parameters
    ----------
    digests : mapping
        As :func:`base_digests` returns them. Of no entries it is ``""``.
    """
    if not digests:
        return ""
    return sha256(json.dumps(sorted(digests.items())).encode()).hexdigest()[:16]
