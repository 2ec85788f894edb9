"""Clients' updates as gradients of a hypernetwork: vector-Jacobian products and norm clipping."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from strategies.hypernetwork.metadata_encoder import Metadata
from strategies.hypernetwork.network import Hypernetwork
from strategies.privacy import Privacy
from strategies.replies import Reply

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


def usable_changes(
    replies: Sequence[Reply],
    sent: Mapping[int, NDArray[np.float32]],
    network: Hypernetwork,
    privacy: Privacy | None = None,
) -> tuple[list[Reply], NDArray[np.float32]]:
    """Return the replies that the network can learn from, and what was sent less what came back.

    Marks the others dropped: those without a generated array, or too far from it to be told apart
    from infinity, and outliers (:func:`clip_updates`).

    Parameters
    ----------
    replies : sequence of Reply
        Of the clients of a round.
    sent : mapping
        Node -> the generated parameters that it was sent, ``(P,)``.
    network : Hypernetwork
        The network that generated them.
    privacy : Privacy, optional
        Adds the noise of a mean of one client to each change, as the network learns from them one
        by one.

    Returns
    -------
    tuple of a list of Reply and a ndarray
        N replies, and their changes ``(N, P)``, clipped.
    """
    good: list[Reply] = []
    moved: list[NDArray[np.float32]] = []
    for reply in replies:
        if missing := [name for name in network.shapes if name not in reply.views]:
            reply.dropped = f"missing {missing}"
            continue
        with np.errstate(over="ignore"):
            change = sent[reply.node_id] - network.flat(reply.views)
        if privacy:
            change = privacy.noisy(change, 1)
        if np.isfinite(change).all():
            good.append(reply)
            moved.append(change)
        else:
            reply.dropped = "its parameters are too far from what it was sent"
    if not good:
        return [], np.zeros((0, 0), dtype=np.float32)
    clipped, accepted = clip_updates(np.stack(moved), network.scale.numpy())
    for reply, is_accepted in zip(good, accepted.tolist(), strict=True):
        reply.dropped = "" if is_accepted else "it changed far more than the others"
    return [reply for reply in good if not reply.dropped], clipped[accepted]
