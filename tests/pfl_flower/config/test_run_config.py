import tomllib
from pathlib import Path

import pytest

from clients import ProximalRule, Scope
from pfl_flower.client.node_config import Node, node_of
from pfl_flower.client_app import make_app
from pfl_flower.config.errors import ConfigError
from pfl_flower.config.run_config import RunConfig
from pfl_flower.engines import simulate
from pfl_flower.grid import InProcessGrid
from pfl_flower.methods import METHODS
from pfl_flower.server.discovery import FederationError, wait_for_clients
from tests.helpers import data_for


def test_pyproject_has_the_same_defaults():
    path = Path(__file__).parents[3] / "pyproject.toml"
    stated = tomllib.loads(path.read_text())["tool"]["flwr"]["app"]["config"]
    assert stated == RunConfig().dump()
    assert RunConfig.parse(stated) == RunConfig()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"metod": "fedper"}, "unknown key 'metod'; did you mean 'method'\\? valid keys: method"),
        ({"local_epochs": 2}, "did you mean 'local-epochs'"),
        ({"method": "fedsgd"}, "method is 'fedsgd'; it must be one of fedavg, fedprox, local"),
        ({"baselines": "fedavg,fedsgd"}, "baselines is .* from fedavg, fedprox"),
        ({"dataset": "imagenet"}, "one of digits, breast-cancer"),
        ({"partition": "dirichlett"}, "one of iid, dirichlet"),
        (
            {"heterogeneity": "taste,rain"},
            "heterogeneity is 'taste,rain'; it must be names.* from none, taste",
        ),
        ({"alpha": 0.0}, "alpha is 0.0; it must be above 0"),
        ({"momentum": 1.5}, "at least 0 and at most 0.999"),
        ({"num-server-rounds": 0}, "at least 1"),
        ({"num-server-rounds": 2.5}, "must be of type int"),
        ({"num-server-rounds": True}, "must be of type int"),
        ({"download": "yes"}, "must be of type bool"),
        ({"mu": -1.0}, "mu is -1.0; it must be at least 0"),
        ({"mu": "big"}, "must be of type float"),
        ({"learning-rate": float("nan")}, "learning-rate is nan"),
        ({"fine-tuning-epochs": "5,1"}, "ascending"),
        ({"min-examples": 9, "max-examples": 5}, "min-examples 9 is above max-examples 5"),
        ({"test-fraction": 0.6, "validation-fraction": 0.4}, "nothing to train on"),
        ({"dataset": "breast-cancer", "model": "cnn"}, "needs images.*use adapter-mlp"),
        ({"min-examples": 5}, "min-examples 5 is above max-examples 0"),
        ({"learning-rate": float("inf")}, "learning-rate is inf"),
        ({"method": "fedprox", "mu": -1.0}, "mu is -1.0; it must be at least 0"),
        ({"method": "ditto", "lambda": -1.0}, "lambda is -1.0; .* at least 0, or one of auto, inf"),
        ({"method": "ditto", "lambda": "often"}, "lambda is 'often'; .* a number, or one of auto"),
        ({"method": "ditto", "lambda": 1.0, "tau": 1.0}, "two ways to say the same"),
        ({"method": "ditto", "tau": 0.0}, "tau is 0.0; it must be at least 1e-06"),
        (
            {"method": "fedper", "lambda": 1.0},
            "'fedper' has no lambda; there is one in ditto, mr-mtl, pfedme, l2gd",
        ),
        ({"method": "pfedme", "tau": 0.1}, "'pfedme' has no tau"),
        (
            {"method": "l2gd", "tau": 0.1, "averaging-probability": 0.1},
            "leave averaging-probability empty",
        ),
        ({"method": "ditto", "personal": "head"}, "leave personal and personal-decay empty"),
        ({"method": "l2gd", "lambda": 1e12}, "l2gd: lambda 1e.12 .* at most 9990"),
        ({"dataset": "smartwatch"}, "set partition='natural'"),
        (
            {"dataset": "smartwatch", "partition": "natural", "safeguard": True},
            "validation examples are of the phase at hand only",
        ),
        (
            {"dataset": "wisdm", "partition": "natural", "method": "ditto", "lambda": "auto"},
            "nothing can be chosen on them for all phases",
        ),
        ({"method": "mr-mtl", "mu": 0.1}, "'mr-mtl' has no mu"),
        ({"method": "lifelong", "lambda": "auto"}, "'lifelong' has no lambda='auto'"),
        ({"method": "lifelong", "fisher-decay": 1.5}, "at most 1"),
        ({"method": "lifelong", "task-changes": "guessed"}, "one of announced, detected"),
        (
            {"method": "ditto", "task-changes": "detected"},
            "no task-changes; there is one in lifelong",
        ),
        ({"method": "ditto", "mixing": 0.5}, "no mixing; there is one in apfl"),
        ({"method": "apfl", "mixing": 1.5}, "at least 0 and at most 1, or one of auto"),
        ({"method": "pfedme", "lambda": 200.0}, "pfedme: lambda 200 .* at most 100"),
        (
            {"method": "l2gd", "lambda": 2.0, "averaging-probability": 0.1},
            "l2gd: lambda 2 .* at most 1.11",
        ),
        ({"method": "l2gd", "optimizer": "adam"}, "l2gd: .* set optimizer to 'sgd'"),
        ({"initial": "results/x"}, "set baselines=''"),
        ({"norm": "layer"}, "one of none, batch, group"),
        ({"schedule": "body-then-head"}, "one of joint, head-then-body, body-only"),
    ],
)
def test_wrong_values_name_the_valid_ones(values, words):
    with pytest.raises(ConfigError, match=words):
        RunConfig.parse(values)
    with pytest.raises(ConfigError):
        simulate(values, 2)


def test_whole_numbers_are_fine_where_fractions_are_expected():
    assert RunConfig.parse({"alpha": 1, "mu": 2}).pulls[0] == ProximalRule(
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
    assert RunConfig.parse({"method": "fedprox"}).pulls[0].strength == 0.1
    assert RunConfig.parse({"method": "fedprox", "mu": 0.0}).pulls[0].strength == 0.0
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
    with pytest.raises(ValueError, match="'se' matches nothing in CNN; it has the components"):
        simulate({"method": "fedper", "personal": "se"}, 2)


def test_a_node_without_a_partition_is_told_how():
    grid = InProcessGrid(make_app({}), 1)
    (context,) = grid.contexts.values()
    assert node_of(context) == Node(0, "client-0", 0, 1)
    context.node_config["partition-id"] = 7
    with pytest.raises(ConfigError, match=r"partition-id 7 is not in 0\.\.0"):
        node_of(context)
    del context.node_config["partition-id"]
    with pytest.raises(ConfigError, match="flower-supernode --node-config"):
        node_of(context)


def test_nobody_there_ends_the_run():
    grid = InProcessGrid(make_app({}), 1)
    grid.contexts.clear()
    with pytest.raises(FederationError, match="no node connected within 0 seconds"):
        wait_for_clients(grid, RunConfig(wait=0.0))


def test_it_goes_on_without_nodes_that_do_not_come():
    config = RunConfig(wait=0.0, min_nodes=5)
    wait_for_clients(InProcessGrid(make_app(config.dump()), 2), config)
