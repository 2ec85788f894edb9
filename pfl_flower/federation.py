"""Play a federation on any ``Grid``: the method asked for, then its baselines."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from logging import INFO, WARNING
from typing import cast

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid

from clients import Scope
from clients.scopes import names_of
from pfl_flower.client_app import initial_model, scopes_of
from pfl_flower.config import RunConfig
from strategies import ClientReport
from strategies.arrays import to_record
from strategies.protocol import (
    CONFIG,
    METHOD,
    NUM_PARTITIONS,
    NUM_ROUNDS,
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

    def by_client(self, metric: str = "accuracy", server_round: int | None = None) -> np.ndarray:
        """Return a metric of the evaluation of a round (the last by default), a value a client.

        Clients are in the order of their numbers; those without an evaluation are left out.
        """
        rounds = [r.round for r in self.reports if r.phase == "evaluate"]
        wanted = max(rounds, default=0) if server_round is None else server_round
        found = {
            report.client: float(report.metrics[metric])
            for report in self.reports
            if (report.phase, report.round) == ("evaluate", wanted) and not report.dropped
        }
        return np.array([found[client] for client in sorted(found)])


def play(grid: Grid, config: RunConfig, progress: Progress | None = None) -> list[MethodRun]:
    """Run the config's method and its baselines, one after another, on the same clients.

    Raises
    ------
    ScopeError
        If a rule of scopes does not fit the model.
    FederationError
        If no node connects, or the first to connect cannot build its client.
    """
    configs = [config.for_method(name) for name in (config.method, *config.baseline_names)]
    for each in configs:
        scopes_of(each)  # a rule that fits no part of the model ends the run here
    wait_for_clients(grid, config)
    return [run_method(grid, each, progress) for each in configs]


def run_method(grid: Grid, config: RunConfig, progress: Progress | None = None) -> MethodRun:
    """Run one method from the common start for all rounds."""
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

    log(INFO, "Method %s: %s", config.method, config.row.summary)
    start = time.perf_counter()
    result = strategy.start(
        grid,
        to_record({name: initial[name].numpy() for name in shared}),
        num_rounds=config.num_server_rounds,
        timeout=config.timeout,
        train_config=about(),
        evaluate_config=about(),
        evaluate_fn=lambda r, _: progress(config.method, r) if progress else None,
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


def wait_for_clients(grid: Grid, config: RunConfig) -> None:
    """Wait until the federation is complete, so that round 1 does not start with half of it.

    Nodes of a simulation register one after another while the server already runs. Complete are
    ``min-nodes`` nodes, or as many as the first node says there are partitions; after ``wait``
    seconds the run goes on with those that are there.

    Raises
    ------
    FederationError
        If none is, or the first one cannot build its client; the message has its reason.
    """
    deadline = time.monotonic() + config.wait
    while not (nodes := sorted(grid.get_node_ids())):
        if time.monotonic() > deadline:
            raise FederationError(f"no node connected within {config.wait:g} seconds")
        time.sleep(0.2)
    expected = config.min_nodes or _num_partitions(grid, nodes[0], config)
    while (found := len(list(grid.get_node_ids()))) < expected:
        if time.monotonic() > deadline:
            log(
                WARNING,
                "Only %d of %d nodes are there; going on without the others",
                found,
                expected,
            )
            return
        time.sleep(0.2)
    log(INFO, "%d nodes are there", found)


def _num_partitions(grid: Grid, node_id: int, config: RunConfig) -> int:
    record = RecordDict({CONFIG: ConfigRecord({PROPERTIES: NUM_PARTITIONS, METHOD: config.method})})
    question = Message(record, node_id, MessageType.QUERY)
    for reply in grid.send_and_receive([question], timeout=config.timeout):
        if reply.has_error():
            raise FederationError(f"a client cannot start: {reply.error.reason}")
        return cast(int, reply.content.config_records[PROPERTIES][NUM_PARTITIONS])
    raise FederationError(f"node {node_id} did not answer within {config.timeout:g} seconds")
