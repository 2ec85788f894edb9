"""``python -m simulations compare``: the command line of a comparison."""

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pfl_flower.comparison.advice.recommendation import recommend
from pfl_flower.comparison.compare import Comparison, Outcome, compare
from pfl_flower.comparison.reporting.report import write_report
from pfl_flower.comparison.reporting.tables import cell_text, row_name, table_rows
from pfl_flower.comparison.settings import (
    allowed_keys,
    check_common,
    read_settings,
    read_value,
)
from pfl_flower.config.errors import ConfigError
from pfl_flower.config.reading import KEYS
from pfl_flower.engines import ENGINES
from pfl_flower.methods import METHODS
from pfl_flower.utils.files import file_name
from pfl_flower.utils.text import did_you_mean, hyphenated

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
    made.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="METHOD.KEY=VALUE",
        help="a key of one method, such as ditto.lambda=auto; can be given several times",
    )
    made.add_argument("--tune", action="store_true", help="9 settings a method, by validation")
    made.add_argument("--safeguard", action="store_true", help="also with fallbacks")
    made.add_argument("--engine", choices=ENGINES, default="in-process")
    made.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs side by side")
    made.add_argument("--out", type=Path, help="results folder; ./results/compare-<data set>")
    made.add_argument("--tensorboard", action="store_true", help="scalars of every round too")
    config = made.add_argument_group("keys of the run config")
    for name in allowed_keys():
        item = KEYS[name].metadata
        flag: dict[str, Any] = {"nargs": "?", "const": "true"} if item["kind"] is bool else {}
        config.add_argument(f"--{name}", help=item["help"], **flag)
    return made


def run(arguments: Sequence[str], console: Console) -> int:
    """Run the command; return its exit code."""
    found, unknown = parser().parse_known_args(arguments)
    if unknown:
        raise _unknown(unknown, vars(found))
    options = vars(found)
    config = {
        name: read_value(name, text, KEYS[name])
        for name in allowed_keys()
        if (text := options.get(name.replace("-", "_"))) is not None
    }
    comparison = Comparison(
        options["methods"],
        config,
        options["clients"],
        options["seeds"],
        options["tune"],
        options["safeguard"],
        options["engine"],
        read_settings(options["set"]),
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
    for name, other in comparison.same.items():
        console.print(f"{name} is {other} here, and not run again.", highlight=False)
    show(outcome, console)
    console.print(f"Report: {report}", highlight=False, soft_wrap=True)
    return 0


def _unknown(words: Sequence[str], options: Mapping[str, Any]) -> ConfigError:
    """Return the error of an option that there is not: a run key that has no place here, or none.

    Raises
    ------
    ConfigError
        Of a run key that a comparison does not take, with the reason.
    """
    name = words[0].partition("=")[0]
    check_common({name.strip("-"): " ".join(words[1:])}, options["engine"])
    known = [hyphenated(name) for name in options]
    hint = did_you_mean(name, known, "--{}") or "see --help"
    return ConfigError(
        f"unknown option {words[0]}; {hint}",
        key=words[0],
        value=list(words),
        choices=[f"--{name}" for name in known],
    )


def settings_of(comparison: Comparison, outcome: Outcome) -> dict[str, str]:
    """Return the settings that the report names."""
    settings = {"clients": str(comparison.clients)}
    settings |= {
        name: f"is {other} here, and not run again" for name, other in comparison.same.items()
    }
    for method in comparison.all_methods if comparison.tune else ():
        chosen = outcome.tuned.get(method)
        words = "no setting was usable; these are the defaults"
        if chosen is not None:
            words = ", ".join(f"{k}={v}" for k, v in chosen.items()) or "nothing to tune"
        settings[f"tuned for {method}"] = words
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
