"""Clients come in a few types, which nobody knows: to find them, and what that is worth."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pfl_flower.data import federation
from pfl_flower.plots.client_plots import plot_curves
from pfl_flower.plots.clustered import plot_dendrogram, plot_map, plot_similarity
from pfl_flower.results.method_run import MethodRun
from simulations.study import Arm, Claim, Measures, Outcome, Result, Study
from strategies import NO_GROUP

CLUSTERS = "6,8,16"
NUM_CLIENTS = 30
CONFIG: Mapping[str, Any] = {
    "dataset": "digits",
    "partition": "iid",
    "heterogeneity": "taste",
    "cluster-sizes": CLUSTERS,
    "min-examples": 10,
    "max-examples": 40,
    "num-server-rounds": 8,
}
"""Each cluster names the digits in its own way; clients have 10 to 40 examples to train on."""

LATE = 5
RESTARTS = (0, 1, 2)
SIZES = (64, 256, 1024, 2048, 4096, 8192, 16384)


def measure(run: MethodRun) -> Measures:
    """Take how well the groups are the true clusters, and the training loss."""
    from sklearn.metrics import adjusted_rand_score

    last = [r for r in run.reports if (r.round, r.phase) == (run.last_round, "train")]
    loss = np.mean([r.metrics["train-loss"] for r in last if not r.dropped])
    if run.grouping is None:
        return {"loss": float(loss)}
    truth = federation(run.config.data, run.num_clients).true_clusters
    clients = range(run.num_clients)
    groups = {c: run.grouping.groups.get(c, NO_GROUP) for c in clients}
    first = {p.client: p.round for p in reversed(run.grouping.assignments)}
    late = [client for client, begun in first.items() if begun > 1]
    return {
        "loss": float(loss),
        "rand": float(adjusted_rand_score(truth, list(groups.values()))),
        "groups": list(groups.values()),
        "similarity": run.grouping.similarity,
        "examples": list(run.grouping.examples),
        "clusters": len(set(groups.values())),
        "late": [at_home(client, groups, truth, late) for client in late],
    }


def at_home(
    client: int, groups: Mapping[int, int], truth: Sequence[int], late: Sequence[int]
) -> bool:
    """Return whether most of those in a client's group, who came before it, are of its cluster."""
    others = [truth[c] for c, g in groups.items() if g == groups[client] and c not in late]
    return bool(others) and Counter(others).most_common(1)[0][0] == truth[client]


def best_restarts(outcome: Outcome) -> list[Result]:
    """Return, for every seed, the restart of ifca with the lowest training loss."""
    by_restart = [outcome.of("ifca", restart) for restart in RESTARTS]
    return [min(found, key=lambda r: r.measures["loss"]) for found in zip(*by_restart, strict=True)]


def _share(results: Sequence[Result], least: float = 1.0) -> float:
    """Return the share of seeds on which the clusters are found: Rand index at least ``least``."""
    return float(np.mean([r.measures["rand"] >= least for r in results]))


def _claims(outcome: Outcome) -> list[Claim]:
    found, alone = outcome.of("gradient-clusters"), outcome.of("gradient-clusters, no clusters")
    late = outcome.of("gradient-clusters, five come late")
    gain = {name: float(_gains(outcome, name)) for name in ("known-groups", "fedavg", "local")}
    at_home = float(np.mean([r.measures["late"] == [True] * LATE for r in late]))
    claims = [
        Claim("gradient-clusters: seeds on which it finds the clusters", _share(found), 0.8),
        Claim("no clusters: seeds on which it finds just one cluster", _share(alone), 0.9),
        Claim("late: seeds on which every late client ends in its own cluster", at_home, 0.9),
        Claim("gradient-clusters, above known groups", gain["known-groups"], -0.01),
        Claim("gradient-clusters, above fedavg", gain["fedavg"], 0.30),
        Claim("gradient-clusters, above local", gain["local"], 0.0),
    ]
    words = "seeds on which the adjusted Rand index is at least 0.9"
    rivals = {"cfl": outcome.of("cfl"), "ifca, the best of its starts": best_restarts(outcome)}
    return claims + [Claim(f"{n}: {words}", _share(r, 0.9), 0.7) for n, r in rivals.items()]


