"""What a comparison takes for all methods and for one, and what it refuses before it runs."""

from dataclasses import replace

import numpy as np
import pytest

from pfl_flower.comparison.compare import Comparison, compare
from pfl_flower.comparison.feasibility import check_feasible
from pfl_flower.comparison.settings import read_settings
from pfl_flower.config.errors import ConfigError
from pfl_flower.config.run_config import RunConfig
from pfl_flower.methods import METHODS
from simulations.__main__ import main
from tests.errors import refused

SHORT = {"num-server-rounds": 2, "local-epochs": 1}


@pytest.mark.parametrize(
    ("methods", "config", "unfit"),
    [
        (["fedper", "fedbn"], {"norm": "none"}, ["fedbn"]),
        (["fedper", "local-gnn", "fedavg-gnn"], {}, ["local-gnn", "fedavg-gnn"]),
        (["hierarchical-linear", "fedper"], {"model": "cnn"}, ["hierarchical-linear"]),
    ],
)
def test_all_methods_that_cannot_run_are_named_before_anything_runs(
    tmp_path, monkeypatch, methods, config, unfit
):
    monkeypatch.setattr("pfl_flower.comparison.cell_runner.run_cell", None)
    with refused(ConfigError, key="methods", value=unfit, choices=("fedavg", "local", "fedper")):
        compare(Comparison(methods, SHORT | config, 3, (0,)), tmp_path)
    assert not list(tmp_path.rglob("*.json"))


def test_a_setting_is_of_its_method_alone():
    settings = {"ditto": {"lambda": "auto"}, "local": {"learning-rate": 0.01}}
    comparison = Comparison(["ditto", "mr-mtl"], {"learning-rate": 0.2}, 3, settings=settings)
    configs = {name: comparison.cell(name, 0).config for name in comparison.all_methods}
    assert [configs[name].get("lambda") for name in configs] == [None, None, "auto", None]
    assert [configs[name]["learning-rate"] for name in configs] == [0.2, 0.01, 0.2, 0.2]
    for config in configs.values():
        RunConfig.parse(config)


def test_a_method_under_another_name_does_not_run_twice():
    graph = {"dataset": "social", "partition": "natural"}
    comparison = Comparison(["fedavg-gnn", "local-gnn", "fedper"], graph)
    assert comparison.all_methods == ("fedavg", "local", "fedper")
    assert comparison.same == {"fedavg-gnn": "fedavg", "local-gnn": "local"}
    other = replace(comparison, settings={"fedavg-gnn": {"learning-rate": 0.01}})
    assert other.all_methods == ("fedavg", "local", "fedavg-gnn", "fedper")
    everything = Comparison([name for name in METHODS if not METHODS[name].block], {})
    assert dict(everything.same) == {"fedavg-gnn": "fedavg", "local-gnn": "local"}


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--threshold=shrunk", "threshold would have no effect"),
        ("--lambda=0.3", "--set METHOD.lambda="),
        ("--set=ditto.lambda", "is no METHOD.KEY=VALUE"),
        ("--set=dito.lambda=3", "did you mean 'ditto'?"),
        ("--set=ditto.lambd=3", "did you mean 'lambda'?"),
        ("--set=fedper.lambda=3", "method 'fedper' has no lambda"),
        ("--set=ditto.lambda=many", "lambda is 'many'"),
        ("--set=fedrep.head-epochs=many", "head-epochs"),
        ("--set=ditto.tau=tiny", "it must be of type float"),
        ("--drop-last=yes", "it must be of type bool"),
        ("--num-server-rounds=2.5", "it must be of type int"),
    ],
)
def test_what_cannot_act_is_refused_in_a_line(capsys, option, words):
    assert main(["compare", "--methods", "ditto", option]) == 2
    printed = " ".join(capsys.readouterr().out.split())
    assert words in printed
    assert "Traceback" not in printed


def test_settings_are_read_as_the_types_of_their_keys():
    texts = [
        "ditto.lambda=auto",
        "ditto.tau=0.5",
        "gradient-clusters.clusters=3",
        "mr-mtl.lambda=1",
    ]
    assert read_settings(texts) == {
        "ditto": {"lambda": "auto", "tau": 0.5},
        "gradient-clusters": {"clusters": 3},
        "mr-mtl": {"lambda": 1.0},
    }


def test_a_baseline_stays_what_it_is():
    """Every sentence speaks of one global model, and of training alone."""
    with refused(ConfigError, key="personal"):
        Comparison(["fedper"], {}, 3, settings={"fedavg": {"personal": "all"}})


def test_a_comparison_of_nobody_is_refused():
    with refused(ConfigError, key="clients", value=0):
        Comparison(["fedper"], {}, 0)


def vectors_and_pictures(client, _):
    """The first client has other data than the three others."""
    draw = np.random.default_rng(client)
    shape = (48,) if client == 0 else (3, 4, 4)
    return {"x_train": draw.normal(size=(20, *shape)), "y_train": np.arange(20) % 2}


def test_what_most_clients_have_decides_whether_a_method_can_run():
    data = {"dataset": f"{__name__}:vectors_and_pictures", "model": "cnn"}
    check_feasible(Comparison(["fedper"], data, 4))
