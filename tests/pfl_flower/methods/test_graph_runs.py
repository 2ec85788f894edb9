"""Runs on graphs: what they are the same as, what leaves a client, and what bad input does."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from clients import Scope
from clients.graphs.graph import Graph
from pfl_flower.client.build import build_client
from pfl_flower.client_app import make_app
from pfl_flower.config.run_config import RunConfig
from pfl_flower.data import Federation, federation
from pfl_flower.data.partition import benchmark_clients as pooled
from pfl_flower.data.partition.link_split import link_splits
from pfl_flower.data.subgraph import both_ways, connections
from pfl_flower.engines import simulate
from pfl_flower.grid import InProcessGrid
from pfl_flower.model_setup import initial_model, model_setup
from pfl_flower.results.method_run import select
from pfl_flower.server.discovery import FederationError
from pfl_flower.server.run import play
from strategies import NO_GROUP
from tests.errors import refused
from tests.grids import RecordingGrid, leaks
from tests.helpers import decoded
from tests.pfl_flower.methods.graph_helpers import SMALL, metrics_of
from tests.tiers import quick_first

COMMUNITIES = {"method": "community-adapters", "group-decay": 0.0}
FROZEN = {"personal": "encoder", "schedule": "body-only"}
"""Every client has the encoder that all start with, and trains the rest only."""


def on_grid(config, num_clients=4, kind=InProcessGrid, **options):
    """Play a run on a grid of one's own; return both."""
    config = RunConfig.parse(SMALL | config)
    federation.cache_clear()  # data of one's own may have changed
    grid = kind(make_app(config.dump()), num_clients, **options)
    (run,) = play(grid, replace(config, wait=0.0))
    return run, grid


def sent_for_training(grid):
    """(round, client) -> the arrays that the client was sent."""
    return {
        (e.config["server-round"], e.client): decoded(e.message.content["arrays"])
        for e in grid.of_type("train")
    }


def trained(grid):
    """(round, client) -> the arrays that the client sent back."""
    return {
        (e.config["server-round"], e.client): decoded(e.reply.content["arrays"])
        for e in grid.of_type("train")
    }


def weights_of(grid):
    """Client -> its number of examples."""
    return {e.client: e.reply.content["metrics"]["num-examples"] for e in grid.of_type("train")}


# ---------------------------------------------------------------------- reductions


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_adapters_held_at_zero_are_one_network_for_everybody_bitwise(optimizer):
    small = SMALL | {"optimizer": optimizer}
    held = {"method": "community-adapters", "group": "adapter", "group-decay": 1e30}
    (adapted,) = simulate(small | held, 4)
    (plain,) = simulate(small | {"method": "fedavg-gnn"}, 4)
    assert adapted.config.architecture.model == "adapter-gcn"
    assert plain.config.architecture.model == "gcn"
    assert metrics_of(adapted) == metrics_of(plain)
    arrays, expected = decoded(adapted.arrays), decoded(plain.arrays)
    for name in expected:
        np.testing.assert_array_equal(arrays[name], expected[name])
    assert not any(arrays[name].any() for name in arrays.keys() - expected.keys())
    (free,) = simulate(small | held | {"group-decay": 0.0}, 4)
    assert metrics_of(free) != metrics_of(plain)


def test_one_community_is_fedavg_of_everything_bitwise():
    run, _ = on_grid(COMMUNITIES, node_config=lambda _: {"group": 7})
    (fedavg,) = simulate(SMALL | {"method": "fedavg", "model": "adapter-gcn"}, 4)
    assert metrics_of(run) == metrics_of(fedavg)
    arrays, expected = decoded(run.arrays), decoded(fedavg.arrays)
    assert arrays.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(arrays[name], expected[name])
    (several,) = simulate(SMALL | COMMUNITIES, 4)
    assert metrics_of(several) != metrics_of(fedavg)


