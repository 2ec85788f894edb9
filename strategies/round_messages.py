"""The way down: which clients take part in a phase of a round, and what each of them is sent."""

from collections.abc import Callable, Iterable
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from strategies.arrays import num_bytes
from strategies.client_registry import ClientRegistry
from strategies.client_reports import ClientReport
from strategies.errors import ArgumentError
from strategies.hooks import Hooks
from strategies.privacy import check_protectable, privacy_around
from strategies.protocol import ARRAYS, CONFIG, NUM_EXAMPLES, SERVER_ROUND
from strategies.replies import Phase, mean_metrics
from strategies.rounds import Round

MetricsAggregation = Callable[[list[RecordDict], str], MetricRecord]


class RoundMessages(Hooks, FedAvg):
    """Sample the clients of a round and make their messages.

    It is the first half of :class:`strategies.ClientStrategy`, which documents the arguments.
    """

    def __init__(
        self,
        fraction_train: float = 1.0,
        fraction_evaluate: float = 1.0,
        min_train_nodes: int = 2,
        min_evaluate_nodes: int = 2,
        min_available_nodes: int = 2,
        weighted_by_key: str = NUM_EXAMPLES,
        arrayrecord_key: str = ARRAYS,
        configrecord_key: str = CONFIG,
        train_metrics_aggr_fn: MetricsAggregation | None = None,
        evaluate_metrics_aggr_fn: MetricsAggregation | None = None,
        *,
        seed: int = 0,
        query_timeout: float = 3600.0,
    ) -> None:
        for name, value in (("train", fraction_train), ("evaluate", fraction_evaluate)):
            if not 0.0 <= value <= 1.0:
                raise ArgumentError(f"fraction_{name}", value, "in [0, 1]")
        super().__init__(
            fraction_train=fraction_train,
            fraction_evaluate=fraction_evaluate,
            min_train_nodes=min_train_nodes,
            min_evaluate_nodes=min_evaluate_nodes,
            min_available_nodes=min_available_nodes,
            weighted_by_key=weighted_by_key,
            arrayrecord_key=arrayrecord_key,
            configrecord_key=configrecord_key,
            train_metrics_aggr_fn=train_metrics_aggr_fn or mean_metrics,
            evaluate_metrics_aggr_fn=evaluate_metrics_aggr_fn or mean_metrics,
        )
        self.seed = seed
        self.reports: list[ClientReport] = []
        self.registry = ClientRegistry(seed, configrecord_key)
        self.round = Round()
        """The phase of the round at hand."""
        self.rounds_before = 0
        """Rounds played before this start, when a run is resumed: Flower counts from 1 again."""
        self.query_timeout = query_timeout
        self.query_bytes = [0, 0]
        """Payload bytes of queries beside training, down and up, of all clients together."""

    @property
    def clients(self) -> dict[int, int]:
        """Node id -> the client's own number, as far as known."""
        return self.registry.clients

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sample clients and send each its arrays, to be trained."""
        sampled = self.fraction_train, self.min_train_nodes
        return self._configure(server_round, "train", arrays, config, grid, sampled)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sample clients and ask them to evaluate their personalized models."""
        sampled = self.fraction_evaluate, self.min_evaluate_nodes
        return self._configure(server_round, "evaluate", arrays, config, grid, sampled)

    def _configure(
        self,
        server_round: int,
        phase: Phase,
        arrays: ArrayRecord,
        config: ConfigRecord,
        grid: Grid,
        sampled: tuple[float, int],
    ) -> Iterable[Message]:
        number, (fraction, minimum) = server_round + self.rounds_before, sampled
        if privacy := privacy_around(self):
            check_protectable(arrays, self.refuses_privacy, privacy.wrapper)
            if (server_round, phase) == (1, "train"):
                self.round = Round()  # so that nothing is put right by what an earlier start sent
            arrays = self.valid(arrays)
        nodes: list[int] = []
        if fraction > 0.0:
            needed = max(self.min_available_nodes, minimum)
            how_many: dict[str, Any] = {"fraction": fraction, "minimum": minimum}
            nodes = self.registry.sample(grid, phase, number, needed=needed, **how_many)
        if privacy and phase == "train":
            asked = {**config, SERVER_ROUND: number}
            nodes = self.registry.with_examples(grid, nodes, asked, self.query_timeout)
        self.round = Round(number, phase, arrays, config, grid, nodes, privacy=privacy)
        self.prepare(self.round)
        return self.messages(self.round)

    def messages(self, current: Round) -> list[Message]:
        """Return a message to each node of a phase; nodes with the same arrays share the content.

        Notes in ``current`` what was asked, and how many bytes each node is sent.
        """
        current.config[SERVER_ROUND] = current.number
        kind = MessageType.TRAIN if current.phase == "train" else MessageType.EVALUATE
        contents: dict[int, tuple[RecordDict, int]] = {}
        made: list[Message] = []
        sent = {node: self.arrays_for(node, current) for node in current.nodes}
        current.protect(sent)
        for node, arrays in sent.items():
            if id(arrays) not in contents:
                records = {self.arrayrecord_key: arrays, self.configrecord_key: current.config}
                contents[id(arrays)] = RecordDict(records), num_bytes(arrays)  # type: ignore[arg-type]
            content, current.bytes_down[node] = contents[id(arrays)]
            made += self._construct_messages(content, [node], kind)
        current.asked = [message.metadata for message in made]
        return made
