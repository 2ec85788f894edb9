"""The server's side of the data schema: each node gets it in full once, and then its digest."""

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from logging import INFO

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid

from clients.data.data_schema import digest_of
from pfl_flower.grid import DelegatingGrid, in_reply_to
from strategies.protocol import CONFIG, DATA_SCHEMA, DATA_SCHEMA_DIGEST, MISSING_SCHEMA


@dataclass
class _Request:
    """A message under way.

    Attributes
    ----------
    message : Message
        As it was sent last.
    full : RecordDict
        The content that the sender made.
    schema : str
        The data schema in it; empty without.
    in_full : bool
        Whether it was sent with the schema.
    first_id : str, default ""
        The id under which the sender knows it; empty before it is sent.
    """

    message: Message
    full: RecordDict
    schema: str
    in_full: bool
    first_id: str = ""


class SchemaDelivery(DelegatingGrid):
    """Another grid, which sends a node the data schema once and from then on only its digest.

    Senders write the schema into the config of every message (``data-schema``) and need to know
    nothing else. A node that has answered a message with the schema in it has the schema. It gets
    the digest (``data-schema-digest``) in the place of the schema from then on. If it replies that
    the schema is missing, because it was restarted, the request is sent to it once more, at once
    and in full, and the sender gets the reply to that.

    Only :meth:`send_and_receive` does so; :meth:`push_messages` sends messages as they are.

    Parameters
    ----------
    grid : Grid
        The grid to send by.

    Attributes
    ----------
    schema_bytes : int
        Bytes of all data schemas sent in full so far, to all nodes together.
    """

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid)
        self.schema_bytes = 0
        self._kept: dict[int, str] = {}
        """Node -> digest of the schema that it has confirmed."""

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages and return the replies that are there in time."""
        interval = self.pull_interval
        end = None if timeout is None else time.monotonic() + timeout
        waiting = self._send([self._request(message) for message in messages])
        replies: list[Message] = []
        while waiting:
            found = list(self.grid.pull_messages(list(waiting)))
            again: list[_Request] = []
            for reply in found:
                request = waiting.pop(reply.metadata.reply_to_message_id, None)
                if request is None:
                    replies.append(reply)
                elif self._is_missing(reply, request):
                    again.append(_in_full(request))
                else:
                    replies.append(in_reply_to(reply, request.first_id))
            waiting |= self._send(again)
            if interval is None:  # all replies to what was sent are there at once
                if not found:
                    break
            elif waiting:
                left = math.inf if end is None else end - time.monotonic()
                if left <= 0:
                    break
                time.sleep(min(interval, left))
        return replies

    def _request(self, message: Message) -> _Request:
        """Return a message as it is to be sent to its node."""
        schema = _schema_in(message.content)
        has_it = bool(schema) and self._kept.get(message.metadata.dst_node_id) == digest_of(schema)
        return _Request(message, message.content, schema, not has_it)

    def _send(self, requests: list[_Request]) -> dict[str, _Request]:
        """Send requests; return id -> request of those that are under way."""
        brief: dict[int, RecordDict] = {}  # nodes with the same content go on sharing it
        for request in requests:
            if request.in_full:
                self.schema_bytes += len(request.schema.encode())
                continue
            key = id(request.full)
            if key not in brief:
                brief[key] = _without_schema(request.full, request.schema)
            request.message.content = brief[key]
        if not requests:
            return {}
        sent = set(self.grid.push_messages([request.message for request in requests]))
        found = {}
        for request in requests:
            identifier = request.message.metadata.message_id
            request.first_id = request.first_id or identifier
            if identifier in sent:
                found[identifier] = request
        return found

    def _is_missing(self, reply: Message, request: _Request) -> bool:
        """Take in whether the node has the schema; return whether to send it the request again."""
        if not reply.has_content() or not request.schema:
            return False
        node = request.message.metadata.dst_node_id
        missing = MISSING_SCHEMA in reply.content
        if missing:
            self._kept.pop(node, None)
            log(INFO, "Node %d does not have the data schema any more; it is sent again", node)
        else:
            self._kept[node] = digest_of(request.schema)
        return missing and not request.in_full


def _schema_in(content: RecordDict) -> str:
    config = content.get(CONFIG)
    return str(config.get(DATA_SCHEMA, "")) if isinstance(config, ConfigRecord) else ""


def _without_schema(content: RecordDict, schema: str) -> RecordDict:
    """Return a content with the digest in the place of the schema."""
    config: Mapping[str, object] = content.config_records[CONFIG]
    rest = {name: value for name, value in config.items() if name != DATA_SCHEMA}
    brief = ConfigRecord({**rest, DATA_SCHEMA_DIGEST: digest_of(schema)})  # type: ignore[dict-item]
    return RecordDict({**content, CONFIG: brief})


def _in_full(request: _Request) -> _Request:
    """Return a request once more, with the schema."""
    asked = request.message.metadata
    message = Message(
        request.full,
        asked.dst_node_id,
        asked.message_type,
        ttl=asked.ttl,
        group_id=asked.group_id,
    )
    return _Request(message, request.full, request.schema, True, request.first_id)
