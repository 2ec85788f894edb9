"""Which node is which client, who takes part in a round, and questions to clients."""

import time
from collections.abc import Iterable, Mapping, Sequence
from logging import INFO, WARNING
from typing import Any

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid

from strategies.protocol import NUM_EXAMPLES, PARTITION_ID, PROPERTIES
from strategies.randomness import generator
from strategies.replies import Reply, failure_of, is_client_number, of_clients

_IDENTIFY_TIMEOUT = 120.0  # seconds; a SuperNode may have to import torch before it can answer


def ask_properties(
    grid: Grid,
    nodes: Sequence[int],
    names: str,
    *,
    config: Mapping[str, Any],
    timeout: float,
    config_key: str,
) -> dict[int, Mapping[str, Any]]:
    """Ask nodes for properties; return node id -> answer, of those that gave one.

    The others are logged with the reason, and may be asked again.

    Parameters
    ----------
    grid : Grid
        To ask.
    nodes : sequence of int
        Ids of the nodes.
    names : str
        Of the properties, separated by commas.
    config : mapping
        Further entries of the message.
    timeout : float
        Seconds to wait for answers.
    config_key : str
        Name of the record that says what is asked for.
    """
    if not nodes:
        return {}
    question = ConfigRecord({**config, PROPERTIES: names})
    content = RecordDict({config_key: question})
    messages = [Message(content, node, MessageType.QUERY) for node in nodes]
    found: dict[int, Mapping[str, Any]] = {}
    replies, reasons = of_clients(grid.send_and_receive(messages, timeout=timeout))
    for message in messages:
        if reason := reasons.get(message.metadata.message_id):
            node = message.metadata.dst_node_id
            log(WARNING, "Node %d does not report its %s: %s", node, names, reason)
    for reply in replies:
        node = reply.metadata.src_node_id
        answer = reply.content.config_records.get(PROPERTIES) if reply.has_content() else None
        if answer:
            found[node] = answer
        else:
            reason = failure_of(reply) if reply.has_error() else "no properties"
            log(WARNING, "Node %d does not report its %s: %s", node, names, reason)
    return found


class ClientRegistry:
    """The clients' own numbers, and sampling that depends on these only.

    Parameters
    ----------
    seed : int
        Of client sampling.
    config_key : str
        Name of the record of a query that says what is asked for.

    Attributes
    ----------
    clients : dict
        Node id -> the client's own number, as far as known.
    """

    def __init__(self, seed: int, config_key: str) -> None:
        self.seed = seed
        self.config_key = config_key
        self.clients: dict[int, int] = {}
        self._identified: set[int] = set()
        self._with_examples: set[int] = set()

    def client_of(self, node_id: int) -> int:
        """Return the number of a node's client; the node id while it is not known."""
        return self.clients.get(node_id, node_id)

    def order(self, node_id: int) -> tuple[bool, int, int]:
        """Sort key: by the client's number, nodes that report none last, by node id."""
        return node_id not in self.clients, self.client_of(node_id), node_id

    def sample(
        self,
        grid: Grid,
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
        grid : Grid
            To ask for nodes and, where a choice has to be made, for their clients' numbers.
        phase, server_round : str and int
            Name the random choice.
        fraction, minimum : float and int
            How many of those that are there, at least ``minimum``.
        needed : int
            Number of nodes to wait for.
        """
        nodes = _wait_for_nodes(grid, needed)
        # 0.29 of 100 is 28.999999999999996 in floats, and means 29
        count = max(int(len(nodes) * fraction + 1e-9), minimum)
        if count < len(nodes):
            self.identify(grid, nodes)
            nodes.sort(key=self.order)
            draw = generator(self.seed, "sample", phase, server_round)
            nodes = [nodes[i] for i in draw.choice(len(nodes), size=count, replace=False)]
        nodes.sort(key=self.order)
        log(INFO, "configure_%s: sampled %d nodes", phase, len(nodes))
        return nodes

    def identify(self, grid: Grid, nodes: Iterable[int]) -> None:
        """Ask nodes not met before for their clients' numbers, once.

        A node that does not answer (another app's clients need not know the query) keeps its
        node id as its number, until a reply of its reports one.
        """
        unknown = [n for n in nodes if n not in self.clients and n not in self._identified]
        self._identified.update(unknown)
        self.take_in(
            ask_properties(
                *(grid, unknown, PARTITION_ID),
                config={},
                timeout=_IDENTIFY_TIMEOUT,
                config_key=self.config_key,
            )
        )

    def with_examples(
        self, grid: Grid, nodes: Sequence[int], config: Mapping[str, Any], timeout: float
    ) -> list[int]:
        """Return the nodes that do not say that they have no training examples.

        Those that are known to have some are not asked again.

        Parameters
        ----------
        grid : Grid
            To ask.
        nodes : sequence of int
            Ids of the nodes.
        config : mapping
            Further entries of the question.
        timeout : float
            Seconds to wait for answers.
        """
        unknown = [node for node in nodes if node not in self._with_examples]
        answers = ask_properties(
            *(grid, unknown, f"{PARTITION_ID},{NUM_EXAMPLES}"),
            config=config,
            timeout=timeout,
            config_key=self.config_key,
        )
        self.take_in(answers)
        empty = {node for node in answers if answers[node].get(NUM_EXAMPLES) == 0}
        self._with_examples.update(set(unknown) - empty)
        for node in sorted(empty, key=self.order):
            client = self.client_of(node)
            log(WARNING, "Node %d (client %d) has no training examples", node, client)
        return [node for node in nodes if node not in empty]

    def take_in(self, answers: Mapping[int, Mapping[str, Any]]) -> None:
        """Note the clients' numbers in answers to a question."""
        for node, answer in answers.items():
            if is_client_number(number := answer.get(PARTITION_ID)):
                self.clients[node] = number

    def take_in_replies(self, replies: Iterable[Reply]) -> list[Reply]:
        """Note the numbers in replies, and return these in the order of their clients' numbers.

        A reply that is used says whose it is, but a known node does not become a client that
        another known one is (which was not there, perhaps). A reply that is dropped says it only
        for a node that is not known, and only a number that no other node has.
        """
        replies = list(replies)
        says = [reply for reply in replies if reply.client != reply.node_id]
        owners = {number: node for node, number in self.clients.items()}
        for reply in says:
            known, owner = reply.node_id in self.clients, owners.get(reply.client, reply.node_id)
            if not reply.dropped and (not known or owner == reply.node_id):
                self.clients[reply.node_id] = reply.client
        taken = set(self.clients.values())
        for reply in says:
            if reply.dropped and reply.client not in taken and reply.node_id not in self.clients:
                self.clients[reply.node_id] = reply.client
                taken.add(reply.client)
        for reply in replies:
            reply.client = self.client_of(reply.node_id)
        return sorted(replies, key=lambda reply: self.order(reply.node_id))


def _wait_for_nodes(grid: Grid, minimum: int) -> list[int]:
    logged = -1
    while len(nodes := list(grid.get_node_ids())) < minimum:
        if len(nodes) != logged:
            logged = len(nodes)
            log(INFO, "Waiting for nodes: %d connected, %d needed", logged, minimum)
        time.sleep(0.2)
    return nodes
