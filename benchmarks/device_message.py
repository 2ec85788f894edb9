"""Measure what one message to a device costs it: on a SuperNode each starts a process.

A SuperLink and one SuperNode run on this machine, as in ``docs/guides/deploy.md`` but without TLS.
The device has a table of 400 rows and trains FedPer on it. Its messages are one that asks what its
data look like, and in every round one to train and one to evaluate. In a second run Python reports
its imports, which says which share of a message's time they are. And processes that do nothing but
import, each a little more than the one before, say what that costs of the CPU::

    python benchmarks/device_message.py
    python benchmarks/device_message.py --rounds 6 out.json

Seconds of the CPU are those of the SuperNode and of all that it starts during a run, divided by the
messages that it answered. Those by the clock are the server's, half a round, so they include its
part and what is waited between two messages.
"""

import argparse
import csv
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from processes import cpu_seconds
from result_file import surroundings, write_result

from tests.fault_injection.loopback import Loopback, LoopbackError
from tests.fault_injection.text import plain

NODE = "node-0"
STEPS = {
    "Flower's process": "import flwr.supernode.cli.flwr_clientapp, flwr.clientapp",
    "torch": "import torch",
    "the ClientApp": "import pfl_flower.client_app",
    # The first optimizer of a process imports torch._dynamo.
    "an optimizer": "torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=0.1)",
}
"""What a process of a message imports, one after another."""

_IMPORTED = re.compile(r"^import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)$", re.MULTILINE)
_ANSWERED = re.compile(r"Sending: (\w+) message")


@dataclass(frozen=True)
class Run:
    """What a run cost.

    Attributes
    ----------
    messages : int
        How many the device answered.
    cpu : float
        Seconds a message of the SuperNode's CPU, with all that it started.
    clock : float
        Seconds a message by the server's clock, of those of rounds.
    imports : Counter of str
        Package -> seconds a message of importing it, if they were traced.
    """

    messages: int
    cpu: float
    clock: float
    imports: Counter[str]


def write_table(path: Path, rows: int = 400) -> None:
    """Write a table with eight features and two classes."""
    draw = np.random.default_rng(0)
    values = draw.normal(size=(rows, 8))
    with path.open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["client", *(f"feature{i}" for i in range(8)), "label"])
        for row in values:
            table.writerow(["mine", *(f"{value:.4f}" for value in row), int(row[:4].sum() > 0)])


@contextmanager
def federation(folder: Path, environment: Mapping[str, str]) -> Iterator[Loopback]:
    """Yield a SuperLink with one SuperNode, which alone has further environment variables."""
    table = folder / "table.csv"
    folder.mkdir()
    write_table(table)
    with Loopback(folder / "processes", 1, secure=False) as link:
        link.start_link()
        before = dict(os.environ)
        os.environ.update(environment)
        try:
            link.start_node(0, {"data-path": str(table)})
        finally:
            os.environ.clear()
            os.environ.update(before)
        yield link


def run(link: Loopback, rounds: int) -> Run:
    """Run FedPer for some rounds, and return what a message cost the device."""
    device = link.processes[NODE].pid
    before, begins = cpu_seconds(device), len(link.log(NODE))
    results = link.folder / "results"
    said = link.run(
        {
            "method": "fedper",
            "baselines": "",
            "dataset": "table:own",
            "min-nodes": 1,
            "num-server-rounds": rounds,
            "results-dir": str(results),
        }
    )
    spent, log = cpu_seconds(device) - before, link.log(NODE)[begins:]
    kinds = Counter(_ANSWERED.findall(plain(log)))
    if (kinds["train"], kinds["evaluate"]) != (rounds, rounds):
        raise LoopbackError(f"the device answered {dict(kinds)} in {rounds} rounds: {said}")
    (written,) = results.glob("*/summary.json")
    (summary,) = json.loads(written.read_text()).values()
    number = kinds.total()
    imports = Counter({name: value / number for name, value in seconds_of_imports(log).items()})
    return Run(number, spent / number, summary["seconds_per_round"] / 2, imports)


def seconds_of_imports(log: str) -> Counter[str]:
    """Return package -> seconds of importing it, of all processes that wrote to a log.

    Parameters
    ----------
    log : str
        With the lines that ``python -X importtime`` writes.
    """
    seconds: Counter[str] = Counter()
    for microseconds, module in _IMPORTED.findall(log):
        seconds[module.partition(".")[0]] += int(microseconds) / 1e6
    return seconds


def cpu_of_imports(repeats: int = 3) -> dict[str, float]:
    """Return what every step adds to the CPU seconds of a process, medians of several."""
    spent: dict[str, list[float]] = {name: [] for name in STEPS}
    for _ in range(repeats):
        before = 0.0
        for number, name in enumerate(STEPS, start=1):
            program = "\n".join(list(STEPS.values())[:number])
            start = _children()
            subprocess.run([sys.executable, "-c", program], check=True)
            total = _children() - start
            spent[name].append(total - before)
            before = total
    return {name: statistics.median(values) for name, values in spent.items()}


def _children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """Return the seconds of a message, and those of them that are imports."""
    with federation(folder / "as-it-is", {}) as link:
        usual = run(link, rounds)
    with federation(folder / "traced", {"PYTHONPROFILEIMPORTTIME": "1"}) as link:
        traced = run(link, rounds)
    return {
        "messages": usual.messages,
        "seconds a message": {"cpu": usual.cpu, "clock": usual.clock},
        "CPU seconds of imports": cpu_of_imports(),
        "seconds a message, imports traced": {
            "cpu": traced.cpu,
            "clock": traced.clock,
            "imports, by the clock": traced.imports.total(),
            "of which": dict(traced.imports.most_common(8)),
        },
    }


def main() -> int:
    """Measure, and print or write the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", type=Path, nargs="?", help="file to write; printed by default")
    parser.add_argument("--rounds", type=int, default=4, help="of each of the two runs")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = {**surroundings(), **measure(Path(folder), arguments.rounds)}
    write_result(result, arguments.target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
