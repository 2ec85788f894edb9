"""Personal models that a hypernetwork on the server writes."""

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import copy
from logging import INFO, WARNING
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType
from flwr.common.logger import log
from flwr.serverapp import Grid
from numpy.typing import NDArray

from strategies.arrays import encode, num_bytes, to_record, view
from strategies.averaging import PartialAveraging
from strategies.hypernetwork.embeddings import Embeddings
from strategies.hypernetwork.metadata_encoder import Columns, Metadata, read_metadata
from strategies.hypernetwork.network import Hypernetwork
from strategies.hypernetwork.updates import clip_updates
from strategies.properties import ask_properties
from strategies.protocol import METADATA, PARTITION_ID
from strategies.randomness import named_seed
from strategies.replies import ClientReport, Reply, drop_deviants, drop_duplicates, drop_non_finite


class PFedHN(PartialAveraging):
    """Send every client parameters that a hypernetwork wrote for it, and train that network.

    pFedHN (Shamsian et al. 2021, arXiv:2103.04628): the network and the clients' embeddings stay on
    the server, only generated parameters and what clients made of them travel. The network takes an
    AdamW step on the mean vector-Jacobian product over the clients of a round
    (:func:`strategies.hypernetwork.updates.vector_jacobian_product`), at the weights that generated
    what they were sent. A client that was not in the round keeps its embedding's free part, bit for
    bit.

    Beyond the paper an embedding is made of the client's metadata, if it tells some (property
    ``"metadata"``), and a free part that is pulled to zero and dropped now and then in training, so
    that the metadata alone are enough: a client that was never seen is sent a model at once.

    Arrays that are no parameters (buffers) are averaged over everybody. What ``start`` returns are
    the parameters for the mean embedding.

    Parameters
    ----------
    parameter_names : collection of str
        The arrays that are generated.
    use_metadata : bool (default: True)
        Whether clients are asked for metadata.
    server_learning_rate : float (default: 0.01)
        Of Adam.
    embedding_size, hidden_size : int (default: 64)
        See :class:`Hypernetwork`.
    weight_decay : float (default: 1.0)
        Of the network, decoupled; times the learning rate it is what a step takes off its weights.
    free_decay : float (default: 0.001)
        Pull of free parts to zero, beside metadata.
    free_dropout : float in [0, 1) (default: 0.3)
        How often the free part of a client is left out in a round of training, beside metadata.
    query_timeout : float (default: 3600)
        Seconds that clients have to tell their metadata.
    others : as in :class:`PartialAveraging`

    Raises
    ------
    ValueError
        If an argument is out of range, or there is a ``server_momentum``.
    """

    uses_momentum = False

    def __init__(
        self,
        *args: Any,
        parameter_names: Collection[str],
        use_metadata: bool = True,
        server_learning_rate: float = 0.01,
        embedding_size: int = 64,
        hidden_size: int = 64,
        weight_decay: float = 1.0,
        free_decay: float = 0.001,
        free_dropout: float = 0.3,
        query_timeout: float = 3600.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, parameter_names=parameter_names, **kwargs)
        if self.server_momentum:
            raise ValueError("the hypernetwork is trained by Adam; leave server_momentum at 0")
        if not 0 < server_learning_rate < math.inf:
            raise ValueError(f"server_learning_rate must be > 0, got {server_learning_rate}")
        if embedding_size < 1 or hidden_size < 1:
            raise ValueError(f"sizes must be at least 1, got {embedding_size} and {hidden_size}")
        if not 0.0 <= weight_decay * server_learning_rate < 1.0:
            raise ValueError(
                f"weight_decay must be >= 0 and below 1 / server_learning_rate, got {weight_decay}"
            )
        if not (0.0 <= free_dropout < 1.0 and 0.0 <= free_decay < math.inf):
            raise ValueError(
                f"free_dropout must be in [0, 1) and free_decay >= 0, got {free_dropout} and "
                f"{free_decay}"
            )
        self.use_metadata = use_metadata
        self.sizes = embedding_size, hidden_size
        self.query_timeout = query_timeout
        self.embeddings: Embeddings | None = None
        """Made in the first round, when it is known what clients tell."""
        self._rules: dict[str, Any] = {
            "learning_rate": server_learning_rate,
            "weight_decay": weight_decay,
            "decay": free_decay,
            "dropout": free_dropout,
            "seed": self.seed,
        }
        self.metadata: dict[int, Metadata] = {}
        """Client -> what it tells; without those that have not answered yet."""
        self._written: dict[int, tuple[int, NDArray[np.float32]]] = {}
        self._left_out: set[int] = set()

    @property
    def network(self) -> Hypernetwork | None:
        """The hypernetwork, once there is one."""
        return None if self.embeddings is None else self.embeddings.network

    def summary(self) -> None:
        """Log what this strategy does."""
        super().summary()
        embedding, hidden = self.sizes
        log(INFO, "\t└──> Hypernetwork: embeddings of %d, hidden layer of %d", embedding, hidden)

    def written(self) -> dict[int, ArrayRecord]:
        """Return client -> the parameters written for it, of all clients that are known."""
        clients = sorted(self.metadata.keys() | self._known.free.keys())
        network = self._known.network
        told = self._told(clients)
        return {
            client: to_record(network.arrays(self._known.write(client, metadata)))
            for client, metadata in zip(clients, told, strict=True)
        }

    # ------------------------------------------------------------------ checkpoints

    def state_arrays(self) -> dict[str, NDArray[Any]]:
        """Return what the strategy carries from round to round, for a checkpoint."""
        if self.embeddings is None:
            return super().state_arrays()
        told = np.frombuffer(json.dumps(self.metadata).encode(), dtype=np.uint8)
        return super().state_arrays() | self.embeddings.state_arrays() | {"metadata": told}

    def load_state_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over what :meth:`state_arrays` returned."""
        super().load_state_arrays(arrays)
        if "metadata" in arrays:
            told = json.loads(arrays["metadata"].tobytes())
            self.metadata = {int(client): metadata for client, metadata in told.items()}
            self.embeddings = Embeddings.of(arrays, **self._rules)

    # ------------------------------------------------------------------ the way down

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sample clients and send each the parameters written for it.

        Raises
        ------
        ValueError
            If there is no parameter among the arrays.
        """
        server_round += self.rounds_before
        nodes = self._sample(grid, server_round, "train", self.fraction_train, self.min_train_nodes)
        asked = nodes if self.network else sorted(grid.get_node_ids(), key=self.registry.order)
        self.meet(server_round, arrays, config, grid, asked)
        clients = [self._client_of(node) for node in nodes]
        self._known.grow(clients, self._told(clients))
        self._left_out = self._known.left_out(clients, self._told(clients), server_round)
        return self._messages(server_round, arrays, config, nodes, MessageType.TRAIN)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sample clients and ask them to evaluate the models written for them."""
        server_round += self.rounds_before
        nodes = self._sample(
            grid, server_round, "evaluate", self.fraction_evaluate, self.min_evaluate_nodes
        )
        self.meet(server_round, arrays, config, grid, nodes)
        return self._messages(server_round, arrays, config, nodes, MessageType.EVALUATE)

    def evaluate_nodes(
        self,
        grid: Grid,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        nodes: list[int],
        timeout: float,
    ) -> list[ClientReport]:
        """Ask certain clients to evaluate; those never seen get a model from their metadata."""
        before = copy(self.metadata)
        self.meet(server_round, arrays, config, grid, nodes)
        try:
            return super().evaluate_nodes(grid, server_round, arrays, config, nodes, timeout)
        finally:
            self.metadata = before

    def adapt(
        self,
        grid: Grid,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        nodes: list[int],
        timeout: float,
        *,
        rounds: int = 5,
        learning_rate: float = 0.05,
    ) -> None:
        """Fit the embeddings of clients that come after training; nothing else moves on the server.

        They train as in a round (and keep what is personal to them), and the server takes what they
        changed back to the free parts of their embeddings, which it keeps. For clients with few
        examples: see :meth:`Hypernetwork.fit`.

        Parameters
        ----------
        grid, server_round, arrays, config, nodes, timeout : as in :meth:`evaluate_nodes`
        rounds : of training
        learning_rate : of Adam
        """
        self.meet(server_round, arrays, config, grid, nodes)
        nodes = sorted(nodes, key=self.registry.order)
        clients = [self._client_of(node) for node in nodes]
        self._known.grow(clients, self._told(clients), late=True)
        self._left_out = set()
        own = [self._known.free[client] for client in clients]
        optimizer = torch.optim.Adam(own, lr=learning_rate)
        for _ in range(rounds):
            messages = self._messages(server_round, arrays, config, nodes, MessageType.TRAIN)
            parsed = self._take_apart(grid.send_and_receive(messages, timeout=timeout), True)
            drop_deviants(parsed, self._sent)
            drop_duplicates(parsed)
            _, found, moved = self._changes(parsed)
            if found:
                self._known.fit(found, self._told(found), moved, optimizer)

    def meet(
        self,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        grid: Grid,
        nodes: Sequence[int],
    ) -> None:
        """Ask nodes not met before for their metadata; make the network when there is none yet.

        Its columns, and what they are standardised by, are those of the clients met first.
        """
        self.registry.identify(grid, self._construct_messages, nodes)
        new = [node for node in nodes if self._client_of(node) not in self.metadata]
        if self.use_metadata:
            answers = ask_properties(
                *(grid, self._construct_messages, new, f"{PARTITION_ID},{METADATA}"),
                config=config,
                config_key=self.configrecord_key,
                server_round=server_round,
                timeout=self.query_timeout,
            )
            for node in sorted(answers, key=self.registry.order):
                if isinstance(number := answers[node].get(PARTITION_ID), int):
                    self.clients[node] = number
                # of two nodes that say they are one client the first counts
                told = _read(node, answers[node].get(METADATA))
                self.metadata.setdefault(self._client_of(node), told)
        if self.network is None:
            self._make(arrays)
        for node in new:
            told = self.metadata.get(self._client_of(node), {})
            for name in self._known.network.columns.never_seen(told):
                log(WARNING, "Node %d: %s %r was never seen before", node, name, told[name])

    def _make(self, arrays: ArrayRecord) -> None:
        if unknown := sorted(self.parameter_names - arrays.keys()):
            raise ValueError(f"no arrays of {unknown} to generate; there are {list(arrays)}")
        start = {n: view(array) for n, array in arrays.items() if n in self.parameter_names}
        columns = Columns.of([self.metadata[client] for client in sorted(self.metadata)])
        seed = named_seed(self.seed, "hypernetwork")
        network = Hypernetwork(start, columns, *self.sizes, seed=seed)
        self.embeddings = Embeddings(network, **self._rules)
        told = sum(bool(metadata) for metadata in self.metadata.values())
        words = ", ".join(columns.names) or "none; embeddings are learned"
        log(INFO, "Metadata of %d clients: %s", told, words)

    @property
    def _known(self) -> Embeddings:
        assert self.embeddings is not None
        return self.embeddings

    def _told(self, clients: Sequence[int]) -> list[Metadata]:
        return [self.metadata.get(client, {}) for client in clients]

    def _client_of(self, node: int) -> int:
        return self.clients.get(node, node)

    def _messages(
        self,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        nodes: list[int],
        message_type: str,
    ) -> Iterable[Message]:
        training = message_type == MessageType.TRAIN
        self._written = {}
        messages: list[Message] = []
        for node in nodes:
            client = self._client_of(node)
            left_out = self._left_out if training else ()
            row = self._known.write(client, self.metadata.get(client, {}), left_out)
            own = {name: encode(values) for name, values in self._known.network.arrays(row).items()}
            record = ArrayRecord({**arrays, **own})
            messages += super()._messages(server_round, record, config, [node], message_type)
            if training:
                self._written[node] = client, row
        self._sent, self._bytes_down = arrays, num_bytes(arrays)
        self._asked = [message.metadata for message in messages]
        return messages

    # ------------------------------------------------------------------ the way up

    def aggregate_arrays(self, replies: list[Reply]) -> ArrayRecord:
        """Train the network by what clients made of what they were sent; average the buffers.

        Marks replies with non-finite values dropped; such a client has a part in nothing.
        """
        good, clients, moved = self._changes(replies)
        if not good:
            return ArrayRecord()
        rest = [name for name in good[0].spec if name not in self._known.network.shapes]
        means = self._means(good, rest) or {}
        by_examples = self.weighting == "examples"
        weights = np.array([r.weight if by_examples else 1.0 for r in good])
        shares = (weights / weights.sum()).tolist()
        self._known.step(clients, self._told(clients), moved, shares, self._left_out)
        mean = self._known.network.arrays(self._known.write_mean(self.metadata))
        return to_record(means | mean)

    def _changes(
        self, replies: Sequence[Reply]
    ) -> tuple[list[Reply], list[int], NDArray[np.float32]]:
        """Return the good replies, their clients, and what was sent less what came back."""
        drop_non_finite(replies)
        written, self._written = self._written, {}
        network = self._known.network
        good: list[Reply] = []
        moved: list[NDArray[np.float32]] = []
        for reply in [reply for reply in replies if not reply.dropped]:
            if missing := [name for name in network.shapes if name not in reply.views]:
                reply.dropped = f"missing {missing}"
                continue
            with np.errstate(over="ignore"):
                change = written[reply.node_id][1] - network.flat(reply.views)
            if np.isfinite(change).all():
                good.append(reply)
                moved.append(change)
            else:
                reply.dropped = "its parameters are too large to be told from what it was sent"
        if not good:
            return [], [], np.zeros((0, 0), dtype=np.float32)
        shortened, believed = clip_updates(np.stack(moved), network.scale.numpy())
        for reply, is_believed in zip(good, believed.tolist(), strict=True):
            reply.dropped = "" if is_believed else "it changed far more than the others"
        good = [reply for reply in good if not reply.dropped]
        clients = [written[reply.node_id][0] for reply in good]
        return good, clients, shortened[believed]


def _read(node: int, told: Any) -> Metadata:
    """Return what a node told of itself; nothing, with a warning, if that cannot be used."""
    try:
        return read_metadata(told if isinstance(told, str) else "")
    except ValueError as error:
        log(WARNING, "Node %d: %s; it counts as one that tells nothing", node, error)
        return {}
