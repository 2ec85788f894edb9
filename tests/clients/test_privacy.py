"""Replies that Flower's mods and wrappers can clip."""

import numpy as np
import pytest

from clients.privacy import clippable
from strategies.arrays import to_record

RECEIVED = {
    "count": np.array(3),
    "scale": np.array(1.0, np.float32),
    "w": np.array([1.0, 2.0], np.float32),
    "mask": np.array([True, False]),
}


@pytest.mark.parametrize("changes", [False, True])
def test_what_is_sent_can_be_clipped(changes):
    trained = {
        "w": np.array([2.0, 4.0], np.float32),
        "scale": np.array(0.5, np.float32),
        "count": np.array(40),
        "mask": np.array([True, True]),
    }
    sent = clippable(to_record(RECEIVED), trained, changes)
    assert list(sent) == list(RECEIVED)
    start = {n: np.zeros_like(v) if changes else v for n, v in RECEIVED.items()}
    for name in ("count", "mask"):
        np.testing.assert_array_equal(sent[name], start[name])
        assert sent[name].dtype == np.float64  # Flower can subtract no booleans, nor scale integers
    for name in ("w", "scale"):
        assert sent[name].dtype == RECEIVED[name].dtype
    np.testing.assert_array_equal(sent["w"] - start["w"], [1.0, 2.0])
    np.testing.assert_array_equal(sent["scale"] - start["scale"], [-0.5])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("value", [0.0, 1e-4, 1.0, 1000.0])
@pytest.mark.parametrize("changes", [False, True])
def test_an_update_has_a_length_even_if_nothing_was_learned(dtype, value, changes):
    received = {"w": np.full(3, value, dtype)}
    sent = clippable(to_record(received), received, changes)
    moved = sent["w"] - (0 if changes else received["w"])
    size = float(np.linalg.norm(moved.flat))
    assert 0.0 < size <= max(0.02 if dtype == "float16" else 1e-4, value * 1e-2)
