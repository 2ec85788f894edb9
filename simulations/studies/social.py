"""Social networks whose communities mean different things.

Everybody's nodes have a hidden kind, that features hint at and friends share, but each community
has its own names for half of the kinds. The way from features and friends to a kind is the same
everywhere, the names are the community's, and labels are few: what to share, and with whom?
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Context, RecordDict
from numpy.typing import NDArray

from clients import Scope, assign_scopes
from clients.scopes import names_of
from pfl_flower.client.build import build_client
from pfl_flower.data import federation
from pfl_flower.data.sources.social import SocialWorld
from pfl_flower.model_setup import initial_model
from pfl_flower.plots.client_plots import plot_curves
from pfl_flower.plots.graphs import plot_adapters, plot_bars
from pfl_flower.results.method_run import MethodRun
from simulations.study import Arm, Claim, Measures, Outcome, Result, Study
from strategies import NO_GROUP, Grouping
from strategies.arrays import view
from strategies.protocol import NUM_PARTITIONS, PARTITION_ID, SERVER_ROUND

NUM_CLIENTS = 16
FEW = 10
LABELS = (FEW, 20, 60)
"""Numbers of labelled nodes of a client to train on."""

CONFIG: Mapping[str, Any] = {
    "dataset": "social",
    "partition": "natural",
    "optimizer": "adam",
    "learning-rate": 0.01,
    "local-epochs": 3,
    "num-server-rounds": 40,
    "min-examples": FEW,
    "max-examples": FEW,
    "adapter-size": 2,
    "validation-fraction": 0.0,
}
"""Four communities of four clients, 200 nodes each. The adapters are as small as they have to be
for a message at most 15 % larger than ``fedavg-gnn``'s."""

OWN, FEDAVG, LOCAL, CLUSTERS = "community-adapters", "fedavg-gnn", "local-gnn", "known-groups"
LARGER = 0.15
ARMS: Mapping[str, Mapping[str, Any]] = {
    LOCAL: {"method": LOCAL},
    FEDAVG: {"method": FEDAVG},
    "fedper": {"method": "fedper"},
    CLUSTERS: {"method": CLUSTERS},
    OWN: {"method": OWN},
    f"{OWN}, head for all": {"method": OWN, "group": "adapter"},
    f"{OWN}, own heads": {"method": OWN, "group": "adapter", "personal": "head"},
    f"{OWN}, by gradients": {"method": OWN, "communities": "gradients"},
    f"{OWN}, by updates": {"method": OWN, "communities": "updates"},
}


def true_community(client: int) -> int:
    """Return the community that a client of the generated networks is in."""
    return SocialWorld().community(client, NUM_CLIENTS)


def measure(run: MethodRun) -> Measures:
    """Take what became of the graph and its communities.

    Returns
    -------
    Measures
        ``edges``: connections that are kept and dropped, in all; ``groups``, of methods with
        groups: that of each client; ``adapters`` of each client and ``means`` of each community,
        where all that is not shared by everybody is the community's.
    """
    found: dict[str, Any] = {"edges": run.edges}
    if run.grouping is None:
        return found
    clients = range(run.num_clients)
    found["groups"] = [run.grouping.groups.get(client, NO_GROUP) for client in clients]
    if run.method == OWN and not run.parameters["personal"]:
        found |= _adapters(run, run.grouping)
    return found


def _adapters(run: MethodRun, grouping: Grouping) -> Measures:
    """Return the adapters of communities, and what a round more at home makes of them."""
    model, _ = initial_model(run.config.architecture, run.config.seed)
    names = names_of(assign_scopes(model, "adapter"), Scope.PERSONAL)
    count = federation(run.config.data, run.num_clients).num_clients
    adapters, groups = [], grouping.groups
    for number in range(count):
        own = grouping.models.get(groups.get(number, NO_GROUP), ArrayRecord())
        node: dict[str, Any] = {PARTITION_ID: number, NUM_PARTITIONS: count}
        context = Context(0, number, node, RecordDict(), {})
        client = build_client(run.config, context, durable=False, private_copy=True)
        sent = [view({**run.arrays, **own}[name]) for name in client.shared_names]
        trained, _, _ = client.fit(sent, {SERVER_ROUND: run.config.num_server_rounds + 1})
        adapters.append(_flat(dict(zip(client.shared_names, trained, strict=True)), names))
    means = {
        group: _flat({name: view(array) for name, array in record.items()}, names)
        for group, record in grouping.models.items()
    }
    return {"adapters": np.stack(adapters), "means": means}


def _flat(arrays: Mapping[str, NDArray[Any]], names: Sequence[str]) -> NDArray[np.float64]:
    return np.concatenate([arrays[name].astype(np.float64).ravel() for name in names])


def rand(result: Result) -> float:
    """Return how well groups are the true communities: 1 if exactly, 0 by chance."""
    from sklearn.metrics import adjusted_rand_score

    groups = result.measures["groups"]
    return float(adjusted_rand_score([true_community(c) for c in range(len(groups))], groups))


def point_of(labels: int) -> int | None:
    """Return an arm's point for a number of labels; that of the table has none."""
    return None if labels == FEW else labels


def message(outcome: Outcome, name: str) -> float:
    """Return the bytes that a client and the server send each other in a round, without queries."""
    summary = outcome.of(name)[0].summary
    total = sum(summary["bytes_per_round"].values())
    if "groups" in summary:
        finding = sum(summary["groups"]["bytes_to_find"].values())
        total -= finding / (CONFIG["num-server-rounds"] * NUM_CLIENTS)
    return float(total)


