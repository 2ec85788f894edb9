"""How large a graph trains here: 100,000 nodes and a million connections, among 50 clients."""

import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from pfl_flower.data.records import Examples
from pfl_flower.data.sources.social import SocialWorld, grow
from pfl_flower.data.subgraph import GraphPartition, partition_graph
from pfl_flower.results.method_run import MethodRun
from simulations.study import Arm, Claim, Measures, Outcome, Study

NUM_CLIENTS = 50
WORLD = replace(SocialWorld(), nodes=2000, inside=0.037, outside=0.0049)
"""Twenty connections a node, as many times more of one's own kind as in the standard world."""

GIGABYTES, SECONDS = 6.0, 300.0
_begun = time.perf_counter()


@lru_cache(maxsize=1)
def network() -> tuple[Examples, GraphPartition]:
    """Return all nodes and connections, and how clients share them."""
    whole = grow(WORLD, 0, NUM_CLIENTS)
    clients = np.arange(len(whole)).reshape(NUM_CLIENTS, WORLD.nodes)
    assert whole.edges is not None
    return whole, partition_graph(whole.edges, list(clients), len(whole))


def load(partition_id: int, num_partitions: int) -> dict[str, Any]:
    """Return the graph of a client, with its community, as a user's own function would."""
    whole, graphs = network()
    mine = slice(partition_id * WORLD.nodes, (partition_id + 1) * WORLD.nodes)
    return {
        "x": whole.inputs[mine],
        "edge_index": graphs.edges[partition_id],
        "y": whole.targets[mine],
        "community": WORLD.community(partition_id, num_partitions),
    }


def peak_gigabytes() -> float:
    """Return the most memory that this process had at any time, in 10^9 bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def measure(run: MethodRun) -> Measures:
    """Take the size of the graph, and what the process has taken so far, data and imports too."""
    whole, graphs = network()
    return {
        "nodes": len(whole),
        "kept": graphs.kept,
        "dropped": graphs.dropped,
        "seconds": time.perf_counter() - _begun,
        "gigabytes": peak_gigabytes(),
    }


def _claims(outcome: Outcome) -> list[Claim]:
    most = max(result.measures["gigabytes"] for result in outcome.results)
    slowest = max(result.measures["seconds"] for result in outcome.results)
    return [
        Claim(f"share of {GIGABYTES:g} GB of memory that is left", 1 - most / GIGABYTES, 0.0),
        Claim(f"share of {SECONDS:g} seconds that is left", 1 - slowest / SECONDS, 0.0),
    ]


def _tables(outcome: Outcome) -> dict[str, Sequence[Mapping[str, Any]]]:
    return {"What it took": [{"arm": r.arm.name, **r.measures} for r in outcome.results]}


STUDY = Study(
    name="social-large",
    question="100,000 nodes, a million connections, 50 clients, 5 rounds: memory and time",
    num_clients=NUM_CLIENTS,
    config={
        "dataset": f"{__name__}:load",
        "method": "community-adapters",
        "optimizer": "adam",
        "learning-rate": 0.01,
        "validation-fraction": 0.0,
        "num-server-rounds": 5,
    },
    arms=[Arm("community-adapters", {})],
    claims=_claims,
    measure=measure,
    tables=_tables,
    num_seeds=1,
)
