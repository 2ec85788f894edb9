"""Break a federation of real processes on this machine, and see that nothing is ever lost.

One SuperLink with TLS and keys and three SuperNodes play short runs of ``fedper``. In every run one
fault, drawn at random, is brought about: a node is killed at a moment of its training or writing,
hangs, joins late; the SuperLink is killed; the network is slow; a disk is full. After it the run
must go on with the others, the node must come back with its own personal parameters, bit for bit,
and no file may be torn.
"""

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock, Thread
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table

from pfl_flower.utils.files import write_json
from strategies.randomness import generator
from tests.fault_injection.federation import NODES, Federation, federation
from tests.fault_injection.kinds import FAULTS, MissedError
from tests.fault_injection.loopback import LoopbackError
from tests.fault_injection.teardown import FaultError, Teardown
from tests.fault_injection.trial import Trial, seconds_since
from tests.fault_injection.verdict import Tally, Verdict, judge, new_losses

NAME = "faults.json"
"""File of results: what a command that was stopped goes on from."""


def _kinds(text: str) -> list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if unknown := [word for word in words if word not in FAULTS]:
        raise argparse.ArgumentTypeError(f"no faults are called {unknown}; there are {[*FAULTS]}")
    if not words:
        raise argparse.ArgumentTypeError(f"names no kind of fault; there are {[*FAULTS]}")
    return words


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not a number from 1")
    return number


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    made = argparse.ArgumentParser(
        prog="python -m tests.fault_injection",
        allow_abbrev=False,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="kinds:\n" + "\n".join(f"  {name}: {kind.what}" for name, kind in FAULTS.items()),
    )
    made.add_argument("--n", type=_positive, default=50, help="faults to inject; 50")
    made.add_argument("--seed", type=int, default=0, help="of the draw of faults; 0")
    made.add_argument("--kinds", type=_kinds, default=[*FAULTS], help="a,b,c; all of them")
    made.add_argument("--workers", type=_positive, default=2, help="federations side by side; 2")
    made.add_argument("--out", type=Path, help="folder of faults.json; ./results/faults")
    made.add_argument("--work", type=Path, help="folder of the federation, kept; a temporary one")
    return made


def draw(seed: int, number: int, kinds: Sequence[str]) -> Verdict:
    """Return what is to break in a run, nothing of it done yet.

    Parameters
    ----------
    seed : of the whole command
    number : of the run
    kinds : names to draw from
    """
    random = generator(seed, "fault", number)
    kind = kinds[int(random.integers(len(kinds)))]
    return Verdict(number, kind, int(random.integers(NODES)), int(random.integers(1, 3)))


def break_once(here: Federation, verdict: Verdict) -> None:
    """Play one run in which one thing breaks, and fill in what came of it."""
    start = time.monotonic()
    kind = FAULTS[verdict.kind]
    trial = Trial(here, verdict.victim, verdict.round, verdict.number)
    try:
        try:
            verdict.hit = kind.inject(trial)
        except MissedError as reason:
            verdict.missed = str(reason)
        verdict.completed = trial.finish()
    except (FaultError, LoopbackError) as error:
        verdict.odd.append(str(error))
        trial.give_up()
    judge(trial, kind, verdict)
    here.mend()
    verdict.seconds = seconds_since(start)


@dataclass
class Series:
    """Runs, one after another in each federation, until enough faults have hit.

    Most of a run is waiting, so federations side by side do not slow one another down much. What
    breaks in a run depends on its number alone, not on where it is played.

    Parameters
    ----------
    options : of the command
    folder : of faults.json
    tell : is called with a line on every run, and with whether its fault has hit
    """

    options: argparse.Namespace
    folder: Path
    tell: Callable[[str, bool], None]
    verdicts: dict[int, Verdict] = field(init=False)
    errors: list[Exception] = field(default_factory=list)
    _up: Teardown = field(default_factory=Teardown)
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self.verdicts = finished(self.folder, self.options)
        self._begun = set(self.verdicts)

    @property
    def tally(self) -> Tally:
        """What came of the runs so far, by their numbers."""
        return Tally([verdict for _, verdict in sorted(self.verdicts.items())])

    def play(self, folders: Sequence[Path]) -> None:
        """Set a federation up in every folder and break them until the series is at its end.

        Raises
        ------
        FaultError, LoopbackError
            If one could not be set up, or mended after a run. Runs that are under way are played to
            their end.
        """
        with self._up:  # takes all of them down, also when somebody stops the command
            threads = [Thread(target=self._play, args=(each,), daemon=True) for each in folders]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if self.errors:
            raise self.errors[0]

    def _play(self, folder: Path) -> None:
        found: list[Verdict] = []
        if (number := self._next()) is None:
            return
        try:
            here = federation(folder, self._up)
            while number is not None:
                verdict = draw(self.options.seed, number, self.options.kinds)
                break_once(here, verdict)
                found.append(verdict)
                new_losses(found)
                self._take(verdict)
                number = self._next()
        except Exception as error:  # whatever it is, :meth:`play` raises it in its own thread
            self.errors.append(error)

    def _next(self) -> int | None:
        """Return the number of the next run; None after enough hits, or twice as many runs."""
        with self._lock:
            under_way = len(self._begun - set(self.verdicts))
            enough = len(self.tally.injected) + under_way >= self.options.n
            if self.errors or enough or len(self._begun) >= 2 * self.options.n:
                return None
            number = min(set(range(len(self._begun) + 1)) - self._begun)
            self._begun.add(number)
            return number

    def _take(self, verdict: Verdict) -> None:
        with self._lock:
            self.verdicts[verdict.number] = verdict
            write_json(self.folder / NAME, drawn_from(self.options) | self.tally.to_json())
            self.tell(line_on(verdict), bool(verdict.hit))


