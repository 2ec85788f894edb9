"""The server's side of a safeguard: every client chooses among its models."""

from collections.abc import Mapping, Sequence
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp import Grid

from pfl_flower.method_run import MethodRun
from strategies import PartialAveraging
from strategies.protocol import SAFEGUARD

FALLBACKS = ("fedavg", "local")
"""What a client may fall back on: the global model, and one that it trained alone."""


def candidates_of(method: str, runs: Sequence[MethodRun]) -> list[MethodRun]:
    """Return the runs to choose among: the method's first, then the fallbacks."""
    by_method = {run.config.method: run for run in runs}
    return [by_method[name] for name in dict.fromkeys((method, *FALLBACKS))]


def let_choose(grid: Grid, candidates: Sequence[MethodRun], about: Mapping[str, Any]) -> MethodRun:
    """Let every client choose, on its own validation examples, the model that it will use.

    Nothing is trained (but what a method fine-tunes at evaluation). The clients get the final
    shared arrays of all candidates; their personal parameters they still have.

    Parameters
    ----------
    grid : the clients that were trained
    candidates : the personalized method first
    about : config of every message of the run

    Returns
    -------
    a run of one evaluation, after the last round, named ``<method> safeguarded``; in its reports
    the metric ``chosen`` is the place of the chosen candidate
    """
    first = candidates[0]
    strategy = PartialAveraging(
        min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1, seed=first.config.seed
    )
    strategy.clients.update({r.node_id: r.client for run in candidates for r in run.reports})
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
