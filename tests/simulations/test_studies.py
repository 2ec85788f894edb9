import json
import os

import pytest

from pfl_flower.data import DataError
from simulations.__main__ import STUDIES, main
from simulations.studies.assistants_network import encoder_folder
from simulations.studies.proximal import STRENGTHS, chosen_inside, gains
from simulations.study import Arm, Claim, Outcome, Result, Study, run_study
from simulations.summary import summary_of


def test_the_list(capsys):
    assert main([]) == 0
    printed = capsys.readouterr().out
    for name in STUDIES:
        assert name in printed


@pytest.mark.integration
def test_a_small_run_writes_what_is_promised(tmp_path, capsys):
    code = main(["taste", "--seeds", "0", "--rounds", "1", "--jobs", "1", "--out", str(tmp_path)])
    assert code == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["seeds"] == [0]
    for entry in summary["methods"].values():
        assert entry["accuracy"].keys() == {"mean", "std", "worst_tenth"}
        assert entry["bytes_per_round"].keys() == {"down", "up"}
        assert entry["parameters"].keys() == {"shared", "personal"}
        assert entry["seconds_per_round"] > 0
    for claim in summary["claims"].values():
        assert claim.keys() == {"value", "threshold", "holds"}
    assert (tmp_path / "accuracy.png").exists()
    printed = capsys.readouterr().out
    assert "worst tenth" in printed
    assert "FAILS" in printed  # one round is not enough


@pytest.mark.integration
def test_check_fails_when_a_claim_does(tmp_path):
    arguments = ["taste", "--seeds", "0", "--rounds", "1", "--jobs", "1", "--out", str(tmp_path)]
    assert main([*arguments, "--check"]) == 1


@pytest.mark.integration
def test_runs_side_by_side_are_the_same_runs():
    config = {"num-server-rounds": 2, "local-epochs": 1}
    arms = [Arm(name, {"method": name}) for name in ("fedavg", "fedper")]
    study = Study("small", "?", 3, config, arms, lambda outcome: [])
    alone, together = run_study(study, [0, 1]), run_study(study, [0, 1], jobs=2)
    for left, right in zip(alone.results, together.results, strict=True):
        assert (left.arm, left.seed) == (right.arm, right.seed)
        assert left.accuracy.tolist() == right.accuracy.tolist()
    assert summary_of(study, alone)["methods"].keys() == {"fedavg", "fedper"}


def test_an_arm_has_no_use_for_what_the_study_has_for_others_but_for_its_own():
    assert Arm("plain", {"method": "fedavg"}).on_top_of({"head-epochs": 3}) == {
        "method": "fedavg",
        "baselines": "",
    }
    assert Arm("odd", {"head-epochs": 3}).on_top_of({})["head-epochs"] == 3  # which a run refuses


def test_a_claim():
    assert Claim("x", 0.5, 0.5).holds
    assert not Claim("x", 0.49, 0.5).holds
    assert not Claim("x", float("nan"), 0.5).holds


@pytest.mark.integration
def test_the_proximal_study_draws_its_curves_and_takes_lambda_on_validation(tmp_path, capsys):
    arguments = ["proximal", "--seeds", "0,1", "--rounds", "1", "--jobs", "1"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    for name in ("dirichlet.png", "mild-taste.png", "accuracy.png"):
        assert (tmp_path / name).exists()
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert "ditto, mild-taste at 0.03" in summary["methods"]
    assert sum("interval" in name for name in summary["claims"]) == 4


def validated(strength, seed, validation, accuracy):
    name = "ditto, dirichlet"
    by_client = {0: accuracy, 1: accuracy}
    measures = {"validation": validation, "lambda": {}}
    return Result(Arm(name, {}, strength), seed, by_client, {}, measures)


def test_the_inner_lambda_is_chosen_on_validation_for_every_seed():
    results = [
        validated(strength, seed, validation=float(strength == (0.3, 3.0)[seed]), accuracy=0.5)
        for seed in (0, 1)
        for strength in STRENGTHS
    ]
    ends = [Result(Arm("local, dirichlet", {}), seed, {0: 0.25, 1: 0.5}, {}, {}) for seed in (0, 1)]
    outcome = Outcome([*results, *ends])
    assert chosen_inside(outcome, "dirichlet") == [0.3, 3.0]
    found = gains(outcome, "dirichlet", "local")
    assert [seed.tolist() for seed in found] == [[0.25, 0.0], [0.25, 0.0]]


@pytest.mark.integration
def test_a_smartwatch_shows_what_is_learnt_and_forgotten(tmp_path, capsys):
    arguments = ["smartwatch", "--seeds", "0", "--rounds", "6", "--jobs", "1"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    for name in ("old.png", "new.png", "accuracy.png"):
        assert (tmp_path / name).exists()
    summary = json.loads((tmp_path / "summary.json").read_text())
    columns = summary["methods"]["all three"]["columns"]
    assert columns.keys() == {"backward transfer", "forgetting", "plasticity"}
    # without a pull, training goes on as if alone
    methods = summary["methods"]
    assert methods["fine-tuning"]["accuracy"] == methods["local"]["accuracy"]
    assert methods["joint"]["columns"]["forgetting"] is None
    assert len(summary["claims"]) == 3


PROMISE_NOTHING = (
    *(
        "smartwatch-real",
        "cold-start-hard",
        "cold-start-regression",
        "social-labels",
        "social-links",
    ),
    "hospitals-real",
)
ELSEWHERE = ("social-large",)
"""In test_social.py."""

REAL_GRAPHS = ("social-cora", "social-citeseer", "social-twitch")
REAL_TEXTS = ("assistants", "assistants-settings")
"""These read pretrained weights, which come with a package of their own (80 MB)."""
REAL_PICTURES = ("pictures", "pictures-settings")
LONG = (
    *(
        "lighting",
        "sensors",
        "smartwatch",
        "gallery",
        "safeguard",
        "proximal",
        "clusters",
        "clusters-sizes",
        "cold-start",
    ),
    *("borrowing-digits", "social", *REAL_GRAPHS, *REAL_TEXTS),
    *REAL_PICTURES,
)
"""Over two minutes of a core each: before a release, not at every change."""


def promising(name):
    return pytest.param(name, marks=pytest.mark.long if name in LONG else pytest.mark.study)


def encoder_or_skip():
    try:
        encoder_folder()
    except DataError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    "name", [promising(n) for n in STUDIES if n not in PROMISE_NOTHING + ELSEWHERE]
)
def test_every_promise_of_every_study(name, tmp_path):
    if name in (*REAL_GRAPHS, *REAL_TEXTS, *REAL_PICTURES) and not os.environ.get("PFL_DATA_DIR"):
        pytest.skip("needs $PFL_DATA_DIR")
    if name in REAL_TEXTS:
        encoder_or_skip()
    assert main([name, "--check", "--out", str(tmp_path)]) == 0
