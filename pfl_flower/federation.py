"""Play a federation on any ``Grid``: the method asked for, then its baselines."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from logging import INFO, WARNING
from typing import cast

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid
from safetensors import SafetensorError
from safetensors.numpy import load_file

from clients import Scope
from clients.scopes import names_of
from pfl_flower.client_app import initial_model, scopes_of
from pfl_flower.config import RunConfig, under_home
from strategies import ClientReport
from strategies.arrays import difference, spec_of, to_record
from strategies.protocol import (
    CONFIG,
    METHOD,
    NUM_PARTITIONS,
    NUM_ROUNDS,
    PARTITION_ID,
    PROPERTIES,
)

Progress = Callable[[str, int], None]
"""(method, round just finished; 0 before the first) -> nothing."""


_POLL = 0.2  # seconds between looks at who is there
_SETTLED = 5.0  # seconds without a new node after which those that are there are all


class FederationError(RuntimeError):
    """No client of the federation can work."""


@dataclass(frozen=True)
class MethodRun:
    """What one method did on a federation.

    Attributes
    ----------
    config : the config of this method
    reports : what every client did in every phase and round
    arrays : the final shared arrays
    seconds : wall-clock seconds of all rounds
    parameters : number of values (buffers included) that are ``shared`` and ``personal``
    """

    config: RunConfig
    reports: list[ClientReport]
    arrays: ArrayRecord
    seconds: float
    parameters: dict[str, int]

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.config.method

    @property
    def num_clients(self) -> int:
        """Number of nodes that were asked for anything."""
        return len({report.node_id for report in self.reports})

    def by_client(
        self, metric: str = "accuracy", server_round: int | None = None
    ) -> dict[int, float]:
        """Return client -> a metric of the evaluation of a round (the last by default).

        In the order of the clients' numbers, without those whose evaluation failed.
        """
        rounds = [r.round for r in self.reports if r.phase == "evaluate"]
        wanted = max(rounds, default=0) if server_round is None else server_round
        found = {
            report.client: float(report.metrics[metric])
            for report in self.reports
            if (report.phase, report.round) == ("evaluate", wanted) and not report.dropped
        }
        return dict(sorted(found.items()))

    def values(self, metric: str = "accuracy", server_round: int | None = None) -> np.ndarray:
        """Return the values of :meth:`by_client`."""
        return np.array(list(self.by_client(metric, server_round).values()))


def play(grid: Grid, config: RunConfig, progress: Progress | None = None) -> Iterator[MethodRun]:
    """Run the config's method and its baselines on the same clients; yield each as it ends.

    Raises
    ------
    ScopeError
        If a rule of scopes does not fit the model.
    FederationError
        If no node connects, or none can work.
    """
    configs = [config.for_method(name) for name in (config.method, *config.baseline_names)]
    for each in configs:
        scopes_of(each)  # a rule that fits no part of the model ends the run here
    clients = wait_for_clients(grid, config)
    for each in configs:
        yield run_method(grid, each, progress, clients)


def run_method(
    grid: Grid,
    config: RunConfig,
    progress: Progress | None = None,
    clients: Mapping[int, int] | None = None,
) -> MethodRun:
    """Run one method from the common start for all rounds.

    Parameters
    ----------
    grid, config : see :func:`play`
    progress : called after every round
    clients : node id -> the client's number, as far as known

    Raises
    ------
    FederationError
        If no client can train.
    """
    model, initial = initial_model(config.architecture, config.seed)
    scopes = scopes_of(config)
    shared = names_of(scopes, Scope.SHARED, Scope.GROUP)
    strategy = config.row.strategy(
        fraction_train=config.fraction_train,
        min_train_nodes=1,
        min_evaluate_nodes=1,
        min_available_nodes=1,
        weighting=config.weighting,
        server_momentum=config.server_momentum,
        parameter_names=[name for name, _ in model.named_parameters()],
        seed=config.seed,
    )

    def about() -> ConfigRecord:
        return ConfigRecord({METHOD: config.method, NUM_ROUNDS: config.num_server_rounds})

    strategy.clients.update(clients or {})

    def after_round(server_round: int, _: ArrayRecord) -> None:
        nodes = grid.get_node_ids()
        _check_progress(strategy.reports, server_round, config.num_server_rounds, nodes)
        if progress:
            progress(config.method, server_round)

    log(INFO, "Method %s: %s", config.method, config.row.summary)
    start = time.perf_counter()
    result = strategy.start(
        grid,
        _first_arrays(config, {name: initial[name].numpy() for name in shared}),
        num_rounds=config.num_server_rounds,
        timeout=config.timeout,
        train_config=about(),
        evaluate_config=about(),
        evaluate_fn=after_round,
    )
    sizes = {scope: sum(initial[n].numel() for n in names_of(scopes, scope)) for scope in Scope}
    return MethodRun(
        config=config,
        reports=strategy.reports,
        arrays=result.arrays,
        seconds=time.perf_counter() - start,
        parameters={
            "shared": sizes[Scope.SHARED] + sizes[Scope.GROUP],
            "personal": sizes[Scope.PERSONAL],
        },
    )


def _first_arrays(config: RunConfig, fresh: dict[str, np.ndarray]) -> ArrayRecord:
    """Return the first shared arrays: those of an earlier run where the config names it.

    Raises
    ------
    FederationError
        If the file cannot be read or its arrays do not fit.
    """
    if not config.initial:
        return to_record(fresh)
    path = under_home(config.initial)
    path = path / "shared.safetensors" if path.is_dir() else path
    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as error:
        raise FederationError(f"initial={config.initial!r} cannot be read: {error}") from error
    record, expected = to_record(stored), to_record(fresh)
    if words := difference(spec_of(expected), spec_of(record)):
        raise FederationError(f"initial={config.initial!r} does not fit {config.method}: {words}")
    return record


def _check_progress(
    reports: Sequence[ClientReport], server_round: int, num_rounds: int, nodes: Iterable[int]
) -> None:
    """End a run that comes to nothing: every node there is has been asked to train, and failed.

    Raises
    ------
    FederationError
        With the commonest reason, from round 3 (or the last) on.
    """
    trained = [report for report in reports if report.phase == "train"]
    if server_round < min(3, num_rounds) or not all(report.dropped for report in trained):
        return
    if server_round == num_rounds or {r.node_id for r in trained} >= set(nodes):
        raise FederationError(f"no client could train: {commonest(r.dropped for r in trained)}")


def wait_for_clients(grid: Grid, config: RunConfig) -> dict[int, int]:
    """Wait until the federation is complete, so that round 1 does not start with half of it.

    Nodes of a simulation register one after another while the server already runs. Every node is
    asked, as it appears, to build its client. Complete are ``min-nodes`` nodes, or as many as
    they say there are partitions, all of which have answered. After ``wait`` seconds the run goes
    on with those that are there; one that has not answered by then may still take part.

    Returns
    -------
    node id -> the client's number, of every node that answered

    Raises
    ------
    FederationError
        If no node is there, or every one says that it cannot build its client (and no other has
        come for a few seconds); the message has the commonest reason.
    """
    census = _Census(grid, config)
    start = last_change = time.monotonic()
    while not census.complete:
        now = time.monotonic()
        if census.update():
            last_change = now
        elif census.nodes and len(census.failures) == len(census.nodes):
            if now - last_change > min(_SETTLED, config.wait):
                raise FederationError(f"no client can start: {commonest(census.failures.values())}")
        elif now - start > config.wait:
            if not census.nodes:
                raise FederationError(f"no node connected within {config.wait:g} seconds")
            log(WARNING, "Going on without the others: %s", census)
            break
        if not census.complete:
            time.sleep(_POLL)
    log(INFO, "Nodes: %s", census)
    return census.clients


class _Census:
    """Who is there, who can work, and how many there should be."""

    def __init__(self, grid: Grid, config: RunConfig) -> None:
        self.grid = grid
        self.method = config.method
        self.expected = self.minimum = config.min_nodes
        self.nodes: set[int] = set()
        self.clients: dict[int, int] = {}
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
        wanted = f"{PARTITION_ID},{NUM_PARTITIONS}"
        question = RecordDict({CONFIG: ConfigRecord({PROPERTIES: wanted, METHOD: self.method})})
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
        if not self.minimum:
            self.expected = max(self.expected, cast(int, answer[NUM_PARTITIONS]))

    def __str__(self) -> str:
        text = f"{len(self.nodes)} of {self.expected or '?'} are there"
        return text + f", {len(self.clients)} can work, {len(self.failures)} cannot"


def commonest(reasons: Iterable[str]) -> str:
    """Return the reason that occurs most; empty ones do not count."""
    counts = Counter(filter(None, reasons))
    return counts.most_common(1)[0][0] if counts else "nobody was asked"
