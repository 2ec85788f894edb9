"""What comes back from clients: taken apart, checked, and told from what a round expects."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID
from numpy.typing import NDArray

from strategies.arrays import Spec, difference, is_finite, spec_of, view
from strategies.protocol import PARTITION_ID

Phase = Literal["train", "evaluate"]


@dataclass(frozen=True)
class ClientReport:
    """What one client did in one phase of one round.

    Attributes
    ----------
    round, phase : int
        The round (from 1) and ``"train"`` or ``"evaluate"``.
    node_id : int
        Flower's id of the node.
    client : int
        The client's own number (its ``partition-id``; the node id if it states none).
    metrics : mapping of str to float
        The scalars the client reported.
    bytes_down, bytes_up : int
        Payload bytes of the arrays sent to it and received from it.
    dropped : str, default ""
        Why the reply was not used; empty when it was.
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
    """A reply, taken apart once.

    Attributes
    ----------
    message : Message
        As it came.
    client : int
        The client's own number; the node id while it is not known.
    content : RecordDict, default empty
        Its records; empty for an error.
    arrays, views, spec : ArrayRecord, default empty
        Its arrays as they came, as NumPy views, and their names and shapes.
    metrics, weight : MetricRecord, default empty
        Its metrics, and among them the weight.
    dropped : str, default ""
        Why it is not used; empty if it is.
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

    @property
    def node_id(self) -> int:
        """Id of the node that sent it."""
        return self.message.metadata.src_node_id


def mean_metrics(records: list[RecordDict], weighted_by_key: str) -> MetricRecord:
    """Return the mean of each scalar metric over clients, weighted by ``weighted_by_key``.

    A metric that a client does not have is NaN there and is left out of that mean (a client
    without validation examples has no validation accuracy). The weight itself and the client's
    number are not averaged.
    """
    totals: dict[str, float] = {}
    weights: dict[str, float] = {}
    for record in records:
        metrics = next(iter(record.metric_records.values()))
        weight = float(metrics[weighted_by_key])  # type: ignore[arg-type]
        for name, value in metrics.items():
            if name in (weighted_by_key, PARTITION_ID) or isinstance(value, list):
                continue
            if math.isfinite(value):
                totals[name] = totals.get(name, 0.0) + weight * value
                weights[name] = weights.get(name, 0.0) + weight
    return MetricRecord({name: totals[name] / weights[name] for name in totals if weights[name]})


def of_clients(messages: Iterable[Message]) -> tuple[list[Message], dict[str, str]]:
    """Return the replies of clients, and in words why others are missing, where that is known.

    For a node that went away the SuperLink answers in its own name.

    Returns
    -------
    tuple of list of Message and dict of str to str
        Replies, and for others the id of the message that was not replied to -> reason.
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
    """Return a reply with everything read that can be read, ``dropped`` if it cannot be used.

    Parameters
    ----------
    message : Message
        The reply.
    weighted_by_key : str
        Name of the metric that is the client's weight.
    with_arrays : bool
        Whether it must hold arrays (it does after training).
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
    metric_records = list(reply.content.metric_records.values())
    if len(metric_records) != 1:
        raise ValueError(f"{len(metric_records)} metric records instead of 1")
    reply.metrics = metric_records[0]
    number = reply.metrics.get(PARTITION_ID)
    if isinstance(number, int):
        reply.client = number
    array_records = list(reply.content.array_records.values())
    if with_arrays:
        if len(array_records) != 1:
            raise ValueError(f"{len(array_records)} array records instead of 1")
        reply.arrays = array_records[0]
    weight = reply.metrics.get(weighted_by_key)
    if isinstance(weight, list) or weight is None:
        raise ValueError(f"no number {weighted_by_key!r} among its metrics")
    if not (math.isfinite(weight) and weight > 0):
        raise ValueError(f"{weighted_by_key} is {weight}; it must be positive and finite")
    reply.weight = float(weight)
    for name, array in reply.arrays.items():
        try:
            reply.views[name] = view(array)
        except ValueError as error:
            raise ValueError(f"array {name!r} cannot be read: {error}") from error
    reply.spec = spec_of(reply.arrays)


def drop_deviants(replies: Sequence[Reply], sent: ArrayRecord | None) -> None:
    """Mark replies dropped whose arrays are not those of this round.

    Parameters
    ----------
    replies : sequence of Reply
        Of the round.
    sent : ArrayRecord or None
        What clients received, if known.
    """
    good = [reply for reply in replies if not reply.dropped]
    reference = _reference([reply.spec for reply in good], sent)
    for reply in good:
        reply.dropped = difference(reference, reply.spec)


def drop_non_finite(replies: Sequence[Reply]) -> bool:
    """Mark replies dropped that hold NaN or infinity; return whether there were any."""
    for reply in replies:
        bad = [name for name, values in reply.views.items() if not is_finite(values)]
        if bad:
            reply.dropped = f"values that are not finite in {bad}"
    return any(reply.dropped for reply in replies)


MOST_TIMES_THE_MEDIAN = 1e8
"""See :func:`drop_outliers`; clients may well differ by a factor of some thousand in the unit
of a feature, which is squared there."""


def drop_outliers(
    replies: Sequence[Reply], sizes: Mapping[str, Sequence[float] | NDArray[Any]]
) -> None:
    """Mark replies dropped that tell something far beyond what most tell.

    With at least three clients none may have more than :data:`MOST_TIMES_THE_MEDIAN` the median. A
    client that lies within that is believed.

    Parameters
    ----------
    replies : sequence of Reply
        That are good otherwise.
    sizes : mapping of str to sequence of float or ndarray
        What is told -> how large it is, of every reply; of sums of squares, for an example.
    """
    if len(replies) < 3:
        return
    for name, values in sizes.items():
        largest = MOST_TIMES_THE_MEDIAN * np.median(values)
        for reply, size in zip(replies, values, strict=True):
            if largest > 0 and size > largest:
                times = size / largest * MOST_TIMES_THE_MEDIAN
                reply.dropped = f"{name!r} is an outlier: {times:.0e} times what most tell"


def _reference(specs: Sequence[Spec], record: ArrayRecord | None) -> Spec:
    """Return the arrays that this round's replies should hold.

    Shapes and dtypes are those that were sent. The names are those sent, if anybody replied with
    exactly those; otherwise clients share a part of what was sent, and the names are those that
    most replies have. Names that were not sent are never accepted. Where it is not known what
    was sent the most common reply decides.
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
    """Of good replies with one client number, mark all dropped but that of the lowest node id."""
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
