"""What a review found: each was a defect once."""

import numpy as np
import pytest

from pfl_flower.config import ConfigError, RunConfig
from pfl_flower.engines import simulate
from strategies.tribes import TribeRules, find_tribes, join_tribes

TRIBES = {
    "dataset": "digits",
    "partition": "iid",
    "heterogeneity": "taste",
    "baselines": "",
    "local-epochs": 1,
    "num-server-rounds": 2,
}


def test_clients_that_are_like_nobody_are_in_no_tribe_of_two():
    labels = find_tribes(np.eye(3), np.ones(3), [30] * 3, TribeRules(smallest=2))
    assert labels.tolist() == [-1, -1, -1]


@pytest.mark.parametrize("clients", [1, 2])
def test_a_tribe_of_two_needs_two(clients):
    config = {**TRIBES, "method": "gradient-clusters", "smallest-cluster": 2}
    (run,) = simulate(config, clients)
    assert set(run.grouping.groups.values()) == {-1}
    assert len(run.by_client()) == clients


def test_where_no_gradient_is_reliable_there_is_one_tribe():
    similarity = np.eye(4)
    assert find_tribes(similarity, np.zeros(4), [3] * 4, TribeRules()).tolist() == [0] * 4


def test_the_number_of_a_tribe_that_is_gone_is_not_used_again():
    before = np.array([0, 0, -1])
    similarity = np.array([[1, 0.9, -0.5], [0.9, 1, -0.5], [-0.5, -0.5, 1]])
    found = join_tribes(similarity, np.ones(3), [30] * 3, before, TribeRules(), first_free=5)
    assert found.tolist() == [0, 0, 5]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "ifca", "initial": "x", "baselines": ""}, "cannot start from shared arrays"),
        ({"method": "cfl", "personal": "all"}, "leaves nothing for the groups"),
        ({"late": 0.5, "num-server-rounds": 1}, "half of the rounds"),
    ],
)
def test_what_makes_no_sense_is_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        RunConfig.parse(options)
