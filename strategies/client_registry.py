"""Which node is which client, and who takes part in a round."""

import time
from collections.abc import Callable, Iterable, Sequence
from logging import INFO

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid

from strategies.protocol import PARTITION_ID, PROPERTIES
from strategies.randomness import generator

_IDENTIFY_TIMEOUT = 120.0  # seconds; a SuperNode may have to import torch before it can answer

MakeMessages = Callable[[RecordDict, list[int], str], Iterable[Message]]
"""(content, node ids, message type) -> messages."""


class ClientRegistry:
    """The clients' own numbers, and sampling that depends on these only.

    Parameters
    ----------
    seed : of client sampling
    config_key : record of a query that says what is asked for

    Attributes
    ----------
    clients : node id -> the client's own number, as far as known
    """

    def __init__(self, seed: int, config_key: str) -> None:
        self.seed = seed
        self.config_key = config_key
        self.clients: dict[int, int] = {}
        self._identified: set[int] = set()

    def order(self, node_id: int) -> tuple[bool, int, int]:
        """Sort key: by the client's number, nodes that state none last, by node id."""
        return node_id not in self.clients, self.clients.get(node_id, node_id), node_id

    def sample(
        self,
        grid: Grid,
        make: MakeMessages,
        phase: str,
        server_round: int,
        *,
        fraction: float,
        minimum: int,
        needed: int,
    ) -> list[int]:
        """Return the nodes of a phase of a round, ordered by their clients' numbers.

        Parameters
        ----------
        grid : to ask for nodes and, where a choice has to be made, for their clients' numbers
        make : makes the messages of that query
        phase, server_round : name the random choice
        fraction, minimum : how many of those that are there, at least ``minimum``
        needed : number of nodes to wait for
        """
        nodes = _wait_for_nodes(grid, needed)
        count = max(int(len(nodes) * fraction), minimum)
        if count < len(nodes):
            self.identify(grid, make, nodes)
            nodes.sort(key=self.order)
            draw = generator(self.seed, "sample", phase, server_round)
            nodes = [nodes[i] for i in draw.choice(len(nodes), size=count, replace=False)]
        nodes.sort(key=self.order)
        log(INFO, "configure_%s: sampled %d nodes", phase, len(nodes))
        return nodes

    def identify(self, grid: Grid, make: MakeMessages, nodes: Sequence[int]) -> None:
        """Ask nodes not met before for their clients' numbers, once.

        A node that does not answer (another app's clients need not know the query) keeps its
        node id as its number, until a reply of its states one.
        """
        unknown = [n for n in nodes if n not in self.clients and n not in self._identified]
        if not unknown:
            return
        self._identified.update(unknown)
        config = ConfigRecord({PROPERTIES: PARTITION_ID})
        messages = make(RecordDict({self.config_key: config}), unknown, MessageType.QUERY)
        for reply in grid.send_and_receive(messages, timeout=_IDENTIFY_TIMEOUT):
            node_id = reply.metadata.src_node_id
            answer = reply.content.config_records.get(PROPERTIES) if reply.has_content() else None
            number = answer.get(PARTITION_ID) if answer else None
            if isinstance(number, int):
                self.clients[node_id] = number


def _wait_for_nodes(grid: Grid, minimum: int) -> list[int]:
    told = -1
    while len(nodes := list(grid.get_node_ids())) < minimum:
        if len(nodes) != told:
            told = len(nodes)
            log(INFO, "Waiting for nodes: %d connected, %d needed", told, minimum)
        time.sleep(0.2)
    return nodes
