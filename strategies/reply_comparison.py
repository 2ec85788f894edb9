"""Replies beside each other: repeated ones, other arrays than most, outliers, one number twice."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from numpy.typing import NDArray

from strategies.arrays import Spec, difference, spec_of
from strategies.replies import Reply

MOST_TIMES_THE_MEDIAN = 1e8
"""See :func:`drop_outliers`. Sums of squares may differ this much without an error: the units of a
feature may differ by a factor of a few thousand, which is squared there."""

Sizes = Mapping[str, Sequence[float] | NDArray[Any]]
"""Name of a statistic -> its size in every reply."""


def drop_repeated(replies: Sequence[Reply]) -> None:
    """Drop all good replies of a node but the first, as if it had been delivered twice."""
    seen: set[int] = set()
    for reply in replies:
        if reply.node_id in seen:
            reply.dropped = f"node {reply.node_id} has replied already, which counts once"
        seen.add(reply.node_id)


def drop_deviants(replies: Sequence[Reply], sent: ArrayRecord | None) -> None:
    """Drop replies whose names, shapes or dtypes do not match this round's arrays.

    Parameters
    ----------
    replies : sequence of Reply
        Those that have not been dropped.
    sent : ArrayRecord or None
        The arrays that clients received, if known.
    """
    reference = _reference([reply.spec for reply in replies], sent)
    for reply in replies:
        reply.dropped = difference(reference, reply.spec)


def _reference(specs: Sequence[Spec], record: ArrayRecord | None) -> Spec:
    """Return the arrays that this round's replies should contain.

    Shapes and dtypes are those that were sent. The names are those sent, if any reply has exactly
    those. Otherwise clients share a part of what was sent, and the most common set of names
    counts. Names that were not sent are never accepted. If it is not known what was sent, the most
    common reply decides.
    """
    if record is None:
        counts = Counter(frozenset(spec.items()) for spec in specs)
        most = max(counts, key=lambda key: (counts[key], sorted(key)), default=frozenset())
        return dict(sorted(most))
    sent = spec_of(record)
    parts = Counter(frozenset(spec) for spec in specs if spec.keys() <= sent.keys())
    if frozenset(sent) in parts or not parts:
        return sent
    names = max(parts, key=lambda key: (parts[key], sorted(key)))
    return {name: sent[name] for name in sent if name in names}


def drop_outliers(replies: Sequence[Reply], sizes: Sizes) -> None:
    """Drop replies with a statistic that is an outlier among all replies.

    An outlier is larger than :data:`MOST_TIMES_THE_MEDIAN` times the median over the replies. With
    fewer than three replies there are no outliers. A corrupted client below that bound is not
    detected.

    Parameters
    ----------
    replies : sequence of Reply
        Replies that have not been dropped.
    sizes : mapping of str to sequence of float or ndarray
        Name of a statistic -> its size in every reply, e.g. of sums of squares.
    """
    if len(replies) < 3:
        return
    for name, values in sizes.items():
        largest = MOST_TIMES_THE_MEDIAN * np.median(values)
        for reply, size in zip(replies, values, strict=True):
            if largest > 0 and size > largest and not reply.dropped:
                times = size / largest * MOST_TIMES_THE_MEDIAN
                reply.dropped = f"{name!r} is an outlier: {times:.0e} times the median"


def drop_duplicates(replies: Sequence[Reply], known: Mapping[int, int]) -> None:
    """Of several replies with one client number, keep one.

    It is that of the node with the lowest id among those that had this number before, as they
    answered when clients were discovered; if none had it, among all of them. So a node that says
    another's number takes its place only in the absence of the other.

    Parameters
    ----------
    replies : sequence of Reply
        Replies that have not been dropped, one a node.
    known : mapping of int to int
        Node id -> the number of its client, as far as it was known before.
    """
    owner: dict[int, int] = {}
    for reply in sorted(replies, key=lambda r: (known.get(r.node_id) != r.client, r.node_id)):
        first = owner.setdefault(reply.client, reply.node_id)
        if first != reply.node_id:
            reply.dropped = (
                f"node {first} is client {reply.client} too; every node needs a partition-id, "
                "or a name, of its own"
            )
