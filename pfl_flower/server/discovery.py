"""Who is there? The discovery of a federation before its first round."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from logging import INFO, WARNING
from typing import Any, cast

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid

from pfl_flower.config.run_config import RunConfig
from pfl_flower.data import ClientSchema
from pfl_flower.utils.text import commonest
from strategies.protocol import CLIENT_SCHEMA, CONFIG, NUM_PARTITIONS, PARTITION_ID, PROPERTIES

_POLL = 0.2  # seconds between looks at who is there
_SETTLED = 5.0  # seconds without a new node after which those that are there are all


class FederationError(RuntimeError):
    """A run that cannot be: no client can work, or there is nothing to go on with.

    Parameters
    ----------
    message : str
        What is wrong, and what would be right.
    key, value : optional
        The run key, or the part of a checkpoint, that decides, and its value.
    reason : str, default ""
        What clients, or a file that cannot be read, gave as the reason; the commonest.

    Attributes
    ----------
    key, value, reason
        The same; None, or empty, where they do not apply.
    """

    def __init__(
        self, message: str, *, key: str | None = None, value: Any = None, reason: str = ""
    ) -> None:
        super().__init__(message)
        self.key = key
        self.value = value
        self.reason = reason


@dataclass(frozen=True)
class Population:
    """Who is there.

    Attributes
    ----------
    clients : node id -> the client's number, of every node that answered
    schemas : the client's number -> what it tells of its data
    failures : node id -> why it cannot take part
    """

    clients: Mapping[int, int]
    schemas: Mapping[int, ClientSchema]
    failures: Mapping[int, str] = field(default_factory=dict)


def wait_for_clients(grid: Grid, config: RunConfig) -> Population:
    """Wait until the federation is complete, so that round 1 does not start with half of it.

    Nodes of a simulation register one after another while the server already runs. Every node is
    asked, as it appears, to load its data and tell of them. Complete are ``min-nodes`` nodes, or
    as many as they say there are partitions, all of which have answered. After ``wait`` seconds
    the run goes on with those that are there; one that has not answered by then may still take
    part.

    Raises
    ------
    FederationError
        If no node is there, or every one says that it cannot load its data (and no other has
        come for a few seconds); the message has the commonest reason.
    """
    discovery = _Discovery(grid, config)
    start = last_change = time.monotonic()
    while not discovery.complete:
        now = time.monotonic()
        if discovery.update():
            last_change = now
        elif discovery.nodes and len(discovery.failures) == len(discovery.nodes):
            if now - last_change > min(_SETTLED, config.wait):
                reason = commonest(discovery.failures.values())
                raise FederationError(
                    f"no client can start: {reason}",
                    key="clients",
                    value=len(discovery.failures),
                    reason=reason,
                )
        elif now - start > config.wait:
            if not discovery.nodes:
                raise FederationError(
                    f"no node connected within {config.wait:g} seconds",
                    key="wait",
                    value=config.wait,
                )
            log(WARNING, "Going on without the others: %s", discovery)
            break
        if not discovery.complete:
            time.sleep(_POLL)
    log(INFO, "Nodes: %s", discovery)
    return Population(discovery.clients, discovery.schemas, discovery.failures)


class _Discovery:
    """Who is there, who can work, and how many there should be."""

    def __init__(self, grid: Grid, config: RunConfig) -> None:
        self.grid = grid
        self.expected = self.minimum = config.min_nodes
        self.nodes: set[int] = set()
        self.clients: dict[int, int] = {}
        self.schemas: dict[int, ClientSchema] = {}
        self.failures: dict[int, str] = {}
        self._pending: set[str] = set()

    @property
    def complete(self) -> bool:
        """Whether all expected nodes are there and have answered."""
        answered = len(self.clients) + len(self.failures)
        return 0 < self.expected <= len(self.nodes) == answered and bool(self.clients)

    def update(self) -> bool:
        """Ask nodes that are new, take in answers; return whether anything happened."""
        fresh = sorted(set(self.grid.get_node_ids()) - self.nodes)
        self.nodes.update(fresh)
        wanted = f"{PARTITION_ID},{NUM_PARTITIONS},{CLIENT_SCHEMA}"
        question = RecordDict({CONFIG: ConfigRecord({PROPERTIES: wanted})})
        messages = [Message(question, node, MessageType.QUERY) for node in fresh]
        self._pending.update(self.grid.push_messages(messages) if messages else ())
        replies = list(self.grid.pull_messages(self._pending) if self._pending else ())
        for reply in replies:
            self._pending.discard(reply.metadata.reply_to_message_id)
            self._take_in(reply)
        return bool(fresh or replies)

    def _take_in(self, reply: Message) -> None:
        node = reply.metadata.src_node_id
        if reply.has_error():
            self.failures[node] = reply.error.reason or "no reason given"
            log(WARNING, "Node %d cannot start its client: %s", node, self.failures[node])
            return
        answer = reply.content.config_records[PROPERTIES]
        self.clients[node] = cast(int, answer[PARTITION_ID])
        self.schemas[self.clients[node]] = ClientSchema.from_json(str(answer[CLIENT_SCHEMA]))
        if not self.minimum:
            self.expected = max(self.expected, cast(int, answer[NUM_PARTITIONS]))

    def __str__(self) -> str:
        text = f"{len(self.nodes)} of {self.expected or '?'} are there"
        return text + f", {len(self.clients)} can work, {len(self.failures)} cannot"
