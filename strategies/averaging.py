"""Weighted averaging of whatever arrays the clients share."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from logging import INFO, WARNING
from typing import Any, Literal

from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Message,
    MessageType,
    Metadata,
    MetricRecord,
    RecordDict,
)
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray

from strategies.arrays import as_part, encode, is_finite, num_bytes, part_of, view, weighted_mean
from strategies.client_registry import ClientRegistry
from strategies.protocol import ARRAYS, CONFIG, NUM_EXAMPLES, SERVER_ROUND
from strategies.replies import (
    ClientReport,
    Phase,
    Reply,
    drop_deviants,
    drop_duplicates,
    drop_non_finite,
    mean_metrics,
    of_clients,
    take_apart,
)

__all__ = ["PartialAveraging"]

MetricsAggregation = Callable[[list[RecordDict], str], MetricRecord]


class PartialAveraging(FedAvg):
    """Average whatever arrays the clients share; what they keep, the server never sees.

    FedAvg (McMahan et al. 2017), FedPer (Arivazhagan et al. 2019), FedRep (Collins et al. 2021),
    FedBN (Li et al. 2021) and LG-FedAvg (Liang et al. 2020) are one strategy: they differ in
    which arrays a client sends. Beyond Flower's ``FedAvg``, whose arguments it takes, it

    - checks every reply (names, shapes, dtypes, finite values, positive weight) and drops a bad
      one with a logged reason and the node's id; the round goes on with the others;
    - keeps integer arrays integers (elementwise maximum) and reads each array once, in place;
    - samples clients and sums their arrays in an order that depends on the seed and on the
      clients' own numbers (metric and property ``"partition-id"``), never on node ids or on
      which reply came first, so the same seed gives the same bits on every engine;
    - keeps a :class:`ClientReport` of every client, phase and round in ``reports``.

    Parameters
    ----------
    fraction_train, fraction_evaluate, min_train_nodes, min_evaluate_nodes, min_available_nodes, \
