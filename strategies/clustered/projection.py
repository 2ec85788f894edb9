"""A count sketch: a random projection that keeps angles between vectors."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from strategies.randomness import generator


def project(values: NDArray[Any], size: int, seed: int) -> NDArray[Any]:
    """Return a count sketch: a random projection that keeps cosines up to about 1/sqrt(size).

    Count sketch of Charikar, Chen & Farach-Colton (2002): each entry is added, with a random sign,
    to one of ``size`` sums. The inner product of two sketches is an unbiased estimate of that of
    the vectors; its variance is at most ``2 / size`` for vectors of length 1. The sketch takes one
    pass and needs no matrix.

    Parameters
    ----------
    values : ndarray
        Vector ``(p,)``.
    size : int
        Length of the sketch. If it is 0, or at least ``p``, the vector itself is returned.
    seed : int
        Seed of the projection. Vectors that are compared need the same seed.

    Returns
    -------
    ndarray
        Sketch ``(size,)`` float32, or ``values`` unchanged.
    """
    if not 0 < size < len(values):
        return values
    draw = generator(seed, "projection", len(values), size)
    places = draw.integers(size, size=len(values), dtype=np.int32)
    signs = draw.integers(2, size=len(values), dtype=np.int8) * 2 - 1
    sums = np.bincount(places, weights=values * signs, minlength=size)
    return sums.astype(np.float32)