def _claims(outcome: Outcome) -> list[Claim]:
    gain = outcome.means(OWN) - outcome.means(CLUSTERS)
    larger = message(outcome, OWN) / message(outcome, FEDAVG) - 1
    words = f"{OWN}: left of the {LARGER:.0%} that a message may be larger than {FEDAVG}'s"
    return [
        outcome.above(OWN, FEDAVG, 0.05),
        outcome.above(OWN, LOCAL, 0.0),
        Claim(f"{OWN}: above {CLUSTERS} on the mean over seeds", float(gain.mean()), 0.0),
        Claim(words, LARGER - larger, 0.0),
    ]


def gains_of(outcome: Outcome, name: str) -> list[Mapping[str, Any]]:
    """Return a row for every other arm, and number of labels: what an arm gains on it."""
    rows: list[Mapping[str, Any]] = []
    for arm in (result.arm for result in outcome.results if result.seed == outcome.seeds[0]):
        if arm.name == name:
            continue
        gains = 100 * (outcome.means(name, arm.point) - outcome.means(arm.name, arm.point))
        rows.append(
            {
                "other": arm.key,
                "points gained": float(gains.mean()),
                "least": float(gains.min()),
                "most": float(gains.max()),
                "better on": f"{(gains > 0).sum()} of {len(gains)} seeds",
            }
        )
    return rows


def connections(outcome: Outcome) -> list[Mapping[str, Any]]:
    """Return a row a seed: connections inside clients, and between them, which are dropped."""
    first = outcome.results[0].arm
    edges = {r.seed: r.measures["edges"] for r in outcome.of(first.name, first.point)}
    return [
        {"seed": seed, "kept": kept, "dropped": dropped, "%": 100 * dropped / (kept + dropped)}
        for seed, (kept, dropped) in edges.items()
    ]


def tables(outcome: Outcome) -> dict[str, Sequence[Mapping[str, Any]]]:
    """Return what community-adapters gain on every other arm, and what the cut dropped."""
    return {f"{OWN} against": gains_of(outcome, OWN), "Connections": connections(outcome)}


def columns(outcome: Outcome) -> dict[str, dict[str, float]]:
    """Return how well communities are found, by arm."""
    found: dict[str, list[float]] = {}
    for result in outcome.results:
        if "groups" in result.measures:
            found.setdefault(result.arm.key, []).append(rand(result))
    return {key: {"Rand index": float(np.mean(values))} for key, values in found.items()}


def _draw(outcome: Outcome, folder: Path) -> None:
    """Draw scores in each community and by number of labels, adapters, and bytes."""
    names = outcome.names
    draw_communities(outcome, folder, names)
    curves = {
        name: (LABELS, [float(outcome.means(name, point_of(n)).mean()) for n in LABELS])
        for name in names
        if outcome.of(name, LABELS[-1])
    }
    if curves:
        plot_curves(
            *(curves, folder / "labels.png", "labelled nodes of a client"),
            f"Social networks, {len(outcome.seeds)} seeds",
        )
    found = outcome.of(OWN)[0].measures
    if "adapters" in found:
        groups = [true_community(client) for client in range(len(found["adapters"]))]
        plot_adapters(found["adapters"], groups, found["means"], folder / "adapters.png")


def draw_communities(outcome: Outcome, folder: Path, names: Sequence[str]) -> None:
    """Draw the mean score in every true community, and the bytes that are sent.

    Parameters
    ----------
    outcome, folder : Outcome and Path
        What is drawn, and where to.
    names : sequence of str
        Of the arms.
    """
    communities = sorted({true_community(client) for client in range(NUM_CLIENTS)})
    bars = {
        name: [
            100
            * float(
                np.mean(
                    [
                        s
                        for r in outcome.of(name)
                        for c, s in r.by_client.items()
                        if true_community(c) == k
                    ]
                )
            )
            for k in communities
        ]
        for name in names
    }
    words = [f"community {community}" for community in communities]
    title = f"Mean over clients and {len(outcome.seeds)} seeds"
    plot_bars(bars, words, folder / "communities.png", "test score, %", title)
    about = "Of one client in a round; what finding communities takes is spread over the rounds"
    draw_bytes(outcome, folder, names, about)


def draw_bytes(outcome: Outcome, folder: Path, names: Sequence[str], title: str) -> None:
    """Draw the bytes that a client is sent and sends.

    Parameters
    ----------
    outcome, folder, names : Outcome, Path and sequence of str
        As in :func:`draw_communities`.
    title : str
        Over the picture.
    """
    traffic = {name: outcome.of(name)[0].summary["bytes_per_round"] for name in names}
    sent = {name: [t["down"] / 1e3, t["up"] / 1e3] for name, t in traffic.items()}
    plot_bars(sent, ["down", "up"], folder / "bytes.png", "kB", title)


def _at(labels: int) -> list[Arm]:
    limit = {"min-examples": labels, "max-examples": labels}
    return [Arm(name, {**config, **limit}, point_of(labels)) for name, config in ARMS.items()]


STUDY = Study(
    name="social",
    question="Communities name the same things differently: what to share, and with whom?",
    num_clients=NUM_CLIENTS,
    config=CONFIG,
    arms=_at(FEW),
    claims=_claims,
    draw=_draw,
    measure=measure,
    columns=columns,
    tables=tables,
)

LABELS_STUDY = replace(
    STUDY,
    name="social-labels",
    question="The same with more labels: what to share, and with whom?",
    arms=[arm for labels in LABELS for arm in _at(labels)],
    claims=lambda outcome: [],
)

LINKS_STUDY = replace(
    LABELS_STUDY,
    name="social-links",
    question="Who would you like to meet? Links to predict in the same networks",
    config={
        **{**CONFIG, "task": "link-prediction", "num-server-rounds": 15},
        **{"min-examples": 0, "max-examples": 0},
    },
    arms=[Arm(name, config) for name, config in ARMS.items()],
    score="auc",
)
