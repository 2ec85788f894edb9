"""Play a federation on any ``Grid``: the method asked for, then its baselines."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from logging import INFO

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord
from flwr.common.logger import log
from flwr.serverapp import Grid
from safetensors import SafetensorError
from safetensors.numpy import load_file

from clients import Scope
from clients.scopes import names_of
from pfl_flower.census import FederationError, commonest, wait_for_clients
from pfl_flower.client_app import initial_model, scopes_of
from pfl_flower.config import RunConfig, under_home
from strategies import ClientReport, PartialAveraging
from strategies.arrays import difference, spec_of, to_record
from strategies.protocol import METHOD, NUM_ROUNDS

Progress = Callable[[str, int], None]
"""(method, round just finished; 0 before the first) -> nothing."""


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


def build_strategy(config: RunConfig) -> PartialAveraging:
    """Return the method's strategy; it trains whoever is there, once the federation is complete."""
    model, _ = initial_model(config.architecture, config.seed)
    return config.row.strategy(
        fraction_train=config.fraction_train,
        min_train_nodes=1,
        min_evaluate_nodes=1,
        min_available_nodes=1,
        weighting=config.weighting,
        server_momentum=config.server_momentum,
        parameter_names=[name for name, _ in model.named_parameters()],
        seed=config.seed,
    )


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
    _, initial = initial_model(config.architecture, config.seed)
    scopes = scopes_of(config)
    shared = names_of(scopes, Scope.SHARED, Scope.GROUP)
    strategy = build_strategy(config)
    strategy.clients.update(clients or {})

    def about() -> ConfigRecord:
        return ConfigRecord({METHOD: config.method, NUM_ROUNDS: config.num_server_rounds})

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
    seconds = time.perf_counter() - start
    personal = names_of(scopes, Scope.PERSONAL)
    sizes = {"shared": shared, "personal": personal}
    parameters = {scope: sum(initial[n].numel() for n in names) for scope, names in sizes.items()}
    return MethodRun(config, strategy.reports, result.arrays, seconds, parameters)


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
