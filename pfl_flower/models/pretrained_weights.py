"""Pretrained weights: files of them, read without executing anything, and their fit."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from clients.logs import info_once
from clients.model_components.words import shortened
from strategies.errors import ArgumentError

LEAST_SHARE = 0.5
"""Share of the body's entries that a file has at least; with less it is another network's."""

_INSIDE = ("state_dict", "model")
"""Under which of these names training scripts put the weights beside other things."""


def read_weights(file: str | Path) -> dict[str, Tensor]:
    """Return name -> tensor of a file, on the CPU.

    Parameters
    ----------
    file : str or Path
        ``.safetensors``; or what ``torch.save`` wrote (``.pth``, ``.pt``, ``.bin``), of which only
        tensors and plain containers are read (``weights_only=True``).

    Raises
    ------
    ArgumentError
        If there is no such file, or it holds something else.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        wanted = f"a file of weights (.safetensors or .pth); there is none at {path.absolute()}"
        raise ArgumentError("pretrained", str(file), wanted)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of either library, and of what torch reads with
        why = str(error).partition("\n")[0]
        wanted = f"a file of tensors and nothing else, whole (it cannot be read: {why})"
        raise ArgumentError("pretrained", str(file), wanted) from error
    return _tensors(found, str(file))


def _tensors(found: Any, file: str) -> dict[str, Tensor]:
    for name in _INSIDE:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    if not isinstance(found, Mapping) or not all(isinstance(t, Tensor) for t in found.values()):
        raise ArgumentError("pretrained", file, "a state dict: name -> tensor")
    return dict(found)


def put_weights(
    model: nn.Module, weights: Mapping[str, Tensor], head: Collection[str], source: str
) -> frozenset[str]:
    """Put weights into a network; return the entries that are new, since they have none.

    A head of another shape (for other classes) is new.

    Parameters
    ----------
    model : nn.Module
        The network.
    weights : mapping
        Name -> tensor.
    head : collection of str
        Entries of the network's head.
    source : str
        Where they are from, for error messages.

    Raises
    ------
    ArgumentError
        As :func:`check_fit`.
    """
    own = model.state_dict()
    fitting = {n: t for n, t in weights.items() if n in own and t.shape == own[n].shape}
    misfits = {
        name: f"{tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in weights and name not in fitting
    }
    missing = [name for name in own if name not in weights]
    unexpected = [name for name in weights if name not in own]
    new = check_fit(model, missing, misfits, unexpected, head, source)
    model.load_state_dict(fitting, strict=False)
    return new


def check_fit(
    model: nn.Module,
    missing: Iterable[str],
    misfits: Mapping[str, str],
    unexpected: Iterable[str],
    head: Collection[str],
    source: str,
) -> frozenset[str]:
    """Return the entries that are new after weights have been loaded.

    Parameters
    ----------
    model : nn.Module
        The network.
    missing : iterable of str
        Entries that the weights have not.
    misfits : mapping
        Entry -> how its shape differs.
    unexpected : iterable of str
        What the weights have, and the network has not.
    head : collection of str
        Entries of the network's head, which may be new.
    source : str
        Where they are from, for error messages.

    Raises
    ------
    ArgumentError
        If the body has an entry of another shape, or a module of which only a part is there, or
        less than :data:`LEAST_SHARE` of it is there.
    """
    entries = list(model.state_dict())
    counters = {name for name in entries if name.rpartition(".")[2] == "num_batches_tracked"}
    absent = set(missing) - set(head) - counters
    body = [name for name in entries if name not in head]
    odd = [f"{name} is {how}" for name, how in misfits.items() if name not in head]
    owners = {name: name.partition(".")[0] if "." not in name else _owner(name) for name in entries}
    split = {owners[name] for name in entries if name not in absent}
    torn = [f"{name} is missing" for name in body if name in absent and owners[name] in split]
    few = len(absent) + len(odd) > (1 - LEAST_SHARE) * len(body)
    if odd or torn or few:
        left = sorted(set(unexpected))
        beyond = f"; it has {shortened(left)} besides" if left else ""
        what = odd or torn or [f"{name} is missing" for name in body if name in absent]
        raise ArgumentError(
            "pretrained", source, f"weights of a {type(model).__name__}: {shortened(what)}{beyond}"
        )
    new = absent | (set(head) & (set(missing) | set(misfits)))
    if absent:
        info_once(f"{source} has no weights of {shortened(sorted(absent))}: these are new")
    return frozenset(new)


def _owner(name: str) -> str:
    return name.rpartition(".")[0]
