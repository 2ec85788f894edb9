"""The same run on both engines, what methods reduce to, and odd clients."""

from functools import lru_cache

import numpy as np
import pytest
import torch

from pfl_flower.client_app import make_app
from pfl_flower.config.errors import ConfigError
from pfl_flower.config.run_config import RunConfig
from pfl_flower.data import Federation
from pfl_flower.engines import gpu_share, simulate
from pfl_flower.grid import InProcessGrid
from pfl_flower.methods import METHODS
from pfl_flower.model_setup import initial_model
from pfl_flower.results.files import describe, write
from pfl_flower.server.discovery import FederationError, wait_for_clients
from pfl_flower.server.run import play
from strategies.errors import ArgumentError
from tests.errors import refused
from tests.grids import FailingGrid
from tests.helpers import assert_identical, metrics_of
from tests.tiers import quick_first

SMALL = {"num-server-rounds": 3, "local-epochs": 1, "baselines": ""}


@pytest.mark.integration
def test_the_same_numbers_on_ray_bit_for_bit():
    config = SMALL | {
        "method": "fedrep",
        "baselines": "fedavg,fedbabu,ditto,apfl",
        "fine-tuning-epochs": "0,1",
        "personal": "head,norm",
        "fraction-train": 0.5,
        "seed": 3,
        "threads": 2,
    }
    here = simulate(config, 6)
    assert torch.get_num_threads() == 2  # as many as asked for, whatever the engine gives
    ray = simulate(config, 6, engine="ray")
    assert_identical(here, ray)
    assert {r.client for r in here[0].reports if r.phase == "evaluate"} == set(range(6))
    trained = [r.client for r in here[0].reports if r.phase == "train" and r.round == 1]
    assert len(trained) == 3


def test_a_device_that_no_client_has_ends_the_run_before_round_1():
    rounds = []
    with refused(FederationError, nodes=(100, 101)) as caught:
        simulate(SMALL | {"device": "cuda:99"}, 2, progress=rounds.append)
    assert "cuda:99" in caught.value.reason
    assert not rounds
    with refused(ConfigError, key="device", value="gpu"):
        simulate(SMALL | {"device": "gpu"}, 2)


@pytest.mark.parametrize(
    ("device", "gpus", "share"),
    [("cpu", 1, 0.0), ("cuda", 0, 0.0), ("cuda", 1, 0.125), ("auto", 2, 0.25), ("cuda", 16, 1.0)],
)
def test_clients_on_ray_share_the_gpus(monkeypatch, device, gpus, share):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert gpu_share(device) == share


@pytest.mark.deployment
def test_the_other_methods_give_the_same_numbers_on_ray_too():
    config = SMALL | {
        "method": "pfedhn",
        "baselines": "hierarchical-bayes,l2gd,lifelong",
        "dataset": "metadata-digits",
        "partition": "natural",
        "fraction-train": 0.5,
        "unseen": 0.2,
    }
    assert_identical(simulate(config, 6), simulate(config, 6, engine="ray"))


@pytest.mark.integration
def test_the_same_seed_twice_and_another_seed():
    config = SMALL | {"method": "fedper"}
    assert_identical(simulate(config, 4), simulate(config, 4))
    other = simulate(config | {"seed": 1}, 4)
    assert metrics_of(other[0]) != metrics_of(simulate(config, 4)[0])


def test_a_schema_holds_no_example():
    config = RunConfig.parse(SMALL | {"dataset": "breast-cancer", "method": "fedavg"})
    data = Federation(config.data, 4)
    grid = InProcessGrid(make_app(config.dump()), 4)
    schemas = wait_for_clients(grid, config).schemas
    for client in range(4):
        values = set(schemas[client].features.means) | set(schemas[client].features.variances)
        rows = data.clients.load(client).train[0].astype(float)
        assert len(values) == 60
        assert len(values & set(rows.ravel().tolist())) <= 1  # a mean can be somebody's value


def test_everything_personal_is_local():
    local = simulate(SMALL | {"method": "local"}, 4)[0]
    fedper = simulate(SMALL | {"method": "fedper", "personal": "all"}, 4)[0]
    assert metrics_of(local) == metrics_of(fedper)


def test_no_personal_part_is_fedavg():
    fedavg = simulate(SMALL | {"method": "fedavg"}, 4)[0]
    fedper = simulate(SMALL | {"method": "fedper", "personal": "none"}, 4)[0]
    assert metrics_of(fedavg) == metrics_of(fedper)


@pytest.mark.integration
def test_mu_zero_is_fedavg():
    fedavg = simulate(SMALL | {"method": "fedavg"}, 4)[0]
    fedprox = simulate(SMALL | {"method": "fedprox", "mu": 0.0}, 4)[0]
    assert metrics_of(fedavg) == metrics_of(fedprox)
    assert metrics_of(fedavg) != metrics_of(simulate(SMALL | {"method": "fedprox"}, 4)[0])


def scores_of(method, **options):
    """What clients' models are worth in every round, whatever else is reported of them."""
    run = simulate(SMALL | {"method": method} | options, 4)[0]
    return [(run.by_client(name, r), r) for name in ("loss", "accuracy") for r in (1, 2, 3)]


