"""What a study found: its summary, its files, and what is printed."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from pfl_flower.results.files import spread
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


def print_summary(summary: Mapping[str, Any], console: Console) -> None:
    """Print the table and the claims."""
    console.print(f"\n[bold]{summary['question']}[/bold]")
    entries = summary["methods"].values()
    further = list(dict.fromkeys(name for e in entries for name in e.get("columns", ())))
    heads = ("mean", "std", "worst tenth", *further, "down + up a round", "s a round")
    table = Table("method", *heads)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, entry in summary["methods"].items():
        scores, traffic = entry[summary["score"]], entry["bytes_per_round"]
        table.add_row(
            name,
            *(_score(scores[key], summary["score"]) for key in ("mean", "std", "worst_tenth")),
            *(_percent(entry.get("columns", {}).get(name)) for name in further),
            f"{traffic['down'] / 1e3:.0f} + {traffic['up'] / 1e3:.0f} kB",
            f"{entry['seconds_per_round']:.2f}",
        )
    console.print(table)
    for title, rows in summary["tables"].items():
        console.print(_further_table(title, rows))
    for name, claim in summary["claims"].items():
        mark = "[green]holds[/green]" if claim["holds"] else "[red]FAILS[/red]"
        value, threshold = 100 * claim["value"], 100 * claim["threshold"]
        console.print(f"{mark}  {name}  ({value:.1f} against {threshold:.1f})", highlight=False)


def _further_table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return rows with the same columns as a table."""
    table = Table(*(rows[0] if rows else ()), title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()))
    return table


def _score(value: float, score: str) -> str:
    """Return an accuracy in per cent, an error in the unit of its target."""
    return f"{value:.4g}" if score == "rmse" else f"{100 * value:.1f}"


def _percent(value: float | None) -> str:
    """Return a fraction in per cent; a dash where there is none."""
    return "-" if value is None or math.isnan(value) else f"{100 * value:.1f}"
