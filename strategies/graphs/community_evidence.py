"""Evidence for communities in cosines: description length of a stochastic block model."""

import numpy as np

from strategies.clustered.assignments import NO_GROUP
from strategies.clustered.gradient_similarity import Floats, Labels, cosine_similarities

STRONG = 5.0
"""Least difference in evidence that counts, in nats: strong by Kass & Raftery (1995)."""

_ENOUGH_DIMENSIONS = 1000
"""Cosines of random directions in more dimensions are normal as well; only their scale differs."""


def levels(similarity: Floats, labels: Labels) -> tuple[float, float]:
    """Return the mean cosine of pairs within communities, and of pairs across communities.

    Parameters
    ----------
    similarity : ndarray
        Cosines ``(n, n)``.
    labels : ndarray
        Community of each client, ``(n,)``; pairs with a client in none (-1) do not count.

    Returns
    -------
    tuple of 2 float
        Both means. Without pairs within a community the first is 1, that of equal directions;
        without pairs across communities the second is 0, that of orthogonal ones.
    """
    inside, across = _pairs(similarity, labels)
    high = float(inside.mean()) if inside.size else 1.0
    low = float(across.mean()) if across.size else 0.0
    return high, low


def _pairs(similarity: Floats, labels: Labels) -> tuple[Floats, Floats]:
    """Return the cosines of pairs within communities, and of pairs across communities."""
    known = np.flatnonzero(labels != NO_GROUP)
    left, right = np.triu_indices(len(known), k=1)
    cosines = similarity[known[left], known[right]]
    same = labels[known[left]] == labels[known[right]]
    return cosines[same], cosines[~same]


def evidence(similarity: Floats, labels: Labels) -> float:
    """Return the evidence for communities against no communities, in nats (description length).

    The model is a stochastic block model with two levels: cosines are normal around one mean within
    communities and around another across, with a common variance. The null model has one mean. The
    first saves ``pairs / 2 log(variance before / variance after)`` nats, and its labels cost
    ``n log K``. The evidence has no scale, so noise that makes all cosines small does not matter.

    Parameters
    ----------
    similarity : ndarray
        Cosines ``(n, n)``.
    labels : ndarray
        Community of each client, ``(n,)``; -1 for none.

    Returns
    -------
    float
        Minus infinity if pairs within communities are no more similar than others, or if there are
        fewer than two communities.
    """
    inside, across = _pairs(similarity, labels)
    if not inside.size or not across.size or inside.mean() <= across.mean():
        return -np.inf
    cosines = np.concatenate([inside, across])
    after = np.sum((inside - inside.mean()) ** 2) + np.sum((across - across.mean()) ** 2)
    before = np.sum((cosines - cosines.mean()) ** 2)
    saved = len(cosines) / 2 * np.log(before / max(after, 1e-12 * before))
    return float(saved - len(labels) * np.log(labels.max() + 1))


def null_cosines(count: int, spread: float, draw: np.random.Generator) -> Floats:
    """Draw cosines ``(n, n)`` of the update directions of clients without communities.

    The directions are random vectors less their mean. Cosines of random directions in ``d``
    dimensions have the variance ``1 / d``; ``d`` is chosen to match ``spread``.

    Parameters
    ----------
    count : int
        Number of clients ``n``.
    spread : float
        Variance of the cosines.
    draw : np.random.Generator
        Random generator.
    """
    dimensions = int(np.clip(1.0 / max(spread, 1e-12), 2, _ENOUGH_DIMENSIONS))
    vectors = draw.normal(size=(count, dimensions))
    return cosine_similarities(list(vectors - vectors.mean(axis=0)))
