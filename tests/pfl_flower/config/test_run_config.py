import tomllib
from pathlib import Path

import pytest

from clients import ProximalRule, Scope, ScopeError
from pfl_flower.client.node_config import Node, node_of
from pfl_flower.client_app import make_app
from pfl_flower.config.errors import ConfigError
from pfl_flower.config.run_config import RunConfig
from pfl_flower.engines import simulate
from pfl_flower.grid import InProcessGrid
from pfl_flower.methods import METHODS
from pfl_flower.server.discovery import FederationError, wait_for_clients
from tests.errors import refused
from tests.helpers import data_for


def test_pyproject_has_the_same_defaults():
    path = Path(__file__).parents[3] / "pyproject.toml"
    packaged = tomllib.loads(path.read_text())["tool"]["flwr"]["app"]["config"]
    assert packaged == RunConfig().dump()
    assert RunConfig.parse(packaged) == RunConfig()


@pytest.mark.parametrize(
    ("values", "key", "choices"),
    [
        ({"metod": "fedper"}, "metod", ("method",)),
        ({"local_epochs": 2}, "local_epochs", ("local-epochs",)),
        ({"method": "fedsgd"}, "method", ("fedavg", "fedprox", "local")),
        ({"baselines": "fedavg,fedsgd"}, "baselines", ("fedavg", "fedprox")),
        ({"dataset": "imagenet"}, "dataset", ("digits", "breast-cancer")),
        ({"partition": "dirichlett"}, "partition", ("iid", "dirichlet")),
        ({"heterogeneity": "taste,rain"}, "heterogeneity", ("none", "taste")),
        ({"alpha": 0.0}, "alpha", ()),
        ({"momentum": 1.5}, "momentum", ()),
        ({"num-server-rounds": 0}, "num-server-rounds", ()),
        ({"num-server-rounds": 2.5}, "num-server-rounds", ("int",)),
        ({"num-server-rounds": True}, "num-server-rounds", ("int",)),
        ({"download": "yes"}, "download", ("bool",)),
        ({"mu": -1.0}, "mu", ()),
        ({"mu": "big"}, "mu", ("float",)),
        ({"learning-rate": float("nan")}, "learning-rate", ()),
        ({"fine-tuning-epochs": "5,1"}, "fine-tuning-epochs", ()),
        ({"min-examples": 9, "max-examples": 5}, "min-examples", ()),
        ({"test-fraction": 0.6, "validation-fraction": 0.4}, "test-fraction", ()),
        ({"dataset": "breast-cancer", "model": "cnn"}, "model", ("adapter-mlp",)),
        ({"min-examples": 5}, "min-examples", ()),
        ({"learning-rate": float("inf")}, "learning-rate", ()),
        ({"method": "fedprox", "mu": -1.0}, "mu", ()),
        ({"method": "ditto", "lambda": -1.0}, "lambda", ()),
        ({"method": "ditto", "lambda": "often"}, "lambda", ()),
        ({"method": "ditto", "lambda": 1.0, "tau": 1.0}, "tau", ()),
        ({"method": "ditto", "tau": 0.0}, "tau", ()),
        ({"method": "fedper", "lambda": 1.0}, "lambda", ("ditto", "mr-mtl", "pfedme", "l2gd")),
        ({"method": "pfedme", "tau": 0.1}, "tau", ("ditto", "mr-mtl", "l2gd")),
        (
            {"method": "l2gd", "tau": 0.1, "averaging-probability": 0.1},
            "averaging-probability",
            (),
        ),
        ({"method": "ditto", "personal": "head"}, "personal", ()),
        ({"method": "l2gd", "lambda": 1e12}, "lambda", ()),
        (
            {"dataset": "smartwatch", "partition": "iid"},
            "partition",
            ("natural",),
        ),
        ({"dataset": "smartwatch", "partition": "natural", "safeguard": True}, "safeguard", ()),
        (
            {"dataset": "wisdm", "partition": "natural", "method": "ditto", "lambda": "auto"},
            "lambda",
            (),
        ),
        ({"method": "mr-mtl", "mu": 0.1}, "mu", ()),
        ({"method": "lifelong", "lambda": "auto"}, "lambda", ()),
        ({"method": "lifelong", "fisher-decay": 1.5}, "fisher-decay", ()),
        (
            {"method": "lifelong", "task-changes": "guessed"},
            "task-changes",
            ("announced", "detected"),
        ),
        ({"method": "ditto", "task-changes": "detected"}, "task-changes", ("lifelong",)),
        ({"method": "ditto", "mixing": 0.5}, "mixing", ("apfl",)),
        ({"method": "apfl", "mixing": 1.5}, "mixing", ()),
        ({"method": "pfedme", "lambda": 200.0}, "lambda", ()),
        ({"method": "l2gd", "averaging-probability": 0.1, "lambda": 2.0}, "lambda", ()),
        ({"method": "l2gd", "optimizer": "adam"}, "optimizer", ("sgd",)),
        ({"initial": "results/x", "baselines": "fedavg"}, "baselines", ()),
        ({"num-server-rounds": 1, "late": 0.5}, "num-server-rounds", ()),
        ({"heterogeneity": "none", "cluster-sizes": "5,5"}, "heterogeneity", ()),
        ({"norm": "layer"}, "norm", ("none", "batch", "group")),
        ({"schedule": "body-then-head"}, "schedule", ("joint", "head-then-body", "body-only")),
    ],
)
def test_wrong_values_name_the_key_and_the_valid_ones(values, key, choices):
    with refused(ConfigError, key=key, value=values[key], choices=choices):
        RunConfig.parse(values)
    with refused(ConfigError, key=key):
        simulate(values, 2)


