"""Clusters in a set of gradients: small pure functions on cosine similarities.

The mean gradient of ``n`` examples is the client's true direction plus noise that falls with
``n``. In thousands of dimensions noise is nearly orthogonal to everything: it does not turn one
client's direction towards another's, it only makes all cosines smaller. Of two clients of one
cluster the cosine is about ``a_i a_j``, where ``a_i^2``, the reliability of the gradient, is its
cosine with that of as many other examples of the same client. Dividing by that ("correction for
attenuation", Spearman 1904) leaves the cosine of the true directions: 1 within a cluster, however
few examples its members have.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

NONE = -1
"""Label of what is in no group."""

FEWEST_FOUNDERS = 3
"""With fewer clients that have enough examples, all of them found the clusters."""


def cosine_similarities(vectors: Sequence[NDArray[Any]]) -> Floats:
    """Return the ``(n, n)`` cosines of vectors that are finite and not zero, in [-1, 1]."""
    rows = np.stack([np.asarray(v, dtype=np.float64).ravel() for v in vectors])
    rows /= np.abs(rows).max(axis=1, keepdims=True)  # so that no square underflows
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = np.clip(rows @ rows.T, -1.0, 1.0)
    return (cosines + cosines.T) / 2  # exactly symmetric, whatever the BLAS does


def noise_examples(examples: Sequence[int], halves: Sequence[float]) -> float:
    """Return the number of examples at which a gradient's signal and noise are equally strong.

    The mean of ``n`` examples has the reliability ``n / (n + c)``; that of half of them, which is
    the cosine of the gradients of two halves, ``(n / 2) / (n / 2 + c)``. Solved for ``c``, and the
    median over clients.

    Parameters
    ----------
    examples : sequence of int
        Number of each client.
    halves : sequence of float
        Cosine of the gradients of two halves of each client's examples; NaN where there are too few
        for that. Below 0.01 counts as 0.01, above 0.99 as 0.99.

    Returns
    -------
    float
        C, positive; infinite if no client could tell.
    """
    told = [(n, r) for n, r in zip(examples, halves, strict=True) if not np.isnan(r)]
    pairs = [(n, min(max(r, 0.01), 0.99)) for n, r in told]
    return float(np.median([n / 2 * (1 - r) / r for n, r in pairs])) if pairs else np.inf


def attenuation(examples: Sequence[int], noise: float) -> Floats:
    """Return the root of every client's reliability, ``sqrt(n / (n + c))``, in [0, 1]."""
    counts = np.asarray(examples, dtype=np.float64)
    return np.sqrt(counts / (counts + noise))


def agreement(similarity: Floats, attenuations: Floats, left: Any, right: Any) -> float:
    """Return the cosine of two groups' directions, free of noise: 1 within a cluster.

    It is the sum of the cosines across over the sum of what they would be within one cluster.

    Parameters
    ----------
    similarity : ndarray
        ``(n, n)`` cosines.
    attenuations : ndarray
        ``(n,)`` of :func:`attenuation`.
    left, right : object
        Places of the members; neither may be empty.
    """
    expected = attenuations[left].sum() * attenuations[right].sum()
    return float(similarity[np.ix_(left, right)].sum() / expected)


def bipartition(similarity: Floats) -> tuple[list[int], list[int]]:
    """Return the places of two groups, by complete linkage; the first has place 0."""
    from sklearn.cluster import AgglomerativeClustering

    model = AgglomerativeClustering(n_clusters=2, metric="precomputed", linkage="complete")
    found = model.fit_predict(1.0 - similarity)
    left = np.flatnonzero(found == found[0]).tolist()
    return left, np.flatnonzero(found != found[0]).tolist()


def eigengap(similarity: Floats) -> int:
    """Return the number of groups by the largest gap between eigenvalues.

    Those of the normalised Laplacian ``I - D^-1/2 A D^-1/2``, with ``A`` the cosines clipped to
    [0, 1], without the diagonal (von Luxburg 2007, arXiv:0711.0189, section 8.3). At most half the
    number of clients.
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


Clusterer = Callable[[Floats, Floats, int, float], Labels]
"""(cosines, attenuations, number of groups or 0, least agreement) -> labels from 0; -1: none."""


def agglomerative(
    similarity: Floats, attenuations: Floats, number: int, threshold: float
) -> Labels:
    """Return groups by average linkage.

    With ``number`` 0 the tree is cut from its root on: two branches are different clusters if their
    :func:`agreement` is below ``threshold``, and are cut further. So one group is a possible
    answer, and so is a group a client.
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
            if agreement(similarity, attenuations, branches[left], branches[right]) < threshold:
                waiting += [left, right]
                continue
        labels[branches[node]] = found
        found += 1
    return labels


