"""Measure a round of FedAvg as a plain Flower app beside ours, on the same small clients.

Both have the data, the network and the settings of ``simulated_round.py``. Flower's app is
``plain_flower_app.py``, written as its documentation shows and run by its Ray simulation; ours runs
on the same Ray simulation and in this process. They take turns, each is started anew every time,
and the first round is left out: it includes the start of Ray's workers and their imports::

    python benchmarks/plain_flower.py
    python benchmarks/plain_flower.py --clients 100,200 --rounds 3 --repeats 2 out.json

Seconds are by the clock, and of the CPU of this process and of all that it started, Ray's own
processes included.
"""

import argparse
import logging
import os
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import plain_flower_app
from flwr.serverapp.strategy import Result
from flwr.simulation import run_simulation
from result_file import surroundings, write_result
from simulated_round import Measured, Stopwatch, measure

PLAIN = "plain Flower on Ray"


def measure_plain(num_clients: int, rounds: int) -> Measured:
    """Return the seconds of each round but the first of the plain Flower app."""
    watch = Stopwatch()
    kept: list[Result] = []

    def ended(server_round: int) -> None:
        if server_round:  # 0 is before the first round
            watch.lap()

    run_simulation(
        server_app=plain_flower_app.server_app(rounds + 1, ended, kept),
        client_app=plain_flower_app.app,
        num_supernodes=num_clients,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},  # as ours
    )
    accuracy = kept[0].evaluate_metrics_clientapp[rounds + 1]["accuracy"]
    return Measured(**watch.rounds(), accuracy=float(accuracy))


ARMS: dict[str, Callable[[int, int], Measured]] = {
    PLAIN: measure_plain,
    "pfl-flower on Ray": partial(measure, method="fedavg", engine="ray"),
    "pfl-flower in process": partial(measure, method="fedavg", engine="in-process"),
}


def compared(num_clients: int, rounds: int, repeats: int) -> dict[str, Any]:
    """Return the medians of every arm, and how many times as long plain Flower takes."""
    measured: dict[str, list[Measured]] = {name: [] for name in ARMS}
    for _ in range(repeats):
        for name, arm in ARMS.items():
            measured[name].append(arm(num_clients, rounds))
            print(f"{num_clients} clients, {name}: {measured[name][-1]}", file=sys.stderr)
    medians = {
        name: {
            "clock": statistics.median(second for run in runs for second in run.clock),
            "cpu": statistics.median(second for run in runs for second in run.cpu),
            "accuracy": statistics.mean(run.accuracy for run in runs),
        }
        for name, runs in measured.items()
    }
    ratios = {
        name: {kind: medians[PLAIN][kind] / medians[name][kind] for kind in ("clock", "cpu")}
        for name in ARMS
        if name != PLAIN
    }
    return {
        "clients": num_clients,
        "seconds a round, median": medians,
        "plain Flower takes times as long as": ratios,
    }


def main() -> int:
    """Measure, and print or write the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", type=Path, nargs="?", help="file to write; printed by default")
    parser.add_argument("--clients", default="100,200")
    parser.add_argument("--rounds", type=int, default=3, help="that count, after the first")
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.WARNING)
    # Ray's workers are to find the modules here.
    here = str(Path(__file__).parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    result = {
        **surroundings(),
        "rounds": arguments.rounds,
        "repeats": arguments.repeats,
        "compared": [
            compared(int(number), arguments.rounds, arguments.repeats)
            for number in arguments.clients.split(",")
        ],
    }
    write_result(result, arguments.target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
