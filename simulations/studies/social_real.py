"""Citations and Twitch: graphs whose communities nobody knows, shared out among clients.

Cora and CiteSeer are cut into ten clients by Louvain's method, and their nodes split 20/40/40 into
train, validation and test, as FED-PUB does (Baek et al. 2023, arXiv:2206.10206, section 6.1, which
cuts by METIS). The clients of Twitch are the networks of seven languages.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pfl_flower.results.method_run import MethodRun
from simulations.studies.social import FEDAVG, LOCAL, OWN, connections, draw_bytes, gains_of
from simulations.study import Arm, Claim, Measures, Outcome, Study

FOUND = (f"{OWN}, by gradients", f"{OWN}, by updates")
ARMS: Mapping[str, Mapping[str, Any]] = {
    LOCAL: {"method": LOCAL},
    FEDAVG: {"method": FEDAVG},
    "fedper": {"method": "fedper"},
    "gradient-clusters": {"method": "gradient-clusters"},
    FOUND[0]: {"method": OWN, "communities": "gradients"},
    FOUND[1]: {"method": OWN, "communities": "updates"},
    f"{FOUND[1]}, head for all": {"method": OWN, "communities": "updates", "group": "adapter"},
    f"{FOUND[1]}, own heads": {
        **{"method": OWN, "communities": "updates"},
        **{"group": "adapter", "personal": "head"},
    },
}

CITATIONS: Mapping[str, Any] = {
    "partition": "louvain",
    "validation-fraction": 0.4,
    "test-fraction": 0.4,
    "optimizer": "adam",
    "learning-rate": 0.01,
    "local-epochs": 3,
    "num-server-rounds": 30,
}


def measure(run: MethodRun) -> Measures:
    """Take what the cut dropped, and in how many groups clients are in the end."""
    groups = {} if run.grouping is None else run.grouping.groups
    return {"edges": run.edges, "groups": len({group for group in groups.values() if group >= 0})}


def deviation(outcome: Outcome, name: str) -> float:
    """Return the deviation over seeds of an arm's mean over clients; 0 for one seed."""
    means = outcome.means(name)
    return float(means.std(ddof=1)) if len(means) > 1 else 0.0


def _claims(outcome: Outcome) -> list[Claim]:
    gain = float((outcome.means(FOUND[1]) - outcome.means(FEDAVG)).mean())
    spread = min(deviation(outcome, FOUND[1]), deviation(outcome, FEDAVG))
    words = f"{FOUND[1]}: gain on {FEDAVG}, plus the smaller deviation over seeds of the two"
    return [Claim(words, gain + spread, 0.0)]


def _columns(outcome: Outcome) -> dict[str, dict[str, float]]:
    return {name: {"std of seeds": deviation(outcome, name)} for name in outcome.names}


def _tables(outcome: Outcome) -> dict[str, Sequence[Mapping[str, Any]]]:
    counts = {name: [r.measures["groups"] for r in outcome.of(name)] for name in outcome.names}
    groups = [
        {"method": name, "groups, seed by seed": " ".join(map(str, found))}
        for name, found in counts.items()
        if any(found)
    ]
    gains = gains_of(outcome, FOUND[1])
    return {
        f"{FOUND[1]}, against": gains,
        "Groups that were found": groups,
        "Connections": connections(outcome),
    }


def _draw(outcome: Outcome, folder: Path) -> None:
    """Draw the bytes that a client sends and is sent."""
    draw_bytes(outcome, folder, outcome.names, "Of one client in a round")


CORA_STUDY = Study(
    name="social-cora",
    question="Cora, cut into 10 clients by Louvain: which layer should be whose?",
    num_clients=10,
    config={"dataset": "cora", **CITATIONS},
    arms=[Arm(name, config) for name, config in ARMS.items()],
    claims=_claims,
    draw=_draw,
    measure=measure,
    columns=_columns,
    tables=_tables,
)

CITESEER_STUDY = replace(
    CORA_STUDY,
    name="social-citeseer",
    question="CiteSeer, cut into 10 clients by Louvain: which layer should be whose?",
    config={"dataset": "citeseer", **CITATIONS},
)

TWITCH_STUDY = replace(
    CORA_STUDY,
    name="social-twitch",
    question="Twitch in seven languages: which layer should be whose?",
    num_clients=7,
    config={
        **CITATIONS,
        **{"dataset": "twitch", "partition": "natural", "validation-fraction": 0.0},
        **{"local-epochs": 1, "num-server-rounds": 10},
    },
)
