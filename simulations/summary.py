"""What a study found: its summary, its files, and what is printed."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from pfl_flower.results.spread import spread
from pfl_flower.utils.files import write_csv, write_json
from simulations.study import Outcome, Study


def summary_of(study: Study, outcome: Outcome) -> dict[str, Any]:
    """Return the content of ``summary.json``: scores and costs per arm, and the claims."""
    methods: dict[str, Any] = {}
    further = study.columns(outcome)
    for arm in study.arms:
        results = outcome.of(arm.name, arm.point)
        costs = [result.summary for result in results]
        methods[arm.key] = {
            study.score: spread(
                np.concatenate([result.accuracy for result in results]), study.score != "rmse"
            ),
            f"{study.score}_by_seed": {r.seed: float(r.accuracy.mean()) for r in results},
            "bytes_per_round": costs[0]["bytes_per_round"],
            "parameters": costs[0]["parameters"],
            "seconds_per_round": float(np.mean([cost["seconds_per_round"] for cost in costs])),
            **({"columns": dict(further[arm.key])} if arm.key in further else {}),
        }
    claims = {
        claim.name: {"value": claim.value, "threshold": claim.threshold, "holds": claim.holds}
        for claim in study.claims(outcome)
    }
    return {
        "study": study.name,
        "question": study.question,
        "answer": study.answer if outcome.seeds == list(study.seeds) else "",
        "reading": study.reading,
        "clients": study.num_clients,
        "seeds": outcome.seeds,
        "config": dict(study.config),
        "score": study.score,
        "methods": methods,
        "tables": {
            title: [dict(row) for row in rows] for title, rows in study.tables(outcome).items()
        },
        "claims": claims,
    }


def write_outcome(study: Study, outcome: Outcome, folder: Path) -> dict[str, Any]:
    """Write ``summary.json``, ``clients.csv`` and the pictures; return the summary."""
    from pfl_flower.plots.client_plots import plot_clients

    folder.mkdir(parents=True, exist_ok=True)
    summary = summary_of(study, outcome)
    write_json(folder / "summary.json", summary)
    rows = [
        {"method": r.arm.name, "point": "" if r.arm.point is None else r.arm.point}
        | {"seed": r.seed, "client": client, study.score: score}
        for r in outcome.results
        for client, score in r.by_client.items()
    ]
    write_csv(folder / "clients.csv", rows)
    table = [arm.name for arm in study.arms if arm.point is None]
    dots = {name: np.concatenate([r.accuracy for r in outcome.of(name)]) for name in table}
    plot_clients(dots, folder / f"{study.score}.png", study.score)
    study.draw(outcome, folder)
    return summary


def summary_table(summary: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the heads and the rows of a study's table, in words and per cent."""
    entries = summary["methods"].values()
    further = list(dict.fromkeys(name for e in entries for name in e.get("columns", ())))
    heads = ["method", "mean", "std", "worst tenth", *further, "down + up a round", "s a round"]
    rows = []
    for name, entry in summary["methods"].items():
        scores, traffic = entry[summary["score"]], entry["bytes_per_round"]
        rows.append(
            [
                name,
                *(_score(scores[key], summary["score"]) for key in ("mean", "std", "worst_tenth")),
                *(_percent(entry.get("columns", {}).get(name)) for name in further),
                f"{traffic['down'] / 1e3:.0f} + {traffic['up'] / 1e3:.0f} kB",
                f"{entry['seconds_per_round']:.2f}",
            ]
        )
    return heads, rows


def further_table(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return the heads and the rows, in words, of a further table."""
    cells = [
        [f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()]
        for row in rows
    ]
    return list(rows[0] if rows else ()), cells


def claim_text(name: str, claim: Mapping[str, Any]) -> str:
    """Return a claim with its figure and the one that was wanted."""
    return f"{name}  ({100 * claim['value']:.1f} against {100 * claim['threshold']:.1f})"


def print_summary(summary: Mapping[str, Any], console: Console) -> None:
    """Print the tables and the claims."""
    console.print(f"\n[bold]{summary['question']}[/bold]")
    console.print(_table(*summary_table(summary)))
    for title, rows in summary["tables"].items():
        console.print(_table(*further_table(rows), title))
    for name, claim in summary["claims"].items():
        mark = "[green]holds[/green]" if claim["holds"] else "[red]FAILS[/red]"
        console.print(f"{mark}  {claim_text(name, claim)}", highlight=False)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> Table:
    table = Table(*heads, title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*row)
    return table


def _score(value: float, score: str) -> str:
    """Return an accuracy in per cent, an error in the unit of its target."""
    return f"{value:.4g}" if score == "rmse" else f"{100 * value:.1f}"


def _percent(value: float | None) -> str:
    """Return a fraction in per cent; a dash where there is none."""
    return "-" if value is None or math.isnan(value) else f"{100 * value:.1f}"
