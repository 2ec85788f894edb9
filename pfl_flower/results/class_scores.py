"""Scores of classifiers beside the one that models are compared by: a row a method and score."""

from collections.abc import Sequence
from typing import Any

from clients.inference.class_scores import CLASS_SCORES, ScoredClassification
from pfl_flower.results.method_run import MethodRun
from pfl_flower.results.spread import known_spread, of_clients


def reported_scores(run: MethodRun) -> tuple[str, ...]:
    """Return the names of the scores that clients report; empty if accuracy alone.

    Parameters
    ----------
    run : MethodRun
        The run.
    """
    task = run.config.client_task
    return task.names if isinstance(task, ScoredClassification) else ()


def score_rows(run: MethodRun) -> list[dict[str, Any]]:
    """Return a row for each score: mean, deviation and worst tenth over the clients that have it.

    ``clients`` are those that have it, of ``of`` that were evaluated.

    Parameters
    ----------
    run : MethodRun
        The run; its last evaluation counts.
    """
    rows = []
    for name in reported_scores(run):
        values = run.values(name)
        found = known_spread(values, CLASS_SCORES[name].higher_is_better)
        rows.append({"method": run.method, "score": name, **found, "of": len(values)})
    return rows


def score_summary(run: MethodRun) -> dict[str, Any]:
    """Return name of a score -> its row, as ``scores``; empty if accuracy alone is reported.

    Parameters
    ----------
    run : MethodRun
        The run.
    """
    rows = {row.pop("score"): row for row in score_rows(run)}
    for row in rows.values():
        del row["method"]
    return {"scores": rows} if rows else {}


def describe_scores(run: MethodRun) -> list[str]:
    """Say what the scores are on average, and over how many clients where some lack one.

    Parameters
    ----------
    run : MethodRun
        The run.
    """
    names = reported_scores(run)
    if not names:
        return []
    words: Sequence[str] = [
        f"{CLASS_SCORES[name].name} {row['mean']:.3f}{of_clients(run.values(name))}"
        for name, row in zip(names, score_rows(run), strict=True)
    ]
    return [f"Means over clients, on their own test examples: {', '.join(words)}."]
