"""Measure the seconds that a round of many small clients takes, evaluation included.

By default 1,000 clients train a perceptron 64-32-10 with FedPer, one epoch in batches of 20 on 60
of scikit-learn's digits each, one after another in this process, and are evaluated on 20 more. Then
nearly all of the time is what surrounds the arithmetic: messages, records, a client's construction.

Of each round two times are taken, from the end of the round before: by the clock, and of this
process's CPU, which other programs on the machine hardly change. (On Ray, clients are processes of
their own, and only the clock counts.) The first round is left out, because it includes discovery
and loading of data::

    python benchmarks/simulated_round.py
    python benchmarks/simulated_round.py --clients 200 --method fedavg --engine ray out.json

The tree that is measured is the one from which ``pfl_flower`` is imported, so with ``PYTHONPATH``
the same script measures an older commit. To compare two, let them take turns on one machine.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections import OrderedDict
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import pfl_flower
from pfl_flower.engines import ENGINES, simulate

TRAINED, TESTED = 60, 20
"""Examples of a client."""

MODULE = Path(__file__).stem
"""How ``dataset`` and ``model`` name the functions here."""


def clients(partition_id: int, _: int) -> Mapping[str, np.ndarray]:
    """Return a client's digits: drawn for it without repetition, others may have them too."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    drawn = np.random.default_rng(partition_id).permutation(len(labels))[: TRAINED + TESTED]
    inputs, targets = (pixels[drawn] / 16.0).astype(np.float32), labels[drawn].astype(np.int64)
    return {
        "x_train": inputs[:TRAINED],
        "y_train": targets[:TRAINED],
        "x_test": inputs[TRAINED:],
        "y_test": targets[TRAINED:],
    }


def network(shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Return the perceptron; what is personal is its head."""
    layers = OrderedDict(
        body=nn.Linear(shape[0], 32), activation=nn.ReLU(), head=nn.Linear(32, num_classes)
    )
    model = nn.Sequential(layers)
    model.parts = {"head": ("head",)}  # type: ignore[assignment]
    return model


def measure(num_clients: int, rounds: int, method: str, engine: str) -> dict[str, list[float]]:
    """Return the seconds of each round but the first, by the clock and of the CPU."""
    ends: list[tuple[float, float]] = []
    config = {
        "method": method,
        "baselines": "",
        "dataset": f"{MODULE}:clients",
        "model": f"{MODULE}:network",
        "validation-fraction": 0.0,
        "local-epochs": 1,
        "batch-size": 20,
        "num-server-rounds": rounds + 1,
    }
    simulate(
        config,
        num_clients,
        engine,  # type: ignore[arg-type]
        lambda _: ends.append((time.perf_counter(), time.process_time())),
    )
    times = np.diff(np.array(ends), axis=0).T
    return {"clock": times[0].tolist(), "cpu": times[1].tolist()}


def surroundings() -> dict[str, Any]:
    """Return what the seconds depend on: date, commit, machine and releases."""
    tree = Path(pfl_flower.__file__).resolve().parents[1]
    releases = {name: version(name) for name in ("flwr", "torch", "numpy")}
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git(tree, "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty"),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "system": platform.platform(),
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
            **releases,
        },
    }


def _git(tree: Path, *words: str) -> str:
    command = ["git", "-C", str(tree), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _processor() -> str:
    """Return the processor's name, which Python does not know on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


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
    seconds = measure(*settings)
    result = {
        **surroundings(),
        "setting": dict(zip(("clients", "rounds", "method", "engine"), settings, strict=True)),
        "seconds a round, median": {k: statistics.median(v) for k, v in seconds.items()},
        "seconds a round": seconds,
    }
    text = json.dumps(result, indent=2) + "\n"
    if arguments.target:
        arguments.target.write_text(text)
    else:
        print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
