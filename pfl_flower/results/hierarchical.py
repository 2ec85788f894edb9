"""How far each client's model is from what all have in common: a table and a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pfl_flower.results.method_run import MethodRun
from pfl_flower.utils.files import write_csv
from strategies.protocol import NUM_EXAMPLES

SHRINKAGE = "shrinkage"
"""Metric of an evaluation: 1 where the model is the prior's, 0 where it is the data's alone."""

PRIOR_DISTANCE = "prior-distance"
"""Metric of an evaluation: the Euclidean distance of the model from the prior's mean."""


def training_examples(run: MethodRun) -> dict[int, int]:
    """Return client -> its number of training examples, of those that have trained."""
    return {
        report.client: int(report.metrics[NUM_EXAMPLES])
        for report in run.reports
        if report.phase == "train" and not report.dropped
    }


def shrinkage_rows(run: MethodRun) -> list[dict[str, Any]]:
    """Return one row per client of the last evaluation; none of a method that reports no shrinkage.

    ``examples`` is empty for a client that never trained.
    """
    last = [r for r in run.reports if (r.phase, r.round) == ("evaluate", run.last_round)]
    examples = training_examples(run)
    return [
        {
            "method": run.method,
            "client": report.client,
            "examples": examples.get(report.client, ""),
            "shrinkage": report.metrics[SHRINKAGE],
            "prior_distance": report.metrics[PRIOR_DISTANCE],
        }
        for report in sorted(last, key=lambda report: report.client)
        if not report.dropped and {SHRINKAGE, PRIOR_DISTANCE} <= report.metrics.keys()
    ]


def write_shrinkage(folder: Path, runs: Sequence[MethodRun]) -> None:
    """Write ``shrinkage.csv`` and ``shrinkage.png``; nothing where no method reports shrinkage."""
    rows = [row for run in runs for row in shrinkage_rows(run)]
    if not rows:
        return
    from pfl_flower.plots.hierarchical import plot_shrinkage  # matplotlib takes a second to import

    write_csv(folder / "shrinkage.csv", rows)
    dots: dict[str, list[tuple[int, float, float]]] = {}
    for row in rows:
        if row["examples"]:
            dot = (row["examples"], row["shrinkage"], row["prior_distance"])
            dots.setdefault(row["method"], []).append(dot)
    plot_shrinkage(dots, folder / "shrinkage.png")
