"""What all strategies here share: sampling by client, checked replies, a report of every client."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from logging import INFO, WARNING
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray

from strategies.arrays import num_bytes
from strategies.client_registry import ClientRegistry, ask_properties
from strategies.errors import ArgumentError
from strategies.protocol import ARRAYS, CONFIG, NUM_EXAMPLES, PARTITION_ID, SERVER_ROUND
from strategies.replies import (
    ClientReport,
    Phase,
    Reply,
    drop_deviants,
    drop_duplicates,
    mean_metrics,
    of_clients,
    records_of,
    take_apart,
)
from strategies.rounds import Round

__all__ = ["ClientStrategy"]

MetricsAggregation = Callable[[list[RecordDict], str], MetricRecord]


class ClientStrategy(FedAvg):
    """Play rounds with clients that have numbers of their own, whatever is made of their replies.

    Beyond Flower's ``FedAvg``, whose arguments it takes, it

    - checks every reply (names, shapes, dtypes, finite values, positive weight) and drops a bad
      one with a logged reason and the node's id; the round goes on with the others;
    - samples clients and orders their replies by the seed and the clients' own numbers (metric and
      property ``"partition-id"``), never by node ids or by which reply came first, so the same
      seed gives the same bits on every engine;
    - keeps a :class:`ClientReport` of every client, phase and round in ``reports``.

    A subclass says how arrays are aggregated (:meth:`aggregate_arrays`) and overrides what else it
    does otherwise:

    ======================================= ==================================================
    :meth:`prepare`                         ask or assign clients before a phase's messages
    :meth:`arrays_for`                      what a node is sent, if that is not alike for all
    :meth:`aggregate_arrays`                the new shared arrays, from the checked replies
    :meth:`report_fields`                   what is reported of a client beside its metrics
    :meth:`first_arrays`                    what clients are sent first
    :meth:`outcome`                         what it has to show beside its arrays
    :meth:`client_arrays`                   arrays of each client's own, for a safeguard
    :meth:`state_arrays`, \
    :meth:`load_state_arrays`                what a checkpoint holds
    :attr:`unseen_state`                    what asking unseen clients leaves as it was
    ======================================= ==================================================

    :meth:`ask` and :meth:`ask_properties` put questions to clients.

    Parameters
    ----------
    fraction_train, fraction_evaluate, min_train_nodes, min_evaluate_nodes, min_available_nodes, \
