"""Generated wearables whose truth is known: one linear model of a health outcome for all of them.

Every client wears a device of the same kind and has the same model. What differs is how well the
devices see, which is none of this source's business: the run config's ``noise`` and ``tiers`` say.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from pfl_flower.data.records import Examples, SourceRequest
from strategies.randomness import generator

Floats = NDArray[np.float64]

SLOPES = (1.0, 0.8, 1.2, 0.9, 1.1)
"""What a deviation of each feature (such as pulse, sleep, steps) does to the outcome."""

INTERCEPT = 2.0
OUTCOME_NOISE = 1.0
"""Deviation of what the outcome depends on otherwise."""

NUM_FEATURES = len(SLOPES)
INPUT_CORRELATION = 0.4
"""Of every two features, which have mean 0 and deviation 1."""

TRAINING, TEST = 200, 100
"""Examples of a client, to learn from (fewer with ``max-examples``) and to test on."""


def input_covariance() -> Floats:
    """Return the covariance of the true values of the features, ``(d, d)``."""
    covariance: Floats = (1 - INPUT_CORRELATION) * np.eye(NUM_FEATURES) + INPUT_CORRELATION
    return covariance


def wearables(request: SourceRequest) -> Examples:
    """Draw every client's examples: correlated normal features, and outcomes of the one model."""
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
