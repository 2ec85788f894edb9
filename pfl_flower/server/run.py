"""Play a federation on any ``Grid``: the method asked for, then its baselines."""

import time
from collections.abc import Iterable, Iterator, Sequence
from logging import INFO
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord
from flwr.common.logger import log
from flwr.serverapp import Grid
from safetensors import SafetensorError
from safetensors.numpy import load_file

from clients import GraphNetwork, Scope
from clients.scopes import names_of
from pfl_flower.client_app import initial_model, prior_of, scopes_of
from pfl_flower.config.run_config import ConfigError, RunConfig, under_home
from pfl_flower.results.method_run import MethodRun
from pfl_flower.server.callbacks import Progress, news_of
from pfl_flower.server.checkpoint import Saved
from pfl_flower.server.discovery import FederationError, commonest, wait_for_clients
from pfl_flower.server.fallback import candidates_of, let_choose
from pfl_flower.server.holdout import adapt_unseen
from pfl_flower.server.session import Session, open_session, saved_state
from pfl_flower.server.thresholds import let_threshold
from strategies import ClientReport, GroupAveraging, PartialAveraging
from strategies.arrays import difference, spec_of, to_record
from strategies.hypernetwork.pfedhn import PFedHN


def play(
    grid: Grid,
    config: RunConfig,
    progress: Progress | None = None,
    folder: Path | None = None,
) -> Iterator[MethodRun]:
    """Run the config's method and its baselines on the same clients; yield each as it ends.

    With ``safeguard``, the last one says what each client chose among them.

    Parameters
    ----------
    grid, config : where, and what
    progress : called after every round
    folder : results folder, for a checkpoint of every round; where the config says ``resume``, the
        run goes on from there

    Raises
    ------
    ScopeError
        If a rule of scopes does not fit the model.
    FederationError
        If no node connects, none can work, or the run cannot be resumed.
    """
    if config.known_schema:
        for name in methods_of(config):
            _check_rules(config.for_method(name))  # a rule that fits nothing ends the run here
    session = open_session(grid, config, wait_for_clients(grid, config), folder)
    configs = [session.config.for_method(name) for name in methods_of(config)]
    for each in configs:
        _check_rules(each)
    runs = []
    for each in configs:
        runs.append(run_method(session, each, progress))
        yield runs[-1]
    if config.safeguard:
        about = session.about(config.method)
        yield let_choose(session.training_grid, candidates_of(config.method, runs), about)


def _check_rules(config: RunConfig) -> None:
    """Refuse rules that do not fit the network, or leave nothing for a hypernetwork to write."""
    scopes = scopes_of(config)
    prior_of(config)
    model, _ = initial_model(config.architecture, config.seed)
    if isinstance(model, GraphNetwork) != config.required_schema.graph:
        needed = "a clients.GraphNetwork" if config.required_schema.graph else "another network"
        raise ConfigError(
            f"model {config.model!r} is a {type(model).__name__}; {config.dataset!r} needs {needed}"
        )
    shared = set(names_of(scopes, Scope.SHARED, Scope.GROUP))
    if config.row.asks_metadata and shared.isdisjoint(n for n, _ in model.named_parameters()):
        raise ConfigError(
            f"personal={config.personal_rule!r} leaves nothing for {config.method!r} to write"
        )


def methods_of(config: RunConfig) -> tuple[str, ...]:
    """Return the methods of a run: the one asked for, its baselines, what a safeguard needs."""
    needed = ("fedavg", "local") if config.safeguard else ()
    return tuple(dict.fromkeys((config.method, *config.baseline_names, *needed)))


def build_strategy(config: RunConfig) -> PartialAveraging:
    """Return the method's strategy; it trains whoever is there, once the federation is complete."""
    torch.set_num_threads(config.threads)  # as clients do: it decides the order of sums
    model, _ = initial_model(config.architecture, config.seed)
    arguments = config.strategy_arguments
    shared = set(names_of(scopes_of(config), Scope.SHARED, Scope.GROUP))
    if config.row.groups:
        arguments["group_names"] = names_of(scopes_of(config), Scope.GROUP)
    if config.row.groups or config.row.asks_metadata:
        arguments["query_timeout"] = config.timeout
    if names := prior_of(config):
        arguments["prior_names"] = names
    return config.row.strategy(
        fraction_train=config.fraction_train,
        min_train_nodes=1,
        min_evaluate_nodes=1,
        min_available_nodes=1,
        weighting=config.value("weighting", "examples"),
        server_momentum=config.server_momentum,
        parameter_names=[name for name, _ in model.named_parameters() if name in shared],
        seed=config.seed,
        **arguments,
    )


