import json
import os
import subprocess
import sys
import time
from functools import cache

import numpy as np
import pytest

from pfl_flower.engines import simulate
from pfl_flower.plots.graphs import principal_plane
from pfl_flower.results.files import summarize
from simulations.studies import social, social_large, social_real
from simulations.studies.social import (
    FEDAVG,
    FEW,
    LABELS,
    LABELS_STUDY,
    NUM_CLIENTS,
    OWN,
    STUDY,
    measure,
    rand,
    true_community,
)
from simulations.study import Arm, Outcome, Result
from simulations.summary import write_outcome

BYTES = {FEDAVG: 1000.0, OWN: 1149.0}


def result(arm, seed=0, accuracy=0.5, queries=0.0, **measures):
    weight = BYTES.get(arm.name, 1000.0)
    traffic = {"down": weight / 2, "up": weight / 2 + queries / (40 * NUM_CLIENTS)}
    costs = {"bytes_per_round": traffic, "parameters": {}, "seconds_per_round": 1.0}
    costs["groups"] = {"bytes_to_find": {"down": 0.0, "up": queries}}
    by_client = dict.fromkeys(range(NUM_CLIENTS), accuracy)
    return Result(arm, seed, by_client, costs, {"edges": (90, 10), "groups": [], **measures})


def outcome_of(study, changes=(), seeds=range(5)):
    """Community-adapters are at 50 %, all others at 40; changes: (arm's key, seed) -> result."""
    results = {
        (arm.key, seed): result(arm, seed, 0.5 if arm.name.startswith(OWN) else 0.4)
        for arm in study.arms
        for seed in seeds
    }
    return Outcome(list({**results, **dict(changes)}.values()))


def holds(study, outcome):
    return {claim.name: claim.holds for claim in study.claims(outcome)}


def arm_of(study, key):
    return next(arm for arm in study.arms if arm.key == key)


def test_all_promises_hold_where_community_adapters_win():
    found = holds(STUDY, outcome_of(STUDY))
    assert len(found) == 4
    assert all(found.values())


@pytest.mark.parametrize(
    ("other", "accuracy", "claim"),
    [
        (FEDAVG, 0.451, "at least 5 points above fedavg-gnn"),
        ("local-gnn", 0.501, "above local-gnn"),
        ("known-groups", 0.901, "above known-groups"),  # four seeds weigh as much as this one
    ],
)
def test_a_promise_fails_on_account_of_one_seed(other, accuracy, claim):
    arm = arm_of(STUDY, other)
    found = holds(STUDY, outcome_of(STUDY, {(other, 3): result(arm, 3, accuracy)}))
    assert {name for name, kept in found.items() if not kept} == {
        name for name in found if claim in name
    }
    slightly_less = result(arm, 3, accuracy - 0.002)
    assert all(holds(STUDY, outcome_of(STUDY, {(other, 3): slightly_less})).values())


def test_a_message_is_compared_without_what_finding_groups_takes(monkeypatch):
    arm = arm_of(STUDY, OWN)
    outcome = outcome_of(STUDY, {(OWN, 0): result(arm, 0, 0.5, queries=1e6)})
    assert social.message(outcome, OWN) == pytest.approx(1149)
    assert all(holds(STUDY, outcome).values())
    monkeypatch.setitem(BYTES, OWN, 1151.0)
    failed = [name for name, kept in holds(STUDY, outcome_of(STUDY)).items() if not kept]
    assert len(failed) == 1
    assert "15%" in failed[0]


def test_gains_are_said_seed_by_seed():
    arm = arm_of(STUDY, "fedper")
    outcome = outcome_of(STUDY, {("fedper", 1): result(arm, 1, 0.6)})
    (row,) = [row for row in social.gains_of(outcome, OWN) if row["other"] == "fedper"]
    assert row["points gained"] == pytest.approx(6)
    assert row["least"] == pytest.approx(-10)
    assert row["most"] == pytest.approx(10)
    assert row["better on"] == "4 of 5 seeds"


def test_the_few_labels_are_those_of_the_table_and_others_points_of_the_curve():
    tabled = [arm for arm in LABELS_STUDY.arms if arm.point is None]
    assert {arm.config["max-examples"] for arm in tabled} == {FEW}
    assert {arm.config["max-examples"] for arm in LABELS_STUDY.arms} == set(LABELS)
    for arm in LABELS_STUDY.arms:
        assert arm.config["min-examples"] == arm.config["max-examples"]
        assert arm.point in (None, arm.config["max-examples"])


def test_groups_are_held_against_the_true_communities():
    arm = Arm(OWN, {})
    reported = [true_community(client) for client in range(NUM_CLIENTS)]
    assert reported == sorted(reported)
    assert np.bincount(reported).tolist() == [4, 4, 4, 4]
    assert rand(result(arm, groups=reported)) == 1
    assert rand(result(arm, groups=[3 - group for group in reported])) == 1
    assert rand(result(arm, groups=[0] * NUM_CLIENTS)) == 0


@cache
def run_of(name, links=False):
    """One round of an arm with few labels; kept, since several tests look at it."""
    study = social.LINKS_STUDY if links else STUDY
    changes = {"baselines": "", "seed": 100, "num-server-rounds": 1}
    config = {**arm_of(study, name).on_top_of(study.config), **changes}
    return simulate(config, NUM_CLIENTS)[-1]


