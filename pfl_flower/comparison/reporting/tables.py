"""The table of a comparison, as numbers, as Markdown and as CSV."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clients.local_training.adaptation import ALL
from pfl_flower.comparison.cells import CellResult
from pfl_flower.comparison.gains import SEEDS_FOR_A_TEST, compare, paired_gains
from pfl_flower.comparison.reporting import score_table
from pfl_flower.comparison.scores import cost_of, summarize_method, weighted_mean
from pfl_flower.comparison.selection import (
    ALONE,
    BASELINES,
    GLOBAL,
    constants_of,
    direction,
    finished,
    known_mean,
    methods_of,
    scores_at_choice,
    select_round,
)
from pfl_flower.comparison.wording import MISSING, bytes_text, gain_texts, score_text
from pfl_flower.utils.files import write_bytes, write_csv

Row = dict[str, Any]

SCORES = {
    "mean": "mean at the chosen round",
    "last_mean": "last round",
    "std": "std over clients",
    "median": "median",
    "worst_tenth": "worst tenth",
    "best_tenth": "best tenth",
    "weighted_mean": "example-weighted",
}
"""Key of a score in a row -> its heading."""

AGAINST = {"global": "global", "alone": "alone"}
"""Ending of the keys of a comparison -> the word in its heading."""

FORMS = {"worse_than": "{:.0f}", "p_": "{:.3f}", "personal": "{:,.0f}", "r2": "{:.2f}"} | {
    "seconds_per_round": "{:.2f}"
}
"""Start of a key -> how its number is written; all others are scores."""


def table_rows(cells: Sequence[CellResult]) -> list[Row]:
    """Return a row for every method that ran, and one for every reason why one failed.

    The baselines come first, then always answering the same, then the others by mean validation
    score, best first, then those with a safeguard (whose validation scores are the best of
    several), and failures last. Scores and gains are plain numbers (a fraction or an error), NaN
    where missing.
    """
    own, guarded = (
        [cell for cell in cells if cell.safeguarded == asked] for asked in (False, True)
    )
    rows = [
        sorted((_method_row(cells, method) for method in methods_of(group)), key=_place)
        for group in (own, guarded)
    ]
    there = sum(row["method"] in BASELINES for row in rows[0])
    constants = [_method_row(cells, name) for name in constants_of(cells)]
    return [*rows[0][:there], *constants, *rows[0][there:], *rows[1], *_failed_rows(cells)]


def _place(row: Row) -> tuple[int, float]:
    """Where a row stands; a method without validation scores goes behind those that have some."""
    if row["method"] in BASELINES:
        return BASELINES.index(row["method"]), 0.0
    score = -direction(row["task"]) * row["validation_mean"]
    return len(BASELINES) + math.isnan(score), 0.0 if math.isnan(score) else score


def _method_row(cells: Sequence[CellResult], method: str) -> Row:
    summary, cost = summarize_method(cells, method), cost_of(cells, method)
    assert summary is not None  # it names only those that ran
    assert cost is not None
    seeds = " ".join(map(str, summary.seeds))
    row: Row = {"method": method, "task": summary.task, "seeds": seeds, "failure": ""}
    row |= {"chosen_rounds": " ".join(map(str, summary.rounds))}
    row |= {"validation_mean": summary.validation_mean}
    row |= vars(summary.chosen) | {f"last_{k}": v for k, v in vars(summary.last).items()}
    for baseline, name in ((GLOBAL, "global"), (ALONE, "alone")):
        gain = compare(cells, method, baseline)
        row |= {
            f"gain_over_{name}": gain.mean if gain else math.nan,
            f"gain_over_{name}_low": gain.low if gain else math.nan,
            f"gain_over_{name}_high": gain.high if gain else math.nan,
            f"worse_than_{name}": gain.share_worse if gain else math.nan,
            f"p_{name}": math.nan if gain is None or gain.p_value is None else gain.p_value,
        }
    return row | vars(cost)


def _failed_rows(cells: Sequence[CellResult]) -> list[Row]:
    failed: dict[tuple[str, str], list[CellResult]] = {}
    for cell in cells:
        if cell.failure:
            failed.setdefault((cell.method, cell.failure), []).append(cell)
    return [
        {"method": method, "task": group[0].task, "failure": reason}
        | {"seeds": " ".join(str(cell.seed) for cell in sorted(group, key=lambda c: c.seed))}
        for (method, reason), group in failed.items()
    ]


def columns_of(rows: Sequence[Row]) -> dict[str, str]:
    """Return the columns that people see: key -> heading.

    The p of the signed-rank test only if there are enough seeds, R2 only for regression.
    """
    ran = [row for row in rows if not row["failure"]]
    regression = any(row["task"] == "regression" for row in ran)
    columns = dict(SCORES) | ({"r2": "R2"} if regression else {})
    for name in AGAINST:
        columns |= {f"gain_over_{name}": f"gain over {name} [95% interval]"}
        columns |= {f"worse_than_{name}": f"worse than {name}, %"}
        if any(len(row["seeds"].split()) >= SEEDS_FOR_A_TEST for row in ran):
            columns |= {f"p_{name}": f"p against {name}"}
    columns |= {"bytes": "kB a round, down + up", "personal": "personal parameters"}
    return columns | {"seconds_per_round": "seconds a round"}


def cell_text(row: Row, key: str) -> str:
    """Write one number of a row for people; see :func:`columns_of` for the keys."""
    if key == "bytes":
        return f"{bytes_text(row['bytes_down'])} + {bytes_text(row['bytes_up'])}"
    value = row[key]
    if math.isnan(value):
        return MISSING
    if key.startswith("gain_over"):
        gains = [value, row[f"{key}_low"], row[f"{key}_high"]]
        return "{} [{}, {}]".format(*gain_texts(row["task"], gains))
    for start, form in FORMS.items():
        if key.startswith(start):
            return form.format(100 * value if start == "worse_than" else value)
    return score_text(row["task"], value)


def row_name(row: Row) -> str:
    """Return the method, and for a failure the seeds it failed on."""
    if not row["failure"]:
        return str(row["method"])
    seeds = row["seeds"].split()
    return f"{row['method']}, seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}"


def to_markdown(rows: Sequence[Row]) -> str:
    """Write the table as Markdown: accuracy in per cent and gains in points, one decimal."""
    columns = columns_of(rows)
    lines = [["method", *columns.values()], ["---"] + ["---:"] * len(columns)]
    for row in rows:
        if row["failure"]:
            reason = " ".join(f"failed: {row['failure']}".split()).replace("|", "\\|")
            lines.append([row_name(row), reason, *[""] * (len(columns) - 1)])
        else:
            lines.append([row_name(row), *(cell_text(row, key) for key in columns)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def client_rows(cells: Sequence[CellResult]) -> list[Row]:
    """Return a row for every method, seed and client: the content of ``clients.csv``."""
    rows = []
    for method in (*methods_of(cells), *constants_of(cells)):
        over: dict[str, Mapping[tuple[int, int], float]] = {
            name: {(g.seed, g.client): g.gain for g in paired_gains(cells, method, baseline)}
            for name, baseline in (("global", GLOBAL), ("alone", ALONE))
        }
        for cell in finished(cells, method):
            chosen = scores_at_choice(cell)
            validation = scores_at_choice(cell, "validation")
            for place, client in enumerate(cell.clients.tolist()):
                row: Row = {"method": method, "seed": cell.seed, "client": client}
                row["name"] = cell.names[place] if cell.names else ""
                row["chosen_round"] = int(cell.rounds[select_round(cell)[0]])
                row["score"], row["last_score"] = chosen[place], cell.test[-1, place]
                row["validation_score"] = validation[place]
                row["train_examples"] = cell.train_examples[place]
                row["test_examples"] = cell.test_examples[place]
                for name, gains in over.items():
                    row[f"gain_over_{name}"] = gains.get((cell.seed, client), math.nan)
                rows.append(row)
    return rows


def curve_rows(cells: Sequence[CellResult]) -> list[Row]:
    """Return a row for every method, seed and round: the content of ``curves.csv``."""
    rows = []
    for method in methods_of(cells):
        for cell in finished(cells, method):
            validation = known_mean(cell.validation, axis=1)
            for place, server_round in enumerate(cell.rounds.tolist()):
                test = cell.test[place]
                rows.append(
                    {
                        "method": method,
                        "seed": cell.seed,
                        "round": server_round,
                        "mean_test": float(known_mean(test)),
                        "mean_validation": float(validation[place] if len(validation) else np.nan),
                        "weighted_mean_test": weighted_mean(test, cell.test_examples, cell.task),
                    }
                )
    return rows


def unseen_rows(cells: Sequence[CellResult]) -> list[Row]:
    """Return a row for every method, seed, number of local examples and unseen client."""
    return [
        {
            "method": cell.method,
            "seed": cell.seed,
            "local_examples": "all" if examples == ALL else examples,
            "client": client,
            "score": cell.unseen_test[row, place],
        }
        for cell in cells
        for row, examples in enumerate(cell.unseen_examples.tolist())
        for place, client in enumerate(cell.unseen_clients.tolist())
    ]


def write_tables(cells: Sequence[CellResult], folder: Path) -> None:
    """Write ``table.md``, ``table.csv``, ``clients.csv``, ``curves.csv``, each atomically.

    And ``scores.csv`` if clients report further scores, ``unseen.csv`` if there are unseen clients.
    """
    rows = table_rows(cells)
    further = score_table.to_markdown(cells)
    write_bytes(folder / "table.md", f"{to_markdown(rows)}{further}".encode())
    write_csv(folder / "table.csv", rows)
    write_csv(folder / "clients.csv", client_rows(cells))
    write_csv(folder / "curves.csv", curve_rows(cells))
    if scores := score_table.score_rows(cells):
        write_csv(folder / "scores.csv", scores)
    if joined := unseen_rows(cells):
        write_csv(folder / "unseen.csv", joined)
