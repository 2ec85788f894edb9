"""What a device of a fault run writes down: what it was asked, kept, found again and answered.

A journal is a file of lines, which a killed process cannot lose and of which at most the last is
half written. From it :func:`losses` tells whether a device ever went on without what it had kept.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np

Event = Literal["received", "hit", "loaded", "keeping", "kept", "refused", "answered"]


@dataclass(frozen=True)
class Entry:
    """A line of a journal.

    Attributes
    ----------
    event : ``received`` and ``answered`` a message; ``loaded`` a personal state; ``keeping`` one,
        then ``kept`` it, or was ``refused`` by the disk; ``hit`` by a fault
    round : of the message, or in which the state was kept; 0 of a state that was not found
    what : type of the message, or the fault
    run : in which the state was kept
    digest : of the state; empty of one that was not found
    before : of a ``loaded`` one: only states of this run before this round were wanted, if positive
    wanted_by : of a ``loaded`` one: the run that wanted it
    """

    event: Event
    round: int = 0
    what: str = ""
    run: str = ""
    digest: str = ""
    before: int = 0
    wanted_by: str = ""


def digest_of(arrays: Mapping[str, Any]) -> str:
    """Return a SHA-256 over names, shapes, dtypes and bytes of tensors or arrays."""
    digest = sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.shape} {array.dtype}".encode() + array.tobytes())
    return digest.hexdigest()


def append(path: Path, entry: Entry) -> None:
    """Add a line, in one call of the system, so that a kill leaves lines whole."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, (json.dumps(asdict(entry)) + "\n").encode())
    finally:
        os.close(descriptor)


def read(path: Path) -> list[Entry]:
    """Return the lines written so far; none where there is no journal yet."""
    if not path.exists():
        return []
    whole = path.read_text().split("\n")[:-1]
    return [Entry(**json.loads(line)) for line in whole]


@dataclass(frozen=True)
class Kept:
    """A personal state that a device kept: when, and which."""

    run: str
    round: int
    digest: str


def losses(entries: Iterable[Entry], on_disk: Kept | None) -> list[str]:
    """Return, in words, every state that was kept and then was not there; best none.

    What a device has kept must be what it finds next, bit for bit. A state that it was keeping
    when it was killed may be there or not: then the one before must be. Where a round is played
    again, the last state before that round must be found.

    Parameters
    ----------
    entries : the journal of a device
    on_disk : the state in its file at the end; None where it has no file
    """
    chain = _Chain()
    for entry in entries:
        chain.take(entry)
    chain.compare(on_disk, "at the end")
    return chain.problems


class _Chain:
    """The states that a device has kept, one after the other."""

    def __init__(self) -> None:
        self.states: list[Kept] = []
        self.pending: Kept | None = None
        self.problems: list[str] = []

    def take(self, entry: Entry) -> None:
        state = Kept(entry.run, entry.round, entry.digest)
        if entry.event == "keeping":
            self.pending = state
        elif entry.event == "kept":
            self.states.append(state)
            self.pending = None
        elif entry.event == "refused":
            self.pending = None
        elif entry.event == "loaded":
            found = state if entry.digest else None
            self.compare(found, f"for {entry.what}", entry.wanted_by, entry.before)

    def compare(self, found: Kept | None, when: str, run: str = "", before: int = 0) -> None:
        """Note a problem unless ``found`` is the last state, or the one that was being kept."""
        pending, self.pending = self.pending, None
        if found is not None and found == pending:
            self.states.append(found)
        wanted = next(
            (s for s in reversed(self.states) if not (s.run == run and 0 < before <= s.round)), None
        )
        if found != wanted:
            self.problems.append(f"{when}: {_words(found)} in place of {_words(wanted)}")


def _words(state: Kept | None) -> str:
    if state is None:
        return "no state"
    return f"the state {state.digest[:8]} of round {state.round} of run {state.run[:8]}"