def run_method(session: Session, config: RunConfig, progress: Progress | None = None) -> MethodRun:
    """Run one method from the common start, or from its last complete round, for all rounds.

    Parameters
    ----------
    session : see :class:`Session`
    config : of the method
    progress : called after every round

    Raises
    ------
    FederationError
        If no client can train, or the run cannot be resumed.
    """
    _, initial = initial_model(config.architecture, config.seed)
    scopes = scopes_of(config)
    shared = names_of(scopes, Scope.SHARED, Scope.GROUP)
    personal = [*names_of(scopes, Scope.PERSONAL), *prior_of(config)]
    grouped = names_of(scopes, Scope.GROUP)
    sizes = {"shared": names_of(scopes, Scope.SHARED), **({"group": grouped} if grouped else {})}
    sizes |= {"personal": list(initial) if config.row.makes_local_model else personal}
    strategy = build_strategy(config)
    strategy.clients.update(session.clients)
    saved = saved_state(session, config, bool(personal) or config.row.keeps_model)
    if saved is None:
        fresh = to_record({name: initial[name].numpy() for name in shared})
        try:
            fresh = strategy.first_arrays(fresh)
        except ValueError as error:
            raise FederationError(f"{config.method}: {error}") from error
        saved = Saved(0, _first_arrays(config, fresh), {}, [], 0.0)
    log(INFO, "Method %s: %s", config.method, config.row.summary)
    about = session.about(config.method)
    saved = _play_rounds(session, config, strategy, saved, progress)
    joined = adapt_unseen(
        strategy, session.grid, saved.arrays, config, about, sorted(session.unseen)
    )
    parameters = {scope: sum(initial[n].numel() for n in names) for scope, names in sizes.items()}
    return MethodRun(
        config,
        saved.reports,
        saved.arrays,
        saved.seconds,
        parameters,
        joined,
        left_out=session.left_out,
        grouping=strategy.grouping if isinstance(strategy, GroupAveraging) else None,
        hypernetwork=strategy.network if isinstance(strategy, PFedHN) else None,
        metadata=strategy.metadata if isinstance(strategy, PFedHN) else {},
        thresholds=let_threshold(strategy, session.training_grid, saved.arrays, config, about),
        written=strategy.written() if isinstance(strategy, PFedHN) and config.safeguard else {},
    )


def _play_rounds(
    session: Session,
    config: RunConfig,
    strategy: PartialAveraging,
    saved: Saved,
    progress: Progress | None,
) -> Saved:
    """Play the rounds after ``saved``; return the state after the last one."""
    state, rounds = saved, config.num_server_rounds
    grid = session.grid_after(saved.round)
    strategy.rounds_before = saved.round
    strategy.reports[:] = saved.reports
    strategy.load_state_arrays(saved.strategy)
    start = time.perf_counter()

    def after_round(number: int, arrays: ArrayRecord) -> None:
        nonlocal state
        if not number:
            return
        new = strategy.reports[len(state.reports) :]
        _check_progress(strategy.reports, saved.round + number, rounds, grid.get_node_ids())
        seconds = saved.seconds + time.perf_counter() - start
        state = Saved(
            saved.round + number,
            arrays,
            strategy.state_arrays(),
            list(strategy.reports),
            seconds,
        )
        grid.left_out = session.grid_after(state.round).left_out
        if session.checkpoints:
            session.checkpoints.save(config.method, state, new)
        if progress:
            progress(news_of(config.method, state.round, rounds, new))

    about = session.about(config.method)
    if saved.round < rounds:
        strategy.start(
            grid,
            saved.arrays,
            num_rounds=rounds - saved.round,
            timeout=config.timeout,
            train_config=ConfigRecord(about),
            evaluate_config=ConfigRecord(about),
            evaluate_fn=after_round,
        )
    return state


def _first_arrays(config: RunConfig, fresh: ArrayRecord) -> ArrayRecord:
    """Return the first shared arrays: those of an earlier run where the config names it.

    Parameters
    ----------
    config : of the method
    fresh : those to start from otherwise

    Raises
    ------
    FederationError
        If the file cannot be read or its arrays do not fit.
    """
    if not config.initial:
        return fresh
    path = under_home(config.initial)
    path = path / "shared.safetensors" if path.is_dir() else path
    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as error:
        raise FederationError(f"initial={config.initial!r} cannot be read: {error}") from error
    record = to_record(stored)
    if words := difference(spec_of(fresh), spec_of(record)):
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
