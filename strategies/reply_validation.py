"""Which replies are used: one rule for every strategy, with the reason for each that is not.

A reply is judged, in this order,

1. by itself: it can be read, comes from a node that was asked, and holds nothing beyond all bounds;
2. by its node: the first good reply of a node counts, and no other;
3. by what was sent: its arrays have the same names, shapes and dtypes;
4. by its strategy, which knows what no client's data can give;
5. by the other replies: it is no outlier among them;
6. by its client's number: of several nodes that say they are one client, one counts.

The number comes last, so that no reply that cannot be used takes away another's.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from numpy.typing import DTypeLike, NDArray

from strategies.arrays import is_finite, spec_of, sum_of_squares, view
from strategies.errors import ArgumentError
from strategies.protocol import NOTES, PARTITION_ID
from strategies.replies import Reply, failure_of, is_client_number, records_of
from strategies.reply_comparison import (
    Sizes,
    drop_deviants,
    drop_duplicates,
    drop_outliers,
    drop_repeated,
)

LARGEST_COUNT = 2**53
"""Largest number of examples, and largest magnitude in an integer array. Beyond it a float64 does
not tell neighbouring whole numbers apart, and nothing that a client counts comes near."""


def validate(
    replies: Sequence[Reply],
    *,
    known: Mapping[int, int],
    asked: Collection[int] = (),
    sent: ArrayRecord | None = None,
    check: Callable[[Reply], None] | None = None,
    sizes: Callable[[Sequence[Reply]], Sizes] | None = None,
) -> None:
    """Set ``dropped`` of the replies that are not used; the module says in which order.

    Parameters
    ----------
    replies : sequence of Reply
        Of a phase, as :func:`take_apart` returns them.
    known : mapping of int to int
        Node id -> the number of its client, as far as it was known before these replies.
    asked : collection of int, default ()
        Ids of the nodes that were asked; empty if that is not known.
    sent : ArrayRecord, optional
        The arrays that the clients received, if that is known.
    check : callable, optional
        Raises a ``ValueError`` for a reply that no client's data can give.
    sizes : callable, optional
        Returns what must be no outlier, beside weights. Given if arrays are to be aggregated; then
        their names, shapes and dtypes have to be those that were sent.
    """
    for reply in good_ones(replies):
        if reply.metrics.get(PARTITION_ID) is None:
            reply.client = known.get(reply.node_id, reply.node_id)
        if asked and reply.node_id not in asked:
            reply.dropped = f"node {reply.node_id} was not asked"
        else:
            _drop_if_refused(lambda each: check_values(each, sent or {}), reply)
    drop_repeated(good_ones(replies))
    if sizes:
        drop_deviants(good_ones(replies), sent)
    if check:
        for reply in good_ones(replies):
            _drop_if_refused(check, reply)
    if good := good_ones(replies):
        drop_outliers(good, {"weight": [reply.weight for reply in good]})
        drop_outliers(good, sizes(good) if sizes else {})
    drop_duplicates(good_ones(replies), known)


def good_ones(replies: Sequence[Reply]) -> list[Reply]:
    """Return the replies that have not been dropped."""
    return [reply for reply in replies if not reply.dropped]


def _drop_if_refused(check: Callable[[Reply], None], reply: Reply) -> None:
    try:
        check(reply)
    except ValueError as error:
        reply.dropped = str(error) or type(error).__name__


# ---------------------------------------------------------------------- a reply by itself


def take_apart(message: Message, weighted_by_key: str, with_arrays: bool) -> Reply:
    """Parse a reply; set ``dropped`` if it cannot be read.

    Parameters
    ----------
    message : Message
        The reply as received.
    weighted_by_key : str
        Name of the metric that holds the client's weight.
    with_arrays : bool
        Whether the reply must contain arrays, as it does after training.
    """
    reply = Reply(message, message.metadata.src_node_id)
    _drop_if_refused(lambda each: _parse(each, weighted_by_key, with_arrays), reply)
    return reply


def _parse(reply: Reply, weighted_by_key: str, with_arrays: bool) -> None:
    if reply.message.has_error():
        raise ValueError(f"the client failed: {failure_of(reply.message)}")
    reply.content = reply.message.content
    metric_records = records_of(reply.content, MetricRecord)
    if len(metric_records) != 1:
        raise ValueError(f"{len(metric_records)} metric records instead of 1")
    reply.metrics = metric_records[0]
    if isinstance(notes := reply.content.get(NOTES), ConfigRecord):
        reply.notes = notes
    number = reply.metrics.get(PARTITION_ID)
    if number is not None:
        if not is_client_number(number):
            raise ArgumentError(PARTITION_ID, number, "a whole number from 0, of 64 bits")
        reply.client = number
    if with_arrays:
        array_records = records_of(reply.content, ArrayRecord)
        if len(array_records) != 1:
            raise ValueError(f"{len(array_records)} array records instead of 1")
        reply.arrays = array_records[0]
    weight = reply.metrics.get(weighted_by_key)
    if isinstance(weight, list) or weight is None:
        raise ValueError(f"no number {weighted_by_key!r} among its metrics")
    if not 0 < weight <= LARGEST_COUNT:
        raise ArgumentError(weighted_by_key, weight, f"positive and at most {LARGEST_COUNT}")
    reply.weight = float(weight)
    for name, array in reply.arrays.items():
        try:
            reply.views[name] = view(array)
        except ValueError as error:
            raise ValueError(f"array {name!r} cannot be read: {error}") from error
    reply.spec = spec_of(reply.arrays)


def check_values(reply: Reply, sent: Mapping[str, Array]) -> None:
    """Note the ``length`` and the ``counter`` of a reply; refuse values beyond all bounds.

    Each array is read once: a sum of squares that is finite says that no value is beyond
    :func:`largest_value`. Only another one leads to a search. What the server sent may come back
    (a mask of the largest float), of floats each entry also changed and up to twice as large (a
    prior variance that stands for infinity).

    Raises
    ------
    ValueError
        If values are NaN or infinite.
    ArgumentError
        If values are too large.
    """
    views = reply.views
    squares = {n: sum_of_squares(v) for n, v in views.items() if np.issubdtype(v.dtype, np.inexact)}
    searched = [name for name, square in squares.items() if not math.isfinite(square)]
    if bad := [name for name in searched if not is_finite(views[name])]:
        raise ValueError(f"values that are not finite in {bad}")
    tops = {n: largest_of(v) for n, v in views.items() if n in searched or n not in squares}
    huge = {name for name, top in tops.items() if top > largest_value(views[name].dtype)}
    if claimed := [n for n in views if n in huge and not _goes_back(views[n], sent.get(n))]:
        name = claimed[0]
        wanted = f"at most {largest_value(views[name].dtype):.2g}"
        raise ArgumentError(f"largest value in {claimed}", tops[name], wanted)
    for name in searched:
        wide = np.abs(views[name]).astype(np.float64)
        usual = np.where(wide > largest_value(views[name].dtype), 0.0, wide)
        squares[name] = sum_of_squares(usual)
    reply.length = math.sqrt(sum(squares.values()))
    counters = [top for name, top in tops.items() if name not in squares and name not in huge]
    reply.counter = max(counters, default=0.0)


def _goes_back(values: NDArray[Any], sent: Array | None) -> bool:
    """Whether an array is no larger, entry by entry, than what was sent makes likely."""
    given = None if sent is None else view(sent)
    if given is None or given.shape != values.shape:
        return False
    if not np.issubdtype(values.dtype, np.inexact):
        return np.array_equal(values, given)
    with np.errstate(over="ignore"):
        allowed = np.maximum(2 * np.abs(given), largest_value(values.dtype))
    return bool((np.abs(values) <= allowed).all())


def largest_value(dtype: DTypeLike) -> float:
    """Return the largest magnitude that is accepted in an array of a dtype.

    Of floats it is that whose square is the largest float: 1.8e19 in single precision, which half
    precision is summed in, and 1.3e154 in double precision. With more, no norm, variance or squared
    loss can be computed. Of integers it is :data:`LARGEST_COUNT`.
    """
    kind = np.dtype(dtype)
    if not np.issubdtype(kind, np.inexact):
        return float(LARGEST_COUNT)
    return math.sqrt(np.finfo(np.promote_types(kind, np.float32)).max)


def largest_of(values: NDArray[Any]) -> float:
    """Return the largest magnitude of an array; 0 if it is empty."""
    if np.issubdtype(values.dtype, np.complexfloating):
        values = np.abs(values)
    return max((float(values.max()), -float(values.min()))) if values.size else 0.0


def array_sizes(replies: Sequence[Reply]) -> Sizes:
    """Return how large the arrays of replies are, all together; 1 where they are smaller.

    A model that starts at zero may move in some clients and hardly in others: what is no larger
    than an ordinary model is no outlier among those.
    """
    return {
        "length of all arrays": [max(reply.length, 1.0) for reply in replies],
        "largest integer": [max(reply.counter, 1.0) for reply in replies],
    }
