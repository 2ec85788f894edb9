"""Replies that Flower's privacy wrappers and mods can clip: in place, without error, not equal."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from flwr.clientapp.mod import LocalDpMod, adaptiveclipping_mod, fixedclipping_mod
from flwr.clientapp.typing import Mod
from numpy.typing import NDArray

from strategies.arrays import view


def is_clipped(mods: Sequence[Mod]) -> bool:
    """Return whether one of Flower's mods clips what a client sends."""
    return is_noisy(mods) or fixedclipping_mod in mods or adaptiveclipping_mod in mods


def is_noisy(mods: Sequence[Mod]) -> bool:
    """Return whether a mod adds noise to what a client sends."""
    return any(isinstance(mod, LocalDpMod) for mod in mods)


def clippable(
    received: ArrayRecord, trained: Mapping[str, NDArray[Any]], changes: bool = False
) -> dict[str, NDArray[Any]]:
    """Return what a client sends so that Flower clips exactly its parameters' update.

    - Integers and booleans are sent as they were received: counters of batches would be most of the
      update's length. They are sent as floats, because Flower scales every change, which it cannot
      do with integers; the strategy takes those that it has sent.
    - An array without dimensions is sent as one of length 1: Flower leaves others unclipped.
    - If nothing has changed, one value is moved by its last digit: Flower divides by the length of
      the update.

    Parameters
    ----------
    received : ArrayRecord
        What the client was sent.
    trained : mapping of str to ndarray
        What it has made of that, by the same names.
    changes : bool, default False
        Whether to send the changes from what was received, not the arrays.

    Returns
    -------
    dict of str to ndarray
        In the order of ``received``.
    """
    before = {name: view(array) for name, array in received.items()}
    floats = [name for name, values in before.items() if np.issubdtype(values.dtype, np.inexact)]
    sent = {name: trained[name] if name in floats else values for name, values in before.items()}
    if changes:
        zeros = {name: np.zeros_like(values) for name, values in before.items()}
        sent = zeros | {name: sent[name] - before[name] for name in floats}
        before = zeros
    sent = {
        name: np.atleast_1d(values) if name in floats else np.asarray(values, np.float64)
        for name, values in sent.items()
    }
    movable = [n for n in floats if sent[n].size and np.issubdtype(sent[n].dtype, np.floating)]
    if movable and all(np.array_equal(sent[n], np.atleast_1d(before[n])) for n in movable):
        sent[movable[0]] = _moved(sent[movable[0]])
    return sent


def _moved(values: NDArray[Any]) -> NDArray[Any]:
    """Return values of which the first is larger by the least whose square is not zero."""
    moved = values.copy()
    least = 2.0 * np.sqrt(np.finfo(values.dtype).tiny)
    moved.flat[0] += max(float(np.spacing(np.abs(moved.flat[0]))), float(least))
    return moved
