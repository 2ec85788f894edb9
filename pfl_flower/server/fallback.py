"""The server's side of a safeguard: every client chooses among its models."""

from collections.abc import Mapping, Sequence
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp import Grid

from pfl_flower.results.method_run import MethodRun
from strategies import NO_GROUP, GroupAveraging
from strategies.protocol import SAFEGUARD

FALLBACKS = ("fedavg", "local")
"""What a client may fall back on: the global model, and one that it trained alone."""


def candidates_of(method: str, runs: Sequence[MethodRun]) -> list[MethodRun]:
    """Return the runs to choose among: the method's first, then the fallbacks."""
    by_method = {run.config.method: run for run in runs}
    return [by_method[name] for name in dict.fromkeys((method, *FALLBACKS))]


def _strategy(candidates: Sequence[MethodRun], clients: Mapping[int, int]) -> GroupAveraging:
    """Return a strategy that sends every client the models of its own group."""
    strategy = GroupAveraging(
        min_train_nodes=1,
        min_evaluate_nodes=1,
        min_available_nodes=1,
        seed=candidates[0].config.seed,
        group_names=(),
    )
    strategy.clients.update(clients)
    strategy.groups.update(dict.fromkeys(clients.values(), NO_GROUP))
    grouped = [run for run in candidates if run.grouping is not None]
    for run in grouped:  # one at most: what clients may fall back on has no groups
        assert run.grouping is not None
        strategy.groups.update(run.grouping.groups)
        for group, model in run.grouping.models.items():
            named = {f"{run.method}/{name}": array for name, array in model.items()}
            strategy.models[group] = ArrayRecord(named)
    for run in candidates:
        for client, model in run.client_arrays.items():  # a model of its own is a group of its own
            strategy.groups[client] = client
            named = {f"{run.method}/{name}": array for name, array in model.items()}
            strategy.models[client] = ArrayRecord(named)
    return strategy


def let_choose(grid: Grid, candidates: Sequence[MethodRun], about: Mapping[str, Any]) -> MethodRun:
    """Let every client choose, on its own validation examples, the model that it will use.

    Nothing is trained (but what a method fine-tunes at evaluation). The clients get the final
    shared arrays of all candidates; their personal parameters they still have.

    Parameters
    ----------
    grid : Grid
        The clients that were trained.
    candidates : sequence of MethodRun
        The personalized method first.
    about : mapping of str to object
        Config of every message of the run.

    Returns
    -------
    MethodRun
        A run of one evaluation, after the last round, named ``<method> safeguarded``; in its
        reports the metric ``chosen`` is the place of the chosen candidate.
    """
    first = candidates[0]
    clients = {r.node_id: r.client for run in candidates for r in run.reports}
    strategy = _strategy(candidates, clients)
    arrays = ArrayRecord(
        {f"{run.method}/{name}": array for run in candidates for name, array in run.arrays.items()}
    )
    names = ",".join(run.method for run in candidates)
    last, config = first.config.num_server_rounds, ConfigRecord({**about, SAFEGUARD: names})
    nodes = list(grid.get_node_ids())
    reports = strategy.evaluate_nodes(grid, last, arrays, config, nodes, first.config.timeout)
    return MethodRun(
        config=first.config,
        reports=reports,
        arrays=ArrayRecord(),
        seconds=0.0,
        parameters=first.parameters,
        label=f"{first.method} safeguarded",
    )