weighted_by_key, arrayrecord_key, configrecord_key, train_metrics_aggr_fn, \
evaluate_metrics_aggr_fn
        As in :class:`flwr.serverapp.strategy.FedAvg`. The default aggregation of metrics is
        :func:`mean_metrics`.
    weighting : "examples" (default) or "uniform"
        Weight each client's arrays by its number of examples or all alike.
    server_momentum : float in [0, 1) (default: 0)
        FedAvgM (Hsu et al. 2019): ``v <- momentum * v + (x - mean)``, ``x <- x - v``.
    parameter_names : collection of str, optional
        The arrays that momentum applies to. Required with momentum: buffers such as a running
        variance must not get it (it can make them negative), and only names tell them apart.
    seed : int (default: 0)
        Seed of client sampling.

    Raises
    ------
    ValueError
        If an argument is out of range, or ``server_momentum`` comes without ``parameter_names``.
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
        weighting: Literal["examples", "uniform"] = "examples",
        server_momentum: float = 0.0,
        parameter_names: Collection[str] | None = None,
        seed: int = 0,
    ) -> None:
        for name, value in (("train", fraction_train), ("evaluate", fraction_evaluate)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"fraction_{name} must be in [0, 1], got {value}")
        if weighting not in ("examples", "uniform"):
            raise ValueError(f"weighting must be 'examples' or 'uniform', got {weighting!r}")
        if not 0.0 <= server_momentum < 1.0:
            raise ValueError(f"server_momentum must be in [0, 1), got {server_momentum}")
        if server_momentum and parameter_names is None:
            raise ValueError("server_momentum needs parameter_names, so that buffers are left out")
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
        self.weighting = weighting
        self.server_momentum = server_momentum
        self.parameter_names = frozenset(parameter_names or ())
        self.seed = seed
        self.reports: list[ClientReport] = []
        self.registry = ClientRegistry(seed, configrecord_key)
        self.rounds_before = 0
        """Rounds played before this start, when a run is resumed: Flower counts from 1 again."""
        self.query_bytes = [0, 0]
        """Payload bytes of queries beside training, down and up, of all clients together."""
        self._velocity: dict[str, NDArray[Any]] = {}
        self._sent: ArrayRecord | None = None
        self._bytes_down = 0
        self._round = 0
        self._asked: list[Metadata] = []  # a message has its id only once it is sent
        self._why_absent: dict[str, str] = {}

    @property
    def clients(self) -> dict[int, int]:
        """Node id -> the client's own number, as far as known."""
        return self.registry.clients

    def state_arrays(self) -> dict[str, NDArray[Any]]:
        """Return what the strategy carries from round to round, for a checkpoint."""
        return as_part("velocity", self._velocity)

    def load_state_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over what :meth:`state_arrays` returned."""
        self._velocity = part_of(arrays, "velocity")

    def first_arrays(self, arrays: ArrayRecord) -> ArrayRecord:
        """Return what the clients are sent first, from the model's own shared arrays."""
        return arrays

    def outcome(self) -> dict[str, Any]:
        """Return what the strategy has to show beside its arrays, by name: nothing here."""
        return {}

    def client_arrays(self) -> dict[int, ArrayRecord]:
        """Return client -> arrays of its own that it is sent, whoever else there is: none here."""
        return {}

    def summary(self) -> None:
        """Log what this strategy averages and how."""
        super().summary()
        log(INFO, "\t└──> Averaging: weighted by %s, seed %d", self.weighting, self.seed)
        if self.server_momentum:
            log(INFO, "\t\t└── Server momentum: %s", self.server_momentum)

    # ------------------------------------------------------------------ the way down

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sample clients and send them the shared arrays."""
        server_round += self.rounds_before
        nodes = self._sample(grid, server_round, "train", self.fraction_train, self.min_train_nodes)
        return self._messages(server_round, arrays, config, nodes, MessageType.TRAIN)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sample clients and ask them to evaluate their personalized models."""
        server_round += self.rounds_before
        nodes = self._sample(
            grid, server_round, "evaluate", self.fraction_evaluate, self.min_evaluate_nodes
        )
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
        """Ask certain clients to evaluate, outside of the rounds, and return their reports.

        Parameters
        ----------
        grid, arrays, config, timeout : as in :meth:`start`
        server_round : told to the clients
        nodes : ids of the nodes to ask
        """
        nodes = sorted(nodes, key=self.registry.order)
        messages = self._messages(server_round, arrays, config, nodes, MessageType.EVALUATE)
        parsed = self._take_apart(grid.send_and_receive(messages, timeout=timeout), False)
        drop_duplicates(parsed)
        before = len(self.reports)
        self._report(server_round, "evaluate", parsed)
        reports = self.reports[before:]
        del self.reports[before:]
        return reports

    def _sample(
        self, grid: Grid, server_round: int, phase: Phase, fraction: float, minimum: int
    ) -> list[int]:
        """Return the nodes of this phase, ordered by their clients' numbers."""
        if fraction == 0.0:
            return []
        return self.registry.sample(
            grid,
            self._construct_messages,
            phase,
            server_round,
            fraction=fraction,
            minimum=minimum,
            needed=max(self.min_available_nodes, minimum),
        )

    def _messages(
        self,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        nodes: list[int],
        message_type: str,
    ) -> Iterable[Message]:
        self._sent, self._bytes_down = arrays, num_bytes(arrays)
        config[SERVER_ROUND] = server_round
        record = RecordDict({self.arrayrecord_key: arrays, self.configrecord_key: config})
        messages = list(self._construct_messages(record, nodes, message_type))
        self._asked = [message.metadata for message in messages]
        return messages

    # ------------------------------------------------------------------ the way up

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the means of the arrays and metrics of all good replies.

        Bad replies are dropped with a logged reason. Without a single good one both are None
        and the run goes on with the arrays it has.
        """
        server_round += self.rounds_before
        self._round = server_round
        parsed = self._take_apart(replies, with_arrays=True)
        drop_deviants(parsed, self._sent)
        drop_duplicates(parsed)
        means = self.aggregate_arrays([reply for reply in parsed if not reply.dropped])
        good = [reply for reply in parsed if not reply.dropped]
        self._report(server_round, "train", parsed)
        if not good:
            return None, None
        # What no client shares stays as it was sent.
        arrays = ArrayRecord({**(self._sent or {}), **means})
        metrics = self.train_metrics_aggr_fn([r.content for r in good], self.weighted_by_key)
        return arrays, metrics

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return the means of the metrics of all good replies."""
        server_round += self.rounds_before
        parsed = self._take_apart(replies, with_arrays=False)
        drop_duplicates(parsed)
        self._report(server_round, "evaluate", parsed)
        good = [reply.content for reply in parsed if not reply.dropped]
        return self.evaluate_metrics_aggr_fn(good, self.weighted_by_key) if good else None

    def aggregate_arrays(self, replies: list[Reply]) -> ArrayRecord:
        """Return the mean of the replies' arrays; marks replies with non-finite values dropped."""
        while (means := self._means(replies, replies[0].spec if replies else ())) is None:
            replies = [reply for reply in replies if not reply.dropped]
        return self._step(means, self._sent or {})

    def _means(
        self, replies: Sequence[Reply], names: Iterable[str]
    ) -> dict[str, NDArray[Any]] | None:
        """Return the means of some arrays; None if there are replies to be marked dropped first.

        The check for NaN and infinity costs nothing extra when all is well: whatever is not
        finite in a reply is not finite in the mean either, so only a bad mean leads to a search.
        """
        means: dict[str, NDArray[Any]] = {}
        for name in names:
            means[name] = self._mean(name, replies)
            if not is_finite(means[name]) and drop_non_finite(replies):
                return None
        return means

    def _step(
        self, means: dict[str, NDArray[Any]], sent: Mapping[str, Array], whose: str = ""
    ) -> ArrayRecord:
        """Return the arrays after the server's step from what was ``sent`` to the ``means``.

        The means are used up. ``whose`` momentum it is tells groups apart.
        """
        arrays = ArrayRecord()
        for name in list(means):
            mean = means.pop(name)  # so that no more than one array is there twice
            if self.server_momentum and name in self.parameter_names and name in sent:
                mean = self._with_momentum(whose + name, view(sent[name]), mean)
            arrays[name] = encode(mean)
        return arrays

    def _mean(self, name: str, replies: Sequence[Reply]) -> NDArray[Any]:
        return weighted_mean([reply.views[name] for reply in replies], self._weights(replies))

    def _weights(self, replies: Sequence[Reply]) -> list[float]:
        """Return what each reply's arrays count for in their mean; above zero, of any sum."""
        return [r.weight if self.weighting == "examples" else 1.0 for r in replies]

    def _with_momentum(self, key: str, before: NDArray[Any], mean: NDArray[Any]) -> NDArray[Any]:
        step = before - mean
        if key in self._velocity:
            step += self.server_momentum * self._velocity[key]
        self._velocity[key] = step
        after: NDArray[Any] = before - step
        return after

    def _take_apart(self, messages: Iterable[Message], with_arrays: bool) -> list[Reply]:
        """Check each reply by itself; order them by their clients' numbers."""
        answers, self._why_absent = of_clients(messages)
        replies = [take_apart(m, self.weighted_by_key, with_arrays) for m in answers]
        for reply in replies:
            if reply.client != reply.node_id:
                self.clients[reply.node_id] = reply.client
            reply.client = self.clients.get(reply.node_id, reply.client)
        return sorted(replies, key=lambda reply: self.registry.order(reply.node_id))

    def _report(self, server_round: int, phase: Phase, replies: Sequence[Reply]) -> None:
        dropped = [reply for reply in replies if reply.dropped]
        used = len(replies) - len(dropped)
        log(INFO, "aggregate_%s: %d replies used, %d dropped", phase, used, len(dropped))
        for reply in dropped:
            log(
                WARNING,
                "Round %d: dropped the %s reply of node %d (client %d): %s",
                *(server_round, phase, reply.node_id, reply.client, reply.dropped),
            )
        for reply in replies:
            metrics = {k: v for k, v in reply.metrics.items() if not isinstance(v, list)}
            metrics |= self._words_on(reply.client)
            self.reports.append(
                ClientReport(
                    round=server_round,
                    phase=phase,
                    node_id=reply.node_id,
                    client=reply.client,
                    metrics=metrics,
                    bytes_down=self._bytes_down,
                    bytes_up=num_bytes(reply.arrays),
                    dropped=reply.dropped,
                    lists={k: v for k, v in reply.metrics.items() if isinstance(v, list)},
                )
            )
        self._report_absent(server_round, phase, {reply.node_id for reply in replies})

    def _words_on(self, client: int) -> dict[str, float]:
        """Return what is to be reported of a client beside its own metrics."""
        return {}

    def _report_absent(self, server_round: int, phase: Phase, present: set[int]) -> None:
        for asked in self._asked:
            if (node := asked.dst_node_id) in present:
                continue
            client = self.clients.get(node, node)
            why = self._why_absent.get(asked.message_id)
            reason = f"no reply: {why}" if why else "no reply in time"
            words = (server_round, phase, node, client, reason)
            log(WARNING, "Round %d, %s, node %d (client %d): %s", *words)
            report = ClientReport(
                round=server_round,
                phase=phase,
                node_id=node,
                client=client,
                metrics={},
                bytes_down=self._bytes_down,
                bytes_up=0,
                dropped=reason,
            )
            self.reports.append(report)
        self._asked = []
