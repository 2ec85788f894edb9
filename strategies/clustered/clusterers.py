"""Clustering algorithms on cosine similarities: agglomerative, spectral, HDBSCAN, bipartition."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from strategies.clustered.assignments import NO_GROUP
from strategies.clustered.gradient_similarity import Floats, Labels, agreement
from strategies.errors import ArgumentError

Clusterer = Callable[[Floats, Floats, int, float], Labels]
"""(cosines, attenuations, number of clusters or 0, least agreement) -> labels from 0; -1: none."""

HDBSCAN_FINDS_THE_NUMBER = "0, because hdbscan finds the number of clusters itself"


def bipartition(similarity: Floats) -> tuple[list[int], list[int]]:
    """Split clients into two groups by complete linkage.

    Parameters
    ----------
    similarity : ndarray
        Cosines ``(n, n)``, n at least 2.

    Returns
    -------
    tuple of 2 list of int
        Indices of the members of each group; the first group contains index 0.
    """
    from sklearn.cluster import AgglomerativeClustering

    model = AgglomerativeClustering(n_clusters=2, metric="precomputed", linkage="complete")
    found = model.fit_predict(1.0 - similarity)
    left = np.flatnonzero(found == found[0]).tolist()
    return left, np.flatnonzero(found != found[0]).tolist()


def eigengap(similarity: Floats) -> int:
    """Return the number of clusters by the largest gap between eigenvalues.

    These are the eigenvalues of the normalized Laplacian ``I - D^-1/2 A D^-1/2``, where ``A`` are
    the cosines clipped to [0, 1], without the diagonal (von Luxburg 2007, arXiv:0711.0189, section
    8.3). The number is at most half the number of clients.
    """
    affinity = _affinity(similarity)
    degree = np.maximum(affinity.sum(axis=1), 1e-12)
    laplacian = np.eye(len(affinity)) - affinity / np.sqrt(np.outer(degree, degree))
    gaps = np.diff(np.linalg.eigvalsh(laplacian))[: max(1, len(affinity) // 2)]
    return int(gaps.argmax()) + 1 if len(gaps) else 1


def _affinity(similarity: Floats) -> Floats:
    affinity = np.clip(similarity, 0.0, 1.0)
    np.fill_diagonal(affinity, 0.0)
    return affinity


def agglomerative(similarity: Floats, attenuations: Floats, number: int, least: float) -> Labels:
    """Cluster by average linkage.

    With ``number`` 0 the tree is cut from its root: two branches are different clusters, and may be
    cut further, if their agreement is below ``least``. So the result may be one cluster, or a
    cluster for each client.

    Parameters
    ----------
    similarity, attenuations : ndarray
        Cosines ``(n, n)`` and attenuations ``(n,)``.
    number : int
        Number of clusters; 0 to find it.
    least : float
        Least :func:`~strategies.clustered.gradient_similarity.agreement` within a cluster.
    """
    from sklearn.cluster import AgglomerativeClustering

    settings: dict[str, Any] = {"metric": "precomputed", "linkage": "average"}
    if number:
        model = AgglomerativeClustering(n_clusters=number, **settings)
        return np.asarray(model.fit_predict(1.0 - similarity), dtype=np.int64)
    size = len(similarity)
    tree = AgglomerativeClustering(n_clusters=None, distance_threshold=0.0, **settings)
    branches: dict[int, list[int]] = {leaf: [leaf] for leaf in range(size)}
    children: dict[int, tuple[int, int]] = {}
    for place, (left, right) in enumerate(tree.fit(1.0 - similarity).children_.tolist()):
        children[size + place] = (left, right)
        branches[size + place] = branches[left] + branches[right]
    labels = np.empty(size, dtype=np.int64)
    waiting, found = [2 * size - 2], 0
    while waiting:
        node = waiting.pop()
        if node in children:
            left, right = children[node]
            if agreement(similarity, attenuations, branches[left], branches[right]) < least:
                waiting += [left, right]
                continue
        labels[branches[node]] = found
        found += 1
    return labels


def spectral(similarity: Floats, attenuations: Floats, number: int, least: float) -> Labels:
    """Cluster spectrally; with ``number`` 0 the :func:`eigengap` chooses the number."""
    from sklearn.cluster import SpectralClustering

    number = number or eigengap(similarity)
    if number == 1:
        return np.zeros(len(similarity), dtype=np.int64)
    # a client whose similarities are all zero has no Laplacian
    affinity = np.maximum(_affinity(similarity), 1e-6)
    model = SpectralClustering(n_clusters=number, affinity="precomputed", random_state=0)
    return np.asarray(model.fit_predict(affinity), dtype=np.int64)


def hdbscan(similarity: Floats, attenuations: Floats, number: int, least: float) -> Labels:
    """Cluster by density (leaves of the HDBSCAN tree), which finds the number of clusters.

    Raises
    ------
    ArgumentError
        If ``number`` is not 0.
    """
    from sklearn.cluster import HDBSCAN

    if number:
        raise ArgumentError("clusters", number, HDBSCAN_FINDS_THE_NUMBER)
    model = HDBSCAN(
        metric="precomputed",
        min_cluster_size=2,
        cluster_selection_method="leaf",
        allow_single_cluster=True,
        copy=True,
    )
    return np.asarray(model.fit_predict(1.0 - similarity), dtype=np.int64)


CLUSTERERS: Mapping[str, Clusterer] = {
    "agglomerative": agglomerative,
    "hdbscan": hdbscan,
    "spectral": spectral,
}
"""Name -> clustering algorithm. A new one is one row."""


def renumbered(labels: Labels) -> Labels:
    """Return the labels as 0, 1, ... in the order of their first members; -1 stays."""
    order = dict.fromkeys(labels[labels != NO_GROUP].tolist())
    numbers = {label: number for number, label in enumerate(order)}
    return np.array([numbers.get(label, NO_GROUP) for label in labels.tolist()], dtype=np.int64)
