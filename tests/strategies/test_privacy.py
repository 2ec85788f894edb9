"""Flower's own differential privacy around our strategies and clients: on what is shared."""

import numpy as np
import pytest
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
    PersonalClient,
    PersonalState,
    Scope,
    assign_scopes,
    client_app,
    in_memory_loader,
)
from clients.scopes import names_of
from strategies import PartialAveraging
from strategies.arrays import to_record, view
from tests.grids import RecordingGrid

CLIENTS, NORM, ROUNDS = 4, 0.1, 12
COMMON = {"noise_multiplier": 0.05, "num_sampled_clients": CLIENTS}
FIXED = COMMON | {"clipping_norm": NORM}

WAYS = {
    "client, fixed": (DifferentialPrivacyClientSideFixedClipping, FIXED, [fixedclipping_mod]),
    "client, adaptive": (
        DifferentialPrivacyClientSideAdaptiveClipping,
        COMMON | {"initial_clipping_norm": NORM},
        [adaptiveclipping_mod],
    ),
    "server, fixed": (DifferentialPrivacyServerSideFixedClipping, FIXED, []),
    "server, adaptive": (
        DifferentialPrivacyServerSideAdaptiveClipping,
        COMMON | {"initial_clipping_norm": NORM},
        [],
    ),
}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
        self.head = nn.Linear(8, 2)

    def forward(self, inputs):
        return self.head(self.body(inputs))


def network():
    torch.manual_seed(1)
    return Net()


def build(context, config):
    """A client whose head is personal: odd clients name the two classes the other way round."""
    number = context.node_config["partition-id"]
    draw = np.random.default_rng(number)
    inputs = torch.from_numpy(draw.normal(size=(80, 4)).astype(np.float32))
    targets = (inputs[:, 0] > 0).long() ^ (number % 2)
    model = network()
    return PersonalClient(
        model,
        assign_scopes(model, personal="head"),
        in_memory_loader(inputs[:40], targets[:40], 10, shuffle=True),
        None,
        in_memory_loader(inputs[40:], targets[40:], 40),
        state=PersonalState(context.state),
        partition_id=number,
    )


def names_sent(grid):
    """The names of all arrays that left a client."""
    records = [r for e in grid.exchanges for r in e.reply.content.array_records.values()]
    return {name for record in records for name in record}


def update_lengths(grid):
    """How far every client went from what it was sent, each time it trained."""
    lengths = []
    for exchange in grid.of_type("train"):
        sent, found = exchange.message.content["arrays"], exchange.reply.content["arrays"]
        steps = [view(found[name]) - view(sent[name]) for name in found]
        lengths.append(float(np.sqrt(sum(np.square(step).sum() for step in steps))))
    return lengths


def play(strategy, mods, rounds=ROUNDS):
    grid = RecordingGrid(client_app(build, mods=mods), CLIENTS)
    model = network()
    shared = names_of(assign_scopes(model, personal="head"), Scope.SHARED)
    entries = model.state_dict()
    first = to_record({name: entries[name].numpy().copy() for name in shared})
    return grid, strategy.start(grid, first, num_rounds=rounds)


def averaging():
    return PartialAveraging(min_train_nodes=4, min_evaluate_nodes=4, min_available_nodes=4)


@pytest.mark.parametrize("way", WAYS)
def test_privacy_is_of_what_is_shared_and_heads_stay(way):
    wrapper, settings, mods = WAYS[way]
    grid, result = play(wrapper(averaging(), **settings), mods)
    assert names_sent(grid) == {"body.0.weight", "body.0.bias"}
    accuracy = result.evaluate_metrics_clientapp[ROUNDS]["accuracy"]
    assert accuracy > 0.65  # one model for both namings is right half of the time
    if way == "client, fixed":
        assert max(update_lengths(grid)) <= NORM * (1 + 1e-5)
    if way == "server, fixed":
        _, free = play(averaging(), mods)
        assert accuracy != free.evaluate_metrics_clientapp[ROUNDS]["accuracy"]


def test_without_it_updates_are_longer():
    grid, result = play(averaging(), [])
    assert max(update_lengths(grid)) > NORM
    assert result.evaluate_metrics_clientapp[ROUNDS]["accuracy"] > 0.8
