import json

import numpy as np
import pytest

from pfl_flower.engines import simulate
from simulations.studies.clusters import (
    CONFIG,
    NUM_CLIENTS,
    RESTARTS,
    SIZES_STUDY,
    STUDY,
    at_home,
    best_restarts,
    measure,
)
from simulations.study import Arm, Outcome, Result
from simulations.summary import write_outcome

COSTS = {"bytes_per_round": {"down": 1.0, "up": 1.0}, "parameters": {}, "seconds_per_round": 1.0}


def result(arm, seed=0, accuracy=0.5, **measures):
    return Result(arm, seed, {0: accuracy, 1: accuracy}, COSTS, measures)


def outcome_of(study, changes=()):
    """Every arm finds everything on ten seeds, but for the changes: (arm's key, seed) -> result."""
    found = {"rand": 1.0, "loss": 1.0, "clusters": 3, "late": [True] * 5, "groups": [0, 1]}
    low = ("fedavg", "local")
    results = {
        (arm.key, seed): result(arm, seed, 0.3 if arm.name in low else 0.9, **found)
        for arm in study.arms
        for seed in range(10)
    }
    return Outcome(list({**results, **dict(changes)}.values()))


def test_who_is_like_whom_is_drawn(tmp_path):
    arm = next(arm for arm in STUDY.arms if arm.name == "gradient-clusters")
    reported = {"similarity": np.eye(NUM_CLIENTS), "examples": [20] * NUM_CLIENTS}
    found = {"rand": 1.0, "loss": 1.0, "clusters": 3, "groups": [0] * NUM_CLIENTS, **reported}
    STUDY.draw(Outcome([result(arm, **found)]), tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"similarity.png", "dendrogram.png", "clients.png"}


def holds(outcome):
    return {claim.name: claim.holds for claim in STUDY.claims(outcome)}


def test_all_promises_hold_where_everything_is_found():
    assert all(holds(outcome_of(STUDY)).values())


@pytest.mark.parametrize(
    ("key", "failing", "measures", "claim"),
    [
        ("gradient-clusters", 3, {"rand": 0.99}, "gradient-clusters: seeds"),
        ("gradient-clusters, no clusters", 2, {"rand": 0.0}, "no clusters: seeds"),
        ("gradient-clusters, five come late", 2, {"late": [True] * 4}, "late: seeds"),
        ("cfl", 4, {"rand": 0.89}, "cfl: seeds"),
    ],
)
def test_a_promise_fails_with_one_seed_too_few(key, failing, measures, claim):
    arm = next(arm for arm in STUDY.arms if arm.key == key)
    base = {"rand": 1.0, "loss": 1.0, "clusters": 3, "late": [True] * 5}
    for number, expected in ((failing - 1, True), (failing, False)):
        changes = {(key, s): result(arm, s, 0.9, **{**base, **measures}) for s in range(number)}
        found = holds(outcome_of(STUDY, changes))
        assert {v for n, v in found.items() if n.startswith(claim)} == {expected}


def test_the_best_start_is_that_of_the_lowest_training_loss():
    arms = [arm for arm in STUDY.arms if arm.name == "ifca"]
    assert [arm.point for arm in arms] == list(RESTARTS)
    losses = {0: (0.3, 0.1, 0.2), 1: (0.1, 0.2, 0.3)}
    results = [
        result(arm, seed, loss=losses[seed][place], rand=float(place))
        for seed in (0, 1)
        for place, arm in enumerate(arms)
    ]
    assert [r.measures["rand"] for r in best_restarts(Outcome(results))] == [1.0, 0.0]


def test_at_home_is_where_most_of_those_who_came_before_are_of_ones_cluster():
    truth = [0, 0, 1, 1, 1]
    groups = {0: 0, 1: 0, 2: 1, 3: 1, 4: 0}
    assert at_home(3, groups, truth, late=[3])
    assert not at_home(4, groups, truth, late=[4])
    assert not at_home(4, {**groups, 4: 7}, truth, late=[4])  # alone
    assert not at_home(4, groups, truth, late=[0, 1, 4])  # nobody came before


def test_what_is_measured_of_a_run():
    config = {**CONFIG, "method": "gradient-clusters", "baselines": "", "num-server-rounds": 2}
    (run,) = simulate({**config, "cluster-sizes": "3,5", "late": 0.25}, 8)
    found = measure(run)
    assert found["rand"] == 1.0
    assert found["clusters"] == 2
    assert found["late"] == [True, True]
    assert found["loss"] > 0
    (run,) = simulate({**config, "method": "fedavg", "cluster-sizes": "3,5"}, 8)
    assert measure(run).keys() == {"loss"}


def test_every_arm_is_of_all_clients():
    for arm in (*STUDY.arms, *SIZES_STUDY.arms):
        config = {**CONFIG, **arm.config}
        assert sum(map(int, str(config["cluster-sizes"]).split(","))) == NUM_CLIENTS


def test_sizes_are_compared_with_the_whole_gradient_seed_by_seed(tmp_path):
    arm = Arm("projected", {}, 8192)
    worse = {(arm.key, 0): result(arm, 0, rand=0.9, loss=1.0, groups=[0, 0])}
    for changes, share in (({}, 1.0), (worse, 0.9)):
        summary = write_outcome(SIZES_STUDY, outcome_of(SIZES_STUDY, changes), tmp_path)
        (claim,) = summary["claims"].values()
        assert claim["value"] == pytest.approx(share)
        assert claim["holds"] == (share == 1.0)
    columns = json.loads((tmp_path / "summary.json").read_text())["methods"]["whole"]["columns"]
    assert columns["clusters found"] == 1.0
    assert (tmp_path / "sizes.png").exists()
