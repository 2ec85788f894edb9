"""Flower ``Grid``s: one runs a ClientApp in this process, others change what another grid does.

:class:`InProcessGrid` starts nothing and serialises nothing twice. For small models it is far
faster than Ray, and it gives the same numbers. This is the one file that touches private modules of
Flower: a ``Message`` made outside a run needs ``TaskIdentity``, and a ``Grid`` has a ``Run``.
"""

import copy
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping
from logging import DEBUG
from typing import Any
from uuid import uuid4

from flwr.app import ArrayRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from strategies.errors import ArgumentError

_SUPERLINK_NODE_ID = 1
_FIRST_NODE_ID = 100


class InProcessGrid(Grid):
    """Run ``client_app`` for every message, in order, in the calling thread.

    Each node has a ``Context`` of its own, whose state lasts as long as the grid. A client that
    raises becomes an error reply, as in Flower (the traceback is logged at DEBUG), and its
    context's state is what it was before the message. As on other engines, nothing that a client
    changes in a message is seen by others.

    Parameters
    ----------
    client_app : ClientApp
        The app that every node runs.
    num_nodes : int
        Number of nodes; node ``i`` has ``partition-id`` ``i``.
    run_config : mapping of str to object, optional
        Run config of every node's context.
    node_config : callable, optional
        Function of the partition id -> further node config, e.g. a ``personal-dir``.
    run_id : int, default 1
        The run's number.

    Attributes
    ----------
    contexts : dict of int to Context
        Node id -> its context, whose state outlives messages.

    Raises
    ------
    ArgumentError
        If there is no node.

    Notes
    -----
    A subclass that overrides :meth:`answer` decides what a node replies. It may look at a message
    and its reply, alter or replace the reply, fail, or wait.
    """

    def __init__(
        self,
        client_app: ClientApp,
        num_nodes: int,
        run_config: Mapping[str, Any] | None = None,
        node_config: Callable[[int], Mapping[str, Any]] | None = None,
        run_id: int = 1,
    ) -> None:
        if num_nodes < 1:
            raise ArgumentError("num_nodes", num_nodes, "at least 1")
        identify_process(run_id)
        self._run = Run.create_empty(run_id)
        self.client_app = client_app
        self.contexts: dict[int, Context] = {}
        for partition_id in range(num_nodes):
            node_id = _FIRST_NODE_ID + partition_id
            config: dict[str, Any] = {"partition-id": partition_id, "num-partitions": num_nodes}
            config.update(node_config(partition_id) if node_config else {})
            self.contexts[node_id] = Context(
                run_id=run_id,
                node_id=node_id,
                node_config=config,
                state=RecordDict(),
                run_config=dict(run_config or {}),
            )
        self._replies: dict[str, Message] = {}

    pull_interval: float | None = None
    """Seconds from one pull of replies to the next; None: they are there once messages are sent."""

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a new message; the constructor of ``Message`` does the same."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of all nodes."""
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Run the ClientApp on each message, and keep the replies."""
        identifiers = []
        for message in messages:
            identifier = str(uuid4())
            message.metadata.__dict__["_message_id"] = identifier
            self._replies[identifier] = self.answer(message)
            identifiers.append(identifier)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to these messages; each is handed out once."""
        return [self._replies.pop(i) for i in message_ids if i in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Run the ClientApp on each message and return the replies. No timeout applies."""
        return self.pull_messages(self.push_messages(messages))

    def answer(self, message: Message) -> Message:
        """Return the reply of the node that a message is addressed to; to be overridden.

        It is called once for every message, in the order in which messages are sent, before the
        sender goes on.

        Parameters
        ----------
        message : Message
            Its metadata are complete (it has an id); its content is the sender's own, and must not
            be changed.

        Returns
        -------
        Message
            The node's reply; an error reply where the client raised or the grid has no such node.
        """
        node_id = message.metadata.dst_node_id
        if node_id not in self.contexts:
            reason = f"node {node_id} is not part of this grid"
            return Message(Error(ErrorCode.NODE_UNAVAILABLE, reason), reply_to=message)
        context = self.contexts[node_id]
        kept = _copy(context.state)
        try:
            own = Message(metadata=copy.copy(message.metadata), content=_copy(message.content))  # type: ignore[call-overload]
            reply = self.client_app(message=own, context=context)
            if reply.has_content():
                reply.content = _copy(reply.content)
            return reply
        except Exception as error:
            log(DEBUG, traceback.format_exc())
            context.state = kept
            reason = f"{type(error).__name__}: {error}"
            code = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
            return Message(Error(code, reason), reply_to=message)


_PULL_INTERVAL = 3.0  # seconds, as Flower's grids have it


class DelegatingGrid(Grid):
    """Another grid, all of whose methods it calls; a subclass overrides what it does otherwise.

    Parameters
    ----------
    grid : Grid
        The grid that it passes calls on to.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid

    @property
    def pull_interval(self) -> float | None:
        """Seconds from one pull of replies to the next; that of Flower where the grid has none."""
        interval: float | None = getattr(self.grid, "pull_interval", _PULL_INTERVAL)
        return interval

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self.grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run."""
        return self.grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a new message."""
        return self.grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the nodes."""
        return self.grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages."""
        return self.grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are there."""
        return self.grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages and return the replies."""
        return self.grid.send_and_receive(messages, timeout=timeout)


class GridWithout(DelegatingGrid):
    """Another grid, as a strategy is to see it: without certain nodes.

    Parameters
    ----------
    grid : Grid
        The whole grid.
    left_out : collection of int
        Ids of the nodes that are not to be sampled.
    """

    def __init__(self, grid: Grid, left_out: Collection[int]) -> None:
        super().__init__(grid)
        self.left_out = frozenset(left_out)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the nodes that are not left out."""
        return [node for node in self.grid.get_node_ids() if node not in self.left_out]


def in_reply_to(reply: Message, message_id: str) -> Message:
    """Return a reply as one to another message: to the first one, where a request was repeated."""
    reply.metadata.__dict__["_reply_to_message_id"] = message_id
    return reply


def _copy(records: RecordDict) -> RecordDict:
    """Copy everything that can be changed in place; arrays are immutable bytes and are shared."""
    copied = records.copy()
    own = copied.__dict__["_data"]  # to set an item would check the types of what was checked
    for name, record in own.items():
        own[name] = fresh = record.copy()
        if not isinstance(fresh, ArrayRecord):
            for key, value in fresh.items():
                if isinstance(value, list):
                    fresh[key] = list(value)
    return copied


def identify_process(run_id: int = 1) -> None:
    """Let this process make Messages outside of a run that Flower started."""
    TaskIdentity.run_id = run_id
    TaskIdentity.task_id = 1
    TaskIdentity.node_id = _SUPERLINK_NODE_ID
