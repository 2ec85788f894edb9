import numpy as np
import pytest
from safetensors.numpy import load

from strategies.array_file import array_bytes


@pytest.mark.parametrize(
    "values",
    [
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.arange(12.0).reshape(3, 4).T,
        np.arange(12.0)[::2],
        np.float32(3.0),
        np.array(3, dtype=np.int64),
        np.zeros((0, 2)),
    ],
)
def test_arrays_are_read_back_however_they_lie_in_memory(values):
    found = load(array_bytes({"w": values}))["w"]
    np.testing.assert_array_equal(found, values)
    assert (found.shape, found.dtype) == (np.shape(values), values.dtype)
