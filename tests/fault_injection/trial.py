"""One run in which something breaks, and what came of it."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from tests.fault_injection.federation import (
    NODES,
    PATIENCE,
    ROUNDS,
    TIMEOUT,
    Federation,
    rows_of,
    trained,
    until,
)
from tests.fault_injection.journal import Entry, Kept
from tests.fault_injection.loopback import LINK, LoopbackError
from tests.fault_injection.teardown import FaultError
from tests.fault_injection.text import plain

SETTINGS: Mapping[str, Any] = {
    "method": "fedper",
    "baselines": "",
    "num-server-rounds": ROUNDS,
    "heterogeneity": "none",
    "batch-size": 4,
    "min-nodes": NODES,
    "timeout": TIMEOUT,
}
"""A short run: what breaks does not depend on how well it learns."""

_RUN_TIME = 1800.0


@dataclass
class Trial:
    """One run with one fault.

    Parameters
    ----------
    federation : where
    victim : the node that breaks
    round : in which it breaks
    number : of the trial, which names its results folder
    """

    federation: Federation
    victim: int
    round: int
    number: int
    settings: dict[str, Any] = field(default_factory=dict)
    marks: dict[int, int] = field(default_factory=dict)
    torn: list[str] = field(default_factory=list)
    found: Kept | None = None
    wanted: dict[str, Kept | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.marks = {node: len(self.federation.journal(node)) for node in range(NODES)}

    @property
    def others(self) -> list[int]:
        """The nodes that nothing happens to."""
        return [node for node in range(NODES) if node != self.victim]

    @property
    def base(self) -> Path:
        """Where the run makes its results folder."""
        return self.federation.link.folder / "results" / f"run-{self.number}"

    @property
    def results(self) -> Path:
        """The results folder."""
        found = sorted(self.base.glob("*"))
        if not found:
            raise FaultError(f"there is no results folder in {self.base}")
        return found[0]

    # ------------------------------------------------------------------ the run

    def begin(self, **settings: Any) -> None:
        """Begin the run; ``settings`` with ``_`` for ``-``."""
        own = {name.replace("_", "-"): value for name, value in settings.items()}
        places = {"dataset": f"folder:{self.federation.data}", "results-dir": str(self.base)}
        self.settings = {**SETTINGS, **places, **own}
        self.federation.link.begin(self.settings)

    def resume(self) -> None:
        """Begin a run that goes on where this one was lost."""
        link = self.federation.link
        if "run" in link.processes:
            link.stop("run")
        link.begin({**self.settings, "resume": str(self.results)})

    def finish(self) -> bool:
        """Wait for the run's end; return whether it has come to its last round."""
        link = self.federation.link
        try:
            link.wait_for_end("run", _RUN_TIME)
        except LoopbackError:
            self.give_up()
            return False
        rounds = (int(row["round"]) for row in rows_of(self.results))
        return max(rounds, default=0) == int(self.settings["num-server-rounds"])

    def give_up(self) -> None:
        """Stop a run that has not ended, so that it is not in the way of the next one."""
        link = self.federation.link
        if "run" in link.processes:
            link.stop("run")
            started = plain(link.log("run")).rpartition("Successfully started run ")
            if started[1] and "link" in link.processes:
                link.flwr("stop", started[2].split()[0], LINK)

    # ------------------------------------------------------------------ what is under way

    def entries(self, node: int) -> list[Entry]:
        """Return what a node has written down since the trial began."""
        return self.federation.journal(node)[self.marks[node] :]

    def was(self, node: int, event: str, kind: str, server_round: int) -> bool:
        """Whether a node received or answered a message of a round."""
        return any(
            (e.event, e.what, e.round) == (event, kind, server_round) for e in self.entries(node)
        )

    def hit(self) -> bool:
        """Whether the device has carried out its order."""
        return any(entry.event == "hit" for entry in self.entries(self.victim))

    def after_hit(self) -> list[Entry]:
        """Return what the victim has written down since it carried out its order."""
        entries = self.entries(self.victim)
        hits = [place for place, entry in enumerate(entries) if entry.event == "hit"]
        return entries[hits[-1] + 1 :] if hits else []

    def note_state(self) -> None:
        """Look at the victim's disk after the fault: what is there, and what should be."""
        journal = self.federation.journal(self.victim)
        self.torn = self.federation.torn(self.victim)
        self.found = None if self.torn else self.federation.state_of(self.victim)
        self.wanted = {event: last(journal, event) for event in ("keeping", "kept")}

    def complete_rounds(self) -> int:
        """Return how many rounds are complete: those of the server's checkpoint."""
        for path in self.base.glob("*/checkpoint/fedper.safetensors"):
            try:
                with safe_open(path, framework="numpy") as file:
                    return int(json.loads((file.metadata() or {})["about"])["round"])
            except (OSError, SafetensorError, KeyError):
                continue  # replaced at this very moment
        return 0

    def trained(self, node: int) -> list[int]:
        """Return the rounds in which a node's training counted."""
        return trained(rows_of(self.results), node)

    def until_round_is_over(self, server_round: int, seconds: float = PATIENCE) -> None:
        """Wait until the server has completed a round.

        Raises
        ------
        FaultError
            If it takes too long, or the run ends before.
        """
        until(
            f"round {server_round} is complete",
            lambda: self.complete_rounds() >= server_round or self._ended(),
            seconds,
        )
        if self.complete_rounds() < server_round:
            raise FaultError(f"the run ended before round {server_round} was complete")

    def _ended(self) -> bool:
        process = self.federation.link.processes.get("run")
        return process is None or process.poll() is not None


def last(entries: Sequence[Entry], event: str) -> Kept | None:
    """Return the state of the last entry of an event."""
    for entry in reversed(entries):
        if entry.event == event:
            return Kept(entry.run, entry.round, entry.digest)
    return None


def seconds_since(start: float) -> float:
    """Return how long ago that was, by the monotonic clock, in seconds."""
    return round(time.monotonic() - start, 1)
