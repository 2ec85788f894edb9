"""The data and the network of many small clients: scikit-learn's digits, a perceptron 64-32-10.

Nothing of pfl-flower is imported, so that others can be measured on the same.
"""

from collections import OrderedDict
from collections.abc import Mapping
from functools import cache

import numpy as np
from torch import nn

TRAINED, TESTED = 60, 20
"""Examples of a client."""

BATCH = 20


def clients(partition_id: int, _: int) -> Mapping[str, np.ndarray]:
    """Return a client's digits: drawn for it without repetition, others may have them too."""
    pixels, labels = _digits()
    drawn = np.random.default_rng(partition_id).permutation(len(labels))[: TRAINED + TESTED]
    inputs, targets = (pixels[drawn] / 16.0).astype(np.float32), labels[drawn].astype(np.int64)
    return {
        "x_train": inputs[:TRAINED],
        "y_train": targets[:TRAINED],
        "x_test": inputs[TRAINED:],
        "y_test": targets[TRAINED:],
    }


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return pixels, labels


def network(shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Return the perceptron; what is personal is its head."""
    layers = OrderedDict(
        body=nn.Linear(shape[0], 32), activation=nn.ReLU(), head=nn.Linear(32, num_classes)
    )
    model = nn.Sequential(layers)
    model.parts = {"head": ("head",)}  # type: ignore[assignment]
    return model
