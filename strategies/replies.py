"""Replies of clients, and the mean of their metrics."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeGuard, TypeVar

from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID
from numpy.typing import NDArray

from strategies.arrays import Spec
from strategies.protocol import FAILURE, LOCAL_NOISE, PARTITION_ID

__all__ = ["Reply", "mean_metrics"]

Phase = Literal["train", "evaluate"]


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
    length, counter : float, default 0
        The Euclidean length of all floating-point arrays together, and the largest magnitude in
        integer arrays; without arrays whose huge values are as they were sent.
    notes : mapping, default empty
        What the client says of its arrays.
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
    length: float = 0.0
    counter: float = 0.0
    notes: Mapping[str, object] = field(default_factory=dict)
    dropped: str = ""

    @property
    def failure(self) -> str:
        """Why the client sends the arrays as it received them; empty if it has trained."""
        return str(self.notes.get(FAILURE, ""))

    @property
    def has_local_noise(self) -> bool:
        """Whether the client added noise to what it sends."""
        return bool(self.notes.get(LOCAL_NOISE))

    @property
    def unused(self) -> str:
        """Why nothing is learned from it; empty if it is used."""
        return self.dropped or (f"the client failed: {self.failure}" if self.failure else "")

    @cached_property
    def node_id(self) -> int:
        """Id of the node that sent it."""
        return self.message.metadata.src_node_id

    @property
    def scalars(self) -> dict[str, float]:
        """The metrics that are numbers."""
        return {k: v for k, v in self.metrics.items() if not isinstance(v, list)}

    @property
    def lists(self) -> dict[str, list[int] | list[float]]:
        """The metrics that are lists of numbers."""
        return {k: v for k, v in self.metrics.items() if isinstance(v, list)}


RecordKind = TypeVar("RecordKind", ArrayRecord, MetricRecord)


def records_of(content: RecordDict, kind: type[RecordKind]) -> list[RecordKind]:
    """Return the records of one kind; Flower's views of them check every record twice more."""
    return [record for record in content.values() if isinstance(record, kind)]


def mean_metrics(records: list[RecordDict], weighted_by_key: str) -> MetricRecord:
    """Return the mean of each scalar metric over clients, weighted by ``weighted_by_key``.

    NaN means that a client does not have the metric (a client without validation examples has no
    validation accuracy); the mean leaves it out. An error that is infinite (of a model that
    diverged) makes the mean infinite. The weight itself and the client's number are not averaged.
    """
    totals: dict[str, float] = {}
    weights: dict[str, float] = {}
    for record in records:
        metrics = records_of(record, MetricRecord)[0]
        weight = float(metrics[weighted_by_key])  # type: ignore[arg-type]
        for name, value in metrics.items():
            if name in (weighted_by_key, PARTITION_ID) or isinstance(value, list):
                continue
            if not math.isnan(value):
                totals[name] = totals.get(name, 0.0) + weight * value
                weights[name] = weights.get(name, 0.0) + weight
    return MetricRecord({name: totals[name] / weights[name] for name in totals if weights[name]})


def is_client_number(value: object) -> TypeGuard[int]:
    """Return whether a value can be a client's number: a whole number from 0, of 64 bits."""
    return isinstance(value, int) and 0 <= value < 2**64


def failure_of(message: Message) -> str:
    """Return why a client failed, in words: the reason of its error.

    A SuperNode and Flower's simulation write an exception as ``<class 'a.b.Kind'>:<'text'>``, the
    latter on Ray with its own kind in place of the exception's. That becomes ``Kind: text``.

    Parameters
    ----------
    message : Message
        A reply with an error.
    """
    reason = message.error.reason or "no reason given"
    if not (parts := _EXCEPTION.fullmatch(reason)):
        return reason
    kind, text = parts["kind"].rpartition(".")[2], parts["text"]
    bare = _RAY.sub("", text)
    return bare if bare != text else f"{kind}: {text}"


_EXCEPTION = re.compile(r"<class '(?P<kind>[^']*)'>:<'(?P<text>.*)'>", re.DOTALL)
_RAY = re.compile(r"\A\s*Exception \w+ occurred\. Message: ")


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
