"""``python -m simulations`` lists the studies; ``python -m simulations <study>`` runs one.

``python -m simulations compare --help``: compare any methods on any data.
``python -m simulations <recipe>.toml``: make a published table again.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape

from pfl_flower.config.errors import ConfigError
from pfl_flower.data import DataError
from pfl_flower.engines import ENGINES
from pfl_flower.server.discovery import FederationError
from simulations.recipe import RecipeError, words_of
from simulations.studies import (
    assistants,
    borrowing,
    borrowing_digits,
    clusters,
    cold_start,
    gallery,
    hospitals,
    lighting,
    pictures,
    proximal,
    safeguard,
    sensors,
    smartwatch,
    social,
    social_large,
    social_real,
    taste,
)
from simulations.study import run_study
from simulations.study_page import write_study_page
from simulations.summary import print_summary, write_outcome

_MODULES = (
    *(taste, lighting, gallery, safeguard, proximal, smartwatch, clusters, cold_start),
    *(borrowing, social, hospitals, sensors, assistants, pictures),
)
_STUDIES = (
    *(module.STUDY for module in _MODULES),
    smartwatch.REAL_STUDY,
    clusters.SIZES_STUDY,
    cold_start.HARD_STUDY,
    cold_start.REGRESSION_STUDY,
    borrowing.DIABETES_STUDY,
    borrowing_digits.STUDY,
    social.LABELS_STUDY,
    social.LINKS_STUDY,
    social_real.CORA_STUDY,
    social_real.CITESEER_STUDY,
    social_real.TWITCH_STUDY,
    social_large.STUDY,
    hospitals.REAL_STUDY,
    sensors.CLASSES_STUDY,
    assistants.SETTINGS_STUDY,
    pictures.SETTINGS_STUDY,
)
STUDIES = {study.name: study for study in _STUDIES}


def _seeds(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m simulations", description=__doc__)
    parser.add_argument("study", nargs="?", choices=STUDIES, help="which study; none lists them")
    parser.add_argument("--seeds", type=_seeds, help="such as 0,1,2; the study's own by default")
    parser.add_argument("--rounds", type=int, help="instead of the study's own number")
    parser.add_argument("--engine", choices=ENGINES, default="in-process")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs side by side")
    parser.add_argument("--out", type=Path, help="folder for results; ./results/<study> by default")
    parser.add_argument("--markdown", type=Path, help="file for the results as a page of the docs")
    parser.add_argument("--check", action="store_true", help="fail when a claim does not hold")
    return parser


def _compare(words: list[str], console: Console) -> int:
    from pfl_flower.comparison.command import run  # seconds to import, so only where needed

    try:
        return run(words, console)
    except ValueError as error:  # a config or data that make no sense: no traceback for that
        console.print(f"[red]{escape(str(error))}[/red]", highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        console.print("Interrupted. What is finished is kept: the same command goes on.")
        return 130


class _Command(NamedTuple):
    """What is no study: its question, and what runs it."""

    question: str
    run: Callable[[list[str], Console], int]


_COMMANDS = {
    "compare": _Command("Any methods on any data: does personalization pay?", _compare),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    console = Console(width=None if sys.stdout.isatty() else 110)
    if words and words[0].endswith(".toml"):
        try:
            words = [*words_of(words[0], [*STUDIES, *_COMMANDS]), *words[1:]]
        except RecipeError as error:
            console.print(f"[red]{escape(str(error))}[/red]", highlight=False, soft_wrap=True)
            return 2
    if words and words[0] in _COMMANDS:
        return _COMMANDS[words[0]].run(words[1:], console)
    options = _parser().parse_args(words)
    if options.study is None:
        for study in STUDIES.values():
            console.print(f"[bold]{study.name}[/bold]  {study.question}", highlight=False)
        for name, command in _COMMANDS.items():
            console.print(f"[bold]{name}[/bold]  {command.question}", highlight=False)
        return 0
    study = STUDIES[options.study]
    jobs = 1 if options.engine == "ray" else options.jobs
    if options.rounds:
        study = replace(study, config={**study.config, "num-server-rounds": options.rounds})
    seeds = options.seeds or list(study.seeds)
    try:
        outcome = run_study(study, seeds, engine=options.engine, jobs=jobs)
    except (ConfigError, DataError, FederationError) as error:  # such as a missing data set
        console.print(f"[red]{escape(str(error))}[/red]", highlight=False, soft_wrap=True)
        return 2
    folder = options.out or Path("results") / study.name
    summary = write_outcome(study, outcome, folder)
    print_summary(summary, console)
    if options.markdown:
        write_study_page(options.markdown, summary, folder, ["python -m simulations", *words])
    if options.rounds:
        console.print("(the claims are meant for the study's own number of rounds)")
    console.print(f"Results: {folder.resolve()}", highlight=False, soft_wrap=True)
    failed = [name for name, claim in summary["claims"].items() if not claim["holds"]]
    return 1 if failed and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
