"""All scores that classifiers report, in one table: a row a method and score."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from clients.inference.class_scores import CLASS_SCORES
from pfl_flower.comparison.cells import CellResult
from pfl_flower.comparison.selection import finished, methods_of, select_round
from pfl_flower.results.spread import known_spread

Row = dict[str, Any]


def score_rows(cells: Sequence[CellResult]) -> list[Row]:
    """Return a row for every method and score that its clients report.

    Over the clients of all seeds, at the rounds that validation chose: mean, std, worst_tenth, and
    as ``clients`` the number of those that have the score, of ``of`` that were evaluated. A score
    that a client cannot have, as AUROC with test examples of one class, is not in the mean.

    Parameters
    ----------
    cells : sequence of CellResult
        Every method on every seed.
    """
    rows = []
    for method in methods_of(cells):
        own = finished(cells, method)
        for place, name in enumerate(own[0].score_names):
            found = []
            for cell in own:
                chosen = select_round(cell)[0]
                found.append(cell.scores[place, chosen][~np.isnan(cell.test_examples)])
            values = np.concatenate(found)
            spread = known_spread(values, CLASS_SCORES[name].higher_is_better)
            rows.append({"method": method, "score": name, **spread, "of": len(values)})
    return rows


def shown_scores(cells: Sequence[CellResult]) -> dict[str, Any]:
    """Return headings and rows of the table as people see it: a row a method; empty without.

    Parameters
    ----------
    cells : sequence of CellResult
        Every method on every seed.
    """
    rows = score_rows(cells)
    names = list(dict.fromkeys(row["score"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    texts = {(row["method"], row["score"]): _text(row) for row in rows}
    return {
        "headings": [CLASS_SCORES[name].name for name in names],
        "rows": [
            {"name": method, "texts": [texts.get((method, name), "") for name in names]}
            for method in methods
        ],
    }


def _text(row: Row) -> str:
    """Write a mean with three decimals, and over how many clients where some lack the score."""
    if not row["clients"]:
        return "n/a"
    over = "" if row["clients"] == row["of"] else f" ({row['clients']} of {row['of']})"
    return f"{row['mean']:.3f}{over}"


def to_markdown(cells: Sequence[CellResult]) -> str:
    """Write the table as Markdown; empty where clients report accuracy alone.

    Parameters
    ----------
    cells : sequence of CellResult
        Every method on every seed.
    """
    shown = shown_scores(cells)
    if not shown["rows"]:
        return ""
    lines = [["method", *shown["headings"]], ["---", *["---:"] * len(shown["headings"])]]
    lines += [[row["name"], *row["texts"]] for row in shown["rows"]]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return f"\n{NOTE}\n\n{table}"


NOTE = (
    "Means over the clients of all seeds, at the chosen rounds. In brackets: how many clients have "
    "the score, where some have none, as those whose test examples are of one class."
)
"""How the table is to be read."""
