"""Clients' updates as gradients of a hypernetwork: vector-Jacobian products and norm clipping."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from strategies.hypernetwork.metadata_encoder import Metadata
from strategies.hypernetwork.network import Hypernetwork

VALUES_AT_ONCE = 2**24
"""Largest number of generated values in one backward pass (64 MB of float32)."""

FARTHEST, MOST_TIMES_THE_MEDIAN, FEWEST_FOR_MEDIAN = 30.0, 10.0, 3
"""See :func:`clip_updates`."""


def vector_jacobian_product(
    network: Hypernetwork,
    clients: Sequence[Metadata],
    free: Tensor,
    moved: NDArray[np.float32],
    weights: Sequence[float],
) -> None:
    """Add the gradients of a round to the network's parameters and to ``free``.

    For a client that was sent ``theta_i`` and returned ``theta~_i``, the gradient is the
    vector-Jacobian product ``(d theta_i / d phi)^T (theta_i - theta~_i)`` (Shamsian et al. 2021,
    Algorithm 1): the gradient of ``1/2 ||theta_i - theta~_i||^2`` with ``theta~_i`` fixed. After
    one step of plain SGD on the client it is the learning rate times the gradient of its loss.

    Parameters
    ----------
    network : Hypernetwork
        The network, with the weights that generated what was sent.
    clients : sequence of Metadata
        Metadata of the N clients.
    free : Tensor
        Their free embeddings ``(N, embedding_size)``, as used for generating.
    moved : ndarray
        Parameters sent less parameters returned, ``(N, P)`` float32.
    weights : sequence of float
        Weights of the clients in the sum of gradients.
    """
    size = max(1, VALUES_AT_ONCE // moved.shape[1])
    shares = torch.tensor(weights, dtype=torch.float32)[:, None]
    for begin in range(0, len(clients), size):
        part = slice(begin, begin + size)
        generated = network(network.embed(clients[part], free[part]))
        torch.autograd.backward(generated, shares[part] * torch.from_numpy(moved[part]))


def clip_updates(
    moved: NDArray[np.float32], scale: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Clip the sizes of clients' updates, and mark outliers.

    The size of an update is its root mean square in units of the standard deviation of the initial
    values. With fewer than :data:`FEWEST_FOR_MEDIAN` clients, the largest size is
    :data:`FARTHEST`. With more, it is :data:`MOST_TIMES_THE_MEDIAN` times the median size, and at
    least 1 (late in training most clients may have almost nothing left to learn). An update above
    :data:`FARTHEST` that is also 10 times larger than the largest size is an outlier.

    Parameters
    ----------
    moved : ndarray
        Parameters sent less parameters returned, ``(N, P)`` float32, finite.
    scale : ndarray
        Standard deviation ``(P,)`` of the initial values.

    Returns
    -------
    tuple of 2 ndarray
        The clipped updates ``(N, P)``, and whether each is accepted, ``(N,)``: False for outliers.
    """
    sizes = np.sqrt(np.square(moved / scale, dtype=np.float64).mean(axis=1))
    many = len(sizes) >= FEWEST_FOR_MEDIAN
    largest = max(1.0, MOST_TIMES_THE_MEDIAN * float(np.median(sizes))) if many else FARTHEST
    factors = np.minimum(1.0, largest / np.maximum(sizes, 1e-30))
    clipped: NDArray[np.float32] = (moved * factors[:, None]).astype(np.float32)
    accepted: NDArray[np.bool_] = sizes <= max(FARTHEST, 10 * largest) if many else sizes >= 0
    return clipped, accepted
