"""Who is there? The discovery of a federation before its first round."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from logging import INFO, WARNING
from typing import Any

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid

from pfl_flower.config.run_config import RunConfig
from pfl_flower.data import ClientSchema
from pfl_flower.utils.text import commonest
from strategies.errors import ArgumentError
from strategies.protocol import (
    CLIENT_NAME,
    CLIENT_SCHEMA,
    CONFIG,
    NUM_PARTITIONS,
    PARTITION_ID,
    PROPERTIES,
)
from strategies.replies import failure_of, is_client_number

_POLL = 0.2  # seconds between looks at who is there
_SETTLED = 5.0  # seconds without a new node after which those that are there are all


_OWN_KINDS = ("DataError", "SchemaError", "ConfigError")
"""Errors of this app whose text says it all."""

STARTING = 10.0
"""How many times ``wait`` a run waits for nodes of which none has answered: they are starting."""


class FederationError(RuntimeError):
    """A run that cannot start or go on with the clients that are there.

    Parameters
    ----------
    message : str
        What is wrong, with whom, and what would help.
    key, value : optional
        The run key that would help, and its value.
    nodes, clients : optional
        Ids of the nodes and numbers of the clients that are meant.
    reason : str, optional
        Why they cannot work, as the commonest of them says.

    Attributes
    ----------
    key, value, nodes, clients, reason
        The same; None (nodes, clients: empty; reason: ``""``) where they do not apply.
    """

    def __init__(
        self,
        message: str,
        *,
        key: str | None = None,
        value: Any = None,
        nodes: Iterable[int] = (),
        clients: Iterable[int] = (),
        reason: str = "",
    ) -> None:
        super().__init__(message)
        self.key = key
        self.value = value
        self.nodes = tuple(nodes)
        self.clients = tuple(clients)
        self.reason = reason


@dataclass(frozen=True)
class Population:
    """The clients that answered before round 1, and why others cannot take part.

    Attributes
    ----------
    clients : mapping of int to int
        Node id -> the client's number, of every node that answered.
    schemas : mapping of int to ClientSchema
        The client's number -> the schema of its data.
    failures : mapping of int to str, default {}
        Node id -> why it cannot take part.
    names : mapping of int to str, default {}
        The client's number -> its own name in the run's data, where it has one.
    """

    clients: Mapping[int, int]
    schemas: Mapping[int, ClientSchema]
    failures: Mapping[int, str] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)


def wait_for_clients(grid: Grid, config: RunConfig) -> Population:
    """Wait until the federation is complete, so that round 1 does not start with half of it.

    Nodes of a simulation register one after another while the server already runs. Every node is
    asked, as it appears, to load its data and report their schema. Complete are ``min-nodes``
    nodes, or as many as they say there are partitions, all of which have answered. After ``wait``
    seconds the run goes on with those that can work; one that has not answered by then may still
    take part.

    Where none can work by then and some have not answered, their clients are still starting, as on
    Ray on a busy machine. The run then waits on for the first of them that can work, for up to
    :data:`STARTING` times ``wait``.

    Parameters
    ----------
    grid : Grid
        The nodes.
    config : RunConfig
        Of the run; ``min_nodes`` and ``wait`` are read.

    Returns
    -------
    Population
        The clients that answered.

    Raises
    ------
    FederationError
        If no node connects within ``wait`` seconds (its ``key``); if none has answered after
        :data:`STARTING` times ``wait`` (its ``nodes`` are those that have not); or if every node
        says that it cannot load its data and no other has come for a few seconds (its ``reason`` is
        the commonest).
    """
    discovery = _Discovery(grid, config)
    start = last_change = time.monotonic()
    waits_on = False
    while not discovery.complete:
        now = time.monotonic()
        if discovery.update():
            last_change = now
        elif discovery.nodes and len(discovery.failures) == len(discovery.nodes):
            if now - last_change > min(_SETTLED, config.wait):
                reason = commonest(discovery.failures.values())
                raise FederationError(
                    f"no client can start: {reason}",
                    nodes=sorted(discovery.failures),
                    reason=reason,
                )
        elif now - start > config.wait:
            if discovery.clients:
                log(WARNING, "The run goes on without the other nodes: %s", discovery)
                break
            if not discovery.nodes:
                raise FederationError(
                    f"no node connected within {config.wait:g} seconds (run key wait)",
                    key="wait",
                    value=config.wait,
                )
            if now - start > STARTING * config.wait:
                raise _nobody_answered(discovery, config)
            if not waits_on:
                log(WARNING, "No client has started yet; the run waits on: %s", discovery)
                waits_on = True
        if not discovery.complete:
            time.sleep(_POLL)
    log(INFO, "Nodes: %s", discovery)
    return Population(discovery.clients, discovery.schemas, discovery.failures, discovery.names)


def _nobody_answered(discovery: "_Discovery", config: RunConfig) -> FederationError:
    silent = discovery.silent
    reason = commonest(discovery.failures.values()) if discovery.failures else ""
    others = f"; the others cannot start: {reason}" if reason else ""
    return FederationError(
        f"nodes {silent} are connected, but did not answer within {STARTING * config.wait:g} "
        f"seconds, {STARTING:g} times the run key wait; raise it if their clients start more "
        f"slowly{others}",
        key="wait",
        value=config.wait,
        nodes=silent,
        reason=reason,
    )


class _Discovery:
    """Who is there, who can work, and how many there should be."""

    def __init__(self, grid: Grid, config: RunConfig) -> None:
        self.grid = grid
        self.expected = self.minimum = config.min_nodes
        self.nodes: set[int] = set()
        self.clients: dict[int, int] = {}
        self.schemas: dict[int, ClientSchema] = {}
        self.failures: dict[int, str] = {}
        self.names: dict[int, str] = {}
        self._pending: dict[str, int] = {}
        """Id of a message -> the node that was asked: the SuperLink answers for those that left."""

    @property
    def complete(self) -> bool:
        """Whether all expected nodes are there and have answered."""
        answered = len(self.clients) + len(self.failures)
        return 0 < self.expected <= len(self.nodes) == answered and bool(self.clients)

    @property
    def silent(self) -> list[int]:
        """The nodes that have not answered."""
        return sorted(self.nodes - self.clients.keys() - self.failures.keys())

    def update(self) -> bool:
        """Ask nodes that are new, take in answers; return whether anything happened."""
        fresh = sorted(set(self.grid.get_node_ids()) - self.nodes)
        self.nodes.update(fresh)
        wanted = f"{PARTITION_ID},{NUM_PARTITIONS},{CLIENT_SCHEMA}"
        question = RecordDict({CONFIG: ConfigRecord({PROPERTIES: wanted})})
        messages = [Message(question, node, MessageType.QUERY) for node in fresh]
        if messages:
            self._pending |= dict(zip(self.grid.push_messages(messages), fresh, strict=True))
        replies = list(self.grid.pull_messages(list(self._pending)) if self._pending else ())
        for reply in replies:
            sender = reply.metadata.src_node_id
            self._take_in(self._pending.pop(reply.metadata.reply_to_message_id, sender), reply)
        return bool(fresh or replies)

    def _take_in(self, node: int, reply: Message) -> None:
        if reply.has_error():
            self.failures[node] = after_kind(failure_of(reply))
            log(WARNING, "Node %d cannot start its client: %s", node, self.failures[node])
            return
        try:
            number, partitions, schema, name = _parsed(reply)
        except (KeyError, TypeError, ValueError) as error:  # of JSON from the wire, too
            self.failures[node] = f"its answer cannot be read: {type(error).__name__}: {error}"
            log(WARNING, "Node %d cannot take part: %s", node, self.failures[node])
            return
        self.clients[node] = number
        self.schemas.setdefault(number, schema)  # of two nodes with one number the first counts
        if name:
            self.names.setdefault(number, name)
        if not self.minimum:
            self.expected = max(self.expected, partitions)

    def __str__(self) -> str:
        text = f"{len(self.nodes)} of {self.expected or '?'} are there"
        return text + f", {len(self.clients)} can work, {len(self.failures)} cannot"


def after_kind(reason: str) -> str:
    """Leave out the kind of an error of this app, which is for developers.

    Parameters
    ----------
    reason : str
        ``Kind: text``, or the text alone.
    """
    kind, colon, text = reason.partition(": ")
    return text if colon and kind in _OWN_KINDS else reason


def _parsed(reply: Message) -> tuple[int, int, ClientSchema, str]:
    """Return the client's number, the number of partitions, the schema and the client's name."""
    answer = reply.content.config_records[PROPERTIES]
    number, partitions = answer[PARTITION_ID], answer[NUM_PARTITIONS]
    for name, value in ((PARTITION_ID, number), (NUM_PARTITIONS, partitions)):
        if not is_client_number(value):
            raise ArgumentError(name, value, "a whole number from 0, of 64 bits")
    schema = ClientSchema.from_json(str(answer[CLIENT_SCHEMA]))
    return number, partitions, schema, str(answer.get(CLIENT_NAME, ""))  # type: ignore[return-value]
