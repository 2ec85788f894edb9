"""Pixels: the scale of clients' pictures, which has to be one, since one network takes them all."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pfl_flower.data.lazy_inputs import LazyInputs


def pixels_of(inputs: NDArray[Any] | LazyInputs) -> str:
    """Return what the pixels of pictures are.

    Parameters
    ----------
    inputs : ndarray or LazyInputs
        ``(N, ...)`` as a reader returns them; lazy ones know it from a few examples.

    Returns
    -------
    str
        ``"bytes"`` of uint8, which are scaled to 0 to 1; of other arrays ``"unit"`` if all values
        are there already, else ``"other"``. Empty with fewer than three axes an example.
    """
    if isinstance(inputs, LazyInputs):
        return inputs.pixels
    if inputs.ndim < 4:
        return ""
    if inputs.dtype == np.uint8:
        return "bytes"
    return "other" if bool(((inputs < 0) | (inputs > 1)).any()) else "unit"


_CHANNELS = (1, 3, 4)
"""Usual numbers of channels of a picture."""


def are_channels_last(shape: Sequence[int]) -> bool:
    """Return whether an example looks like a picture ``(height, width, channels)``.

    Networks of torch take ``(channels, height, width)``.

    Parameters
    ----------
    shape : sequence of int
        Shape of one example.
    """
    return len(shape) == 3 and shape[2] in _CHANNELS and shape[0] > max(_CHANNELS)


def common_pixels(kinds: Mapping[int, str]) -> tuple[str, dict[int, str]]:
    """Return what the pixels of most clients are, and the reason for every client with others.

    Bytes are scaled to 0 to 1, and other arrays are left as they are. Where both come together, an
    array with numbers elsewhere is on another scale.

    Parameters
    ----------
    kinds : mapping of int to str
        Client -> :func:`pixels_of` its training examples.
    """
    count = {kind: list(kinds.values()).count(kind) for kind in ("bytes", "unit", "other")}
    if not count["bytes"]:
        return "", {}
    scaled = count["bytes"] + count["unit"]
    if scaled >= count["other"]:
        why = f"{NOT_SCALED}; {scaled} clients have pixels that are scaled to 0 to 1"
        return "bytes", {client: why for client, kind in kinds.items() if kind == "other"}
    why = f"its pixels (uint8) are scaled to 0 to 1, and {count['other']} clients' are not"
    return "other", {client: why for client, kind in kinds.items() if kind == "bytes"}


NOT_SCALED = (
    "its pictures are no uint8, and hold numbers beyond 0 to 1: divide by 255 or give uint8"
)