def drawn_from(options: argparse.Namespace) -> dict[str, Any]:
    """Return what decides what breaks in a run, beside its number."""
    return {"seed": options.seed, "kinds": list(options.kinds)}


def finished(folder: Path, options: argparse.Namespace) -> dict[int, Verdict]:
    """Return what an earlier command of the same draw has finished: number of a run -> verdict.

    Raises
    ------
    FaultError
        If there are results of another draw, which took hours, or what cannot be read.
    """
    path = folder / NAME
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text())
        there = {key: content[key] for key in drawn_from(options)}
        verdicts = {}
        for found in content["runs"]:
            trained = {int(node): rounds for node, rounds in found["trained"].items()}
            verdicts[found["number"]] = Verdict(**{**found, "trained": trained})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FaultError(
            f"{path} holds no results of a fault run ({error!r}); remove it, or name another --out"
        ) from error
    if there != drawn_from(options):
        raise FaultError(f"{path} has results of {there}; remove it, or name another --out")
    return verdicts


def break_often(options: argparse.Namespace, folder: Path, work: Path, console: Console) -> Tally:
    """Break until as many faults have hit as were asked for, at most twice as many runs."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=options.n)

        def tell(line: str, hit: bool) -> None:
            console.print(line, highlight=False, soft_wrap=True)
            progress.advance(task, int(hit))

        series = Series(options, folder, tell)
        if done := len(series.verdicts):
            console.print(f"{done} runs are finished; it goes on after them.", highlight=False)
            progress.advance(task, len(series.tally.injected))
        series.play([work / str(number) for number in range(options.workers)])
    return series.tally


def line_on(verdict: Verdict) -> str:
    """Return a line on a run."""
    how = "as it should" if verdict.good else "NOT AS IT SHOULD"
    words = [verdict.hit or f"no hit: {verdict.missed}", *verdict.lost, *verdict.torn, *verdict.odd]
    return (
        f"run {verdict.number}: {verdict.kind}, node {verdict.victim}, round {verdict.round}, "
        f"{verdict.seconds:.0f} s, {how}: {'; '.join(filter(None, words))}"
    )


def print_tally(tally: Tally, console: Console) -> None:
    """Print a table of the kinds, and the sums."""
    table = Table("fault", "injected", "runs completed", "states lost", "states torn", "odd")
    for name in FAULTS:
        own = [verdict for verdict in tally.verdicts if verdict.kind == name]
        hit = [verdict for verdict in own if verdict.hit]
        if own:
            sums = (sum(map(len, (v.lost for v in own))), sum(map(len, (v.torn for v in own))))
            odd = sum(len(verdict.odd) for verdict in own)
            done = sum(verdict.completed for verdict in hit)
            table.add_row(name, *map(str, (len(hit), done, *sums, odd)))
    console.print(table)
    found = tally.to_json()
    console.print(
        f"Faults injected: {found['injected']} (and {found['missed']} that did not hit); runs "
        f"completed: {found['completed']}; personal states lost: {found['lost']}; torn: "
        f"{found['torn']}",
        highlight=False,
    )


def run(arguments: Sequence[str], console: Console) -> int:
    """Run the command; return its exit status: 1 if anything was not as it should be."""
    options = parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that processes and disks go too
    folder = options.out or Path("results") / "faults"
    folder.mkdir(parents=True, exist_ok=True)
    temporary = tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True)
    try:
        with temporary as place:
            tally = break_often(options, folder, (options.work or Path(place)).resolve(), console)
    except (FaultError, LoopbackError) as error:  # what runs before this one is in the folder
        console.print(f"[red]{escape(str(error))}[/red]", highlight=False, soft_wrap=True)
        return 1
    print_tally(tally, console)
    console.print(f"Results: {(folder / NAME).resolve()}", highlight=False, soft_wrap=True)
    return 0 if tally.good and len(tally.injected) >= options.n else 1