def test_arrays_of_a_community_are_means_inside_it_and_the_others_over_everybody():
    run, grid = on_grid(COMMUNITIES, 8, RecordingGrid)
    assert run.grouping.groups == {client: client // 2 for client in range(8)}
    scopes = model_setup(run.config).scopes
    replies, weights = trained(grid), weights_of(grid)
    for (number, client), received in sent_for_training(grid).items():
        if number == 1:
            continue
        for name, values in received.items():
            group = scopes[name] is Scope.GROUP
            whose = [client, client ^ 1] if group else range(8)
            arrays = [replies[number - 1, one][name] for one in whose]
            mean = np.average(arrays, axis=0, weights=[weights[one] for one in whose])
            np.testing.assert_allclose(values, mean, rtol=1e-6, atol=1e-7)


def test_under_a_frozen_encoder_it_is_clustered_averaging_of_adapters_and_heads():
    run, _ = on_grid(COMMUNITIES | FROZEN, 8)
    _, initial = initial_model(run.config.architecture, run.config.seed)
    assert set(run.arrays) == {name for name in initial if not name.startswith("layer")}
    moved = decoded(run.grouping.models[0])
    assert all((moved[name] != initial[name].numpy()).any() for name in moved)
    # Nothing that others do reaches a community: alone it is a FedAvg of its own, bit for bit.
    config = RunConfig.parse(SMALL | FROZEN | {"method": "fedavg", "model": "adapter-gcn"})
    alone = InProcessGrid(make_app(config.dump()), 8)
    for client in range(2, 8):
        alone.contexts[100 + client].node_config["partition-id"] = 99
    (smaller,) = play(alone, replace(config, wait=0.0))
    assert list(smaller.by_client()) == [0, 1]
    assert metrics_of(smaller, inside=(0, 1)) == metrics_of(run, inside=(0, 1))
    for name, values in decoded(smaller.arrays).items():
        np.testing.assert_array_equal(values, moved[name])


def test_nothing_of_a_local_network_is_shared():
    run, grid = on_grid({"method": "local-gnn"}, 4, RecordingGrid)
    assert not run.arrays
    assert run.parameters["shared"] == 0
    sent, replies = sent_for_training(grid), trained(grid)
    assert len(sent) == 2 * 4
    assert not any((*sent.values(), *replies.values()))
    (local,) = simulate(SMALL | {"method": "local"}, 4)
    assert metrics_of(run) == metrics_of(local)


@pytest.mark.parametrize("task", ["auto", "link-prediction"])
def test_no_message_holds_a_personal_head_of_a_community(task):
    config = COMMUNITIES | {"personal": "head", "group": "adapter", "task": task}
    run, grid = on_grid(config, 4, RecordingGrid)
    assert not [leak for exchange in grid.exchanges for leak in leaks(exchange)]
    assert all(exchange.after for exchange in grid.of_type("train"))
    assert set(run.arrays) == {n for n in run.arrays if n.startswith(("layer", "adapter"))}
    assert run.parameters["personal"] > 0


def test_an_unseen_client_of_a_known_community_has_its_adapters_and_head():
    (run,) = simulate(SMALL | COMMUNITIES | {"unseen": 0.1, "adaptation-steps": 5}, 8)
    (report,) = run.unseen[0]
    community = report.client // 2
    assert report.metrics["group"] == community
    assert report.client not in run.grouping.groups
    grid = InProcessGrid(make_app({}), 8)
    client = build_client(run.config, grid.contexts[100 + report.client])
    arrays = decoded(run.arrays) | decoded(run.grouping.models[community])
    loss, _, _ = client.evaluate([arrays[name] for name in client.shared_names], {})
    assert report.metrics["loss"] == pytest.approx(loss)
    elsewhere = decoded(run.arrays) | decoded(run.grouping.models[(community + 1) % 4])
    other, _, _ = client.evaluate([elsewhere[name] for name in client.shared_names], {})
    assert abs(other - loss) > 1e-4


# ---------------------------------------------------------------------- leakage

LINKS = SMALL | {"method": "fedavg-gnn", "task": "link-prediction"}


def links_to_predict(raw):
    """The connections that validation and test examples are, ``(P, 2)``."""
    return np.concatenate([pairs[targets == 1] for pairs, targets in (raw.validation, raw.test)])


def run_with_edges(monkeypatch, choose):
    """Run with other edges to pass messages on: ``choose(whole graph's edges, raw client)``."""

    def changed(settings, client, graph):
        raw = link_splits(settings, client, graph)
        known = connections(graph.edges, len(graph)).T.numpy()
        edges = both_ways(torch.from_numpy(choose(known, raw).T.copy()))
        return replace(raw, graph=Graph(graph.features, edges))

    with monkeypatch.context() as patched:
        patched.setattr(pooled, "link_splits", changed)
        federation.cache_clear()
        (run,) = simulate(LINKS, 4)
    federation.cache_clear()
    return run


def test_taking_the_tested_links_out_of_the_input_changes_no_score(monkeypatch):
    def without_tested(known, raw):
        gone = {tuple(pair) for pair in links_to_predict(raw).tolist()}
        return np.array([pair for pair in known.tolist() if tuple(pair) not in gone])

    (run,) = simulate(LINKS, 4)
    assert metrics_of(run_with_edges(monkeypatch, without_tested)) == metrics_of(run)
    # The control: if they were there, they would be seen.
    assert metrics_of(run_with_edges(monkeypatch, lambda known, raw: known)) != metrics_of(run)


def test_a_trained_network_looks_at_no_tested_link():
    config = RunConfig.parse(LINKS)
    grid = InProcessGrid(make_app(config.dump()), 4)
    whole = Federation(replace(config.data, task="auto"), 4)
    for client in range(4):
        looked_at = build_client(config, grid.contexts[100 + client]).model.graph.edges
        raw = federation(config.data, 4).clients.load(client)
        assert len(links_to_predict(raw))
        seen, there = set(map(tuple, looked_at.T.tolist())), whole.client(client).graph.edges
        assert not {(u, v) for u, v in links_to_predict(raw).tolist()} & seen
        assert not {(v, u) for u, v in links_to_predict(raw).tolist()} & seen
        assert len(seen) == there.shape[1] - 2 * len(links_to_predict(raw))


# ---------------------------------------------------------------------- large graphs


@pytest.mark.parametrize("task", quick_first(["auto", "link-prediction"]))
def test_graphs_that_are_not_passed_as_a_whole_are_learned_and_reproducible(task):
    large = SMALL | {"method": "local-gnn", "task": task, "whole-graph": 50, "fanout": 5}
    large |= {"num-server-rounds": 3}
    (run,), (again,) = simulate(large, 2), simulate(large, 2)
    assert metrics_of(run) == metrics_of(again)
    for other in ({"fanout": 1}, {"whole-graph": 200}):
        assert metrics_of(simulate(large | other, 2)[0]) != metrics_of(run)
    losses = [select(run.reports, "train-loss", number, "train") for number in (1, 3)]
    assert all(losses[1][client] < losses[0][client] for client in (0, 1))
    if task == "auto":  # who guesses is right for one in six
        assert (run.values() > 0.4).all()


# ---------------------------------------------------------------------- bad input

CHANGES: dict[int, dict[str, Any]] = {}
"""Client -> parts of its graph that are different."""


def graphs(partition_id, num_partitions):
    """Graphs of one's own: two classes that features tell, friends mostly of the same one."""
    draw = torch.Generator().manual_seed(partition_id)
    kinds = torch.arange(30) % 2
    ends = torch.randint(30, (2, 200), generator=draw)
    found = {
        "x": kinds[:, None] + 0.5 * torch.randn(30, 3, generator=draw),
        "edge_index": ends[:, (kinds[ends[0]] == kinds[ends[1]]) | (torch.arange(200) < 20)],
        "y": kinds,
        "community": partition_id // 2,
    } | CHANGES.get(partition_id, {})
    return {name: value for name, value in found.items() if value is not None}


OWN = SMALL | COMMUNITIES | {"dataset": f"{__name__}:graphs", "partition": "iid"}
NOBODY = torch.zeros(2, 0, dtype=torch.int64)
ONE_NODE = {"x": torch.ones(1, 3), "edge_index": NOBODY, "y": torch.tensor([1])}


@pytest.mark.parametrize(
    ("changes", "options", "reason"),
    [
        (
            ONE_NODE,
            {},
            "client 1: .* has 1 labelled nodes",
        ),
        ({"y": torch.full((30,), -1)}, {}, "no node is labelled"),
        ({"y": None}, {}, "has no y"),
        (
            {"x": torch.ones(30, 4)},
            {},
            r"client 1: its nodes of a graph have shape \(4,\) .* \(3,\)",
        ),
        (
            {"edge_index": torch.tensor([[0, 1], [1, 30]])},
            {},
            "edge_index .*1 to 30.* 0 to 29",
        ),
        ({"community": -3}, {}, "community is -3"),
        ({"edge_index": NOBODY}, {"task": "link-prediction"}, "client 1 has 0 edges"),
    ],
)
def test_a_client_whose_graph_cannot_be_used_is_left_out_with_the_reason(
    monkeypatch, changes, options, reason
):
    monkeypatch.setitem(CHANGES, 1, changes)
    (run,) = simulate(OWN | options, 4)
    assert list(run.by_client()) == [0, 2, 3]
    assert np.isfinite(run.values()).all()
    (words,) = run.left_out
    assert re.search(reason, words)
    monkeypatch.setattr(f"{__name__}.CHANGES", dict.fromkeys(range(4), changes))
    if "x" not in changes or len(changes["x"]) == 1:  # four features are fine if all have them
        with refused(FederationError, nodes=(100, 101, 102, 103)):
            simulate(OWN | options, 4)


def test_who_knows_nobody_takes_part_and_so_does_a_community_of_one(monkeypatch):
    monkeypatch.setitem(CHANGES, 3, {"edge_index": NOBODY, "community": 5})
    run, grid = on_grid(OWN, 4, RecordingGrid)
    assert run.grouping.groups == {0: 0, 1: 0, 2: 1, 3: 5}
    assert not run.left_out
    assert np.isfinite(run.values()).all()
    own = decoded(run.grouping.models[5])
    for name in own:
        np.testing.assert_array_equal(own[name], trained(grid)[2, 3][name])


def test_a_client_of_no_community_gets_the_mean_and_has_a_part_in_what_is_shared(monkeypatch):
    monkeypatch.setitem(CHANGES, 2, {"community": None})
    run, grid = on_grid(OWN, 4, RecordingGrid)
    assert run.grouping.groups == {0: 0, 1: 0, 2: NO_GROUP, 3: 1}
    (assignment,) = [p for p in run.grouping.assignments if p.client == 2]
    assert assignment.reason == "the client has no group"
    replies, examples = trained(grid), weights_of(grid)
    for name, values in sent_for_training(grid)[2, 2].items():
        arrays = [replies[1, client][name] for client in range(4)]
        mean = np.average(arrays, axis=0, weights=[examples[client] for client in range(4)])
        np.testing.assert_allclose(values, mean, rtol=1e-6, atol=1e-7)
    assert set(run.grouping.models) == {0, 1}
    assert list(run.by_client()) == [0, 1, 2, 3]
