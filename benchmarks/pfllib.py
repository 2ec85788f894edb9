"""Measure a round of PFLlib beside ours: same data, network, batches and settings, one thread.

PFLlib runs as a program of its own from a checkout, by its command line;
``docs/reference/benchmarks.md`` says how to get one. Its data set is converted for ours. Both train
the network of McMahan et al. with SGD for one epoch in batches of 10, everyone in every round. They
take turns, each is started anew every time, and the first round is left out::

    python benchmarks/pfllib.py PFLLIB --python PFLLIB/env/bin/python
    python benchmarks/pfllib.py PFLLIB out.json --dataset FashionMNIST --methods FedAvg,FedPer

A round of PFLlib evaluates everyone on the test examples and once more on the training examples,
one of ours on the test examples only. So PFLlib is measured a second time, without any evaluation.

Seconds are by the clock, and of the CPU of all processes of a run.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from processes import cpu_seconds
from result_file import surroundings, write_result
from simulated_round import Stopwatch

from pfl_flower.data.readers.pfllib import convert
from pfl_flower.engines import simulate

OURS: dict[str, dict[str, Any]] = {
    "FedAvg": {"method": "fedavg"},
    "FedPer": {"method": "fedper"},
    "FedRep": {"method": "fedrep", "head-epochs": 1},
}
"""PFLlib's name of a method -> our run keys."""

SETTING = {
    "baselines": "",
    "model": "large-cnn",
    "norm": "none",
    "learning-rate": 0.005,
    "momentum": 0.0,
    "batch-size": 10,
    "drop-last": True,
    "local-epochs": 1,
    "validation-fraction": 0.0,
}
"""PFLlib's defaults, in our words."""

ROUND_ENDS = "time cost -----"
"""In the line that PFLlib prints at the end of a round."""


def measure_theirs(
    checkout: Path, python: Path, dataset: str, method: str, num_clients: int, rounds: int, gap: int
) -> Stopwatch:
    """Run PFLlib.

    Parameters
    ----------
    checkout : Path
        Its folder.
    python : Path
        Of an environment in which it runs.
    dataset, method : str
        By its names.
    num_clients, rounds : int
        How many; the first round is not counted.
    gap : int
        It evaluates every so many rounds.
    """
    values = {"data": dataset, "algo": method, "nc": num_clients, "gr": rounds, "eg": gap}
    values |= {"m": "CNN", "dev": "cpu", "lbs": 10, "lr": 0.005, "ls": 1, "pls": 1}
    words = [word for name, value in values.items() for word in (f"-{name}", str(value))]
    with subprocess.Popen(
        [str(python), "-u", "main.py", *words],
        cwd=checkout / "system",
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as program:
        watch, said = Stopwatch(partial(cpu_seconds, program.pid)), []
        for line in program.stdout or ():
            said.append(line)
            if ROUND_ENDS in line:
                watch.lap()
    if program.returncode or len(watch.ends) != rounds + 1:
        raise SystemExit(f"PFLlib did not run: {''.join(said[-20:])}")
    return watch


def measure_ours(data: Path, method: str, num_clients: int, rounds: int) -> Stopwatch:
    """Run ours on the converted data."""
    watch = Stopwatch()
    keys = {"dataset": f"folder:{data}", "num-server-rounds": rounds + 1}
    simulate(SETTING | OURS[method] | keys, num_clients, progress=lambda _: watch.lap())
    return watch


def compared(arms: Mapping[str, Callable[[], Stopwatch]], repeats: int) -> dict[str, Any]:
    """Return the median seconds of a round of each arm, and PFLlib's as multiples of ours."""
    measured: dict[str, dict[str, list[float]]] = {}
    for _ in range(repeats):
        for name, arm in arms.items():
            for kind, seconds in arm().rounds().items():
                measured.setdefault(name, {}).setdefault(kind, []).extend(seconds)
            print(f"{name}: {measured[name]}", file=sys.stderr)
    medians = {
        name: {kind: statistics.median(seconds) for kind, seconds in kinds.items()}
        for name, kinds in measured.items()
    }
    ours = medians["pfl-flower"]
    ratios = {
        name: {kind: seconds / ours[kind] for kind, seconds in kinds.items()}
        for name, kinds in medians.items()
        if kinds is not ours
    }
    return {
        "seconds a round, median": medians,
        "takes times as long as ours": ratios,
        "seconds a round": measured,
    }


def main() -> int:
    """Measure, and print or write the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path, help="of PFLlib")
    parser.add_argument("target", type=Path, nargs="?", help="file to write; printed by default")
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="PFLlib's")
    parser.add_argument("--dataset", default="FashionMNIST", help="in dataset/ of the checkout")
    parser.add_argument("--methods", default="FedAvg,FedRep", help="by PFLlib's names")
    parser.add_argument("--rounds", type=int, default=2, help="that count, after the first")
    parser.add_argument("--repeats", type=int, default=2)
    given = parser.parse_args()
    started, found = surroundings(), {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "clients"
        num_clients = convert(given.checkout / "dataset" / given.dataset, data)
        for method in given.methods.split(","):
            theirs = partial(
                measure_theirs,
                given.checkout.resolve(),
                given.python.absolute(),  # not resolved: the link says which environment it is
                given.dataset,
                method,
                num_clients,
                given.rounds,
            )
            arms = {
                "PFLlib": partial(theirs, 1),
                "PFLlib without evaluation": partial(theirs, given.rounds + 1),
                "pfl-flower": partial(measure_ours, data, method, num_clients, given.rounds),
            }
            found[method] = compared(arms, given.repeats)
    settings = {"clients": num_clients, "dataset": given.dataset, "rounds": given.rounds}
    result = {**started, **settings, "repeats": given.repeats, "compared": found}
    write_result(result, given.target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