def _gains(outcome: Outcome, other: str) -> float:
    """Return the mean gain of gradient-clusters over another method."""
    return float((outcome.means("gradient-clusters") - outcome.means(other)).mean())


def _columns(outcome: Outcome) -> dict[str, dict[str, float]]:
    columns: dict[str, dict[str, float]] = {}
    for key in dict.fromkeys((r.arm.key, r.arm.name, r.arm.point) for r in outcome.results):
        results = outcome.of(*key[1:])
        if "rand" in results[0].measures:
            rand = float(np.mean([r.measures["rand"] for r in results]))
            columns[key[0]] = {"Rand index": rand, "clusters found": _share(results)}
    return columns


def _draw(outcome: Outcome, folder: Path) -> None:
    """Draw who is like whom on the first seed."""
    found = outcome.of("gradient-clusters")[0].measures
    clients = range(NUM_CLIENTS)
    if found["similarity"] is None or len(found["similarity"]) < NUM_CLIENTS:
        return  # a client did not report
    known = (found["similarity"], clients, found["groups"])
    plot_similarity(*known, folder / "similarity.png")
    plot_dendrogram(*known, folder / "dendrogram.png")
    plot_map(*known, found["examples"], folder / "clients.png")


def _arms() -> list[Arm]:
    methods = ("fedavg", "local", "fedper", "known-groups", "gradient-clusters")
    arms = [Arm(name, {"method": name}) for name in methods]
    # it has to train for some rounds before it can split for the second time
    arms.append(Arm("cfl", {"method": "cfl", "num-server-rounds": 12}))
    ifca = {"method": "ifca", "num-server-rounds": 10}  # it looks for its clusters as it trains
    arms += [Arm("ifca", {**ifca, "restart": restart}, restart) for restart in RESTARTS]
    # of the variants only the groups are of interest, which a round or two show
    found = {"method": "gradient-clusters", "num-server-rounds": 2}
    variants: dict[str, dict[str, Any]] = {
        "five come late": {"late": LATE / NUM_CLIENTS},
        "no clusters": {"cluster-sizes": f"{NUM_CLIENTS}", "num-server-rounds": 1},
        "two outliers": {"cluster-sizes": "6,8,14,1,1"},
        "lighting": {"heterogeneity": "lighting", "num-server-rounds": 3},
    }
    for words, config in variants.items():
        arms.append(Arm(f"gradient-clusters, {words}", {**found, **config}))
    lighting = {"method": "known-groups", **variants["lighting"]}
    arms.append(Arm("known-groups, lighting", lighting))
    return arms


STUDY = Study(
    name="clusters",
    question="Clients come in three types that nobody knows: are they found, and is it worth it?",
    num_clients=NUM_CLIENTS,
    config=CONFIG,
    arms=_arms(),
    claims=_claims,
    draw=_draw,
    measure=measure,
    columns=_columns,
    num_seeds=10,
)


def _same(outcome: Outcome, size: int) -> float:
    """Return the share of seeds on which projected gradients find what whole ones do."""
    whole = outcome.of("whole")
    pairs = zip(outcome.of("projected", size), whole, strict=True)
    return float(np.mean([a.measures["groups"] == b.measures["groups"] for a, b in pairs]))


def _draw_sizes(outcome: Outcome, folder: Path) -> None:
    same = [_same(outcome, size) for size in SIZES]
    right = [_share(outcome.of("projected", size)) for size in SIZES]
    places = [float(np.log2(size)) for size in SIZES]
    curves = {"what the whole gradient finds": (places, same), "the clusters": (places, right)}
    labels = "log2 of the number of values sent"
    plot_curves(curves, folder / "sizes.png", labels, "What projected gradients find", "% of seeds")


SIZES_STUDY = Study(
    name="clusters-sizes",
    question="How much of a gradient has to be sent for the clusters to be found?",
    num_clients=NUM_CLIENTS,
    config={**CONFIG, "method": "gradient-clusters", "num-server-rounds": 1},
    arms=[
        Arm("whole", {"projection-size": 0}),
        *(Arm("projected", {"projection-size": size}, size) for size in SIZES),
    ],
    claims=lambda outcome: [
        Claim("8192 values: seeds with what the whole gradient finds", _same(outcome, 8192), 1.0)
    ],
    draw=_draw_sizes,
    measure=measure,
    columns=_columns,
    num_seeds=10,
)
