"""Cosine similarity of clients' gradients, corrected for attenuation by sampling noise.

The mean gradient of ``n`` examples is the client's true direction plus noise that decreases with
``n``. In thousands of dimensions the noise is nearly orthogonal to everything else: it does not
turn one client's direction towards another's, it only makes all cosines smaller. The cosine of two
clients of one cluster is about ``a_i a_j``, where ``a_i^2`` is the reliability of the gradient: its
cosine with the gradient of as many other examples of the same client. Dividing by ``a_i a_j``
("correction for attenuation", Spearman 1904) leaves the cosine of the true directions. It is 1
within a cluster, even if its members have few examples.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strategies.clustered.assignments import NO_GROUP

Floats = NDArray[np.float64]

Labels = NDArray[np.int64]
"""Cluster of each client, from 0; :data:`strategies.clustered.assignments.NO_GROUP` for none."""


def cosine_similarities(vectors: Sequence[NDArray[Any]]) -> Floats:
    """Return the cosines ``(n, n)``, in [-1, 1], of n vectors that are finite and not zero."""
    rows = np.stack([np.asarray(v, dtype=np.float64).ravel() for v in vectors])
    rows /= np.abs(rows).max(axis=1, keepdims=True)  # so that no square underflows
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = np.clip(rows @ rows.T, -1.0, 1.0)
    return (cosines + cosines.T) / 2  # exactly symmetric with every BLAS


def noise_examples(examples: Sequence[int], halves: Sequence[float]) -> float:
    """Return the number of examples at which a gradient's signal and noise are equally strong.

    The gradient of ``n`` examples has the reliability ``n / (n + c)``. The cosine of the gradients
    of two halves is the reliability of one half, ``(n / 2) / (n / 2 + c)``. The function solves
    this for ``c`` and takes the median over clients.

    Parameters
    ----------
    examples : sequence of int
        Number of examples of each client.
    halves : sequence of float
        Cosine of the gradients of two halves of each client's examples; NaN if there are too few
        examples. Cosines are clipped to [0.01, 0.99].

    Returns
    -------
    float
        ``c``, positive; infinite if all cosines are NaN.
    """
    known = [(n, r) for n, r in zip(examples, halves, strict=True) if not np.isnan(r)]
    pairs = [(n, min(max(r, 0.01), 0.99)) for n, r in known]
    return float(np.median([n / 2 * (1 - r) / r for n, r in pairs])) if pairs else np.inf


def attenuation(examples: Sequence[int], noise: float) -> Floats:
    """Return the square root of each client's reliability, ``sqrt(n / (n + c))``, in [0, 1].

    Parameters
    ----------
    examples : sequence of int
        Number of examples of each client.
    noise : float
        ``c``, from :func:`noise_examples`.
    """
    counts = np.asarray(examples, dtype=np.float64)
    return np.sqrt(counts / (counts + noise))


def agreement(similarity: Floats, attenuations: Floats, left: Any, right: Any) -> float:
    """Return the cosine of two groups' true directions: 1 within a cluster.

    It is the sum of the cosines between the groups over its expectation within one cluster.

    Parameters
    ----------
    similarity : ndarray
        Cosines ``(n, n)``.
    attenuations : ndarray
        From :func:`attenuation`, ``(n,)``.
    left, right : sequence of int
        Indices of the members of each group; neither may be empty.
    """
    expected = attenuations[left].sum() * attenuations[right].sum()
    return float(similarity[np.ix_(left, right)].sum() / expected)


def agreements(
    similarity: Floats,
    attenuations: Floats,
    labels: Labels,
    clients: Sequence[int] | None = None,
) -> Floats:
    """Return the :func:`agreement` of clients with the other members of every cluster.

    Parameters
    ----------
    similarity, attenuations : ndarray
        Cosines ``(n, n)`` and attenuations ``(n,)`` of all clients.
    labels : ndarray
        Cluster of each client, ``(n,)``; -1 for none.
    clients : sequence of int or None, default None
        Indices of the ``m`` clients to compute; all by default.

    Returns
    -------
    ndarray
        Agreements ``(m, clusters)``; NaN if a cluster has no other members, or if no gradient is
        reliable.
    """
    groups = np.arange(max(labels.max(initial=NO_GROUP), NO_GROUP) + 1)
    members = (labels[:, None] == groups).astype(np.float64)
    rows = np.arange(len(labels)) if clients is None else np.asarray(clients)
    others = similarity[rows]  # a copy
    others[np.arange(len(rows)), rows] = 0.0
    own = attenuations[rows, None]
    expected = own * (attenuations @ members - own * members[rows])
    counts = members.sum(axis=0) - members[rows]
    expected = np.where((counts > 0) & (expected > 0), expected, np.nan)
    return np.asarray(others @ members / expected)


def nearest(
    similarity: Floats, attenuations: Floats, client: int, labels: Labels
) -> tuple[int, float]:
    """Return the cluster with which a client agrees most, and the :func:`agreement`.

    Parameters
    ----------
    similarity, attenuations : ndarray
        Cosines ``(n, n)`` and attenuations ``(n,)`` of all clients.
    client : int
        Index of the client. It does not count as a member itself.
    labels : ndarray
        Cluster of each client, ``(n,)``; -1 for none.

    Returns
    -------
    tuple of int and float
        Cluster and agreement; (-1, NaN) if no cluster has other members.
    """
    (scores,) = agreements(similarity, attenuations, labels, [client])
    if np.isnan(scores).all():
        return NO_GROUP, np.nan
    return int(np.nanargmax(scores)), float(np.nanmax(scores))
