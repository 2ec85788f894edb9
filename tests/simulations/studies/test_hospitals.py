"""The studies of thresholds: what is measured, promised, tabled and drawn."""

import json

import numpy as np
import pytest

from clients.thresholds.rules import RULES
from clients.thresholds.threshold_client import scores_at
from pfl_flower.config.run_config import RunConfig
from pfl_flower.engines import simulate
from simulations.__main__ import main
from simulations.studies.hospitals import (
    ORACLE,
    RECOMMENDED,
    STUDY,
    claims,
    measure,
    predicted,
    share_closed,
    thresholds_used,
)
from simulations.study import Arm, Outcome, Result


@pytest.fixture(scope="module")
def run():
    config = STUDY.config | {"num-server-rounds": 2, "seed": 100, "baselines": ""}
    return simulate(config, 10)[-1]


def test_the_thresholds_of_the_study_are_those_of_the_clients(run):
    known = predicted(run)
    used = thresholds_used(run, known)
    for report in run.thresholds:
        _, _, test = known[report.client]
        for rule in RULES:
            found = scores_at(test, [used[report.client][rule]])
            reported = {name: report.metrics[f"{name}-{rule}"] for name in found}
            assert found == reported


def test_nothing_is_better_than_the_oracle_on_its_own_test_patients(run):
    rows = measure(run)["hospitals"]
    assert [row["client"] for row in rows] == list(range(10))
    for row in rows:
        own = row["scores"]
        assert own[ORACLE]["f1"] >= max(own[rule]["f1"] for rule in RULES) - 1e-12
        assert row["positives"] == pytest.approx(
            0.4 * row["prevalence"] * row["examples"], abs=0.15 * row["examples"]
        )


def outcome(**f1):
    """Two seeds of three hospitals, whose order of numbers is not that of prevalence."""
    results = []
    for seed, order in ((0, (0, 1, 2)), (1, (2, 0, 1))):
        rows = []
        for client, place in enumerate(order):
            scores = {rule: f1.get(rule.replace("-", "_"), [0.5] * 3) for rule in (*RULES, ORACLE)}
            own = {rule: {"f1": values[place]} for rule, values in scores.items()}
            about = {"client": client, "prevalence": 0.1 * (place + 1), "scores": own}
            rows.append(about)
        results.append(Result(Arm("fedavg", {}), seed, {}, {}, {"hospitals": rows}))
    return Outcome(results)


def test_promises_are_kept_and_broken():
    def broken(**f1):
        return [claim.name for claim in claims(outcome(**f1)) if not claim.holds]

    good = {"shared_curve": [0.55, 0.55, 0.55], "oracle": [0.6, 0.6, 0.6]}
    assert broken(**good) == []
    assert broken(**good, half=[0.54] * 3) == [f"{RECOMMENDED}: F1 above half, on average"]
    (gap,) = broken(**good | {"oracle": [0.66] * 3})
    assert "share of the gap" in gap
    (worst,) = broken(**good | {"shared_curve": [0.48, 0.6, 0.6]}, half=[0.4] * 3)[-1:]
    assert "worst-off" in worst
    even = broken(shared_curve=[0.45, 0.5, 0.6])
    assert sum("lower end of the 95% interval" in name for name in even) == 2


def test_the_share_of_a_gap():
    scores = {r: np.full((2, 3), v) for r, v in (("global", 0.5), ("half", 0.6), (ORACLE, 0.7))}
    assert share_closed(scores, "half") == pytest.approx(0.5)
    assert share_closed(scores, "global") == 0
    assert np.isnan(share_closed(scores | {ORACLE: scores["global"]}, "half"))


@pytest.mark.integration
def test_a_small_run_writes_tables_and_pictures(tmp_path, capsys):
    arguments = ["hospitals", "--seeds", "100", "--rounds", "1", "--jobs", "1"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    for name in ("scores.png", "operating-points.png", "accuracy.png"):
        assert (tmp_path / name).stat().st_size > 1000
    summary = json.loads((tmp_path / "summary.json").read_text())
    tables = list(summary["tables"].values())
    assert [row["rule"] for row in tables[0]] == [*RULES, ORACLE]
    assert [row["ill"] for row in tables[1]] == [f"{p:.0%}" for p in np.linspace(0.05, 0.6, 10)]
    assert sum(row["hospitals"] for row in tables[2]) == 10
    assert len(summary["claims"]) == 6


def test_the_rule_that_is_recommended_is_the_one_that_clients_keep():
    config = RunConfig.parse(STUDY.config)
    assert config.threshold == RECOMMENDED
    assert config.objective.name == "f1"
