"""The one place that makes safetensors of NumPy arrays."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save


def array_bytes(
    arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Return a safetensors file of named arrays.

    safetensors writes memory as it lies: a transposed array, or one in Fortran order, would be read
    back scrambled, and it refuses NumPy scalars, which arithmetic makes of 0 dimensions.
    """
    ordered = {name: np.asarray(values, order="C") for name, values in arrays.items()}
    content: bytes = save(ordered, metadata=None if metadata is None else dict(metadata))
    return content
