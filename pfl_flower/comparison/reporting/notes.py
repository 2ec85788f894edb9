"""What a report says about its settings and about how its numbers came about."""

from collections.abc import Mapping, Sequence
from typing import Any

from pfl_flower.comparison.cells import CellResult
from pfl_flower.comparison.gains import RESAMPLES, SEEDS_FOR_A_TEST
from pfl_flower.comparison.reporting.tables import row_name, table_rows
from pfl_flower.comparison.scores import summarize_method
from pfl_flower.comparison.selection import finished, methods_of, score_name, task_of
from pfl_flower.comparison.wording import counted, listed

FEW_SEEDS = 5
"""Below this the spread between seeds is hardly known."""


def subtitle_of(cells: Sequence[CellResult]) -> str:
    """Say in a line how large the comparison is."""
    ran = [cell for method in methods_of(cells) for cell in finished(cells, method)]
    seeds = counted(len({cell.seed for cell in cells}), "seed")
    parts = [counted(len({cell.method for cell in cells if not cell.constant}), "method"), seeds]
    if ran:
        parts.append(counted(max(len(cell.clients) for cell in ran), "client"))
        parts.append(counted(max(int(cell.rounds.max()) for cell in ran), "round"))
    return ", ".join(parts)


def _values(cells: Sequence[CellResult]) -> dict[str, dict[str, list[str]]]:
    """Key of the run config -> its values -> the methods that have it; not method and seed."""
    found: dict[str, dict[str, list[str]]] = {}
    for cell in cells:
        for key, value in cell.config.items():
            if key not in ("method", "seed", "baselines"):
                methods = found.setdefault(key, {}).setdefault(str(value) or "(empty)", [])
                methods += [cell.method] * (cell.method not in methods)
    return found


def common_settings(cells: Sequence[CellResult]) -> dict[str, str]:
    """Return what all cells that have a run config have in common: key -> value."""
    return {key: next(iter(found)) for key, found in _values(cells).items() if len(found) == 1}


def own_settings(cells: Sequence[CellResult]) -> dict[str, str]:
    """Return what differs: key of the run config -> its values, each with its methods."""
    return {
        key: "; ".join(f"{value} ({', '.join(methods)})" for value, methods in found.items())
        for key, found in _values(cells).items()
        if len(found) > 1
    }


def settings_of(
    cells: Sequence[CellResult], description: Mapping[str, str] | None
) -> list[Mapping[str, Any]]:
    """Return the blocks of settings: in words, what differs, and what is the same for all."""
    seeds = ", ".join(map(str, sorted({cell.seed for cell in cells})))
    words = dict(description or {}) | {"seeds": seeds}
    return [words, own_settings(cells), common_settings(cells)]


def table_note(cells: Sequence[CellResult]) -> str:
    """Say how the table is to be read."""
    if task_of(cells) == "regression":
        unit = "Root mean squared error on the own test examples of each client; less is better."
    else:
        name = score_name(cells)
        unit = f"{name[0].upper()}{name[1:]} in per cent on the own test examples of each client."
    return (
        f"{unit} A positive gain is an improvement; its 95% interval is written under it. The "
        "baselines come first, then always answering the same (the best answer without any input, "
        "of all clients together or of each), then the others by validation score, best first."
    )


def notes_of(cells: Sequence[CellResult]) -> list[str]:
    """Return the notes on method, with what was missing."""
    seeds = len({cell.seed for cell in cells})
    notes = [
        "Round and method were chosen by the mean validation score over clients; of equally good "
        "rounds the earliest. Test scores had no part in any choice. A baseline is compared at "
        "its own chosen round.",
        "A client counts once on every seed. The worst tenth is the mean of the worst tenth of "
        "the clients, at least one; std is the standard deviation over clients.",
        f"The interval is a paired bootstrap of {RESAMPLES:,} resamples: seeds are drawn with "
        "replacement, then clients within each drawn seed, and the 2.5th and 97.5th percentile "
        "of the mean gain are given." + (" With one seed only clients are drawn, so it does not "
        "cover how much results differ between seeds." if seeds == 1 else ""),
        "The intervals are not corrected for several comparisons. The recommended method is the "
        "best of several, so its validation gain flatters it a little; its test gain does not.",
    ]  # fmt: skip
    if 1 < seeds < FEW_SEEDS:
        notes.append(f"With {seeds} seeds the interval is rough, and rather too narrow.")
    if seeds >= SEEDS_FOR_A_TEST:
        notes.append(
            "p is of the two-sided Wilcoxon signed-rank test over the mean gains of the seeds."
        )
    return notes + _gaps(cells)


def _gaps(cells: Sequence[CellResult]) -> list[str]:
    """Say what is missing, so that nobody takes a part for the whole."""
    summaries = [s for m in methods_of(cells) if (s := summarize_method(cells, m))]
    notes = []
    blind = [summary.method for summary in summaries if not summary.by_validation]
    if blind:
        notes.append(
            f"Without validation scores on a seed, its last round stands for {listed(blind)}."
        )
    missing = [f"{s.method}: {s.chosen.missing}" for s in summaries if s.chosen.missing]
    if missing:
        notes.append(f"Clients without a test score were left out ({', '.join(missing)}).")
    failed = [row_name(row) for row in table_rows(cells) if row["failure"]]
    if failed:
        notes.append(
            f"Not run: {'; '.join(failed)}. A method that lacks a seed is compared with the "
            "baselines on the seeds that both have."
        )
    return notes