def test_an_unknown_key_names_the_nearest_one():
    with refused(ConfigError, key="metod", choices=("method",)) as caught:
        RunConfig.parse({"metod": "fedper"})
    assert "'method'" in str(caught.value)


@pytest.mark.parametrize(
    ("method", "largest"),
    [
        ({"method": "pfedme"}, "100"),
        ({"method": "l2gd"}, "9990"),
        ({"method": "l2gd", "averaging-probability": 0.1}, "1.11"),
    ],
)
def test_a_lambda_that_overshoots_names_the_largest(method, largest):
    with refused(ConfigError, key="lambda", value=1e12) as caught:
        RunConfig.parse(method | {"lambda": 1e12})
    assert f"at most {largest}" in str(caught.value)


def test_whole_numbers_are_fine_where_fractions_are_expected():
    assert RunConfig.parse({"momentum": 0, "mu": 2}).proximal_rules[0] == ProximalRule(
        Scope.SHARED, "received", 2.0
    )


@pytest.mark.parametrize("name", METHODS)
def test_every_row_of_the_table_is_complete(name):
    config = RunConfig.parse({"method": name} | data_for(name))
    assert config.row.summary
    assert config.row.source
    assert config.local_schedule
    assert config.architecture.model.startswith(config.row.block)


def test_users_override_what_a_method_sets():
    config = RunConfig.parse({"method": "fedper", "personal": "head,norm"})
    assert config.personal_rule == "head,norm"
    assert RunConfig.parse({"method": "fedper", "personal": ""}).personal_rule == "head"
    assert RunConfig.parse({"method": "fedprox"}).proximal_rules[0].strength == 0.1
    assert RunConfig.parse({"method": "fedprox", "mu": 0.0}).proximal_rules[0].strength == 0.0
    assert RunConfig.parse({"method": "fedrep"}).local_schedule[0].epochs == 2


def test_a_baseline_has_the_same_network_and_data_but_its_own_rules():
    config = RunConfig.parse({"method": "personal-se", "dataset": "digits", "personal": "se,head"})
    other = config.for_method("fedavg")
    assert other.architecture == config.architecture
    assert other.architecture.model == "se-cnn"
    assert other.data == config.data
    assert other.personal_rule == "none"
    assert config.for_method("personal-se") is config


def test_a_rule_that_fits_no_part_of_the_model_ends_the_run():
    with refused(ScopeError, rule="se", choices=("head", "body")):
        simulate({"method": "fedper", "personal": "se"}, 2)


def test_a_node_without_a_partition_is_refused_with_how_to_set_it():
    grid = InProcessGrid(make_app({}), 1)
    (context,) = grid.contexts.values()
    assert node_of(context) == Node(0, "client-0", 0, 1)
    context.node_config["partition-id"] = 7
    with refused(ConfigError, key="partition-id", value=7):
        node_of(context)
    del context.node_config["partition-id"]
    with refused(ConfigError, key="partition-id", value=None) as caught:
        node_of(context)
    assert "flower-supernode --node-config" in str(caught.value)


def test_nobody_there_ends_the_run():
    grid = InProcessGrid(make_app({}), 1)
    grid.contexts.clear()
    with refused(FederationError, key="wait", value=0.0):
        wait_for_clients(grid, RunConfig(wait=0.0))


def test_it_goes_on_without_nodes_that_do_not_come():
    config = RunConfig(wait=0.0, min_nodes=5)
    wait_for_clients(InProcessGrid(make_app(config.dump()), 2), config)
