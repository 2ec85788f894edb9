"""Generated linear mixed-effects data: clients' coefficients come from a known Gaussian prior."""

from dataclasses import dataclass

import numpy as np

from pfl_flower.data.records import Examples, SourceRequest
from pfl_flower.data.sources.generated import Floats, linear_clients
from strategies.randomness import generator

NUM_FEATURES = 5
INPUT_CORRELATION = 0.5
"""Correlation of neighbouring features; features ``k`` apart have its ``k``-th power."""

COEFFICIENT_VARIANCE = 0.3
"""Mean variance of a client's coefficient around the mean of the prior."""


@dataclass(frozen=True)
class Truth:
    """The true prior and the true coefficients of all clients, in the unit of the raw targets.

    Attributes
    ----------
    mean : ndarray
        Prior mean ``mu``, ``(d,)``, the intercept last.
    covariance : ndarray
        Prior covariance ``Sigma``, ``(d, d)``.
    noise : float
        Variance ``s2`` of the noise of the targets.
    coefficients : ndarray
        Coefficients of every client, ``(clients, d)``.
    inputs : ndarray
        ``E x x^T`` of an example with a one at its end, ``(d, d)``.
    """

    mean: Floats
    covariance: Floats
    noise: float
    coefficients: Floats
    inputs: Floats


def mixed_effects_truth(seed: int, num_clients: int) -> Truth:
    """Return the truth of :func:`mixed_effects`: theta_i ~ N(mu, Sigma), noise of variance s2.

    ``mu`` is standard normal, ``Sigma`` is Wishart with ``2 d`` degrees of freedom and mean
    :data:`COEFFICIENT_VARIANCE` times the identity, ``s2`` is uniform in 0.5 to 1.5.

    Parameters
    ----------
    seed : int
        Decides every draw. A client's coefficients do not depend on the number of clients.
    num_clients : int
        Number of clients.
    """
    size = NUM_FEATURES + 1
    draw = generator(seed, "planted")
    mean = draw.normal(size=size)
    factor = draw.normal(size=(size, 2 * size))
    covariance = COEFFICIENT_VARIANCE * factor @ factor.T / (2 * size)
    noise = float(draw.uniform(0.5, 1.5))
    root = np.linalg.cholesky(covariance)
    own = [
        generator(seed, "planted", c, "coefficients").normal(size=size) for c in range(num_clients)
    ]
    inputs = np.eye(size)
    inputs[:-1, :-1] = input_covariance()
    return Truth(mean, covariance, noise, mean + np.array(own) @ root.T, inputs)


def input_covariance() -> Floats:
    """Return the covariance of the features, ``(d, d)``; their mean is zero."""
    places = np.arange(NUM_FEATURES)
    powers: Floats = INPUT_CORRELATION ** np.abs(places[:, None] - places).astype(np.float64)
    return powers


def mixed_effects(request: SourceRequest) -> Examples:
    """Draw every client's examples: normal features, and targets of the client's linear model.

    Parameters
    ----------
    request : SourceRequest
        Its seed and its number of clients decide the examples.

    Returns
    -------
    examples : Examples
        Inputs ``(N, 5)`` and targets ``(N,)``, float32.
    """
    truth = mixed_effects_truth(request.seed, request.num_clients)
    draws = (
        generator(request.seed, "planted", client, "examples")
        for client in range(request.num_clients)
    )
    return linear_clients(draws, input_covariance(), truth.coefficients, np.sqrt(truth.noise))
