"""Six clients of two kinds under Flower's privacy wrappers, and what reaches them and the server.

Two name the two classes the other way round than the four others. Each trains far more than it may
be clipped to, so that the length of every clipped update is the clipping norm.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from flwr.clientapp.mod import adaptiveclipping_mod, fixedclipping_mod
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
)
from torch import nn

from clients import (
    ClusteredClient,
    HierarchicalBayesClient,
    MRMTLClient,
    PersonalState,
    assign_scopes,
    client_app,
    in_memory_loader,
)
from strategies import (
    CFL,
    IFCA,
    ClientStrategy,
    ClusteringRules,
    ErrorsInVariables,
    GradientClusters,
    GroupAveraging,
    HierarchicalBayes,
    HierarchicalLinear,
    PartialAveraging,
    PFedHN,
    QualityWeighted,
    UpdateClusters,
)
from strategies.arrays import to_record, view
from tests.grids import RecordingGrid

CLIENTS, NORM = 6, 0.1
GROUPS = {client: int(client >= 2) for client in range(CLIENTS)}
"""Of two and of four clients."""

FIXED: dict[str, Any] = {"clipping_norm": NORM, "num_sampled_clients": CLIENTS}
ADAPTIVE: dict[str, Any] = {
    "initial_clipping_norm": NORM,
    "num_sampled_clients": CLIENTS,
    "clipped_count_stddev": 1e3,  # so that all noise is on the arrays
    "clip_norm_lr": 1e-9,  # so that the norm stays what it is
}
WRAPPERS: dict[str, Callable[..., Any]] = {
    "client, fixed": partial(DifferentialPrivacyClientSideFixedClipping, **FIXED),
    "client, adaptive": partial(DifferentialPrivacyClientSideAdaptiveClipping, **ADAPTIVE),
    "server, fixed": partial(DifferentialPrivacyServerSideFixedClipping, **FIXED),
    "server, adaptive": partial(DifferentialPrivacyServerSideAdaptiveClipping, **ADAPTIVE),
}
MODS = {"client, fixed": [fixedclipping_mod], "client, adaptive": [adaptiveclipping_mod]}


class Net(nn.Module):
    """A hidden layer whose outputs have a common scale, a parameter without dimensions."""

    parts = {"head": ("out",)}

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.hidden = nn.Linear(4, 32)
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.out = nn.Linear(32, 2)

    def forward(self, inputs):
        return self.out(torch.tanh(self.hidden(inputs)) * self.scale)


class CountingNet(Net):
    """The same with integers and booleans: batches that are counted, and others with dimensions."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("seen", torch.zeros(3, dtype=torch.long))
        self.register_buffer("mask", torch.tensor([True, False]))

    def forward(self, inputs):
        if self.training:
            self.seen += len(inputs)
        return super().forward(self.norm(inputs))


COUNTERS = ["mask", "norm.num_batches_tracked", "seen"]

NAMES = ["scale", "hidden.weight", "hidden.bias", "out.weight", "out.bias"]
HEAD = ["out.weight", "out.bias"]
WHOLE: dict[str, Any] = {"parameter_names": NAMES, "weighting": "uniform"}


@dataclass(frozen=True)
class Case:
    """A strategy and the clients that it is for."""

    strategy: Callable[..., ClientStrategy]
    client: Callable[..., Any] = ClusteredClient
    personal: str = "none"
    network: Callable[[], nn.Module] = Net


UNIFORM: dict[str, Any] = {"weighting": "uniform"}
CASES = {
    "PartialAveraging": Case(partial(PartialAveraging, **UNIFORM)),
    "PartialAveraging, personal head": Case(partial(PartialAveraging, **UNIFORM), personal="head"),
    "PartialAveraging, MR-MTL": Case(
        partial(PartialAveraging, **UNIFORM), partial(MRMTLClient, lambda_=0.1)
    ),
    "QualityWeighted": Case(QualityWeighted),
    "HierarchicalBayes": Case(
        partial(HierarchicalBayes, prior_names=HEAD, **UNIFORM), HierarchicalBayesClient
    ),
    "GroupAveraging": Case(partial(GroupAveraging, groups=GROUPS, **UNIFORM)),
    "GradientClusters": Case(partial(GradientClusters, rules=ClusteringRules(2), **WHOLE)),
    "IFCA": Case(partial(IFCA, clusters=2, **WHOLE)),
    "CFL": Case(partial(CFL, **WHOLE)),
    "UpdateClusters": Case(partial(UpdateClusters, clusters=2, warm_up=1, **WHOLE)),
    "PFedHN": Case(partial(PFedHN, use_metadata=False, **WHOLE)),
}
COUNTING = Case(partial(PartialAveraging, **UNIFORM), network=CountingNet)
COUNTING_GROUPS = Case(partial(GroupAveraging, groups=GROUPS, **UNIFORM), network=CountingNet)
REFUSED: dict[str, Callable[..., ClientStrategy]] = {
    "HierarchicalLinear": HierarchicalLinear,
    "ErrorsInVariables": ErrorsInVariables,
}