def spectral(similarity: Floats, attenuations: Floats, number: int, threshold: float) -> Labels:
    """Return groups by spectral clustering; with ``number`` 0 the :func:`eigengap` chooses it."""
    from sklearn.cluster import SpectralClustering

    number = number or eigengap(similarity)
    if number == 1:
        return np.zeros(len(similarity), dtype=np.int64)
    # nothing has a similarity of zero to all others, for which there is no Laplacian
    affinity = np.maximum(_affinity(similarity), 1e-6)
    model = SpectralClustering(n_clusters=number, affinity="precomputed", random_state=0)
    return np.asarray(model.fit_predict(affinity), dtype=np.int64)


def hdbscan(similarity: Floats, attenuations: Floats, number: int, threshold: float) -> Labels:
    """Return groups by density (HDBSCAN, leaves of its tree), which chooses their number."""
    from sklearn.cluster import HDBSCAN

    if number:
        raise ValueError("hdbscan chooses the number of clusters itself; leave clusters at 0")
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
"""Name -> how groups are found. A new one is one row."""


@dataclass(frozen=True)
class ClusteringRules:
    """How clusters are found.

    Attributes
    ----------
    clusters : int, default 0
        Number of clusters; 0 to find it.
    clusterer : str, default "agglomerative"
        A key of :data:`CLUSTERERS`.
    threshold : float, default 0.4
        Least :func:`agreement` within a cluster, between 0 and 1.
    few_examples : int, default 15
        Clients with fewer have no part in finding clusters, if enough others have; they join one
        afterwards, for which half of ``threshold`` will do, since a few examples are no evidence
        against it.
    smallest : int, default 1
        Fewest clients of a cluster whose number was not given.

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    clusters: int = 0
    clusterer: str = "agglomerative"
    threshold: float = 0.4
    few_examples: int = 15
    smallest: int = 1

    def __post_init__(self) -> None:
        if self.clusterer not in CLUSTERERS:
            known = ", ".join(CLUSTERERS)
            raise ValueError(f"clusterer must be one of {known}, got {self.clusterer!r}")
        if self.clusters and self.clusterer == "hdbscan":
            raise ValueError("hdbscan finds the number of clusters itself; leave clusters at 0")
        if not 0.0 < self.threshold < 1.0:
            raise ValueError(f"threshold must be between 0 and 1, got {self.threshold}")
        for name, least in (("clusters", 0), ("few_examples", 0), ("smallest", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


def cluster(similarity: Floats, attenuations: Floats, rules: ClusteringRules) -> Labels:
    """Return the group of each client, numbered by their first members; -1 for none.

    Raises
    ------
    ValueError
        If there are fewer clients than groups.
    """
    size, number = len(similarity), rules.clusters
    if number > size:
        raise ValueError(f"{number} clusters of {size} clients; there can be at most {size}")
    if size == 1:
        return np.zeros(1, dtype=np.int64)
    find = CLUSTERERS[rules.clusterer]
    return renumbered(find(similarity, attenuations, number, rules.threshold))


def founders(examples: Sequence[int], few: int) -> Labels:
    """Return the places of clients with at least ``few`` examples; of all, if hardly any has."""
    enough = np.flatnonzero(np.asarray(examples) >= few)
    least = max(FEWEST_FOUNDERS, len(examples) // 4)
    return enough if len(enough) >= least else np.arange(len(examples))


def agreements(
    similarity: Floats,
    attenuations: Floats,
    labels: Labels,
    clients: Sequence[int] | None = None,
) -> Floats:
    """Return the :func:`agreement` of clients with the others of every group.

    Parameters
    ----------
    similarity, attenuations : ndarray
        Of all ``n`` clients.
    labels : ndarray
        Group of each client, -1 for none.
    clients : sequence of int or None, default None
        Places of the ``m`` clients asked for; all by default.

    Returns
    -------
    ndarray
        ``(m, groups)``; NaN where a group has no others, or nothing is reliable.
    """
    groups = np.arange(max(labels.max(initial=NONE), NONE) + 1)
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
    """Return the group that a client agrees with most, and the :func:`agreement`.

    Parameters
    ----------
    similarity, attenuations : ndarray
        Of all clients.
    client : int
        Its place; it has no say itself.
    labels : ndarray
        Group of each client, -1 for none.

    Returns
    -------
    tuple of int and float
        Group and agreement; (-1, NaN) if there is no group of others.
    """
    (scores,) = agreements(similarity, attenuations, labels, [client])
    if np.isnan(scores).all():
        return NONE, np.nan
    return int(np.nanargmax(scores)), float(np.nanmax(scores))


def find_clusters(
    similarity: Floats, attenuations: Floats, examples: Sequence[int], rules: ClusteringRules
) -> Labels:
    """Return the cluster of each client, numbered by their first members; -1 for none.

    Where no gradient is reliable at all (attenuations of 0) nothing tells clients apart: one
    cluster.

    Raises
    ------
    ValueError
        If there are fewer clients than clusters were asked for.
    """
    if not attenuations.any() and not rules.clusters:
        return np.zeros(len(examples), dtype=np.int64)
    attenuations = attenuations if attenuations.any() else np.ones(len(examples))
    first = founders(examples, rules.few_examples)
    if len(first) < rules.clusters:
        first = np.arange(len(examples))
    labels = np.full(len(examples), NONE, dtype=np.int64)
    labels[first] = cluster(similarity[np.ix_(first, first)], attenuations[first], rules)
    if not rules.clusters:
        sizes = np.bincount(labels[first][labels[first] != NONE], minlength=1)
        small = (labels != NONE) & (sizes[labels] < rules.smallest)
        labels[small] = NONE
    labels = assign_to_clusters(similarity, attenuations, examples, labels, rules)
    return renumbered(refine(similarity, attenuations, examples, labels, rules))


def refine(
    similarity: Floats,
    attenuations: Floats,
    examples: Sequence[int],
    labels: Labels,
    rules: ClusteringRules,
) -> Labels:
    """Return the labels after clients have moved to the cluster that they agree with most.

    One moves at a time, the one that gains most, until nobody gains. Whoever is alone in its
    cluster leaves it only for one that it agrees with as much as members have to. No cluster
    becomes smaller than ``rules.smallest`` by that; where their number was given, none ends.
    """
    if (labels == NONE).all():
        return labels
    labels = labels.copy()
    everybody = np.arange(len(labels))
    bars = np.array([needed(count, rules) for count in examples])
    for _ in range(2 * len(labels)):  # far more than are needed, and an end if they go in circles
        scores = agreements(similarity, attenuations, labels)
        own = scores[everybody, labels]
        own = np.where(np.isnan(own), bars, own)  # alone; those in no group are left out below
        best = np.where(np.isnan(scores), -np.inf, scores)
        sizes = np.bincount(labels[labels != NONE], minlength=scores.shape[1])[labels]
        alone = (sizes == 1) & (rules.clusters == 0)
        free = (labels != NONE) & (alone | (sizes > max(1, rules.smallest)))
        gains = np.where(free, best.max(axis=1, initial=-np.inf) - own, -np.inf)
        mover = int(gains.argmax()) if len(gains) else 0
        if not len(gains) or gains[mover] <= 1e-12:
            break
        labels[mover] = int(best[mover].argmax())
    return labels


def needed(examples: int, rules: ClusteringRules) -> float:
    """Return the least agreement with which a client joins a cluster."""
    return rules.threshold / (2 if examples < rules.few_examples else 1)


def assign_to_clusters(
    similarity: Floats,
    attenuations: Floats,
    examples: Sequence[int],
    labels: Labels,
    rules: ClusteringRules,
    first_free: int = 0,
) -> Labels:
    """Return the labels after every client in no cluster has joined one, if it agrees with one.

    Those that agree with none are clustered by themselves; groups that are large enough become new
    clusters, with numbers that follow on (from ``first_free`` at least), unless the number of
    clusters was given.
    """
    if not attenuations.any():
        attenuations = np.ones(len(examples))
    joined = labels.copy()
    for client in np.flatnonzero(labels == NONE).tolist():
        group, score = nearest(similarity, attenuations, client, labels)
        if score >= needed(examples[client], rules):
            joined[client] = group
    rest = np.flatnonzero(joined == NONE)
    if rules.clusters or not len(rest):
        return joined
    free = replace(rules, clusterer="agglomerative")
    found = cluster(similarity[np.ix_(rest, rest)], attenuations[rest], free)
    following = max(first_free, int(joined.max()) + 1)
    for group in range(int(found.max()) + 1):
        members = rest[found == group]
        if len(members) >= rules.smallest:
            joined[members] = following
            following += 1
    return joined


def renumbered(labels: Labels) -> Labels:
    """Return the labels as 0, 1, ... by their first members; -1 stays."""
    order = dict.fromkeys(labels[labels != NONE].tolist())
    numbers = {label: number for number, label in enumerate(order)}
    return np.array([numbers.get(label, NONE) for label in labels.tolist()], dtype=np.int64)
