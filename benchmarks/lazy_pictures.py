"""Measure what it costs to read pictures when a batch needs them, against arrays in memory.

The first clients of ``$PFL_DATA_DIR/cifar10-folders`` train the app's ResNet-18 with FedAvg, one
epoch a round, on the same pictures in three ways:

- ``memory``: as arrays of a function, float32 and all at once;
- ``mapped``: as ``images:``, from the memory-mapped file of decoded pictures;
- ``decoded``: as ``images:``, each picture decoded again for every batch (no room for that file).

They take turns. Of each round times are taken by the clock and of the CPU; the first round is left
out, in which data are loaded and pictures decoded. All three must end with the same loss::

    python benchmarks/lazy_pictures.py
    python benchmarks/lazy_pictures.py --clients 4 --examples 200 --model cnn out.json
"""

import argparse
import math
import os
import statistics
import sys
from functools import cache
from pathlib import Path

import numpy as np
from result_file import surroundings, write_result
from simulated_round import Stopwatch

from pfl_flower.data.readers.pictures import store
from pfl_flower.data.readers.pictures.decoding import decode
from pfl_flower.data.readers.pictures.layouts import Folders
from pfl_flower.data.settings import find
from pfl_flower.engines import simulate

FOLDER = "cifar10-folders"
DATASETS = {
    "memory": f"{Path(__file__).stem}:arrays",
    "mapped": f"images:{FOLDER}",
    "decoded": f"images:{FOLDER}",
}


@cache
def arrays(partition_id: int, _: int) -> dict[str, np.ndarray]:
    """Return a client's pictures as arrays, split as its folders are."""
    layout = Folders(find(FOLDER, ""), "")
    listed = layout.listed(layout.clients()[partition_id])
    made = {}
    for split, pictures in listed.splits.items():
        made[f"x_{split}"] = np.stack([decode(file, 3, (32, 32)) for file, _ in pictures])
        made[f"y_{split}"] = np.array([label for _, label in pictures])
    return made


def measure(way: str, options: argparse.Namespace) -> tuple[dict[str, list[float]], float]:
    """Return the seconds of each round but the first, and the mean test loss after the last."""
    store.ROOM = math.inf if way == "decoded" else 2
    os.environ["XDG_CACHE_HOME"] = str(Path(options.cache, way).absolute())
    watch = Stopwatch()
    config = {
        "method": "fedavg",
        "baselines": "",
        "dataset": DATASETS[way],
        "model": options.model,
        "augmentation": options.augmentation,
        "validation-fraction": 0.0,
        "min-examples": options.examples,
        "max-examples": options.examples,
        "local-epochs": 1,
        "learning-rate": 0.01,
        "num-server-rounds": options.rounds + 1,
    }
    (run,) = simulate(config, options.clients, progress=lambda _: watch.lap())
    return watch.rounds(), statistics.mean(run.by_client("loss").values())


def main() -> int:
    """Measure, and print or write the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", type=Path, nargs="?", help="file to write; printed by default")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--examples", type=int, default=200, help="training pictures of a client")
    parser.add_argument("--rounds", type=int, default=2, help="that count, after the first")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--augmentation", default="")
    parser.add_argument("--cache", default="lazy-pictures-cache", help="of decoded pictures")
    options = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = {w: {"clock": [], "cpu": []} for w in DATASETS}
    losses = set()
    for _ in range(options.turns):
        for way in DATASETS:
            seconds, loss = measure(way, options)
            losses.add(loss)
            for kind, each in seconds.items():
                found[way][kind] += each
    medians = {
        way: {kind: statistics.median(each) for kind, each in own.items()}
        for way, own in found.items()
    }
    result = {
        **surroundings(),
        "setting": {**vars(options), "target": str(options.target)},
        "loss": sorted(losses),
        "seconds a round, median": medians,
        "of memory": {
            way: {kind: own[kind] / medians["memory"][kind] for kind in own}
            for way, own in medians.items()
        },
        "seconds a round": found,
    }
    write_result(result, options.target)
    return 0 if len(losses) == 1 else 1


if __name__ == "__main__":
    sys.exit(main())