@lru_cache
def scores_of_end(method):
    """The same of a method at one end."""
    return scores_of(method)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("method", "options", "other"),
    quick_first(
        [
            ("ditto", {"lambda": 0.0}, "local"),
            ("apfl", {"mixing": 1.0}, "local"),
            ("ditto", {"lambda": float("inf")}, "fedavg"),
            ("apfl", {"mixing": 0.0}, "fedavg"),
            ("mr-mtl", {"lambda": 0.0}, "local"),
            ("lifelong", {"lambda": 0.0, "mu": 0.0}, "local"),
            ("mr-mtl", {"lambda": "inf"}, "fedavg"),
            ("pfedme", {"lambda": "inf"}, "fedavg"),
        ],
        4,
    ),
)
def test_own_models_at_the_ends_are_training_alone_and_fedavg(method, options, other):
    assert scores_of(method, **options) == scores_of_end(other)


@pytest.mark.parametrize(
    "method", quick_first(["ditto", "apfl", "mr-mtl", "pfedme", "l2gd", "lifelong"], 2)
)
def test_own_models_inside_are_neither(method):
    found = scores_of(method)
    assert found != scores_of_end("local")
    assert found != scores_of_end("fedavg")


def test_untrained_adapters_are_the_core_bitwise():
    rules = {"local-epochs": 0, "schedule": "body-only", "heterogeneity": "none"}
    core = simulate(SMALL | rules | {"method": "fedavg", "model": "cnn"}, 3)[0]
    adapted = simulate(SMALL | rules | {"method": "adapters"}, 3)[0]
    np.testing.assert_array_equal(core.values("loss"), adapted.values("loss"))


QUICK = {"fedavg", "fedper", "ditto", "gradient-clusters", "errors-in-variables"}


@pytest.mark.integration
@pytest.mark.parametrize(
    "method",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.integration)
        for name, row in METHODS.items()
        if not row.graphs
    ],
)
def test_every_method_learns_more_than_chance_on_plain_digits(method):
    # hierarchical-linear solves systems of 650 coefficients, and needs no more rounds
    rounds = 2 if method == "hierarchical-linear" else 6
    config = SMALL | {"method": method, "heterogeneity": "none", "num-server-rounds": rounds}
    (run,) = simulate(RunConfig.used(config | {"fine-tuning-epochs": "0,1"}), 3)
    assert run.values().mean() > 0.5


@pytest.mark.integration
def test_two_and_a_hundred_nodes():
    for count in (2, 100):
        (run,) = simulate(SMALL | {"num-server-rounds": 1}, count)
        assert len(run.by_client()) == count


def test_one_broken_node_ends_nothing_and_a_federation_of_them_ends_at_once(monkeypatch):
    monkeypatch.setattr("pfl_flower.server.discovery._SETTLED", 0.01)
    config = RunConfig.parse(SMALL)
    grid = InProcessGrid(make_app(config.dump()), 4)
    contexts = list(grid.contexts.values())
    contexts[0].node_config["partition-id"] = 9  # the lowest node id
    (run,) = play(grid, config)
    assert list(run.by_client()) == [1, 2, 3]
    for context in contexts:
        context.node_config["partition-id"] = 9
    with refused(FederationError, nodes=(100, 101, 102, 103)) as caught:
        list(play(grid, config))
    assert "partition-id 9" in caught.value.reason


def test_a_run_in_which_nobody_can_train_is_no_success():
    with refused(FederationError, key="num-server-rounds", value=3) as caught:
        simulate(SMALL | {"learning-rate": 1e20}, 3)
    assert "1e+20" in caught.value.reason


def test_two_nodes_with_one_number_are_not_counted_twice():
    config = RunConfig.parse(SMALL)
    grid = InProcessGrid(make_app(config.dump()), 3)
    grid.contexts[102].node_config["partition-id"] = 0
    (run,) = play(grid, config)
    assert list(run.by_client()) == [0, 1]
    assert "node 100 is client 0 too" in next(r.dropped for r in run.reports if r.dropped)


