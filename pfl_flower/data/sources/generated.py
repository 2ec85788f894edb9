"""What generated data sets share: clients with as many examples each, and linear models of them."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from pfl_flower.data.records import Examples

Floats = NDArray[np.float64]

TRAINING, TEST = 200, 100
"""Training examples (``max-examples`` may lower it) and test examples of a client with a linear
model."""


def equal_clients(
    inputs: Iterable[np.ndarray], targets: Iterable[np.ndarray], training: int, test: int
) -> Examples:
    """Return the examples of clients that have as many each, one client after another.

    Parameters
    ----------
    inputs, targets : iterable of ndarray
        Parts of all clients' examples; those of a client begin with its training examples.
        Floats become float32.
    training, test : int
        Number of a client's training and test examples.
    """
    labels = np.concatenate(list(targets))
    num_clients = len(labels) // (training + test)
    return Examples(
        torch.from_numpy(np.concatenate(list(inputs)).astype(np.float32)),
        torch.from_numpy(labels.astype(np.float32) if labels.dtype.kind == "f" else labels),
        owner=np.repeat(np.arange(num_clients), training + test),
        fold=np.tile(np.repeat([0, 1], [training, test]), num_clients),
    )


def linear_clients(
    draws: Iterable[np.random.Generator], covariance: Floats, coefficients: Floats, deviation: float
) -> Examples:
    """Draw every client's examples: normal features, and targets of the client's linear model.

    Parameters
    ----------
    draws : iterable of Generator
        The random numbers of each client.
    covariance : ndarray
        Covariance of the features, ``(d, d)``; their mean is zero.
    coefficients : ndarray
        Coefficients of each client, ``(clients, d + 1)``, the intercept last.
    deviation : float
        Of the noise of the targets.
    """
    root, count = np.linalg.cholesky(covariance), TRAINING + TEST
    inputs, targets = [], []
    for draw, own in zip(draws, coefficients, strict=True):
        features = draw.normal(size=(count, len(covariance))) @ root.T
        inputs.append(features)
        targets.append(features @ own[:-1] + own[-1] + deviation * draw.normal(size=count))
    return equal_clients(inputs, targets, TRAINING, TEST)
