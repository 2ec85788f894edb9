"""Play a federation on any ``Grid``: the method asked for, then its baselines."""

import time
from collections.abc import Iterable, Iterator, Sequence
from logging import INFO, WARNING
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord
from flwr.common.logger import log
from flwr.serverapp import Grid

from pfl_flower.config.run_config import RunConfig
from pfl_flower.frozen_base import network_fingerprint
from pfl_flower.model_setup import ModelSetup, model_setup
from pfl_flower.results.divergence import divergence
from pfl_flower.results.method_run import MethodRun
from pfl_flower.server.callbacks import Progress, news_of
from pfl_flower.server.checkpoint import Saved
from pfl_flower.server.discovery import FederationError, wait_for_clients
from pfl_flower.server.fallback import candidates_of, let_choose
from pfl_flower.server.frozen_bases import given_base_of
from pfl_flower.server.holdout import adapt_unseen
from pfl_flower.server.initial_arrays import first_arrays
from pfl_flower.server.session import Session, open_session, saved_state
from pfl_flower.server.thresholds import let_threshold
from pfl_flower.utils.text import commonest
from strategies import ClientReport, PartialAveraging
from strategies.arrays import to_record


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
    grid, config : Grid and RunConfig
        Where, and what.
    progress : Progress, optional
        Called after every round.
    folder : Path, optional
        Results folder, for a checkpoint of every round; where the config says ``resume``, the run
        goes on from there.

    Raises
    ------
    ScopeError
        If a rule of scopes does not fit the model.
    FederationError
        If no node connects, none can work, or the run cannot be resumed.
    """
    if config.known_schema:
        for name in config.method_names:  # a rule that fits nothing ends the run here
            model_setup(config.for_method(name)).check()
    session = open_session(grid, config, wait_for_clients(grid, config), folder)
    setups = [model_setup(session.config.for_method(name)) for name in config.method_names]
    for setup in setups:
        setup.check()
    runs = []
    for setup in setups:
        runs.append(run_method(session, setup, progress))
        yield runs[-1]
    if config.safeguard:
        yield let_choose(session, candidates_of(config.method, runs))


def build_strategy(setup: ModelSetup) -> PartialAveraging:
    """Return the method's strategy; it trains whoever is there, once the federation is complete."""
    config = setup.config
    torch.set_num_threads(config.threads)  # as clients do: it decides the order of sums
    return config.row.strategy(
        fraction_train=config.fraction_train,
        min_train_nodes=1,
        min_evaluate_nodes=1,
        min_available_nodes=1,
        weighting=config.setting("weighting"),
        server_momentum=config.server_momentum,
        parameter_names=setup.shared_parameters,
        seed=config.seed,
        query_timeout=config.timeout,
        **config.own_keys.strategy_arguments(setup),
    )


def run_method(session: Session, setup: ModelSetup, progress: Progress | None = None) -> MethodRun:
    """Run one method from the common start, or from its last complete round, for all rounds.

    Parameters
    ----------
    session : Session
        What all methods of the run have in common.
    setup : ModelSetup
        What the method trains.
    progress : callable, optional
        Called after every round.

    Raises
    ------
    FederationError
        If no client can train, or the run cannot be resumed.
    """
    config, schema_bytes = setup.config, session.grid.schema_bytes
    strategy = build_strategy(setup)
    strategy.clients.update(session.clients)
    saved = saved_state(session, config, setup.keeps_state)
    if saved is None:
        fresh = to_record({name: setup.initial[name].numpy() for name in setup.shared_names})
        try:
            fresh = strategy.first_arrays(fresh)
        except ValueError as error:
            raise FederationError(
                f"{config.method}: {error}",
                key=getattr(error, "argument", "method"),
                value=getattr(error, "value", config.method),
                reason=str(error),
            ) from error
        saved = Saved(0, first_arrays(setup, fresh), {}, [], 0.0)
    log(INFO, "Method %s: %s", config.method, config.row.summary)
    saved = _play_rounds(session, config, strategy, saved, progress)
    return MethodRun(
        config,
        saved.reports,
        setup.settled(saved.arrays),
        saved.seconds,
        setup.sizes,
        adapt_unseen(session, strategy, config, saved.arrays),
        left_out=session.left_out,
        outcome=strategy.outcome(),
        client_arrays=strategy.client_arrays() if config.safeguard else {},
        query_bytes=(strategy.query_bytes[0], strategy.query_bytes[1]),
        thresholds=let_threshold(session, strategy, config, saved.arrays),
        schema_bytes=session.grid.schema_bytes - schema_bytes,  # of all that is asked above, too
        base=network_fingerprint(config),
        base_bytes=session.grid.take_base_bytes(),
        given_base=given_base_of(session.config),
        names=session.names,
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
    reports = list(saved.reports)  # it grows; a new list every round would be quadratic
    grid = session.grid_after(saved.round)
    strategy.rounds_before = saved.round
    strategy.reports[:] = saved.reports
    strategy.load_state_arrays(saved.strategy)
    start, warned = time.perf_counter(), False

    def after_round(number: int, arrays: ArrayRecord) -> None:
        nonlocal state, warned
        if not number:
            return
        new = strategy.reports[len(reports) :]
        reports.extend(new)
        if words := "" if warned else divergence(config, new):
            warned = True
            log(WARNING, "Round %d: %s", saved.round + number, words)
        _check_progress(reports, saved.round + number, rounds, grid.get_node_ids())
        seconds = saved.seconds + time.perf_counter() - start
        strategy_arrays = strategy.state_arrays()
        state = Saved(saved.round + number, arrays, strategy_arrays, reports, seconds)
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


def _check_progress(
    reports: Sequence[ClientReport], server_round: int, num_rounds: int, nodes: Iterable[int]
) -> None:
    """End a run that comes to nothing: every node there is has been asked to train, and failed.

    Raises
    ------
    FederationError
        With the commonest reason, from round 3 (or the last) on.
    """
    if server_round < min(3, num_rounds):
        return
    # Reads no further than the first client that trained: usually a few reports, in every round.
    if any(report.phase == "train" and not report.dropped for report in reports):
        return
    trained = [report for report in reports if report.phase == "train"]
    if server_round == num_rounds or {r.node_id for r in trained} >= set(nodes):
        reason = commonest(r.dropped for r in trained)
        raise FederationError(
            f"no client could train: {reason}",
            key="num-server-rounds",
            value=server_round,
            reason=reason,
        )
