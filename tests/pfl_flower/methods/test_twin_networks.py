import numpy as np
import pytest

from pfl_flower.config.errors import ConfigError
from pfl_flower.engines import simulate
from tests.errors import refused
from tests.helpers import decoded, metrics_of

QUICK = [
    {"method": "fedavg", "server-momentum": 0.9},
    {"method": "apfl"},
    {"method": "lifelong"},
    {"method": "hierarchical-bayes", "posterior-samples": 2},
]
OTHERS = [
    {"method": "fedavg"},
    {"method": "fedper", "safeguard": True},
    {"method": "fedbabu"},
    {"method": "pfedme"},
    {"method": "ifca"},
    {"method": "cfl"},
    {"method": "gradient-clusters"},
    {"method": "pfedhn"},
    {"method": "l2gd"},
    {"method": "mr-mtl", "fraction-train": 0.5},
    {"method": "quality-weighted"},
]
PAIRS = (("Tied", "Untied"), ("Twice", "Once"), ("Scalar", "LengthOne"))


def run(network, options, folder):
    config = {
        "dataset": "breast-cancer",
        "model": f"tests.pfl_flower.methods.twin_networks:{network}",
        "baselines": "",
        "heterogeneity": "none",
        "num-server-rounds": 2,
        "learning-rate": 0.05,
        **options,
    }
    return simulate(config, 3, folder=folder)


def assert_twins(pair, options, folder):
    one, other = (run(network, options, folder / network) for network in pair)
    assert [metrics_of(r) for r in one] == [metrics_of(r) for r in other]
    for left, right in zip(one, other, strict=True):
        arrays, others = decoded(left.arrays), decoded(right.arrays)
        assert arrays.keys() == others.keys()
        for name, values in arrays.items():
            np.testing.assert_array_equal(values.ravel(), others[name].ravel())


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("options", QUICK, ids=lambda o: o["method"])
def test_twins_get_the_same_numbers(pair, options, tmp_path):
    assert_twins(pair, options, tmp_path)


@pytest.mark.integration
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("options", OTHERS, ids=lambda o: o["method"])
def test_twins_get_the_same_numbers_in_other_methods(pair, options, tmp_path):
    assert_twins(pair, options, tmp_path)


def test_a_network_of_bfloat16_is_refused_before_round_1():
    model = "tests.pfl_flower.methods.twin_networks:bfloat16"
    with refused(ConfigError, key="model", value=model):
        run("bfloat16", {"method": "fedavg"}, None)


@pytest.mark.parametrize("pair", [("Recurrent", "Unrolled"), ("InPlace", "OutOfPlace")])
@pytest.mark.parametrize("method", ["lifelong", "hierarchical-bayes"])
def test_a_network_that_vmap_cannot_map_gets_its_gradients_in_a_loop(pair, method):
    options = {"method": method, "prior": "all"} if method != "lifelong" else {"method": method}
    for one, other in zip(*(run(network, options, None) for network in pair), strict=True):
        arrays, others = decoded(one.arrays), decoded(other.arrays)
        for name, values in arrays.items():
            np.testing.assert_allclose(values, others[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ["lifelong", "hierarchical-bayes"])
def test_batch_norm_without_statistics_is_refused_where_examples_need_gradients(method):
    with refused(ConfigError, key="model"):
        run("NoStatistics", {"method": method}, None)


def test_a_loop_of_gradients_is_announced_before_round_1(caplog):
    with caplog.at_level("WARNING", logger="flwr"):
        run("Recurrent", {"method": "lifelong", "num-server-rounds": 1}, None)
        assert any("one after another" in record.getMessage() for record in caplog.records)
