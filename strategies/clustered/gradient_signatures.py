"""What clients report of themselves before round 1 to be clustered by: their gradients."""

from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from strategies.errors import ArgumentError
from strategies.protocol import GRADIENT
from strategies.replies import Reply


class Signature(NamedTuple):
    """What a client reported of itself.

    Attributes
    ----------
    values : ndarray
        Its gradient at the common start, perhaps projected.
    examples : int
        That it is the mean of.
    reliability : float
        Cosine of the gradients of two halves of them; NaN if unknown.
    """

    values: NDArray[Any]
    examples: int
    reliability: float


def check_gradient(reply: Reply, lengths: Collection[int]) -> None:
    """Refuse a reply that holds no gradient.

    Parameters
    ----------
    reply : Reply
        With arrays.
    lengths : collection of int
        What lengths a gradient may have; any if there are none.

    Raises
    ------
    ValueError
        If there is no vector of floats of such a length, it is zero, or it is of no example.
    """
    values = reply.views.get(GRADIENT)
    if values is None:
        raise ValueError(f"no array {GRADIENT!r}")
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.floating):
        raise ValueError(f"an array of {values.dtype} {values.shape} instead of a vector")
    if lengths and len(values) not in lengths:
        raise ValueError(f"{len(values)} values, others reported {sorted(lengths)}")
    if not values.any():
        raise ValueError("it is zero")
    if reply.weight < 1:
        raise ArgumentError("examples", reply.weight, "at least 1")
