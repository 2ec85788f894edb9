"""Measure the seconds that a round of many small clients takes, evaluation included.

By default 1,000 clients train a perceptron 64-32-10 with FedPer, one epoch in batches of 20 on 60
of scikit-learn's digits each, one after another in this process, and are evaluated on 20 more. Then
nearly all of the time is what surrounds the arithmetic: messages, records, a client's construction.

Of each round two times are taken, from the end of the round before: by the clock, and of the CPU
of this process and of all that it started (on Ray, clients have processes of their own), which
other programs on the machine hardly change. The first round is left out, because it includes
discovery and loading of data::

    python benchmarks/simulated_round.py
    python benchmarks/simulated_round.py --clients 200 --method fedavg --engine ray out.json

The tree that is measured is the one from which ``pfl_flower`` is imported, so with ``PYTHONPATH``
the same script measures an older commit. To compare two, let them take turns on one machine.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import small_clients
from processes import cpu_here
from result_file import surroundings, write_result

from pfl_flower.engines import ENGINES, Engine, simulate


@dataclass(frozen=True)
class Measured:
    """What was measured of a run.

    Attributes
    ----------
    clock, cpu : list of float
        Seconds of each round but the first.
    accuracy : float
        Mean over clients after the last round, to see that the work was done.
    """

    clock: list[float]
    cpu: list[float]
    accuracy: float


class Stopwatch:
    """Notes when rounds end.

    Parameters
    ----------
    cpu : callable, default cpu_here
        Function that returns the CPU seconds so far.
    """

    def __init__(self, cpu: Callable[[], float] = cpu_here) -> None:
        self.cpu = cpu
        self.ends: list[tuple[float, float]] = []

    def lap(self) -> None:
        """Note that a round is at its end."""
        self.ends.append((time.perf_counter(), self.cpu()))

    def rounds(self) -> dict[str, list[float]]:
        """Return the seconds of each round but the first, by the clock and of the CPU."""
        clock, cpu = np.diff(np.array(self.ends), axis=0).T
        return {"clock": clock.tolist(), "cpu": cpu.tolist()}


def measure(
    num_clients: int, rounds: int, method: str = "fedper", engine: Engine = "in-process"
) -> Measured:
    """Return the seconds of each round but the first."""
    watch = Stopwatch()
    config = {
        "method": method,
        "baselines": "",
        "dataset": f"{small_clients.__name__}:clients",
        "model": f"{small_clients.__name__}:network",
        "validation-fraction": 0.0,
        "local-epochs": 1,
        "batch-size": small_clients.BATCH,
        "num-server-rounds": rounds + 1,
    }
    (run,) = simulate(config, num_clients, engine, lambda _: watch.lap())
    return Measured(**watch.rounds(), accuracy=statistics.mean(run.by_client().values()))


def main() -> int:
    """Measure, and print or write the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", type=Path, nargs="?", help="file to write; printed by default")
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3, help="that count, after the first")
    parser.add_argument("--method", default="fedper")
    parser.add_argument("--engine", choices=ENGINES, default="in-process")
    arguments = parser.parse_args()
    settings = arguments.clients, arguments.rounds, arguments.method, arguments.engine
    measured = measure(*settings)
    result = {
        **surroundings(),
        "setting": dict(zip(("clients", "rounds", "method", "engine"), settings, strict=True)),
        "seconds a round, median": {
            "clock": statistics.median(measured.clock),
            "cpu": statistics.median(measured.cpu),
        },
        "seconds a round": asdict(measured),
    }
    write_result(result, arguments.target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
