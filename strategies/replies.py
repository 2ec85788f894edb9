"""Replies of clients: parsing, validation, and dropping of outliers and duplicates."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID
from numpy.typing import NDArray

from strategies.arrays import Spec, difference, is_finite, spec_of, view
from strategies.errors import ArgumentError
from strategies.protocol import PARTITION_ID

__all__ = ["ClientReport", "Reply", "mean_metrics"]

Phase = Literal["train", "evaluate"]


@dataclass(frozen=True)
class ClientReport:
    """A client's metrics and traffic in one phase of one round.

    Attributes
    ----------
    round, phase : int
        The round (from 1) and ``"train"`` or ``"evaluate"``.
    node_id : int
        Flower's id of the node.
    client : int
        The client's number: its ``partition-id``, or the node id if it sent none.
    metrics : mapping of str to float
        The scalars the client reported.
    bytes_down, bytes_up : int
        Payload bytes of the arrays sent to it and received from it.
    dropped : str, default ""
        Why the reply was not used; empty if it was used.
    lists : mapping of str to sequence of int or sequence of float, default {}
        The lists of numbers that the client reported.
    """

    round: int
    phase: Phase
    node_id: int
    client: int
    metrics: Mapping[str, float]
    bytes_down: int
    bytes_up: int
    dropped: str = ""
    lists: Mapping[str, Sequence[int] | Sequence[float]] = field(default_factory=dict)


@dataclass
class Reply:
    """A parsed reply.

    Attributes
    ----------
    message : Message
        The reply as received.
    client : int
        The client's number; the node id until it is known.
    content : RecordDict, default empty
        The records of the message; empty for an error.
    arrays, views, spec : ArrayRecord, default empty
        The arrays as received, as NumPy views, and their names, shapes and dtypes.
    metrics, weight : MetricRecord, default empty
        The metrics, and the client's weight, which is one of them.
    dropped : str, default ""
        Why the reply is not used; empty if it is used.
    """

    message: Message
    client: int
    content: RecordDict = field(default_factory=RecordDict)
    arrays: ArrayRecord = field(default_factory=ArrayRecord)
    views: dict[str, NDArray[Any]] = field(default_factory=dict)
    spec: Spec = field(default_factory=dict)
    metrics: MetricRecord = field(default_factory=MetricRecord)
    weight: float = 0.0
    dropped: str = ""

    @cached_property
    def node_id(self) -> int:
        """Id of the node that sent it."""
        return self.message.metadata.src_node_id


RecordKind = TypeVar("RecordKind", ArrayRecord, MetricRecord)


def records_of(content: RecordDict, kind: type[RecordKind]) -> list[RecordKind]:
    """Return the records of one kind; Flower's views of them check every record twice more."""
    return [record for record in content.values() if isinstance(record, kind)]


def mean_metrics(records: list[RecordDict], weighted_by_key: str) -> MetricRecord:
    """Return the mean of each scalar metric over clients, weighted by ``weighted_by_key``.

    NaN means that a client does not have the metric (a client without validation examples has no
    validation accuracy); the mean leaves it out. The weight itself and the client's number are not
    averaged.
    """
    totals: dict[str, float] = {}
    weights: dict[str, float] = {}
    for record in records:
        metrics = records_of(record, MetricRecord)[0]
        weight = float(metrics[weighted_by_key])  # type: ignore[arg-type]
        for name, value in metrics.items():
            if name in (weighted_by_key, PARTITION_ID) or isinstance(value, list):
                continue
            if math.isfinite(value):
                totals[name] = totals.get(name, 0.0) + weight * value
                weights[name] = weights.get(name, 0.0) + weight
    return MetricRecord({name: totals[name] / weights[name] for name in totals if weights[name]})


