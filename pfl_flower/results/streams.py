"""What the clients of a run learnt, kept and forgot over the phases of their streams."""

from collections.abc import Callable, Mapping

import numpy as np

from pfl_flower.results.method_run import MethodRun
from pfl_flower.results.stream_metrics import (
    Matrix,
    accuracy_matrix,
    average_accuracy,
    backward_transfer,
    forgetting,
    plasticity,
)

STREAM_SCORES: Mapping[str, Callable[[Matrix], float]] = {
    "average_accuracy": average_accuracy,
    "backward_transfer": backward_transfer,
    "forgetting": forgetting,
    "plasticity": plasticity,
}
"""Name of a score -> its function of a client's matrix."""


def num_phases(run: MethodRun) -> int:
    """Return how many phases the clients' data come in; 0 where they are no stream."""
    reports = [r.metrics for r in run.reports if r.phase == "evaluate" and not r.dropped]
    start = f"{run.score}-phase-"
    return max((sum(name.startswith(start) for name in metrics) for metrics in reports), default=0)


def phase_curves(run: MethodRun) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Return client -> its scores ``(R, T)`` on each phase after each round, and phases ``(R,)``.

    The phases are those at hand in each round. Rounds in which the client was not evaluated are
    left out.
    """
    count = num_phases(run)
    rows: dict[int, list[tuple[int, list[float], int]]] = {}
    for report in run.reports:
        if report.phase == "evaluate" and not report.dropped and "phase" in report.metrics:
            scores = [float(report.metrics[f"{run.score}-phase-{j}"]) for j in range(count)]
            row = report.round, scores, int(report.metrics["phase"])
            rows.setdefault(report.client, []).append(row)
    curves = {}
    for client, found in sorted(rows.items()):
        _, scores_of_rounds, phases = zip(*sorted(found), strict=True)
        curves[client] = np.array(scores_of_rounds), np.array(phases)
    return curves


def stream_scores(run: MethodRun) -> dict[int, dict[str, float]]:
    """Return client -> its :data:`STREAM_SCORES`; nothing where data are no stream.

    A client that had all phases from the start forgets nothing and has its average accuracy only;
    so has one that a phase passed by without a round. The others are NaN then.
    """
    scores = {}
    for client, (accuracies, phases) in phase_curves(run).items():
        try:
            matrix = accuracy_matrix(accuracies, phases)
        except ValueError:
            unknown = dict.fromkeys(STREAM_SCORES, float("nan"))
            scores[client] = unknown | {"average_accuracy": float(accuracies[-1].mean())}
        else:
            scores[client] = {name: score(matrix) for name, score in STREAM_SCORES.items()}
    return scores
