"""Communities in a set of pulls: small pure functions on cosine similarities.

A pull is the direction in which a client's training changes shared arrays, less the mean of
everybody. What a client has too few examples to tell stays in its pull as noise, the same in every
round, so all cosines are small; only that those within a community are larger tells.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from strategies.clustered.assignments import NO_GROUP
from strategies.clustered.similarity_clustering import (
    ClusteringRules,
    Floats,
    Labels,
    agglomerative,
    cosine_similarities,
    nearest,
    refine,
    renumbered,
)
from strategies.randomness import generator

_MOST = 32
"""Most communities that are found where their number is not given."""

_REFINED = 3
"""Of how many cuts of a tree clients move."""

_REPEATS = 20
"""Repeats of the bootstrap."""

_FAR = 6.0
"""Least distance from the mean of the bootstrap, in standard deviations.

What is found by chance has a long upper tail, in which a largest of 20 says little; and it is
looked at round after round.
"""

_ENOUGH_DIMENSIONS = 1000
"""From so many dimensions on, cosines of random directions are normal; only their scale falls."""

STRONG = 5.0
"""Least evidence that counts, in nats: strong by the scale of Kass & Raftery 1995."""


def direction_of(change: Floats) -> Floats | None:
    """Return a change as a vector of length 1; None if it is zero or not finite.

    Of length 1, so that one wild client has no more say in the mean than any other.

    Parameters
    ----------
    change : ndarray
        ``(p,)``.
    """
    largest = np.abs(change).max(initial=0.0)
    if not (np.isfinite(largest) and largest > 0):
        return None
    scaled = change / largest  # so that no square overflows
    return np.asarray(scaled / np.linalg.norm(scaled))


def levels(similarity: Floats, labels: Labels) -> tuple[float, float]:
    """Return the mean cosine of pairs in one community, and that of pairs in different ones.

    Parameters
    ----------
    similarity : ndarray
        ``(n, n)`` cosines.
    labels : ndarray
        The community of each client; pairs with one in none (-1) do not count.

    Returns
    -------
    tuple of 2 float
        Both; where there is no such pair 1, as of equal pulls, and 0, as of unlike ones.
    """
    inside, across = _pairs(similarity, labels)
    high = float(inside.mean()) if inside.size else 1.0
    low = float(across.mean()) if across.size else 0.0
    return high, low


def _pairs(similarity: Floats, labels: Labels) -> tuple[Floats, Floats]:
    """Return the cosines of pairs in one community, and those of pairs in different ones."""
    known = np.flatnonzero(labels != NO_GROUP)
    left, right = np.triu_indices(len(known), k=1)
    cosines = similarity[known[left], known[right]]
    same = labels[known[left]] == labels[known[right]]
    return cosines[same], cosines[~same]


def evidence(similarity: Floats, labels: Labels) -> float:
    """Return the evidence for communities against none, in nats, by description length.

    The cosines of pairs are described as normal around one mean within communities and around
    another across, of one variance (a stochastic block model of two levels), instead of around one
    mean for all. That saves ``pairs / 2 log(variance before / variance after)`` nats, and costs
    the labels, ``n log K``. It has no scale, so noise that makes all cosines small does not matter.

    Parameters
    ----------
    similarity : ndarray
        ``(n, n)`` cosines.
    labels : ndarray
        The community of each of the ``n`` clients, none -1.

    Returns
    -------
    float
        Minus infinity where members are no more alike than others, or there are no two communities.
    """
    inside, across = _pairs(similarity, labels)
    if not inside.size or not across.size or inside.mean() <= across.mean():
        return -np.inf
    cosines = np.concatenate([inside, across])
    after = np.sum((inside - inside.mean()) ** 2) + np.sum((across - across.mean()) ** 2)
    before = np.sum((cosines - cosines.mean()) ** 2)
    saved = len(cosines) / 2 * np.log(before / max(after, 1e-12 * before))
    return float(saved - len(labels) * np.log(labels.max() + 1))


def find_communities(similarity: Floats, clusters: int = 0, seed: int = 0) -> Labels:
    """Return the community of each client, numbered by their first members; -1 for none.

    By average linkage, after which clients move to where they agree most. Without a number, the
    one with the most :func:`evidence` is taken, up to half the clients and 32. A search finds
    something in pure chance too, the more the fewer dimensions pulls have. So the same search is
    made in :func:`unlike_pulls` (a parametric bootstrap), and there is no community unless the
    evidence is strong, and 6 standard deviations above the mean of what is found there. Then
    whoever is alone is in none.

    Parameters
    ----------
    similarity : ndarray
        ``(n, n)`` cosines of pulls, ``n`` at least 2.
    clusters : int, default 0
        The number of communities, at most ``n``; 0 to find it.
    seed : int, default 0
        Of the bootstrap.
    """
    none = np.full(len(similarity), NO_GROUP, dtype=np.int64)
    if clusters:
        ones = np.ones(len(similarity))
        return renumbered(_refined(similarity, agglomerative(similarity, ones, clusters, 0.0)))
    if (best := most_evident(similarity)) is None:
        return none
    if not _is_no_chance(evidence(similarity, best), similarity, seed):
        return none
    sizes = np.bincount(best)
    return renumbered(np.where(sizes[best] > 1, best, NO_GROUP))


def most_evident(similarity: Floats) -> Labels | None:
    """Return the communities with the most :func:`evidence`; None where nothing can be found.

    The tree of average linkage is cut at every number; of the cuts with the most evidence, clients
    move to where they agree most.
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


