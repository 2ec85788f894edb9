import json

import pytest

from simulations.__main__ import STUDIES, main
from simulations.study import Arm, Claim, Study, run_study, summary_of


def test_the_list(capsys):
    assert main([]) == 0
    printed = capsys.readouterr().out
    for name in STUDIES:
        assert name in printed


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


def test_check_fails_when_a_claim_does(tmp_path):
    arguments = ["taste", "--seeds", "0", "--rounds", "1", "--jobs", "1", "--out", str(tmp_path)]
    assert main([*arguments, "--check"]) == 1


def test_runs_side_by_side_are_the_same_runs():
    config = {"num-server-rounds": 2, "local-epochs": 1}
    arms = [Arm(name, {"method": name}) for name in ("fedavg", "fedper")]
    study = Study("small", "?", 3, config, arms, lambda outcome: [])
    alone, together = run_study(study, [0, 1]), run_study(study, [0, 1], jobs=2)
    for left, right in zip(alone.results, together.results, strict=True):
        assert (left.arm, left.seed) == (right.arm, right.seed)
        assert left.accuracy.tolist() == right.accuracy.tolist()
    assert summary_of(study, alone)["methods"].keys() == {"fedavg", "fedper"}


def test_a_claim():
    assert Claim("x", 0.5, 0.5).holds
    assert not Claim("x", 0.49, 0.5).holds
    assert not Claim("x", float("nan"), 0.5).holds


@pytest.mark.study
@pytest.mark.parametrize("name", [n for n in STUDIES if n != "smartwatch-real"])
def test_every_promise_of_every_study(name, tmp_path):
    assert main([name, "--check", "--out", str(tmp_path)]) == 0
