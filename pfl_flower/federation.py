"""Play a federation on any ``Grid``: the method asked for, then its baselines."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from logging import INFO, WARNING
from pathlib import Path
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
from pfl_flower.config import RunConfig
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
        """Number of clients that were asked for anything."""
        return len({report.client for report in self.reports})

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
        If no client can train in the first rounds, or none can be evaluated after the last.
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
        _check_progress(strategy.reports, server_round, config.num_server_rounds)
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
    path = Path(config.initial).expanduser()
    path = path / "shared.safetensors" if path.is_dir() else path
    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as error:
        raise FederationError(f"initial={config.initial!r} cannot be read: {error}") from error
    record, expected = to_record(stored), to_record(fresh)
    if words := difference(spec_of(expected), spec_of(record)):
        raise FederationError(f"initial={config.initial!r} does not fit {config.method}: {words}")
    return record


def _check_progress(reports: Sequence[ClientReport], server_round: int, num_rounds: int) -> None:
    """End a run that comes to nothing: nobody trained at first, or was evaluated at last.

    Raises
    ------
    FederationError
        With the commonest reason.
    """
    trained = [report for report in reports if report.phase == "train"]
    if server_round == min(3, num_rounds) and all(report.dropped for report in trained):
        raise FederationError(f"no client could train: {_commonest(r.dropped for r in trained)}")
    last = [r for r in reports if (r.phase, r.round) == ("evaluate", num_rounds)]
    if server_round == num_rounds and all(report.dropped for report in last):
        raise FederationError(
            f"no client could be evaluated: {_commonest(r.dropped for r in last)}"
        )


def wait_for_clients(grid: Grid, config: RunConfig) -> dict[int, int]:
    """Wait until the federation is complete, so that round 1 does not start with half of it.

    Nodes of a simulation register one after another while the server already runs. Complete are
    ``min-nodes`` nodes, or as many as the nodes say there are partitions; after ``wait`` seconds
    the run goes on with those that are there. A node that cannot build its client is logged.

    Returns
    -------
    node id -> the client's number, of every node that answered

    Raises
    ------
    FederationError
        If no node is there, or none can build its client; the message has the commonest reason.
    """
    deadline = time.monotonic() + config.wait
    asked: set[int] = set()
    failures: dict[int, str] = {}
    clients: dict[int, int] = {}
    expected, told = config.min_nodes, -1
    while True:
        nodes = sorted(grid.get_node_ids())
        if fresh := [node for node in nodes if node not in asked]:
            asked.update(fresh)
            answers, failed = _ask(grid, fresh, config, max(1.0, deadline - time.monotonic()))
            failures |= failed
            clients |= {node: number for node, (number, _) in answers.items()}
            stated = max((partitions for _, partitions in answers.values()), default=0)
            expected = config.min_nodes or max(expected, stated)
        elif nodes and len(nodes) >= expected:
            break
        elif time.monotonic() > deadline:
            log(WARNING, "Only %d of %d nodes are there; going on without", len(nodes), expected)
            break
        elif len(nodes) != told:
            told = len(nodes)
            log(INFO, "Waiting for nodes: %d of %s", told, expected or "?")
        time.sleep(0 if fresh else 0.2)
    if not nodes:
        raise FederationError(f"no node connected within {config.wait:g} seconds")
    if len(failures) == len(asked):
        raise FederationError(f"no client can start: {_commonest(failures.values())}")
    log(INFO, "%d nodes are there", len(nodes))
    return clients


def _ask(
    grid: Grid, nodes: Sequence[int], config: RunConfig, timeout: float
) -> tuple[dict[int, tuple[int, int]], dict[int, str]]:
    """Ask nodes to build their clients.

    Returns
    -------
    node -> (client's number, number of partitions) of those that can; node -> reason of others
    """
    wanted = f"{PARTITION_ID},{NUM_PARTITIONS}"
    question = RecordDict({CONFIG: ConfigRecord({PROPERTIES: wanted, METHOD: config.method})})
    failures = dict.fromkeys(nodes, "no answer in time")
    answers: dict[int, tuple[int, int]] = {}
    messages = [Message(question, node, MessageType.QUERY) for node in nodes]
    for reply in grid.send_and_receive(messages, timeout=timeout):
        node = reply.metadata.src_node_id
        if reply.has_error():
            failures[node] = reply.error.reason or "no reason given"
            continue
        del failures[node]
        answer = reply.content.config_records[PROPERTIES]
        answers[node] = cast(int, answer[PARTITION_ID]), cast(int, answer[NUM_PARTITIONS])
    for node, reason in failures.items():
        log(WARNING, "Node %d cannot start its client: %s", node, reason)
    return answers, failures


def _commonest(reasons: Iterable[str]) -> str:
    counts = Counter(reasons)
    return counts.most_common(1)[0][0] if counts else "nobody was asked"
