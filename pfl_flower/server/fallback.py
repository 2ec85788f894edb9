"""The server's side of a safeguard: every client chooses among its models."""

from collections.abc import Mapping, Sequence

from flwr.app import ArrayRecord

from pfl_flower.results.method_run import MethodRun
from pfl_flower.server.session import Session
from strategies import NO_GROUP, ClientReport, GroupAveraging
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


def let_choose(session: Session, candidates: Sequence[MethodRun]) -> MethodRun:
    """Let every client choose, on its own validation examples, the model that it will use.

    Nothing is trained (but what a method fine-tunes at evaluation). The clients get the final
    shared arrays of all candidates; their personal parameters they still have.

    Parameters
    ----------
    session : Session
        What all methods of the run have in common; the clients that were trained are asked.
    candidates : sequence of MethodRun
        The personalized method first.

    Returns
    -------
    MethodRun
        A run of one evaluation, after the last round, named ``<method> safeguarded``; in its
        reports the metric ``chosen`` is the place of the chosen candidate. Its ``thresholds`` are
        the reports of those that go with it.
    """
    first = candidates[0]
    clients = {r.node_id: r.client for run in candidates for r in run.reports}
    strategy = _strategy(candidates, clients)
    arrays = ArrayRecord(
        {f"{run.method}/{name}": array for run in candidates for name, array in run.arrays.items()}
    )
    names = ",".join(run.method for run in candidates)
    reports = session.evaluate(strategy, first.config.method, arrays, {SAFEGUARD: names})
    return MethodRun(
        config=first.config,
        reports=reports,
        arrays=ArrayRecord(),
        seconds=0.0,
        parameters=first.parameters,
        label=f"{first.method} safeguarded",
        thresholds=_thresholds_of_chosen(candidates, reports),
        names=first.names,
    )


def _thresholds_of_chosen(
    candidates: Sequence[MethodRun], reports: Sequence[ClientReport]
) -> list[ClientReport]:
    """Return what each client said of the thresholds of the model that it then chose."""
    found = [{report.client: report for report in run.thresholds} for run in candidates]
    chosen = {r.client: r.metrics.get("chosen") for r in reports if not r.dropped}
    return [
        found[int(place)][client]
        for client, place in chosen.items()
        if place is not None and place in range(len(found)) and client in found[int(place)]
    ]
