"""Generated wearables data: one linear model of a health outcome for all clients.

All clients have the same distribution. Clients differ only once the run keys ``noise`` and
``tiers`` degrade their measurements.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from pfl_flower.data.records import Examples, SourceRequest
from strategies.randomness import generator

Floats = NDArray[np.float64]

SLOPES = (1.0, 0.8, 1.2, 0.9, 1.1)
"""True coefficient of each feature (such as pulse, sleep, steps)."""

INTERCEPT = 2.0
OUTCOME_NOISE = 1.0
"""Deviation of the noise of the outcome."""

NUM_FEATURES = len(SLOPES)
INPUT_CORRELATION = 0.4
"""Correlation of every two features; features have mean 0 and deviation 1."""

TRAINING, TEST = 200, 100
"""Number of a client's training examples (``max-examples`` may lower it) and test examples."""


def input_covariance() -> Floats:
    """Return the covariance of the true values of the features, ``(d, d)``."""
    covariance: Floats = (1 - INPUT_CORRELATION) * np.eye(NUM_FEATURES) + INPUT_CORRELATION
    return covariance


def wearables(request: SourceRequest) -> Examples:
    """Draw every client's examples: correlated normal features, and outcomes of the one model.

    Parameters
    ----------
    request : SourceRequest
        Its seed and its number of clients decide the examples.

    Returns
    -------
    examples : Examples
        Inputs ``(N, 5)`` and targets ``(N,)``, float32.
    """
    root = np.linalg.cholesky(input_covariance())
    count = TRAINING + TEST
    inputs, targets = [], []
    for client in range(request.num_clients):
        draw = generator(request.seed, "wearables", client)
        features = draw.normal(size=(count, NUM_FEATURES)) @ root.T
        noise = OUTCOME_NOISE * draw.normal(size=count)
        inputs.append(features)
        targets.append(features @ np.array(SLOPES) + INTERCEPT + noise)
    return Examples(
        torch.from_numpy(np.concatenate(inputs)).float(),
        torch.from_numpy(np.concatenate(targets)).float(),
        np.repeat(np.arange(request.num_clients), count),
        np.tile(np.repeat([0, 1], [TRAINING, TEST]), request.num_clients),
    )
