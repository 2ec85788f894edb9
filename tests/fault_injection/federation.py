"""A small federation of real processes to break: its disks, its journals, its runs."""

import csv
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from clients.state.model_file import SUFFIX, read_model
from clients.state.state_file import PersonalStateError, read_checked
from strategies.randomness import generator
from tests.fault_injection.hooks import BALLAST, FAULTS
from tests.fault_injection.journal import Entry, Kept, digest_of, read
from tests.fault_injection.loopback import Loopback
from tests.fault_injection.teardown import FaultError, Teardown

T = TypeVar("T")

NODES = 3
ROUNDS = 4
PATIENCE = 600.0
"""Seconds that are waited for anything before it counts as not happening."""

TIMEOUT = 90.0
"""Run config: seconds after which the server goes on without a reply."""

_DISK = 1 << 20
_EXAMPLES = 42
_LET_IN = "SuperNode ID"
_RESTART = 3.0  # seconds between two attempts to get in
_POLL = 0.05
_CLIENT_APP = 'clientapp = "pfl_flower.client_app:app"'
_BREAKING = 'clientapp = "tests.fault_injection.hooks:app"'


@dataclass
class Federation:
    """One SuperLink and three SuperNodes, each with a disk of its own.

    Parameters
    ----------
    link : the processes
    mounted : whether every disk is a file system of its own (of memory), that can be full
    """

    link: Loopback
    mounted: bool = True
    ports: dict[int, int] = field(default_factory=dict)
    """Node -> where it finds the SuperLink, of those that do not find it directly."""

    @property
    def orders(self) -> Path:
        """Folder of journals and orders."""
        return self.link.folder / "faults"

    @property
    def data(self) -> Path:
        """Folder with a file of every device."""
        return self.link.folder / "data"

    def disk(self, node: int) -> Path:
        """Return a node's personal directory."""
        return self.link.folder / "disks" / f"node-{node}"

    def launch(self, node: int) -> int:
        """Start a SuperNode and do not wait for it; return where in its log it begins."""
        path = self.link.folder / f"node-{node}.log"
        begins = len(self.link.log(path.stem)) if path.exists() else 0
        settings = {"personal-dir": str(self.disk(node)), FAULTS: str(self.orders)}
        self.link.start_node(node, settings, link_port=self.ports.get(node))
        return begins

    def start(self, node: int, begins: int | None = None) -> None:
        """Start a SuperNode, unless it ``begins`` somewhere in its log, and again until it is in.

        The SuperLink does not let a node in that it thinks is there already: for up to a minute
        (two heartbeats) after it was killed. The node then ends, and is to be started again, as a
        service manager does.
        """
        name, end = f"node-{node}", time.monotonic() + PATIENCE
        begins = self.launch(node) if begins is None else begins
        while _LET_IN not in self.link.log(name)[begins:]:
            if time.monotonic() > end:
                raise FaultError(f"node {node} did not get in within {PATIENCE:g} s")
            if self.has_ended(node):
                self.link.stop(name)
                time.sleep(_RESTART)
                begins = self.launch(node)
            time.sleep(_POLL)

    def restart(self, node: int) -> None:
        """Stop a SuperNode, if it is there, and start it again."""
        if f"node-{node}" in self.link.processes:
            self.link.stop(f"node-{node}")
        self.start(node)

    def mend(self) -> None:
        """Start whatever is down, and empty the disks, so that the next run finds all well."""
        rerouted = set(self.ports)
        self.ports.clear()
        if "link" not in self.link.processes:
            self.link.start_link()
        for node in range(NODES):
            (self.disk(node) / BALLAST).unlink(missing_ok=True)
            (self.orders / f"node-{node}.json").unlink(missing_ok=True)
            process = self.link.processes.get(f"node-{node}")
            if process is None or process.poll() is not None or node in rerouted:
                self.restart(node)
            else:
                self.link.signal(f"node-{node}", signal.SIGCONT)  # in case it still stands still

    def order(self, node: int, moment: str, act: str, server_round: int) -> None:
        """Order a device to break at a moment of a round's training."""
        content = {"message": "train", "round": server_round, "moment": moment, "act": act}
        (self.orders / f"node-{node}.json").write_text(json.dumps(content))

    def journal(self, node: int) -> list[Entry]:
        """Return what a device has written down so far."""
        return read(self.orders / f"node-{node}.jsonl")

    def has_ended(self, node: int) -> bool:
        """Whether a SuperNode was killed: its process is there no more."""
        process = self.link.processes.get(f"node-{node}")
        if process is None:
            raise FaultError(f"node {node} was stopped")
        return process.poll() is not None

    # ------------------------------------------------------------------ what is on the disks

    def state_of(self, node: int) -> Kept | None:
        """Return the state in a node's file; None where there is no file.

        Raises
        ------
        PersonalStateError
            If the file is torn.
        """
        path = self.disk(node) / f"client-{node}.safetensors"
        if not path.exists():
            return None
        about, arrays = read_checked(path, "personal file", "")
        return Kept(about["run"], int(about["round"]), digest_of(arrays))

    def torn(self, node: int) -> list[str]:
        """Return, in words, which of a node's files cannot be read; best none."""
        found = []
        for path in sorted(self.disk(node).glob(f"client-{node}.*")):
            try:
                if path.name.endswith(SUFFIX):
                    read_model(path)
                else:
                    read_checked(path, "personal file", "")
            except PersonalStateError as error:
                found.append(f"{path.name}: {error}")
        return found