def unlike_pulls(count: int, spread: float, draw: np.random.Generator) -> Floats:
    """Return the cosines of pulls of clients that all differ, each in its own way.

    Random vectors less their mean, in as many dimensions as give the cosines this variance: that
    of random directions in ``d`` dimensions is ``1 / d``.

    Parameters
    ----------
    count : int
        Number of clients ``n``.
    spread : float
        Variance of the cosines.
    draw : np.random.Generator
        Source of chance.

    Returns
    -------
    ndarray
        ``(n, n)``.
    """
    dimensions = int(np.clip(1.0 / max(spread, 1e-12), 2, _ENOUGH_DIMENSIONS))
    vectors = draw.normal(size=(count, dimensions))
    return cosine_similarities(list(vectors - vectors.mean(axis=0)))


def _is_no_chance(found: float, similarity: Floats, seed: int) -> bool:
    """Tell whether evidence is strong, and far above what is found where there is nothing."""
    if found <= STRONG:
        return False
    chances: list[float] = []
    for chance in _by_chance(similarity, seed):
        if chance >= found:
            return False  # most often soon, so that it costs little where there is nothing
        chances.append(chance)
    return found > float(np.mean(chances) + _FAR * np.std(chances, ddof=1))


def _by_chance(similarity: Floats, seed: int) -> Iterator[float]:
    """Return the evidence found in as many clients that all differ, again and again."""
    spread = float(similarity[np.triu_indices(len(similarity), k=1)].var())
    for repeat in range(_REPEATS):
        draw = generator(seed, "communities", len(similarity), repeat)
        chance = unlike_pulls(len(similarity), spread, draw)
        labels = most_evident(chance)
        yield -np.inf if labels is None else evidence(chance, labels)


def join(similarity: Floats, labels: Labels, least: float, free: int | None) -> Labels:
    """Return the labels after each client in no community has joined one, if it agrees with one.

    Parameters
    ----------
    similarity : ndarray
        ``(n, n)`` cosines.
    labels : ndarray
        The community of each client, -1 for none.
    least : float
        Agreement with which one joins, or with which those that agree with none become a new
        community, if the :func:`evidence` for that is strong.
    free : int or None
        The number of the first new community; None if there can be none.
    """
    ones, joined = np.ones(len(labels)), labels.copy()
    for client in np.flatnonzero(labels == NO_GROUP).tolist():
        group, score = nearest(similarity, ones, client, labels)
        if score >= least:
            joined[client] = group
    rest = np.flatnonzero(joined == NO_GROUP)
    if free is None or len(rest) < 2:
        return joined
    found = agglomerative(similarity[np.ix_(rest, rest)], ones[rest], 0, least)
    for label in range(int(found.max()) + 1):
        members = rest[found == label]
        if len(members) > 1 and _is_new(similarity, joined, members):
            joined[members] = free
            free += 1
    return joined


def _is_new(similarity: Floats, labels: Labels, members: NDArray[np.int64]) -> bool:
    """Tell whether there is strong evidence that clients are a community of their own.

    That is more evidence than if each joined the community with which it agrees most.
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


def misplaced(
    recent: Floats, labels: Labels, clients: Sequence[int], margin: float
) -> dict[int, tuple[int, float]]:
    """Return where clients belong whose recent pulls are those of another community.

    A client in the wrong place goes on to be pulled to where it belongs. One in the right place is
    pulled by what is its own only, less the mean of that in its community; so with itself among
    the members its agreement with them is about 0, as it is with others. No community is left
    empty.

    Parameters
    ----------
    recent : ndarray
        ``(n, n)`` cosines of the recent pull of each client (row) with the pulls by which clients
        were placed (column).
    labels : ndarray
        The community of each client, -1 for none.
    clients : sequence of int
        Places of those that may move.
    margin : float
        By which the agreement with another community must be above that with its own.

    Returns
    -------
    dict of int to tuple of int and float
        Place of a client that moves -> new community, and how much higher the agreement is.
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
    """Return the labels after clients have moved to where they agree most; no community ends."""
    rules = ClusteringRules(int(labels.max()) + 1, few_examples=0)
    size = len(labels)
    return refine(similarity, np.ones(size), [1] * size, labels, rules)
