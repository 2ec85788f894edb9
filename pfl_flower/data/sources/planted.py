"""Generated clients whose truth is known: linear models drawn from a Gaussian prior."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pfl_flower.data.records import Examples, SourceRequest
from strategies.randomness import generator

NUM_FEATURES = 5
TRAINING, TEST = 200, 100
"""Examples of a client, to learn from (fewer with ``max-examples``) and to test on."""

INPUT_CORRELATION = 0.5
"""Of neighbouring features; those ``k`` apart have its ``k``-th power."""

DIFFERENCE = 0.3
"""Mean deviation, squared, of a client's coefficient from the prior's mean."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Truth:
    """What planted clients are drawn from, and what they are, in the units of the raw targets.

    Attributes
    ----------
    mean : ``mu``, ``(d,)``, the intercept last
    covariance : ``Sigma``, ``(d, d)``
    noise : ``s2``
    coefficients : ``(clients, d)``
    inputs : ``E x x^T`` of an example with a one at its end, ``(d, d)``
    """

    mean: Floats
    covariance: Floats
    noise: float
    coefficients: Floats
    inputs: Floats


def planted_truth(seed: int, num_clients: int) -> Truth:
    """Return what :func:`planted` draws from: theta_i ~ N(mu, Sigma), noise of variance s2.

    ``mu`` is standard normal, ``Sigma`` is Wishart with ``2 d`` degrees of freedom and mean
    :data:`DIFFERENCE` times the identity, ``s2`` is uniform in 0.5 to 1.5.
    """
    size = NUM_FEATURES + 1
    draw = generator(seed, "planted")
    mean = draw.normal(size=size)
    factor = draw.normal(size=(size, 2 * size))
    covariance = DIFFERENCE * factor @ factor.T / (2 * size)
    noise = float(draw.uniform(0.5, 1.5))
    root = np.linalg.cholesky(covariance)
    own = [
        generator(seed, "planted", c, "coefficients").normal(size=size) for c in range(num_clients)
    ]
    inputs = np.eye(size)
    inputs[:-1, :-1] = input_covariance()
    return Truth(mean, covariance, noise, mean + np.array(own) @ root.T, inputs)


def input_covariance() -> Floats:
    """Return the covariance of the features, whose mean is zero."""
    places = np.arange(NUM_FEATURES)
    powers: Floats = INPUT_CORRELATION ** np.abs(places[:, None] - places).astype(np.float64)
    return powers


def planted(request: SourceRequest) -> Examples:
    """Draw every client's examples: normal features, and targets of its own linear model."""
    truth = planted_truth(request.seed, request.num_clients)
    root = np.linalg.cholesky(input_covariance())
    count = TRAINING + TEST
    inputs, targets = [], []
    for client, own in enumerate(truth.coefficients):
        draw = generator(request.seed, "planted", client, "examples")
        features = draw.normal(size=(count, NUM_FEATURES)) @ root.T
        noise = np.sqrt(truth.noise) * draw.normal(size=count)
        inputs.append(features)
        targets.append(features @ own[:-1] + own[-1] + noise)
    return Examples(
        torch.from_numpy(np.concatenate(inputs)).float(),
        torch.from_numpy(np.concatenate(targets)).float(),
        np.repeat(np.arange(request.num_clients), count),
        np.tile(np.repeat([0, 1], [TRAINING, TEST]), request.num_clients),
    )
