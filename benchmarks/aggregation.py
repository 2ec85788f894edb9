"""``python benchmarks/aggregation.py``: our averaging beside Flower's, on the same replies.

Prints or writes, as JSON, medians of seconds over several turns, the peak of extra memory, and what
they were measured on.
"""

import argparse
import tracemalloc
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import numpy as np
from flwr.app import Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from result_file import surroundings, write_result

from pfl_flower.grid import identify_process
from strategies import PartialAveraging
from strategies.arrays import to_record
from strategies.protocol import ARRAYS, METRICS, NUM_EXAMPLES, PARTITION_ID


def replies(clients: int, values: int) -> list[Message]:
    """Return a reply of every client: four layers with so many float32 values together.

    As after training, no value of a client is that of another.
    """
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
        own = {name: layer + np.float32(0.01 * client) for name, layer in layers.items()}
        content = RecordDict({ARRAYS: to_record(own), METRICS: metrics})
        made.append(Message(content, reply_to=request))
    return made


def seconds(strategy: FedAvg, received: list[Message]) -> tuple[float, float]:
    """Return how long one aggregation takes: of the CPU, and by the clock."""
    clock, cpu = perf_counter(), process_time()
    strategy.aggregate_train(1, received)
    return process_time() - cpu, perf_counter() - clock


def compared(received: list[Message], turns: int) -> dict[str, tuple[float, float]]:
    """Return the median seconds of each strategy, as :func:`seconds`; they take turns.

    A pause of a busy machine, or a slower clock of its processor, then meets both of them, and the
    median leaves out single ones.
    """
    kinds = FedAvg, PartialAveraging
    taken = {kind.__name__: [seconds(kind(), received)] for kind in kinds}  # imports, caches
    for _ in range(turns):
        for kind in kinds:
            taken[kind.__name__].append(seconds(kind(), received))
    return {
        name: (median(cpu for cpu, _ in found[1:]), median(clock for _, clock in found[1:]))
        for name, found in taken.items()
    }


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
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("target", type=Path, nargs="?", help="file to write; printed by default")
    options = parser.parse_args()
    received = replies(options.clients, options.values)
    found = compared(received, options.turns)
    model = 4 * options.values
    result = {
        "clients": options.clients,
        "values": options.values,
        **{
            kind.__name__: {
                "cpu_seconds": found[kind.__name__][0],
                "seconds": found[kind.__name__][1],
                "models_of_memory": peak_memory(kind(), received) / model,
            }
            for kind in (FedAvg, PartialAveraging)
        },
        "times_as_fast": found["FedAvg"][0] / found["PartialAveraging"][0],
        **surroundings(),
    }
    write_result(result, options.target)


if __name__ == "__main__":
    main()
