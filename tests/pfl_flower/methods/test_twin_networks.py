import numpy as np
import pytest

from pfl_flower.engines import simulate
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
PAIRS = (("Tied", "Untied"), ("Twice", "Once"))


def run(network, options):
    config = {
        "dataset": "breast-cancer",
        "model": f"tests.pfl_flower.methods.twin_networks:{network}",
        "baselines": "",
        "heterogeneity": "none",
        "num-server-rounds": 2,
        "learning-rate": 0.05,
        **options,
    }
    return simulate(config, 3)


def assert_twins(pair, options):
    one, other = run(pair[0], options), run(pair[1], options)
    assert [metrics_of(r) for r in one] == [metrics_of(r) for r in other]
    for left, right in zip(one, other, strict=True):
        arrays, others = decoded(left.arrays), decoded(right.arrays)
        assert arrays.keys() == others.keys()
        for name, values in arrays.items():
            np.testing.assert_array_equal(values, others[name])


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("options", QUICK, ids=lambda o: o["method"])
def test_a_tensor_with_two_names_is_one_tensor(pair, options):
    assert_twins(pair, options)


@pytest.mark.integration
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("options", OTHERS, ids=lambda o: o["method"])
def test_a_tensor_with_two_names_is_one_tensor_in_other_methods(pair, options):
    assert_twins(pair, options)