def table():
    """The table of the guide to privacy: which strategy works under which wrapper."""
    rows = [["Strategy", *WRAPPERS, "LocalDpMod"], ["---"] * (len(WRAPPERS) + 2)]
    rows += [[name, *["works"] * (len(WRAPPERS) + 1)] for name in CASES]
    rows += [[name, *["refused"] * (len(WRAPPERS) + 1)] for name in REFUSED]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def data_of(number, count):
    """A client's inputs and labels."""
    draw = np.random.default_rng(number)
    inputs = torch.from_numpy(draw.normal(size=(count, 4)).astype(np.float32))
    return inputs, (inputs[:, 0] > 0).long() ^ GROUPS[number]


def build(case, examples, context, config):
    """The client of a node."""
    number = context.node_config["partition-id"]
    inputs, targets = data_of(number, 80)
    count = examples(number)
    model = case.network()
    return case.client(
        model,
        assign_scopes(model, personal=case.personal),
        in_memory_loader(inputs[:count], targets[:count], 10, shuffle=True) if count else (),
        None,
        in_memory_loader(inputs[40:], targets[40:], 40),
        state=PersonalState(context.state),
        partition_id=number,
    )


def first_arrays(case, strategy):
    """The shared arrays, sorted by their names as a safetensors file has them."""
    entries = case.network().state_dict()
    names = [name for name in sorted(entries) if not (case.personal == "head" and name in HEAD)]
    return strategy.first_arrays(to_record({name: entries[name].numpy().copy() for name in names}))


@dataclass
class Played:
    """A run: the strategy, every message, and the replies as the strategy took them.

    Attributes
    ----------
    seen : for each round client -> its arrays
    groups : for each round client -> its group
    """

    strategy: Any
    grid: RecordingGrid
    result: Any
    seen: list[dict[int, dict[str, np.ndarray]]]
    groups: list[dict[int, int]]

    def sent(self, server_round, phase="train"):
        """Client -> what it was sent."""
        return {
            exchange.client: {n: view(a) for n, a in exchange.message.content["arrays"].items()}
            for exchange in self.grid.of_type(phase, server_round=server_round)
        }

    def lengths(self, server_round):
        """Client -> how far it went from what it was sent, as the strategy took it."""
        sent = self.sent(server_round)
        return {c: length(own, sent[c]) for c, own in self.seen[server_round - 1].items()}

    def noise(self, client):
        """What was sent to a client in round 2 less the mean of its group in round 1."""
        groups = self.groups[0]
        group = (self.groups[1] or groups).get(client)
        members = [c for c in self.seen[0] if groups.get(c) == group] or list(self.seen[0])
        sent = self.sent(2)[client]
        names = [name for name in sent if not name.startswith("prior-")]
        means = {n: np.mean([self.seen[0][c][n] for c in members], axis=0) for n in names}
        return np.concatenate([np.ravel(sent[n] - means[n]) for n in names]), len(members)

    def dropped(self):
        """Why replies were not used."""
        return [report.dropped for report in self.strategy.reports if report.dropped]

    def accuracy(self):
        """The mean accuracy of the clients after the last round."""
        last = self.strategy.reports[-CLIENTS:]
        return float(np.mean([report.metrics["accuracy"] for report in last]))


def length(one, other):
    """The distance of two models."""
    return float(np.sqrt(sum(np.square(one[n].astype(float) - other[n]).sum() for n in one)))


def all_have_examples(number):
    """How many training examples a client has."""
    return 40


def play(
    name, wrapper="", noise=0.0, rounds=2, mods=None, build=build, examples=all_have_examples, **of
):
    """Play rounds of a case, under a wrapper where one is named."""
    case = name if isinstance(name, Case) else CASES[name]
    least = dict.fromkeys(("min_train_nodes", "min_evaluate_nodes", "min_available_nodes"), 2)
    strategy = case.strategy(**least, **of)
    mods = MODS.get(wrapper) if mods is None else mods
    grid = RecordingGrid(client_app(partial(build, case, examples), mods=mods), CLIENTS)
    seen, groups, aggregate = [], [], strategy.aggregate_arrays

    def spy(replies):
        seen.append({reply.client: dict(reply.views) for reply in replies})
        result = aggregate(replies)
        groups.append(dict(getattr(strategy, "groups", {})))
        return result

    strategy.aggregate_arrays = spy
    outer = WRAPPERS[wrapper](strategy, noise_multiplier=noise) if wrapper else strategy
    result = outer.start(grid, first_arrays(case, strategy), num_rounds=rounds)
    return Played(strategy, grid, result, seen, groups)
