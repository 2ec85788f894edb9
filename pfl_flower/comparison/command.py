"""``python -m simulations compare``: the command line of a comparison."""

import argparse
import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pfl_flower.comparison.compare import Comparison, Outcome, allowed_keys, compare
from pfl_flower.comparison.report import write_report
from pfl_flower.comparison.scores import recommend
from pfl_flower.comparison.tables import cell_text, row_name, table_rows
from pfl_flower.config.errors import ConfigError
from pfl_flower.config.run_config import KEYS
from pfl_flower.engines import ENGINES
from pfl_flower.methods import METHODS
from pfl_flower.utils.files import file_name

_SHOWN = {
    "mean": "mean",
    "last_mean": "last round",
    "std": "std",
    "worst_tenth": "worst tenth",
    "gain_over_global": "over global",
    "worse_than_global": "worse, %",
    "gain_over_alone": "over alone",
    "worse_than_alone": "worse, %",
}
"""Column of the table -> its heading on a screen; the report has them all."""


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _seeds(text: str) -> list[int]:
    return [int(word) for word in _words(text)]


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text == "true"


def parser() -> argparse.ArgumentParser:
    """Return the parser: options of the comparison, and every key of the run config."""
    made = argparse.ArgumentParser(
        prog="python -m simulations compare",
        allow_abbrev=False,  # half a word must not set something else
        description="Compare methods on the same clients: does personalization pay, and for whom?",
        epilog="Example: python -m simulations compare --methods fedper --heterogeneity taste",
    )
    made.add_argument(
        "--methods",
        type=_words,
        required=True,
        help=f"from {', '.join(METHODS)}; fedavg and local are added",
    )
    made.add_argument("--clients", type=int, help="10, or as many as your data have")
    made.add_argument("--seeds", type=_seeds, default=[0, 1, 2], help="0,1,2")
    made.add_argument("--tune", action="store_true", help="9 settings a method, by validation")
    made.add_argument("--safeguard", action="store_true", help="also with fallbacks")
    made.add_argument("--engine", choices=ENGINES, default="in-process")
    made.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs side by side")
    made.add_argument("--out", type=Path, help="results folder; ./results/compare-<data set>")
    made.add_argument("--tensorboard", action="store_true", help="scalars of every round too")
    config = made.add_argument_group("keys of the run config")
    for name in allowed_keys():
        kind = KEYS[name].metadata["kind"]
        read: Any = _truth if kind is bool else _number_or_text if isinstance(kind, tuple) else kind
        config.add_argument(f"--{name}", type=read, help=KEYS[name].metadata["help"])
    return made


def run(arguments: Sequence[str], console: Console) -> int:
    """Run the command; return its exit code."""
    found, unknown = parser().parse_known_args(arguments)
    if unknown:
        known = [f"--{name}" for name in allowed_keys()]
        close = difflib.get_close_matches(unknown[0].partition("=")[0], known, n=1)
        hint = f"; did you mean {close[0]}?" if close else "; see --help"
        raise ConfigError(
            f"unknown option {unknown[0]}{hint}", key=unknown[0], value=unknown, choices=known
        )
    options = vars(found)
    config = {
        name: value
        for name in allowed_keys()
        if (value := options.get(name.replace("-", "_"))) is not None
    }
    comparison = Comparison(
        options["methods"],
        config,
        options["clients"],
        options["seeds"],
        options["tune"],
        options["safeguard"],
        options["engine"],
    )
    dataset = str(config.get("dataset", "digits"))
    default = Path("results") / f"compare-{file_name(dataset)}"
    folder = (options["out"] or default).resolve()
    jobs = 1 if options["engine"] == "ray" else options["jobs"]
    outcome = compare(comparison, folder, jobs, tensorboard=options["tensorboard"])
    differ = config.get("heterogeneity", "none")
    clients = f"{dataset}, {differ}" if differ != "none" else dataset
    title, settings = f"Does personalization pay on {clients}?", settings_of(comparison, outcome)
    report = write_report(outcome.cells, folder, title, settings)
    show(outcome, console)
    console.print(f"Report: {report}", highlight=False, soft_wrap=True)
    return 0


def settings_of(comparison: Comparison, outcome: Outcome) -> dict[str, str]:
    """Return the settings that the report names."""
    settings = {"clients": str(comparison.clients)}
    for method, tuned in outcome.tuned.items():
        settings[f"tuned for {method}"] = ", ".join(f"{k}={v}" for k, v in tuned.items())
    return settings


def show(outcome: Outcome, console: Console) -> None:
    """Print the recommendation and the table."""
    headline, *sentences = recommend(outcome.cells).sentences
    console.print(f"\n[bold]{headline}[/bold]", highlight=False)
    for sentence in sentences:
        console.print(sentence, highlight=False)
    rows = table_rows(outcome.cells)
    table = Table("method", *_SHOWN.values())
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        if row["failure"]:
            console.print(f"{row_name(row)} failed: {row['failure']}", highlight=False)
            continue
        # intervals are in the report; here a line has to hold everything
        numbers = [cell_text(row, key).partition(" [")[0] for key in _SHOWN]
        table.add_row(row_name(row), *numbers)
    console.print(table)
