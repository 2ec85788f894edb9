"""``python benchmarks/aggregation.py``: our averaging beside Flower's, on the same replies.

Prints seconds (the fastest of several calls, taken in turns) and the peak of extra memory, and
writes them as JSON with what they were measured on.
"""

import argparse
import json
import platform
import tracemalloc
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

import numpy as np
from flwr.app import Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from pfl_flower.grid import identify_process
from strategies import PartialAveraging
from strategies.arrays import to_record
from strategies.protocol import ARRAYS, METRICS, NUM_EXAMPLES, PARTITION_ID


def replies(clients: int, values: int) -> list[Message]:
    """Return a reply of every client: four layers with so many float32 values together."""
    identify_process()  # a Message cannot be made outside a run otherwise
    draw = np.random.default_rng(0)
    sizes = [
        values // 2,
        values // 4,
        values // 8,
        values - values // 2 - values // 4 - values // 8,
    ]
    layers = {f"layer{i}": draw.normal(size=n).astype(np.float32) for i, n in enumerate(sizes)}
    made = []
    for client in range(clients):
        request = Message(RecordDict(), 100 + client, "train")
        request.metadata.__dict__["_message_id"] = f"to-{client}"
        metrics = MetricRecord({NUM_EXAMPLES: 1 + client, PARTITION_ID: client})
        content = RecordDict({ARRAYS: to_record(layers), METRICS: metrics})
        made.append(Message(content, reply_to=request))
    return made


def seconds(strategy: FedAvg, received: list[Message]) -> float:
    """Return how long one aggregation takes."""
    start = perf_counter()
    strategy.aggregate_train(1, received)
    return perf_counter() - start


def peak_memory(strategy: FedAvg, received: list[Message]) -> int:
    """Return the most bytes that an aggregation has beyond its replies, its result included."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    strategy.aggregate_train(1, received)
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    return peak


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--values", type=int, default=11_000_000, help="values of the model")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("results/aggregation.json"))
    options = parser.parse_args()
    received = replies(options.clients, options.values)
    pairs = [
        (seconds(FedAvg(), received), seconds(PartialAveraging(), received))
        for _ in range(options.repeats)
    ]
    theirs, ours = (min(column) for column in zip(*pairs, strict=True))
    model = 4 * options.values
    found = {
        "clients": options.clients,
        "values": options.values,
        "FedAvg": {"seconds": theirs, "models_of_memory": peak_memory(FedAvg(), received) / model},
        "PartialAveraging": {
            "seconds": ours,
            "models_of_memory": peak_memory(PartialAveraging(), received) / model,
        },
        "times_as_fast": theirs / ours,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "packages": {name: version(name) for name in ("flwr", "numpy")},
    }
    print(json.dumps(found, indent=2))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