def federation(folder: Path, up: Teardown) -> Federation:
    """Return a federation that is up.

    Parameters
    ----------
    folder : of everything
    up : takes it down at its end, also what is up of it when its end comes before this returns

    Raises
    ------
    FaultError, LoopbackError
        If it does not come up, or its end has come.
    """
    link = up.enter_context(Loopback(folder, NODES))
    mounted = up.enter_context(_disks(folder))
    up.callback(link.close)  # before the disks go
    _let_break(Path(link.app or ""))
    here = Federation(link, mounted)
    here.orders.mkdir(exist_ok=True)
    write_data(here.data)
    link.start_link()
    for node in range(NODES):
        link.register(node)
    begun = {node: here.launch(node) for node in range(NODES)}
    for node, begins in begun.items():
        here.start(node, begins)
    return here


def write_data(folder: Path) -> None:
    """Write a small file of every device: three classes, which half of the features tell apart.

    A data set of files needs fewer imports than one that is drawn and dealt out, and a device pays
    for them with every message: a run takes half as long.
    """
    folder.mkdir(exist_ok=True)
    for node in range(NODES):
        random = generator(0, "fault data", node)
        labels = np.arange(_EXAMPLES) % 3
        values = random.normal(size=(_EXAMPLES, 8)) + labels[:, None] * (np.arange(8) % 2)
        parts = {"train": slice(0, -12), "test": slice(-12, None)}
        arrays: dict[str, Any] = {
            f"x_{part}": values[own].astype(np.float32) for part, own in parts.items()
        }
        arrays |= {f"y_{part}": labels[own] for part, own in parts.items()}
        np.savez(folder / f"{node}.npz", **arrays)


def _let_break(app: Path) -> None:
    """Make a copy of the app use the ClientApp that breaks, and bring that with it."""
    shutil.copytree(Path(__file__).parent, app / "tests" / "fault_injection", dirs_exist_ok=True)
    (app / "tests" / "__init__.py").touch()
    path = app / "pyproject.toml"
    text = path.read_text()
    if _CLIENT_APP not in text and _BREAKING not in text:
        raise FaultError(f"{path} does not name the ClientApp as {_CLIENT_APP}")
    path.write_text(text.replace(_CLIENT_APP, _BREAKING))


@contextmanager
def _disks(folder: Path) -> Iterator[bool]:
    """Yield whether every node has a small file system of its own; that takes an administrator."""
    disks = [folder / "disks" / f"node-{node}" for node in range(NODES)]
    mounted: list[Path] = []
    try:
        for disk in disks:
            disk.mkdir(parents=True, mode=0o700, exist_ok=True)
            options = f"size={_DISK},mode=0700"
            if _succeeds("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)):
                mounted.append(disk)
        yield len(mounted) == len(disks)
    finally:
        for disk in mounted:
            _succeeds("umount", "--lazy", str(disk))


def _succeeds(*command: str) -> bool:
    try:
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    except OSError:
        return False


def until(what: str, holds: Callable[[], Any], seconds: float = PATIENCE) -> None:
    """Wait until something holds.

    Raises
    ------
    FaultError
        If it does not within ``seconds``; it says ``what`` was waited for.
    """
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise FaultError(f"waited {seconds:g} s in vain until {what}")
        time.sleep(_POLL)


def trained(rows: Sequence[Mapping[str, str]], client: int) -> list[int]:
    """Return the rounds in which a client's training counted, from the rows of clients.csv."""
    return [
        int(row["round"])
        for row in rows
        if int(row["client"]) == client and row.get("train_num_examples")
    ]


def rows_of(folder: Path) -> list[dict[str, str]]:
    """Return the rows of a results folder's clients.csv; none where there is no such file."""
    path = folder / "clients.csv"
    if not path.exists():
        return []
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))