weighted_by_key, arrayrecord_key, configrecord_key, train_metrics_aggr_fn, \
evaluate_metrics_aggr_fn
        As in :class:`flwr.serverapp.strategy.FedAvg`. The default aggregation of metrics is
        :func:`mean_metrics`.
    seed : int, default 0
        Seed of client sampling.
    query_timeout : float, default 3600
        Seconds that clients have to answer what is asked beside training.

    Raises
    ------
    ArgumentError
        If a fraction is out of range.
    """

    unseen_state: tuple[str, ...] = ()
    """Attributes that asking clients outside of the rounds leaves as they were."""

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

    # ------------------------------------------------------------------ what subclasses override

    def state_arrays(self) -> dict[str, NDArray[Any]]:
        """Return what the strategy carries from round to round, for a checkpoint: nothing here."""
        return {}

    def load_state_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over what :meth:`state_arrays` returned."""

    def first_arrays(self, arrays: ArrayRecord) -> ArrayRecord:
        """Return what the clients are sent first, from the model's own shared arrays."""
        return arrays

    def outcome(self) -> dict[str, Any]:
        """Return what the strategy has to show beside its arrays, by name: nothing here."""
        return {}

    def client_arrays(self) -> dict[int, ArrayRecord]:
        """Return client -> arrays of its own that it is sent, of all clients: none here."""
        return {}

    def prepare(self, current: Round) -> None:
        """Do what is to be done before the messages of a phase are made: nothing here.

        Parameters
        ----------
        current : Round
            The phase; ``nodes`` and ``config`` may be changed.
        """

    def arrays_for(self, node: int, current: Round) -> ArrayRecord:
        """Return what a node is sent: the same object where it is the same for several."""
        return current.sent

    def report_fields(self, client: int) -> dict[str, float]:
        """Return what is to be reported of a client beside its own metrics."""
        return {}

    def aggregate_arrays(self, replies: list[Reply]) -> ArrayRecord:
        """Return the new shared arrays; may mark replies dropped, with the reason.

        Parameters
        ----------
        replies : list of Reply
            The good ones of the round (:attr:`round`), ordered by their clients' numbers.
        """
        raise NotImplementedError

    # ------------------------------------------------------------------ the way down

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
        nodes: list[int] = []
        if fraction > 0.0:
            needed = max(self.min_available_nodes, minimum)
            how_many: dict[str, Any] = {"fraction": fraction, "minimum": minimum}
            nodes = self.registry.sample(grid, phase, number, needed=needed, **how_many)
        self.round = Round(number, phase, arrays, config, grid, nodes)
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
        for node in current.nodes:
            arrays = self.arrays_for(node, current)
            if id(arrays) not in contents:
                records = {self.arrayrecord_key: arrays, self.configrecord_key: current.config}
                contents[id(arrays)] = RecordDict(records), num_bytes(arrays)  # type: ignore[arg-type]
            content, current.bytes_down[node] = contents[id(arrays)]
            made += self._construct_messages(content, [node], kind)
        current.asked = [message.metadata for message in made]
        return made

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

        They leave no trace: what they report of themselves is not kept.

        Parameters
        ----------
        grid, arrays, config, timeout
            As in :meth:`start`.
        server_round : int
            Sent to the clients.
        nodes : list of int
            Ids of the nodes to ask.
        """
        before = {name: copy(getattr(self, name)) for name in self.unseen_state}
        reported = len(self.reports)
        try:
            current = Round(server_round, "evaluate", arrays, config, grid, list(nodes))
            self.round = current
            self.prepare(current)
            current.nodes.sort(key=self.registry.order)
            replies = grid.send_and_receive(self.messages(current), timeout=timeout)
            parsed, reasons = self._take_apart(replies, with_arrays=False)
            drop_duplicates(parsed)
            self._report(parsed, reasons)
            return self.reports[reported:]
        finally:
            del self.reports[reported:]
            for name, value in before.items():
                setattr(self, name, value)

    def ask(
        self,
        nodes: Sequence[int],
        content: RecordDict,
        message_type: str,
        what: str,
        with_arrays: bool = False,
    ) -> list[Reply]:
        """Ask some nodes the same; return the good replies, by their clients' numbers.

        The others are logged with the reason, and may be asked again.

        Parameters
        ----------
        nodes : sequence of int
            Whom to ask.
        content, message_type : RecordDict and str
            Of the question.
        what : str
            What is asked for, in words.
        with_arrays : bool, default False
            Whether the answer must hold arrays.
        """
        if not nodes or self.round.grid is None:
            return []
        messages = self._construct_messages(content, list(nodes), message_type)
        answers = list(self.round.grid.send_and_receive(messages, timeout=self.query_timeout))
        self.query_bytes[0] += len(nodes) * payload(content)
        self.query_bytes[1] += sum(payload(r.content) for r in answers if r.has_content())
        replies, _ = self._take_apart(answers, with_arrays)
        drop_duplicates(replies)
        for reply in replies:
            if reply.dropped:
                log(WARNING, "Node %d reports no %s: %s", reply.node_id, what, reply.dropped)
        return [reply for reply in replies if not reply.dropped]

    def ask_properties(self, nodes: Sequence[int], *names: str) -> dict[int, Mapping[str, Any]]:
        """Ask nodes for properties beside their clients' numbers, which are noted.

        Returns
        -------
        dict of int to mapping of str to object
            Node -> answer, of those that gave one, ordered by their clients' numbers.
        """
        assert self.round.grid is not None
        answers = ask_properties(
            self.round.grid,
            nodes,
            ",".join((PARTITION_ID, *names)),
            config={**self.round.config, SERVER_ROUND: self.round.number},
            timeout=self.query_timeout,
            config_key=self.configrecord_key,
        )
        self.registry.take_in(answers)
        return {node: answers[node] for node in sorted(answers, key=self.registry.order)}

    # ------------------------------------------------------------------ the way up

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the means of the arrays and metrics of all good replies.

        Bad replies are dropped with a logged reason. Without a single good one both are None
        and the run goes on with the arrays it has.
        """
        self.round.number, self.round.phase = server_round + self.rounds_before, "train"
        parsed, reasons = self._take_apart(replies, with_arrays=True)
        drop_deviants(parsed, self.round.arrays)
        drop_duplicates(parsed)
        means = self.aggregate_arrays([reply for reply in parsed if not reply.dropped])
        good = [reply for reply in parsed if not reply.dropped]
        self._report(parsed, reasons)
        if not good:
            return None, None
        # What no client shares stays as it was sent.
        arrays = ArrayRecord({**self.round.sent, **means})
        metrics = self.train_metrics_aggr_fn([r.content for r in good], self.weighted_by_key)
        return arrays, metrics

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return the means of the metrics of all good replies."""
        self.round.number, self.round.phase = server_round + self.rounds_before, "evaluate"
        parsed, reasons = self._take_apart(replies, with_arrays=False)
        drop_duplicates(parsed)
        self._report(parsed, reasons)
        good = [reply.content for reply in parsed if not reply.dropped]
        return self.evaluate_metrics_aggr_fn(good, self.weighted_by_key) if good else None

    def _take_apart(
        self, messages: Iterable[Message], with_arrays: bool
    ) -> tuple[list[Reply], dict[str, str]]:
        """Check each reply by itself; order them by their clients' numbers.

        Returns
        -------
        tuple of list of Reply and dict of str to str
            The replies; for messages without one their id -> why, where that is known.
        """
        answers, reasons = of_clients(messages)
        replies = [take_apart(m, self.weighted_by_key, with_arrays) for m in answers]
        for reply in replies:
            if reply.client != reply.node_id:
                self.clients[reply.node_id] = reply.client
            reply.client = self.registry.client_of(reply.node_id)
        return sorted(replies, key=lambda reply: self.registry.order(reply.node_id)), reasons

    def _report(self, replies: Sequence[Reply], reasons: Mapping[str, str]) -> None:
        current = self.round
        dropped = [reply for reply in replies if reply.dropped]
        used = len(replies) - len(dropped)
        log(INFO, "aggregate_%s: %d replies used, %d dropped", current.phase, used, len(dropped))
        for reply in replies:
            scalars = {k: v for k, v in reply.metrics.items() if not isinstance(v, list)}
            lists = {k: v for k, v in reply.metrics.items() if isinstance(v, list)}
            self._note(
                reply.node_id,
                reply.dropped,
                metrics=scalars | self.report_fields(reply.client),
                bytes_up=num_bytes(reply.arrays),
                lists=lists,
            )
        present = {reply.node_id for reply in replies}
        for asked in current.asked:
            if asked.dst_node_id not in present:
                why = reasons.get(asked.message_id)
                reason = f"no reply: {why}" if why else "no reply in time"
                self._note(asked.dst_node_id, reason, metrics={}, bytes_up=0)
        current.asked = []

    def _note(self, node: int, dropped: str, **fields: Any) -> None:
        """Add a report; log why a reply is not used."""
        current, client = self.round, self.registry.client_of(node)
        if dropped:
            words = (current.number, current.phase, node, client, dropped)
            log(WARNING, "Round %d, %s: node %d (client %d): %s", *words)
        down = current.bytes_down.get(node, 0)
        report = ClientReport(
            round=current.number,
            phase=current.phase,
            node_id=node,
            client=client,
            bytes_down=down,
            dropped=dropped,
            **fields,
        )
        self.reports.append(report)


def payload(content: RecordDict) -> int:
    """Return the payload bytes of the arrays in a message's content."""
    return sum(map(num_bytes, records_of(content, ArrayRecord)))
