"""Grids that record messages or change replies, and a search for personal values in messages."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Array, ConfigRecord, Error, Message

from clients.base_client import PERSONAL_PART
from clients.state.personal_state import RECORD
from pfl_flower.grid import InProcessGrid
from strategies.arrays import view
from strategies.protocol import CONFIG

FIRST_NODE = 100
"""Of an ``InProcessGrid``: client ``i`` is node ``FIRST_NODE + i``."""


@dataclass(frozen=True)
class Exchange:
    """A message to a client, and its reply.

    Attributes
    ----------
    client : the client's number
    message, reply : as they were sent; the message is a copy, because strategies send the same
        config again with another round
    before, after : what the client keeps before and after the message, ``<method>/<part>/<name>``
        -> array
    """

    client: int
    message: Message
    reply: Message
    before: Mapping[str, Array]
    after: Mapping[str, Array]

    @property
    def message_type(self) -> str:
        """The type of the message."""
        return self.message.metadata.message_type

    @property
    def config(self) -> ConfigRecord:
        """The config of the message; an empty one where there is none."""
        return self.message.content.config_records.get(CONFIG, ConfigRecord())


class RecordingGrid(InProcessGrid):
    """A grid that keeps every message, its reply, and what the client keeps."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.exchanges: list[Exchange] = []

    def answer(self, message: Message) -> Message:
        """Answer a message, and keep both."""
        node = message.metadata.dst_node_id
        as_sent = Message(metadata=message.metadata, content=deepcopy(message.content))  # type: ignore[call-overload]
        before = self._kept(node)
        reply = super().answer(message)
        kept = self._kept(node)
        self.exchanges.append(Exchange(node - FIRST_NODE, as_sent, reply, before, kept))
        return reply

    def of_type(self, message_type: str, **wanted: Any) -> list[Exchange]:
        """The exchanges of a type of message, of those whose config holds these values."""
        values = {name.replace("_", "-"): value for name, value in wanted.items()}
        return [
            exchange
            for exchange in self.exchanges
            if exchange.message_type == message_type
            and all(exchange.config.get(name) == value for name, value in values.items())
        ]

    def _kept(self, node: int) -> dict[str, Array]:
        return {
            f"{key.removeprefix(RECORD)}/{name}": array  # bytes of arrays never change
            for key, record in self.contexts[node].state.array_records.items()
            for name, array in record.items()
        }


def numbers_in(*messages: Message) -> list[float]:
    """All numbers among the metrics and configs of messages, those in lists too."""
    return [
        number
        for message in messages
        for records in (message.content.metric_records, message.content.config_records)
        for record in records.values()
        for value in record.values()
        for number in (value if isinstance(value, list) else [value])
        if isinstance(number, int | float)
    ]


def leaks(exchange: Exchange, sent_by_design: Sequence[str] = ()) -> list[str]:
    """The personal arrays of which a reply holds something, and what: name, values or metrics.

    A reply may hold no array under the name of a personal parameter; no two neighbouring values of
    an array that the client keeps, in single precision; and no value of one among its metrics. Not
    counted are what has just been sent to the client, and whole numbers and repeated values, which
    arrays have in common by chance. An own model that begins as the shared one stays within
    rounding of it where no example moves it; such values are not counted either.

    Parameters
    ----------
    sent_by_design : parts of what a client keeps that its method sends, such as ``own``
    """
    if exchange.reply.has_error():
        return []
    sent, received = _arrays_of(exchange.reply), _arrays_of(exchange.message)
    leaving = np.setdiff1d(_neighbours(sent.values()), _neighbours(received.values()))
    reported = np.array([n for n in numbers_in(exchange.reply) if isinstance(n, float)])
    reported = reported[reported != np.round(reported)]
    found = set()
    for key, array in (*exchange.before.items(), *exchange.after.items()):
        _, part, name = key.split("/", 2)
        values = view(array)
        if part == PERSONAL_PART and name in sent.keys() - received.keys():
            found.add(f"{key}: name")
        if part in sent_by_design or values.dtype.kind != "f":
            continue
        if name in received and received[name].shape == values.shape:
            values = np.where(np.isclose(values, received[name], rtol=1e-5, atol=0), 0, values)
        if np.isin(_neighbours([values]), leaving).any():
            found.add(f"{key}: values")
        if np.isin(reported, values.astype(np.float64)).any():
            found.add(f"{key}: metrics")
    return sorted(found)


def _arrays_of(message: Message) -> dict[str, np.ndarray]:
    return {
        name: view(array)
        for record in message.content.array_records.values()
        for name, array in record.items()
    }


def _neighbours(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """Every two neighbouring values of arrays, as 64 bits; none that are common by chance."""
    found = [np.zeros(0, np.uint64)]
    for values in arrays:
        if values.dtype.kind != "f" or values.size < 2:
            continue
        with np.errstate(over="ignore", invalid="ignore"):
            row = np.ascontiguousarray(values, dtype=np.float32).ravel()
            tells = np.isfinite(row) & (row != np.round(row))
        pairs = np.stack([row[:-1], row[1:]], axis=1)
        pairs = pairs[tells[:-1] & tells[1:] & (row[:-1] != row[1:])]
        found.append(pairs.view(np.uint64).ravel())
    return np.unique(np.concatenate(found))


class FailingGrid(InProcessGrid):
    """A grid that replies to some messages with an error, in place of the client.

    Parameters
    ----------
    fails : function of the message: whether the client fails
    reason : of the error
    """

    def __init__(
        self,
        *arguments: Any,
        fails: Callable[[Message], bool],
        reason: str = "out of memory",
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self.fails, self.reason = fails, reason

    def answer(self, message: Message) -> Message:
        """Answer a message, or fail."""
        if self.fails(message):
            return Message(Error(2, self.reason), reply_to=message)
        return super().answer(message)


class ShuffledGrid(InProcessGrid):
    """A grid whose nodes have other ids and reply in another order, as on another engine."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        ids = [7919 * (place + 1) % 10007 for place in range(len(self.contexts))]
        contexts = list(self.contexts.values())
        np.random.default_rng(0).shuffle(contexts)
        self.contexts = dict(zip(ids, contexts, strict=True))

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies, the last one first."""
        return list(super().pull_messages(message_ids))[::-1]