def of_clients(messages: Iterable[Message]) -> tuple[list[Message], dict[str, str]]:
    """Separate the replies of clients from the SuperLink's replies for nodes that disconnected.

    Returns
    -------
    tuple of list of Message and dict of str to str
        The replies of clients; id of an unanswered message -> the SuperLink's reason.
    """
    replies: list[Message] = []
    reasons: dict[str, str] = {}
    for message in messages:
        if message.has_error() and message.metadata.src_node_id == SUPERLINK_NODE_ID:
            reasons[message.metadata.reply_to_message_id] = message.error.reason or ""
        else:
            replies.append(message)
    return replies, reasons


def take_apart(message: Message, weighted_by_key: str, with_arrays: bool) -> Reply:
    """Parse a reply; set ``dropped`` if it cannot be used.

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
    try:
        _parse(reply, weighted_by_key, with_arrays)
    except ValueError as error:
        reply.dropped = str(error)
    return reply


def _parse(reply: Reply, weighted_by_key: str, with_arrays: bool) -> None:
    if reply.message.has_error():
        raise ValueError(f"the client failed: {reply.message.error.reason}")
    reply.content = reply.message.content
    metric_records = records_of(reply.content, MetricRecord)
    if len(metric_records) != 1:
        raise ValueError(f"{len(metric_records)} metric records instead of 1")
    reply.metrics = metric_records[0]
    number = reply.metrics.get(PARTITION_ID)
    if isinstance(number, int):
        reply.client = number
    if with_arrays:
        array_records = records_of(reply.content, ArrayRecord)
        if len(array_records) != 1:
            raise ValueError(f"{len(array_records)} array records instead of 1")
        reply.arrays = array_records[0]
    weight = reply.metrics.get(weighted_by_key)
    if isinstance(weight, list) or weight is None:
        raise ValueError(f"no number {weighted_by_key!r} among its metrics")
    if not (math.isfinite(weight) and weight > 0):
        raise ArgumentError(weighted_by_key, weight, "positive and finite")
    reply.weight = float(weight)
    for name, array in reply.arrays.items():
        try:
            reply.views[name] = view(array)
        except ValueError as error:
            raise ValueError(f"array {name!r} cannot be read: {error}") from error
    reply.spec = spec_of(reply.arrays)


def drop_deviants(replies: Sequence[Reply], sent: ArrayRecord | None) -> None:
    """Drop replies whose names, shapes or dtypes do not match this round's arrays.

    Parameters
    ----------
    replies : sequence of Reply
        All replies of the round.
    sent : ArrayRecord or None
        The arrays that clients received, if known.
    """
    good = [reply for reply in replies if not reply.dropped]
    reference = _reference([reply.spec for reply in good], sent)
    for reply in good:
        reply.dropped = difference(reference, reply.spec)


def drop_non_finite(replies: Sequence[Reply]) -> bool:
    """Drop replies that contain NaN or infinity; return whether any reply is dropped."""
    for reply in replies:
        bad = [name for name, values in reply.views.items() if not is_finite(values)]
        if bad:
            reply.dropped = f"values that are not finite in {bad}"
    return any(reply.dropped for reply in replies)


MOST_TIMES_THE_MEDIAN = 1e8
"""See :func:`drop_outliers`. Sums of squares may differ this much without an error: the units of a
feature may differ by a factor of a few thousand, which is squared there."""


def drop_outliers(
    replies: Sequence[Reply], sizes: Mapping[str, Sequence[float] | NDArray[Any]]
) -> None:
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
            if largest > 0 and size > largest:
                times = size / largest * MOST_TIMES_THE_MEDIAN
                reply.dropped = f"{name!r} is an outlier: {times:.0e} times the median"


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


def drop_duplicates(replies: Sequence[Reply]) -> None:
    """Of several replies with one client number, keep the one with the lowest node id."""
    owner: dict[int, int] = {}
    for reply in sorted(replies, key=lambda reply: reply.node_id):
        if reply.dropped:
            continue
        first = owner.setdefault(reply.client, reply.node_id)
        if first != reply.node_id:
            reply.dropped = (
                f"node {first} is client {reply.client} too; every node needs a partition-id, "
                "or a name, of its own"
            )
