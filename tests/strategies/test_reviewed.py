"""What a review found: each was a defect once."""

import numpy as np
import pytest
from flwr.app import ConfigRecord

from pfl_flower.config.errors import ConfigError
from pfl_flower.config.run_config import RunConfig
from pfl_flower.engines import simulate
from pfl_flower.grid import InProcessGrid
from pfl_flower.results.files import describe, summarize
from strategies import CFL, NO_GROUP, GradientClusters
from strategies.arrays import to_record
from strategies.clustered.similarity_clustering import (
    ClusteringRules,
    assign_to_clusters,
    find_clusters,
    refine,
)

CLUSTERS = {
    "dataset": "digits",
    "partition": "iid",
    "heterogeneity": "taste",
    "baselines": "",
    "local-epochs": 1,
    "num-server-rounds": 2,
}


def test_clients_that_are_like_nobody_are_in_no_cluster_of_two():
    labels = find_clusters(np.eye(3), np.ones(3), [30] * 3, ClusteringRules(smallest_cluster=2))
    assert labels.tolist() == [-1, -1, -1]


@pytest.mark.parametrize("clients", [1, 2])
def test_a_cluster_of_two_needs_two(clients):
    config = {**CLUSTERS, "method": "gradient-clusters", "smallest-cluster": 2}
    (run,) = simulate(config, clients)
    assert set(run.grouping.groups.values()) == {-1}
    assert len(run.by_client()) == clients


def test_where_no_gradient_is_reliable_there_is_one_cluster():
    similarity = np.eye(4)
    assert find_clusters(similarity, np.zeros(4), [3] * 4, ClusteringRules()).tolist() == [0] * 4


def test_the_number_of_a_cluster_that_is_gone_is_not_used_again():
    before = np.array([0, 0, -1])
    similarity = np.array([[1, 0.9, -0.5], [0.9, 1, -0.5], [-0.5, -0.5, 1]])
    found = assign_to_clusters(
        similarity, np.ones(3), [30] * 3, before, ClusteringRules(), first_free=5
    )
    assert found.tolist() == [0, 0, 5]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "ifca", "initial": "x", "baselines": ""}, "cannot start from shared arrays"),
        ({"method": "cfl", "personal": "all"}, "leaves nothing for the groups"),
        ({"late": 0.5, "num-server-rounds": 1}, "half of the rounds"),
        ({"cluster-sizes": "5,5", "heterogeneity": "none"}, "there is none here"),
        (
            {"method": "gradient-clusters", "revise-every": 2, "validation-fraction": 0.0},
            "needs validation examples",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        RunConfig.parse(options)


def test_a_given_number_of_clusters_is_kept_even_where_all_are_alike():
    labels = find_clusters(np.ones((4, 4)), np.ones(4), [50] * 4, ClusteringRules(clusters=2))
    assert len(set(labels.tolist())) == 2


def test_refinement_leaves_no_cluster_smaller_than_allowed():
    similarity = np.full((5, 5), 0.9)
    similarity[0] = similarity[:, 0] = 0.1  # what 1 has in common with its only companion
    labels = np.array([0, 0, 1, 1, 1])
    ones, examples = np.ones(5), [30] * 5
    assert (
        refine(similarity, ones, examples, labels, ClusteringRules(smallest_cluster=1)).tolist()[1]
        == 1
    )
    assert (
        refine(similarity, ones, examples, labels, ClusteringRules(smallest_cluster=2)).tolist()[1]
        == 0
    )


def test_a_silent_member_does_not_hold_up_a_split_and_is_placed_anew():
    strategy = CFL(parameter_names=["w"])
    strategy.groups = dict.fromkeys(range(8), 0)
    strategy.models = {0: to_record({"w": np.zeros(2, np.float32)})}
    strategy.scale = 1.0
    strategy.updates = {c: np.array([1.0 if c < 4 else -1.0, 0.1 * c]) for c in range(7)}
    strategy._split(0)
    assert {c for c, g in strategy.groups.items() if g == 0} == {0, 1, 2, 3}
    assert {c for c, g in strategy.groups.items() if g == 1} == {4, 5, 6}
    assert strategy.assignments[-1][1:3] == (7, NO_GROUP)
    strategy.updates = {c: np.ones(2) for c in range(2)}
    strategy._split(0)  # of two of four nothing is known
    assert set(strategy.groups.values()) == {0, 1}


def test_names_of_arrays_that_are_not_there_are_refused():
    grid = InProcessGrid(lambda message, context: message, 2)
    arrays = to_record({"w": np.zeros(2, np.float32)})
    strategy = GradientClusters(group_names=["nope"])
    with pytest.raises(ValueError, match=r"\['nope'\], but the arrays are \['w'\]"):
        strategy.configure_train(1, arrays, ConfigRecord(), grid)
    with pytest.raises(ValueError, match="several names"):
        GradientClusters(group_names="w")


def test_what_finding_groups_takes_counts_among_the_bytes_of_a_round():
    config = {**CLUSTERS, "cluster-sizes": "3,5", "clusters": 2}
    (run,) = simulate({**config, "method": "ifca"}, 8)
    sent = [r.bytes_down for r in run.reports]
    model = sent[0]
    assert set(sent) == {model}
    down = summarize(run)["bytes_per_round"]["down"]
    assert down == pytest.approx(2 * model + 2 * model)  # to train, to evaluate; two to choose from


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cluster-sizes": "4,4"}, "the model of its group (there are 2, of 4, 4 clients)."),
        ({"cluster-sizes": "8"}, "the same model, since all are in one group."),
        (
            {"cluster-sizes": "7,1", "smallest-cluster": 2},
            "the model of its group (there is 1, of 7 clients); 1 is in none and has the mean",
        ),
        (
            {"cluster-sizes": "4,4", "personal": "head"},
            "a model of its own, around that of its group",
        ),
    ],
)
def test_it_is_told_whose_model_a_client_has(options, words):
    data = {"min-examples": 30, "max-examples": 40}
    runs = simulate({**CLUSTERS, **data, "method": "gradient-clusters", **options}, 8)
    assert words in describe(runs)[0]
