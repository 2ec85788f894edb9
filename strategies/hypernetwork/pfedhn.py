"""Personal models that a hypernetwork on the server writes."""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from logging import INFO, WARNING
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord
from flwr.common.logger import log
from flwr.serverapp import Grid
from numpy.typing import NDArray

from strategies.arrays import encode, to_record, view
from strategies.errors import ArgumentError
from strategies.hypernetwork.embeddings import Embeddings
from strategies.hypernetwork.metadata_encoder import Columns, Metadata, reported_metadata
from strategies.hypernetwork.network import Hypernetwork
from strategies.hypernetwork.updates import usable_changes
from strategies.partial_averaging import PartialAveraging
from strategies.protocol import METADATA
from strategies.randomness import named_seed
from strategies.replies import Reply
from strategies.reply_validation import good_ones
from strategies.rounds import Round

__all__ = ["PFedHN"]


class PFedHN(PartialAveraging):
    """Send every client parameters that a hypernetwork wrote for it, and train that network.

    pFedHN (Shamsian et al. 2021, arXiv:2103.04628): the network and the clients' embeddings stay on
    the server, only generated parameters and what clients made of them travel. The network takes an
    AdamW step on the mean vector-Jacobian product over the clients of a round
    (:func:`strategies.hypernetwork.updates.vector_jacobian_product`), at the weights that generated
    what they were sent. A client that was not in the round keeps its embedding's free part, bit for
    bit.

    Beyond the paper an embedding is made of the client's metadata, if it reports some (property
    ``"metadata"``), and a free part that decays to zero and is dropped now and then in training, so
    that the metadata alone are enough: a client that was never seen is sent a model at once.

    Arrays that are no parameters (buffers) are averaged over everybody. What ``start`` returns are
    the parameters for the mean embedding.

    Parameters
    ----------
    parameter_names : collection of str
        The arrays that are generated.
    use_metadata : bool, default True
        Whether clients are asked for metadata.
    server_learning_rate : float, default 0.01
        Of Adam.
    embedding_size, hidden_size : int, default 64
        See :class:`Hypernetwork`.
    weight_decay : float, default 1.0
        Of the network, decoupled; times the learning rate it is what a step takes off its weights.
    free_decay : float, default 0.001
        Decay of free parts to zero, beside metadata.
    free_dropout : float in [0, 1), default 0.3
        How often the free part of a client is left out in a round of training, beside metadata.
    others
        As in :class:`PartialAveraging`.

    Raises
    ------
    ArgumentError
        If an argument is out of range, or there is a ``server_momentum``.
    """

    unseen_state = ("metadata",)

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
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, parameter_names=parameter_names, **kwargs)
        if self.server_momentum:
            raise ArgumentError("server_momentum", self.server_momentum, "0, as Adam is used")
        if not 0 < server_learning_rate < math.inf:
            raise ArgumentError("server_learning_rate", server_learning_rate, "above 0, finite")
        for name, size in (("embedding_size", embedding_size), ("hidden_size", hidden_size)):
            if size < 1:
                raise ArgumentError(name, size, "at least 1")
        if not 0.0 <= weight_decay * server_learning_rate < 1.0:
            raise ArgumentError("weight_decay", weight_decay, "in [0, 1 / server_learning_rate)")
        if not 0.0 <= free_dropout < 1.0:
            raise ArgumentError("free_dropout", free_dropout, "in [0, 1)")
        if not 0.0 <= free_decay < math.inf:
            raise ArgumentError("free_decay", free_decay, "at least 0 and finite")
        self.use_metadata = use_metadata
        self.sizes = embedding_size, hidden_size
        self.embeddings: Embeddings | None = None
        """Made in the first round, when the metadata of clients are known."""
        self._rules: dict[str, Any] = {
            "learning_rate": server_learning_rate,
            "weight_decay": weight_decay,
            "decay": free_decay,
            "dropout": free_dropout,
            "seed": self.seed,
        }
        self.metadata: dict[int, Metadata] = {}
        """Client -> its metadata; without those that have not answered yet."""
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

    def outcome(self) -> dict[str, Any]:
        """Return the ``hypernetwork``, and the ``metadata`` of clients that reported some."""
        return {"hypernetwork": self.network, "metadata": self.metadata}

    def client_arrays(self) -> dict[int, ArrayRecord]:
        """Return client -> the parameters written for it, of all clients that are known."""
        clients = sorted(self.metadata.keys() | self._known.free.keys())
        network = self._known.network
        metadata = self._metadata_of(clients)
        return {
            client: to_record(network.arrays(self._known.write(client, own)))
            for client, own in zip(clients, metadata, strict=True)
        }

    # ------------------------------------------------------------------ checkpoints

    def state_arrays(self) -> dict[str, NDArray[Any]]:
        """Return what the strategy carries from round to round, for a checkpoint."""
        if self.embeddings is None:
            return super().state_arrays()
        metadata = np.frombuffer(json.dumps(self.metadata).encode(), dtype=np.uint8)
        return super().state_arrays() | self.embeddings.state_arrays() | {"metadata": metadata}

    def load_state_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over what :meth:`state_arrays` returned."""
        super().load_state_arrays(arrays)
        if "metadata" in arrays:
            kept = json.loads(arrays["metadata"].tobytes())
            self.metadata = {int(client): metadata for client, metadata in kept.items()}
            self.embeddings = Embeddings.of(arrays, **self._rules)

    # ------------------------------------------------------------------ the way down

    def prepare(self, current: Round) -> None:
        """Meet clients that are new, and choose whose free part is left out of the round.

        Raises
        ------
        ArgumentError
            If there is no parameter among the arrays.
        """
        self._written, self._left_out = {}, set()
        if current.phase != "train":
            self.meet(current, current.nodes)
            return
        assert current.grid is not None
        everybody = sorted(current.grid.get_node_ids(), key=self.registry.order)
        self.meet(current, current.nodes if self.network else everybody)
        clients = [self.registry.client_of(node) for node in current.nodes]
        self._known.grow(clients, self._metadata_of(clients))
        self._left_out = self._known.left_out(clients, self._metadata_of(clients), current.number)

    def arrays_for(self, node: int, current: Round) -> ArrayRecord:
        """Return the parameters written for a node's client, and the shared buffers."""
        client = self.registry.client_of(node)
        left_out = self._left_out if current.phase == "train" else ()
        row = self._known.write(client, self.metadata.get(client, {}), left_out)
        own = {name: encode(values) for name, values in self._known.network.arrays(row).items()}
        if current.phase == "train":
            self._written[node] = client, row
        return ArrayRecord({**current.sent, **own})

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
        grid, server_round, arrays, config, nodes, timeout
            As in :meth:`evaluate_nodes`.
        rounds : int, default 5
            Of training.
        learning_rate : float, default 0.05
            Of Adam.
        """
        current = Round(server_round, "train", arrays, config, grid, list(nodes))
        self.round = current
        self.meet(current, nodes)
        current.nodes.sort(key=self.registry.order)
        clients = [self.registry.client_of(node) for node in current.nodes]
        self._known.grow(clients, self._metadata_of(clients), late=True)
        self._left_out = set()
        own = [self._known.free[client] for client in clients]
        optimizer = torch.optim.Adam(own, lr=learning_rate)
        for _ in range(rounds):
            replies = grid.send_and_receive(self.messages(current), timeout=timeout)
            judged, _ = self._judged(replies)
            _, found, moved = self._changes(good_ones(judged))
            if found:
                self._known.fit(found, self._metadata_of(found), moved, optimizer)

    def meet(self, current: Round, nodes: Sequence[int]) -> None:
        """Ask nodes not met before for their metadata; make the network when there is none yet.

        Its columns, and what they are standardised by, are those of the clients met first.
        """
        assert current.grid is not None
        self.registry.identify(current.grid, nodes)
        new = [node for node in nodes if self.registry.client_of(node) not in self.metadata]
        for node, answer in self.ask_properties(new, METADATA).items() if self.use_metadata else ():
            # of two nodes that say they are one client the first counts
            reported = reported_metadata(node, answer.get(METADATA))
            self.metadata.setdefault(self.registry.client_of(node), reported)
        if self.network is None:
            self._make(current.sent)
        for node in new:
            own = self.metadata.get(self.registry.client_of(node), {})
            for name in self._known.network.columns.never_seen(own):
                log(WARNING, "Node %d: %s %r was never seen before", node, name, own[name])

    def _make(self, arrays: ArrayRecord) -> None:
        if unknown := sorted(self.parameter_names - arrays.keys()):
            raise ArgumentError("parameter_names", unknown, f"among {list(arrays)}")
        start = {n: view(array) for n, array in arrays.items() if n in self.parameter_names}
        columns = Columns.of([self.metadata[client] for client in sorted(self.metadata)])
        seed = named_seed(self.seed, "hypernetwork")
        network = Hypernetwork(start, columns, *self.sizes, seed=seed)
        self.embeddings = Embeddings(network, **self._rules)
        count = sum(bool(metadata) for metadata in self.metadata.values())
        words = ", ".join(columns.names) or "none; embeddings are learned"
        log(INFO, "Metadata of %d clients: %s", count, words)

    @property
    def _known(self) -> Embeddings:
        assert self.embeddings is not None
        return self.embeddings

    def _metadata_of(self, clients: Sequence[int]) -> list[Metadata]:
        return [self.metadata.get(client, {}) for client in clients]

    # ------------------------------------------------------------------ the way up

    def aggregate_arrays(self, replies: list[Reply]) -> ArrayRecord:
        """Train the network by what clients made of what they were sent; average the buffers.

        Marks replies dropped that changed too much; such a client has a part in nothing.
        """
        good, clients, moved = self._changes(replies)
        if not good:
            return ArrayRecord()
        rest = [name for name in good[0].spec if name not in self._known.network.shapes]
        means = self.means(good, rest)
        weights = np.array(self.weights(good))
        shares = (weights / weights.sum()).tolist()
        self._known.step(clients, self._metadata_of(clients), moved, shares, self._left_out)
        mean = self._known.network.arrays(self._known.write_mean(self.metadata))
        return to_record(means | mean)

    def _changes(
        self, replies: Sequence[Reply]
    ) -> tuple[list[Reply], list[int], NDArray[np.float32]]:
        """Return the usable replies, their clients, and what was sent less what came back."""
        written, self._written = self._written, {}
        sent = {node: row for node, (_, row) in written.items()}
        good, changes = usable_changes(replies, sent, self._known.network, self.round.privacy)
        return good, [written[reply.node_id][0] for reply in good], changes
