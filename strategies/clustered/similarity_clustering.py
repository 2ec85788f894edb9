"""Clustering of clients by the similarity of their gradients, with refinement and late assignment.

The similarities are those of :mod:`strategies.clustered.gradient_similarity`, the algorithms those
of :mod:`strategies.clustered.clusterers`. All functions are pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from strategies.clustered.assignments import NO_GROUP
from strategies.clustered.clusterers import CLUSTERERS, HDBSCAN_FINDS_THE_NUMBER, renumbered
from strategies.clustered.gradient_similarity import Floats, Labels, agreements, nearest
from strategies.errors import ArgumentError

__all__ = ["ClusteringRules"]

FEWEST_FOUNDERS = 3
"""If fewer clients have enough examples, all clients take part in finding the clusters."""


@dataclass(frozen=True)
class ClusteringRules:
    """Settings of the clustering.

    Attributes
    ----------
    clusters : int, default 0
        Number of clusters; 0 to find it.
    clusterer : str, default "agglomerative"
        A key of :data:`~strategies.clustered.clusterers.CLUSTERERS`.
    agreement : float, default 0.4
        Least :func:`~strategies.clustered.gradient_similarity.agreement` within a cluster, strictly
        between 0 and 1.
    few_examples : int, default 15
        Clients with fewer examples do not take part in finding clusters, if enough clients have
        more. They are assigned afterwards, and half of ``agreement`` suffices, because few examples
        are weak evidence against a cluster.
    smallest_cluster : int, default 1
        Least size of a cluster, if the number of clusters is not given.

    Raises
    ------
    ArgumentError
        If a value is out of range.
    """

    clusters: int = 0
    clusterer: str = "agglomerative"
    agreement: float = 0.4
    few_examples: int = 15
    smallest_cluster: int = 1

    def __post_init__(self) -> None:
        if self.clusterer not in CLUSTERERS:
            raise ArgumentError("clusterer", self.clusterer, choices=CLUSTERERS)
        if self.clusters and self.clusterer == "hdbscan":
            raise ArgumentError("clusters", self.clusters, HDBSCAN_FINDS_THE_NUMBER)
        if not 0.0 < self.agreement < 1.0:
            raise ArgumentError("agreement", self.agreement, "strictly between 0 and 1")
        for name, least in (("clusters", 0), ("few_examples", 0), ("smallest_cluster", 1)):
            if getattr(self, name) < least:
                raise ArgumentError(name, getattr(self, name), f"at least {least}")

    def required(self, examples: int) -> float:
        """Return the least agreement at which a client is assigned to a cluster."""
        return self.agreement / (2 if examples < self.few_examples else 1)


def cluster(similarity: Floats, attenuations: Floats, rules: ClusteringRules) -> Labels:
    """Return the cluster of each client, numbered by their first members; -1 for none.

    Parameters
    ----------
    similarity, attenuations : ndarray
        Cosines ``(n, n)`` and attenuations ``(n,)``.
    rules : ClusteringRules
        Settings; ``few_examples`` and ``smallest_cluster`` are not used.

    Raises
    ------
    ArgumentError
        If there are fewer clients than clusters.
    """
    size, number = len(similarity), rules.clusters
    if number > size:
        raise ArgumentError("clusters", number, f"at most {size}, the number of clients")
    if size == 1:
        return np.zeros(1, dtype=np.int64)
    find = CLUSTERERS[rules.clusterer]
    return renumbered(find(similarity, attenuations, number, rules.agreement))


def founders(examples: Sequence[int], few: int) -> Labels:
    """Return the indices of the clients that take part in finding clusters.

    These are the clients with at least ``few`` examples. If they are fewer than
    :data:`FEWEST_FOUNDERS`, or than a quarter of all clients, all clients take part.
    """
    enough = np.flatnonzero(np.asarray(examples) >= few)
    least = max(FEWEST_FOUNDERS, len(examples) // 4)
    return enough if len(enough) >= least else np.arange(len(examples))


def find_clusters(
    similarity: Floats, attenuations: Floats, examples: Sequence[int], rules: ClusteringRules
) -> Labels:
    """Find clusters, assign the clients with few examples, and refine the result.

    If no gradient is reliable at all (all attenuations are 0), clients cannot be distinguished, and
    there is one cluster.

    Parameters
    ----------
    similarity, attenuations : ndarray
        Cosines ``(n, n)`` and attenuations ``(n,)``.
    examples : sequence of int
        Number of examples of each client.
    rules : ClusteringRules
        Settings.

    Returns
    -------
    ndarray
        Cluster of each client, ``(n,)``, numbered by their first members; -1 for none.

    Raises
    ------
    ArgumentError
        If there are fewer clients than clusters.
    """
    if not attenuations.any() and not rules.clusters:
        return np.zeros(len(examples), dtype=np.int64)
    attenuations = attenuations if attenuations.any() else np.ones(len(examples))
    first = founders(examples, rules.few_examples)
    if len(first) < rules.clusters:
        first = np.arange(len(examples))
    labels = np.full(len(examples), NO_GROUP, dtype=np.int64)
    labels[first] = cluster(similarity[np.ix_(first, first)], attenuations[first], rules)
    if not rules.clusters:
        sizes = np.bincount(labels[first][labels[first] != NO_GROUP], minlength=1)
        small = (labels != NO_GROUP) & (sizes[labels] < rules.smallest_cluster)
        labels[small] = NO_GROUP
    labels = assign_to_clusters(similarity, attenuations, examples, labels, rules)
    return renumbered(refine(similarity, attenuations, examples, labels, rules))


def refine(
    similarity: Floats,
    attenuations: Floats,
    examples: Sequence[int],
    labels: Labels,
    rules: ClusteringRules,
) -> Labels:
    """Move clients to the cluster with which they agree most, until none gains by moving.

    One client moves at a time, the one that gains most. A client that is alone in its cluster
    leaves it only for a cluster whose agreement is at least that required of members. No cluster
    shrinks below ``rules.smallest_cluster``; if the number of clusters is given, none disappears.

    Parameters
    ----------
    similarity, attenuations : ndarray
        Cosines ``(n, n)`` and attenuations ``(n,)``.
    examples : sequence of int
        Number of examples of each client.
    labels : ndarray
        Cluster of each client, ``(n,)``; -1 for none. Clients in none do not move.
    rules : ClusteringRules
        Settings.

    Returns
    -------
    ndarray
        The new labels ``(n,)``.
    """
    if (labels == NO_GROUP).all():
        return labels
    labels = labels.copy()
    everybody = np.arange(len(labels))
    required = np.array([rules.required(count) for count in examples])
    for _ in range(2 * len(labels)):  # far more than are needed, and an end if they go in circles
        scores = agreements(similarity, attenuations, labels)
        own = scores[everybody, labels]
        own = np.where(np.isnan(own), required, own)  # alone; clients in none are left out below
        best = np.where(np.isnan(scores), -np.inf, scores)
        sizes = np.bincount(labels[labels != NO_GROUP], minlength=scores.shape[1])[labels]
        alone = (sizes == 1) & (rules.clusters == 0)
        free = (labels != NO_GROUP) & (alone | (sizes > max(1, rules.smallest_cluster)))
        gains = np.where(free, best.max(axis=1, initial=-np.inf) - own, -np.inf)
        mover = int(gains.argmax()) if len(gains) else 0
        if not len(gains) or gains[mover] <= 1e-12:
            break
        labels[mover] = int(best[mover].argmax())
    return labels


def assign_to_clusters(
    similarity: Floats,
    attenuations: Floats,
    examples: Sequence[int],
    labels: Labels,
    rules: ClusteringRules,
    first_free: int = 0,
) -> Labels:
    """Assign the clients without a cluster to the cluster with which they agree, if there is one.

    The other clients without a cluster are clustered among themselves, unless the number of
    clusters is given. Groups of at least ``rules.smallest_cluster`` become new clusters.

    Parameters
    ----------
    similarity, attenuations : ndarray
        Cosines ``(n, n)`` and attenuations ``(n,)``.
    examples : sequence of int
        Number of examples of each client.
    labels : ndarray
        Cluster of each client, ``(n,)``; -1 for none.
    rules : ClusteringRules
        Settings.
    first_free : int, default 0
        Least number of a new cluster.

    Returns
    -------
    ndarray
        The new labels ``(n,)``.
    """
    if not attenuations.any():
        attenuations = np.ones(len(examples))
    assigned = labels.copy()
    for client in np.flatnonzero(labels == NO_GROUP).tolist():
        group, score = nearest(similarity, attenuations, client, labels)
        if score >= rules.required(examples[client]):
            assigned[client] = group
    rest = np.flatnonzero(assigned == NO_GROUP)
    if rules.clusters or not len(rest):
        return assigned
    free = replace(rules, clusterer="agglomerative")
    found = cluster(similarity[np.ix_(rest, rest)], attenuations[rest], free)
    following = max(first_free, int(assigned.max()) + 1)
    for group in range(int(found.max()) + 1):
        members = rest[found == group]
        if len(members) >= rules.smallest_cluster:
            assigned[members] = following
            following += 1
    return assigned
