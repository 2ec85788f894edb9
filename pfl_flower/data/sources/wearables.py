"""Generated wearables data: one linear model of a health outcome for all clients.

All clients have the same distribution. Clients differ only once the run keys ``noise`` and
``tiers`` degrade their measurements.
"""

import numpy as np

from pfl_flower.data.records import Examples, SourceRequest
from pfl_flower.data.sources.generated import Floats, linear_clients
from strategies.randomness import generator

SLOPES = (1.0, 0.8, 1.2, 0.9, 1.1)
"""True coefficient of each feature (such as pulse, sleep, steps)."""

INTERCEPT = 2.0
OUTCOME_NOISE = 1.0
"""Deviation of the noise of the outcome."""

NUM_FEATURES = len(SLOPES)
INPUT_CORRELATION = 0.4
"""Correlation of every two features; features have mean 0 and deviation 1."""


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
    clients = range(request.num_clients)
    draws = (generator(request.seed, "wearables", client) for client in clients)
    coefficients = np.tile((*SLOPES, INTERCEPT), (request.num_clients, 1))
    return linear_clients(draws, input_covariance(), coefficients, OUTCOME_NOISE)
