"""What clients' decision thresholds are worth: a table, a picture, and a few words."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clients.thresholds.rules import RULES
from clients.thresholds.threshold_client import SCORES
from pfl_flower.results.method_run import MethodRun
from pfl_flower.results.spread import known_spread, of_clients
from pfl_flower.utils.files import write_csv


def threshold_rows(run: MethodRun) -> list[dict[str, Any]]:
    """Return one row per client and rule, one column per score; none without thresholds."""
    return [
        {"method": run.method, "client": report.client, "rule": rule}
        | {name.replace("-", "_"): report.metrics[f"{name}-{rule}"] for name in SCORES}
        for report in sorted(run.thresholds, key=lambda report: report.client)
        if not report.dropped
        for rule in RULES
    ]


def by_rule(run: MethodRun, score: str) -> dict[str, np.ndarray]:
    """Return rule -> a score of each client, NaN where it is undefined; empty without any."""
    good = [report for report in run.thresholds if not report.dropped]
    found = {r: np.array([each.metrics[f"{score}-{r}"] for each in good]) for r in RULES}
    return found if good else {}


def threshold_summary(run: MethodRun) -> dict[str, Any]:
    """Return what every rule is worth; empty without thresholds.

    ``thresholds`` has rule -> score -> its mean over the clients where it is known, and
    ``threshold_clients`` rule -> score -> their number. F1 is undefined for a client whose test
    examples have no positive one, for example.
    """
    means: dict[str, dict[str, float]] = {rule: {} for rule in RULES}
    clients: dict[str, dict[str, int]] = {rule: {} for rule in RULES}
    for score in SCORES:
        for rule, values in by_rule(run, score).items():
            found = known_spread(values)
            means[rule][score], clients[rule][score] = found["mean"], int(found["clients"])
    return {"thresholds": means, "threshold_clients": clients} if any(means.values()) else {}


def write_thresholds(folder: Path, runs: Sequence[MethodRun]) -> None:
    """Write ``thresholds.csv``, and ``thresholds.png`` of the first method that has some."""
    rows = [row for run in runs for row in threshold_rows(run)]
    if not rows:
        return
    from pfl_flower.plots.thresholds import plot_rules  # matplotlib takes a second to import

    write_csv(folder / "thresholds.csv", rows)
    first = next(run for run in runs if threshold_rows(run))
    known = {rule: f1[~np.isnan(f1)] for rule, f1 in by_rule(first, "f1").items()}
    plot_rules(known, folder / "thresholds.png", "test F1", first.method)


def describe_thresholds(run: MethodRun) -> list[str]:
    """Say what the chosen rule bought, against 0.5 and the fleet's threshold."""
    summary: Mapping[str, Mapping[str, float]] = threshold_summary(run).get("thresholds", {})
    rule = run.config.threshold
    if not summary or rule is None:
        return [f"{run.method}: no client found a threshold"] if rule and run.thresholds else []
    own = summary[rule]
    labels = run.config.required_schema.labels
    about = str(run.config.threshold_metric)
    about += f", positive: {labels[1]}" if len(labels) == 2 else ""
    others = {"half": "with 0.5 for all", "global": "with one threshold for all"}
    words = ", ".join(f"{100 * summary[r]['f1']:.1f} {text}" for r, text in others.items())
    return [
        f"With the threshold {rule!r} ({about}): F1 of {100 * own['f1']:.1f} "
        f"on average{of_clients(by_rule(run, 'f1')[rule])} ({words}), "
        f"precision {own['precision']:.1%}, recall {own['recall']:.1%}, "
        f"balanced accuracy {own['balanced-accuracy']:.1%}."
    ]
