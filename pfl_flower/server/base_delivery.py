"""The server's side of a frozen base that it sends: each node that misses it gets it once."""

import time
from collections.abc import Iterable, Mapping
from logging import INFO

from flwr.app import ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.common.logger import log
from flwr.serverapp import Grid

from pfl_flower.grid import in_reply_to
from pfl_flower.sent_bases import held_base
from pfl_flower.server.schema_delivery import SchemaDelivery
from strategies.arrays import num_bytes, to_record
from strategies.protocol import (
    ARRAYS,
    BASE_QUERY,
    CONFIG,
    DATA_SCHEMA,
    FROZEN_BASE,
    MISSING_BASE,
    PROPERTIES,
)

_CANNOT = Error(
    ErrorCode.CLIENT_APP_RAISED_EXCEPTION,
    "the node asks for a frozen base that the server does not have, or that it was just sent",
)


class BaseDelivery(SchemaDelivery):
    """A delivery of the data schema that sends nodes the frozen base, too, where they miss it.

    Senders need to know nothing of it. A node that replies with the fingerprint of a base that it
    does not have (:data:`strategies.protocol.MISSING_BASE`) is sent the base in a message of its
    own, and then the request once more; the sender gets the reply to that. Where a node refuses the
    base, the sender gets that error.

    Parameters
    ----------
    grid : Grid
        The grid to send by.
    """

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid)
        self._uncounted = 0
        self._records: dict[str, ArrayRecord] = {}

    def take_base_bytes(self) -> int:
        """Return the payload bytes of the bases sent since this was asked last, to all nodes."""
        found, self._uncounted = self._uncounted, 0
        return found

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages and return the replies that are there in time."""
        end = None if timeout is None else time.monotonic() + timeout
        requests = [(message, message.content) for message in messages]  # it is cut on the way
        replies = self._sent([message for message, _ in requests], end)
        missing = {_id_in(r): _missing_in(r) for r in replies if _missing_in(r)}
        if not missing:
            return replies
        replies = [reply for reply in replies if _id_in(reply) not in missing]
        lacking = {m.metadata.message_id: (m, content) for m, content in requests}
        lacking = {each: lacking[each] for each in missing if each in lacking}
        return replies + self._with_bases(lacking, missing, end)

    def _sent(self, messages: list[Message], end: float | None) -> list[Message]:
        left = None if end is None else max(0.0, end - time.monotonic())
        return list(super().send_and_receive(messages, timeout=left)) if messages else []

    def _with_bases(
        self,
        lacking: Mapping[str, tuple[Message, RecordDict]],
        missing: Mapping[str, str],
        end: float | None,
    ) -> list[Message]:
        """Send bases, and then requests again; return the replies to these, or refusals."""
        first: dict[str, str] = {}  # id of a message that is sent here -> of the request
        bases, replies = [], []
        for asked, (message, content) in lacking.items():
            if base := self._base_message(message, content, missing[asked]):
                bases.append((asked, base))
            else:
                replies.append(Message(_CANNOT, reply_to=message))
        kept = self._sent([base for _, base in bases], end)
        first |= {base.metadata.message_id: asked for asked, base in bases}
        replies += [in_reply_to(r, first[_id_in(r)]) for r in kept if r.has_error()]
        ready = [first[_id_in(reply)] for reply in kept if not reply.has_error()]
        again = [(asked, _again(*lacking[asked])) for asked in ready]
        answers = self._sent([message for _, message in again], end)
        first |= {message.metadata.message_id: asked for asked, message in again}
        for reply in answers:
            asked = first[_id_in(reply)]
            refused = Message(_CANNOT, reply_to=lacking[asked][0])
            replies.append(refused if _missing_in(reply) else in_reply_to(reply, asked))
        return replies

    def _base_message(
        self, message: Message, content: RecordDict, fingerprint: str
    ) -> Message | None:
        """Return the message with a base to who sent a reply; None if there is no such base."""
        base = held_base(fingerprint)
        if not base:
            return None
        if fingerprint not in self._records:
            self._records[fingerprint] = to_record({n: t.numpy() for n, t in base.items()})
        arrays, node = self._records[fingerprint], message.metadata.dst_node_id
        schema = content.config_records[CONFIG][DATA_SCHEMA]
        config = ConfigRecord({PROPERTIES: FROZEN_BASE, DATA_SCHEMA: schema})
        size = num_bytes(arrays)
        self._uncounted += size
        log(INFO, "Node %d is sent the frozen base %s, %d bytes", node, fingerprint, size)
        return Message(RecordDict({ARRAYS: arrays, CONFIG: config}), node, BASE_QUERY)


def _id_in(reply: Message) -> str:
    """Return the id of the message that a reply is one to."""
    return reply.metadata.reply_to_message_id


def _missing_in(reply: Message) -> str:
    """Return the fingerprint of the base that a reply says is missing; empty if none is."""
    record = reply.content.get(MISSING_BASE) if reply.has_content() else None
    return str(record.get(FROZEN_BASE, "")) if isinstance(record, ConfigRecord) else ""


def _again(message: Message, content: RecordDict) -> Message:
    """Return a request once more."""
    asked = message.metadata
    kind, group = asked.message_type, asked.group_id
    return Message(content, asked.dst_node_id, kind, ttl=asked.ttl, group_id=group)
