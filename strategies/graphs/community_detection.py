"""Community detection from the cosine similarities of clients' update directions.

An update direction is the direction in which a client's training changes the shared arrays, less
the mean over all clients. A client with few examples has a noisy direction, and the noise is the
same in every round. So all cosines are small; communities show only because cosines within them are
larger than across. All functions are pure.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from strategies.clustered.assignments import NO_GROUP
from strategies.clustered.clusterers import agglomerative, renumbered
from strategies.clustered.gradient_similarity import Floats, Labels, nearest
from strategies.clustered.similarity_clustering import ClusteringRules, refine
from strategies.graphs.community_evidence import STRONG, evidence, null_cosines
from strategies.randomness import generator

_MOST = 32
"""Largest number of communities if it is not given."""

_REFINED = 3
"""Number of the best cuts of the tree that are refined."""

_REPEATS = 20
"""Repeats of the bootstrap."""

_FAR = 6.0
"""Least distance from the mean of the bootstrap, in standard deviations.

The null distribution has a long upper tail, so the largest of 20 draws is a weak bound; and the
test is repeated round after round.
"""


def direction_of(change: Floats) -> Floats | None:
    """Return a change ``(p,)`` divided by its norm; None if it is zero or not finite.

    With norm 1, an outlier has no more influence on the mean than any other client.
    """
    largest = np.abs(change).max(initial=0.0)
    if not (np.isfinite(largest) and largest > 0):
        return None
    scaled = change / largest  # so that no square overflows
    return np.asarray(scaled / np.linalg.norm(scaled))


def find_communities(similarity: Floats, clusters: int = 0, seed: int = 0) -> Labels:
    """Find communities by average linkage and refinement.

    If the number is not given, the function takes the one with the most
    :func:`~strategies.graphs.community_evidence.evidence`, up to half the clients and 32. A
    search finds communities in pure noise too, and the more, the fewer dimensions the directions
    have. A parametric bootstrap therefore repeats the search in cosines without communities
    (:func:`~strategies.graphs.community_evidence.null_cosines`). There are no communities unless
    the evidence is strong and exceeds the bootstrap's mean by 6 standard deviations. Clients that
    are alone are then in no community.

    Parameters
    ----------
    similarity : ndarray
        Cosines ``(n, n)`` of update directions, ``n`` at least 2.
    clusters : int, default 0
        Number of communities, at most ``n``; 0 to find it.
    seed : int, default 0
        Seed of the bootstrap.

    Returns
    -------
    ndarray
        Community of each client, ``(n,)``, numbered by their first members; -1 for none.
    """
    none = np.full(len(similarity), NO_GROUP, dtype=np.int64)
    if clusters:
        ones = np.ones(len(similarity))
        return renumbered(_refined(similarity, agglomerative(similarity, ones, clusters, 0.0)))
    if (best := most_evident(similarity)) is None:
        return none
    if not _is_significant(evidence(similarity, best), similarity, seed):
        return none
    sizes = np.bincount(best)
    return renumbered(np.where(sizes[best] > 1, best, NO_GROUP))


def most_evident(similarity: Floats) -> Labels | None:
    """Return the communities with the most evidence; None with fewer than 4 clients.

    The tree of average linkage is cut at every number of communities. The cuts with the most
    evidence are refined.
    """
    from scipy.cluster.hierarchy import cut_tree, linkage  # slow to import
    from scipy.spatial.distance import squareform

    numbers = range(2, min(len(similarity) // 2, _MOST) + 1)
    if not numbers:
        return None
    distances = squareform(1.0 - similarity, checks=False)
    cuts = cut_tree(linkage(distances, "average"), list(numbers)).T.astype(np.int64)
    best = sorted(cuts, key=lambda labels: evidence(similarity, labels))[-_REFINED:]
    return max(
        (_refined(similarity, labels) for labels in best),
        key=lambda labels: evidence(similarity, labels),
    )


def _is_significant(found: float, similarity: Floats, seed: int) -> bool:
    """Return whether evidence is strong, and far above the evidence in null cosines."""
    if found <= STRONG:
        return False
    chances: list[float] = []
    for chance in _null_evidence(similarity, seed):
        if chance >= found:
            return False  # usually after a few draws if there are no communities
        chances.append(chance)
    return found > float(np.mean(chances) + _FAR * np.std(chances, ddof=1))


def _null_evidence(similarity: Floats, seed: int) -> Iterator[float]:
    """Yield the evidence that the search finds in null cosines of the same size and variance."""
    spread = float(similarity[np.triu_indices(len(similarity), k=1)].var())
    for repeat in range(_REPEATS):
        draw = generator(seed, "communities", len(similarity), repeat)
        chance = null_cosines(len(similarity), spread, draw)
        labels = most_evident(chance)
        yield -np.inf if labels is None else evidence(chance, labels)


def assign_to_communities(
    similarity: Floats, labels: Labels, least: float, free: int | None
) -> Labels:
    """Assign clients without a community to the one with which they agree, if there is one.

    Parameters
    ----------
    similarity : ndarray
        Cosines ``(n, n)``.
    labels : ndarray
        Community of each client, ``(n,)``; -1 for none.
    least : float
        Least agreement with a community. The remaining clients become new communities if they agree
        this much with each other and the evidence is strong.
    free : int or None
        Number of the first new community; None to allow no new ones.

    Returns
    -------
    ndarray
        The new labels ``(n,)``.
    """
    ones, assigned = np.ones(len(labels)), labels.copy()
    for client in np.flatnonzero(labels == NO_GROUP).tolist():
        group, score = nearest(similarity, ones, client, labels)
        if score >= least:
            assigned[client] = group
    rest = np.flatnonzero(assigned == NO_GROUP)
    if free is None or len(rest) < 2:
        return assigned
    found = agglomerative(similarity[np.ix_(rest, rest)], ones[rest], 0, least)
    for label in range(int(found.max()) + 1):
        members = rest[found == label]
        if len(members) > 1 and _is_new(similarity, assigned, members):
            assigned[members] = free
            free += 1
    return assigned


def _is_new(similarity: Floats, labels: Labels, members: NDArray[np.int64]) -> bool:
    """Return whether there is strong evidence that clients are a new community.

    The alternative is that each belongs to the community with which it agrees most.
    """
    ones = np.ones(len(labels))
    apart, inside = labels.copy(), labels.copy()
    apart[members] = labels.max() + 1
    for client in members.tolist():
        inside[client] = nearest(similarity, ones, client, labels)[0]
    known = apart != NO_GROUP
    cosines = similarity[np.ix_(known, known)]
    before = evidence(cosines, renumbered(inside[known]))
    return evidence(cosines, renumbered(apart[known])) > before + STRONG


def reassignments(
    recent: Floats, labels: Labels, clients: Sequence[int], margin: float
) -> dict[int, tuple[int, float]]:
    """Return the clients whose recent update directions are those of another community.

    A client in the wrong community keeps moving towards the right one. A client in the right
    community moves only in its individual direction, less the mean of those of its community; so
    its agreement with that community, itself included, is about 0, as with any other. No community
    becomes empty.

    Parameters
    ----------
    recent : ndarray
        Cosines ``(n, n)`` of the recent direction of each client (row) with the directions by which
        clients were assigned (column).
    labels : ndarray
        Community of each client, ``(n,)``; -1 for none.
    clients : sequence of int
        Indices of the clients that may move.
    margin : float
        Least difference between the agreements with the new and the old community.

    Returns
    -------
    dict of int to tuple of int and float
        Index of a client that moves -> new community, and that difference.
    """
    members = (labels[:, None] == np.arange(labels.max(initial=-1) + 1)).astype(np.float64)
    sizes = members.sum(axis=0)
    scores = np.where(sizes > 0, recent @ members / np.maximum(sizes, 1), -np.inf)
    moves: dict[int, tuple[int, float]] = {}
    for client in clients:
        own = labels[client]
        if own == NO_GROUP or sizes[own] < 2:
            continue
        best = int(scores[client].argmax())
        if (gain := float(scores[client, best] - scores[client, own])) > margin:
            moves[client] = best, gain
            sizes[own] -= 1
    return moves


def _refined(similarity: Floats, labels: Labels) -> Labels:
    """Move clients to where they agree most; no community disappears."""
    rules = ClusteringRules(int(labels.max()) + 1, few_examples=0)
    size = len(labels)
    return refine(similarity, np.ones(size), [1] * size, labels, rules)
