import tomllib
from pathlib import Path

import pytest

from pfl_flower.config.errors import ConfigError
from pfl_flower.config.reading import KEYS
from pfl_flower.config.run_config import RunConfig
from pfl_flower.config.unused_keys import NEEDS, unused_keys
from pfl_flower.engines import simulate
from pfl_flower.methods import METHODS
from tests.errors import refused

FEDAVG = {"method": "fedavg", "baselines": ""}
"""A run that trains in steps and shares everything."""


@pytest.mark.parametrize(
    "values",
    [
        {"method": "fedavg", "imputation": "none"},
        {"method": "local", "weighting": METHODS["local"].default("weighting")},
        {"method": "hierarchical-linear", "heterogeneity": "none", "mu": 0.0},
    ],
)
def test_a_default_or_nothing_that_is_written_out_is_never_refused(values):
    RunConfig.parse({"dataset": "diabetes", "baselines": "", **values})


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"alpha": 0.1}, "alpha"),
        ({"partition": "dirichlet", "classes-per-client": 3}, "classes-per-client"),
        ({"client-column": "who"}, "client-column"),
        ({"dataset": "folder:some", "label-column": "what"}, "label-column"),
        ({"phases": "joint"}, "phases"),
        ({"missingness": "value"}, "missingness"),
        ({"tiers": "5,5"}, "tiers"),
        ({"imputation": "mean"}, "imputation"),
        ({"client-metadata": "shuffled"}, "client-metadata"),
        ({"fanout": 3}, "fanout"),
        ({"whole-graph": 5}, "whole-graph"),
        ({"model": "mlp", "norm": "group"}, "norm"),
        ({"adapter-size": 3}, "adapter-size"),
        ({"head-epochs": 3}, "head-epochs"),
        ({"local-steps": 3, "local-epochs": 5}, "local-epochs"),
        ({"optimizer": "adam", "momentum": 0.5}, "momentum"),
        ({"fine-tuning-epochs": "0,1"}, "fine-tuning-epochs"),
        ({"method": "fedper", "fine-tuning-epochs": "0,1"}, "fine-tuning-epochs"),
        ({"personal-decay": 0.1}, "personal-decay"),
        ({"method": "local", "mu": 0.1}, "mu"),
        ({"method": "local", "server-momentum": 0.5}, "server-momentum"),
        ({"method": "local", "weighting": "uniform"}, "weighting"),
        ({"personal": "all", "server-momentum": 0.5}, "server-momentum"),
        ({"adaptation-steps": 5}, "adaptation-steps"),
        ({"threshold-metric": "cost"}, "threshold-metric"),
        ({"threshold": "personal", "cost-ratio": 2.0}, "cost-ratio"),
        ({"threshold": "personal", "wanted-recall": 0.8}, "wanted-recall"),
        ({"method": "hierarchical-linear", "learning-rate": 0.2}, "learning-rate"),
        ({"method": "errors-in-variables", "local-steps": 2}, "local-steps"),
    ],
)
def test_a_key_that_can_have_no_effect_is_refused(values, key):
    with refused(ConfigError, key=key, value=values[key]):
        RunConfig.parse({**FEDAVG, **values})


@pytest.mark.parametrize(
    "values",
    [
        {"partition": "dirichlet", "alpha": 0.1},
        {"partition": "pathological", "classes-per-client": 3},
        {"dataset": "table:some.csv", "client-column": "who"},
        {"dataset": "smartwatch", "partition": "natural", "phases": "joint"},
        {"missing": 0.0, "imputation": "mean", "missingness": "value"},  # the end of a sweep
        {"dataset": "breast-cancer", "imputation": "mask"},
        {"dataset": "table:some.csv", "imputation": "mean"},
        {"dataset": "metadata-digits", "partition": "natural", "client-metadata": "shuffled"},
        {"dataset": "folder:some", "fanout": 3, "norm": "group", "adapter-size": 3},
        {"method": "adapters", "adapter-size": 3},
        {"schedule": "body-only"},
        {"method": "known-groups", "group": "none"},
        {"method": "gradient-clusters", "group": "none"},
        {"schedule": "head-then-body", "head-epochs": 3},
        {"method": "fedrep", "head-epochs": 3},
        {"method": "fedbabu", "fine-tuning-epochs": "0,1"},
        {"personal": "head", "personal-decay": 0.1},
        {"threshold": "personal", "threshold-metric": "cost", "cost-ratio": 2.0},
        {"unseen": 0.2, "adaptation-steps": 5},
        {"head-epochs": 0, "personal-decay": 0.0},  # ask for nothing
    ],
)
def test_a_key_that_has_an_effect_is_fine(values):
    RunConfig.parse({**FEDAVG, **values})


@pytest.mark.parametrize(
    ("method", "baseline", "values"),
    [
        ("fedavg", "fedrep", {"head-epochs": 3}),
        ("fedrep", "fedavg", {"head-epochs": 3}),
        ("local", "fedavg", {"server-momentum": 0.5}),
        ("fedavg", "fedavg-ft", {"fine-tuning-epochs": "0,1"}),
        ("fedavg", "hierarchical-linear", {"learning-rate": 0.2}),
    ],
)
def test_a_key_that_one_method_of_a_run_has_a_use_for_is_fine(method, baseline, values):
    RunConfig.parse({"method": method, "baselines": baseline, **values})


def test_a_schedule_of_the_first_method_is_none_of_its_baselines():
    values = {"method": "fedper", "baselines": "fedavg", "personal": "all", "mu": 0.1}
    with refused(ConfigError, key="mu", value=0.1):  # nothing is shared, and fedavg has its own mu
        RunConfig.parse(values)


@pytest.mark.parametrize("method", METHODS)
def test_defaults_are_never_refused(method):
    path = Path(__file__).parents[3] / "pyproject.toml"
    packaged = tomllib.loads(path.read_text())["tool"]["flwr"]["app"]["config"]
    assert not unused_keys(RunConfig.read({**packaged, "method": method, "dataset": "folder:some"}))


def test_every_run_refuses_them_before_it_starts():
    with refused(ConfigError, key="head-epochs", value=3):
        simulate({**FEDAVG, "head-epochs": 3}, 2)


def test_what_is_needed_is_asked_of_keys_that_there_are():
    assert {key for need in NEEDS for key in need.keys} <= set(KEYS)
    assert {key for row in METHODS.values() for key in row.ignores} <= set(KEYS)