class Growing(InProcessGrid):
    """A grid whose nodes register one after another, the first at once."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.looks = 0

    def get_node_ids(self):
        self.looks += 1
        return list(self.contexts)[: 1 + self.looks // 2]


def test_it_waits_for_nodes_that_come_after_a_broken_one(monkeypatch):
    monkeypatch.setattr("pfl_flower.server.discovery._POLL", 0.001)
    config = RunConfig.parse(SMALL)
    grid = Growing(make_app(config.dump()), 4)
    grid.contexts[100].node_config["partition-id"] = 9
    assert wait_for_clients(grid, config).clients == {101: 1, 102: 2, 103: 3}


def test_enough_nodes_that_all_fail_are_no_federation(monkeypatch):
    monkeypatch.setattr("pfl_flower.server.discovery._SETTLED", 0.01)
    config = RunConfig.parse(SMALL | {"min-nodes": 2})
    grid = InProcessGrid(make_app(config.dump()), 2)
    for context in grid.contexts.values():
        context.node_config["partition-id"] = 9
    with refused(FederationError, nodes=(100, 101)):
        wait_for_clients(grid, config)


def test_a_silent_node_is_no_failure(monkeypatch):
    monkeypatch.setattr("pfl_flower.server.discovery._POLL", 0.001)

    class Silent(InProcessGrid):
        def pull_messages(self, message_ids):
            found = super().pull_messages(message_ids)
            return [reply for reply in found if reply.metadata.src_node_id != 101]

    config = RunConfig(wait=0.05, num_server_rounds=1)
    assert wait_for_clients(Silent(make_app(config.dump()), 3), config).clients == {100: 0, 102: 2}


def test_bad_luck_in_sampling_does_not_end_a_run():
    values = SMALL | {"fraction-train": 0.1, "num-server-rounds": 10}
    config = RunConfig.parse(values | {"seed": 15})
    grid = InProcessGrid(make_app(config.dump()), 10)
    for node in range(100, 105):
        grid.contexts[node].node_config["partition-id"] = 99
    (run,) = play(grid, config)
    assert sorted(run.by_client()) == [5, 6, 7, 8, 9]


def test_results_survive_an_evaluation_that_fails_at_the_end(tmp_path):
    config = RunConfig.parse(SMALL)

    def last(message):
        evaluates = message.metadata.message_type == "evaluate"
        return evaluates and message.content["config"]["server-round"] == 3

    grid = FailingGrid(make_app(config.dump()), 2, fails=last, reason="gone")
    (run,) = play(grid, config)
    write(tmp_path, [run])
    assert run.by_client() == {}
    assert run.by_client(server_round=2)
    assert describe([run]) == ["fedper: no client could be evaluated: the client failed: gone"]


def test_what_a_client_changes_in_a_message_nobody_else_sees():
    from flwr.app import ConfigRecord, Message, RecordDict
    from flwr.clientapp import ClientApp

    app, seen = ClientApp(), []

    @app.train()
    def train(message, context):
        seen.append((message.content["config"]["x"], len(context.state)))
        message.content["config"]["x"] *= 2
        context.state["config"] = ConfigRecord({"x": 1})
        raise RuntimeError("after changing its message and its state")

    grid = InProcessGrid(app, 2)
    record = RecordDict({"config": ConfigRecord({"x": 1})})
    for _ in range(2):
        grid.send_and_receive([Message(record, node, "train") for node in (100, 101)])
    assert seen == [(1, 0)] * 4


def test_a_grid_reports_nodes_it_does_not_have():
    from flwr.app import Message, RecordDict

    grid = InProcessGrid(make_app({}), 1)
    (reply,) = grid.send_and_receive([Message(RecordDict(), 5, "train")])
    assert "node 5 is not part" in reply.error.reason
    with refused(ArgumentError, argument="num_nodes", value=0):
        InProcessGrid(make_app({}), 0)


def test_the_networks_are_made_once_a_process():
    config = RunConfig.parse(SMALL)
    assert initial_model(config.architecture, 0)[0] is initial_model(config.architecture, 0)[0]


@pytest.mark.integration
def test_a_later_run_goes_on_where_an_earlier_one_ended(tmp_path, monkeypatch):
    monkeypatch.setenv("PFL_PERSONAL_DIR", str(tmp_path / "personal"))
    config = SMALL | {"num-server-rounds": 4}
    first = simulate(config, 3)
    write(tmp_path / "results", first)
    (later,) = simulate(config | {"initial": str(tmp_path / "results")}, 3)
    # Round 1 of the later run is as good as the end of the first, not a start from scratch.
    assert later.values(server_round=1).mean() >= first[0].values().mean() - 0.05
    assert later.values(server_round=1).mean() > first[0].values(server_round=1).mean()
    wanted = {"key": "initial", "value": str(tmp_path / "results")}
    with refused(FederationError, **wanted) as caught:
        simulate(config | {"initial": str(tmp_path / "results"), "method": "fedbn"}, 3)
    assert "'head.bias'" in caught.value.reason
    with refused(FederationError, key="initial", value=str(tmp_path / "nowhere")):
        simulate(config | {"initial": str(tmp_path / "nowhere")}, 3)


@pytest.mark.integration
def test_personal_files_of_another_run_end_it_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("PFL_PERSONAL_DIR", str(tmp_path))
    simulate(SMALL, 3)
    for other in ({"method": "fedbn"}, {"seed": 5}, {"norm": "group"}):
        with refused(FederationError, key="num-server-rounds") as caught:
            simulate(SMALL | other, 3)
        assert "personal" in caught.value.reason
    broken = tmp_path / "client-0.safetensors"
    broken.write_bytes(broken.read_bytes()[:-5])
    (run,) = simulate(SMALL, 3)
    assert list(run.by_client()) == [1, 2]
    dropped = next(report for report in run.reports if report.dropped)
    assert dropped.client == 0
    assert "damaged" in dropped.dropped
    assert str(broken) in dropped.dropped