@pytest.mark.integration
def test_what_is_measured_of_a_run():
    run = run_of(OWN)
    found = measure(run)
    kept, dropped = found["edges"]
    assert kept > dropped > 0
    assert summarize(run)["edges"] == {"kept": kept, "dropped": dropped}
    assert found["groups"] == [true_community(client) for client in range(NUM_CLIENTS)]
    assert sorted(found["means"]) == [0, 1, 2, 3]
    size = sum(2 * 2 * 64 + 2 + 64 for _ in range(2))
    assert found["adapters"].shape == (NUM_CLIENTS, size)
    for client, own in enumerate(found["adapters"]):
        distances = {g: np.linalg.norm(own - mean) for g, mean in found["means"].items()}
        assert min(distances, key=distances.get) == true_community(client)
        assert distances[true_community(client)] > 0


def test_a_method_without_groups_or_with_own_heads_has_no_adapters_to_draw():
    assert measure(run_of(FEDAVG)).keys() == {"edges"}
    own_heads = run_of(f"{OWN}, own heads")
    assert measure(own_heads).keys() == {"edges", "groups"}


def test_a_message_is_at_most_15_percent_larger():
    runs = [run_of(name) for name in (OWN, FEDAVG)]
    own, fedavg = (sum(summarize(run)["bytes_per_round"].values()) for run in runs)
    assert 1 < own / fedavg <= 1.15


def test_pictures_and_tables_are_written(tmp_path):
    drawn = {"adapters": np.eye(NUM_CLIENTS), "means": {0: np.ones(NUM_CLIENTS)}}
    groups = [true_community(client) for client in range(NUM_CLIENTS)]
    first = result(arm_of(LABELS_STUDY, OWN), 0, 0.5, groups=groups, **drawn)
    outcome = outcome_of(LABELS_STUDY, {(OWN, 0): first}, seeds=[0])
    for each in outcome.results:
        each.measures["groups"] = groups
    summary = write_outcome(LABELS_STUDY, outcome, tmp_path)
    names = {path.name for path in tmp_path.glob("*.png")}
    assert names == {"accuracy.png", "adapters.png", "bytes.png", "communities.png", "labels.png"}
    assert summary["tables"]["Connections"] == [{"seed": 0, "kept": 90, "dropped": 10, "%": 10.0}]
    assert summary["methods"][OWN]["columns"] == {"Rand index": 1.0}
    assert json.loads((tmp_path / "summary.json").read_text())["score"] == "accuracy"


@pytest.mark.integration
def test_links_are_predicted_in_the_same_networks():
    found = {name: run_of(name, links=True) for name in (OWN, FEDAVG)}
    for run in found.values():
        assert run.score == "auc"
        assert 0.5 < run.values().mean() < 0.72  # an oracle that knows all kinds has 0.72
    assert measure(found[OWN])["edges"] == measure(run_of(OWN))["edges"]


def test_points_of_a_plane_keep_their_distances():
    flat = np.random.default_rng(0).normal(size=(7, 2))
    turned = np.linalg.qr(np.random.default_rng(1).normal(size=(9, 9)))[0][:2]
    found = principal_plane(flat @ turned + 3)
    apart = np.linalg.norm(flat[:, None] - flat, axis=2)
    assert np.linalg.norm(found[:, None] - found, axis=2) == pytest.approx(apart)
    assert found.mean(axis=0) == pytest.approx([0, 0], abs=1e-12)
    assert found[:, 0].std() >= found[:, 1].std()
    assert principal_plane(np.ones((1, 5))).tolist() == [[0, 0]]


REAL = social_real.CORA_STUDY


def test_on_real_graphs_a_deviation_below_fedavg_is_forgiven():
    for accuracy, kept in ((0.70, True), (0.68, True), (0.60, False)):
        # a deviation of 2 to 3 points for both arms
        steps = {0: -0.03, 1: -0.01, 2: 0.0, 3: 0.01, 4: 0.03}
        changes = {
            (key, seed): result(arm_of(REAL, key), seed, accuracy_of + step)
            for key, accuracy_of in (
                *((name, accuracy) for name in social_real.FOUND),
                (FEDAVG, 0.7),
            )
            for seed, step in steps.items()
        }
        assert set(holds(REAL, outcome_of(REAL, changes)).values()) == {kept}


def test_every_real_study_finds_communities_that_nobody_declared():
    studies = (REAL, social_real.CITESEER_STUDY, social_real.TWITCH_STUDY)
    for study in studies:
        for arm in study.arms:
            if arm.config["method"] == OWN:
                assert arm.config["communities"] in ("gradients", "updates")
    assert len({study.config["dataset"] for study in studies}) == 3


def test_a_piece_of_the_large_graph_is_what_the_cut_says(monkeypatch):
    small = social.SocialWorld(nodes=20, inside=0.3, outside=0.1)
    monkeypatch.setattr(social_large, "WORLD", small)
    monkeypatch.setattr(social_large, "NUM_CLIENTS", 8)
    social_large.network.cache_clear()
    try:
        whole, pieces = social_large.network()
        found = [social_large.load(client, 8) for client in range(8)]
        assert sum(piece["edge_index"].shape[1] for piece in found) == 2 * pieces.kept
        assert 2 * (pieces.kept + pieces.dropped) == whole.edges.shape[1]
        assert [piece["community"] for piece in found] == [0, 0, 1, 1, 2, 2, 3, 3]
        assert (found[3]["y"] == whole.targets[60:80]).all()
    finally:
        social_large.network.cache_clear()


@pytest.mark.deployment
def test_a_large_graph_takes_less_than_six_gigabytes_and_five_minutes(tmp_path):
    command = [sys.executable, "-m", "simulations", "social-large", "--jobs", "1", "--check"]
    begun = time.perf_counter()
    process = subprocess.Popen([*command, "--out", str(tmp_path)])
    _, status, usage = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert time.perf_counter() - begun < 300
    assert usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) < 6e9
    (row,) = json.loads((tmp_path / "summary.json").read_text())["tables"]["What it took"]
    assert row["nodes"] == 100_000
    assert row["kept"] >= 1_000_000
