"""Runs on streams: phases come at their time, and what is learnt and forgotten is reported."""

import csv
import json

import numpy as np
import pytest

from pfl_flower.engines import simulate
from pfl_flower.results.files import describe, write
from pfl_flower.results.stream_metrics import accuracy_matrix, average_accuracy, forgetting
from pfl_flower.results.streams import STREAM_SCORES, num_phases, phase_curves, stream_scores

STREAM = {
    "dataset": "smartwatch",
    "partition": "natural",
    "baselines": "",
    "num-server-rounds": 9,
    "learning-rate": 0.05,
    "local-epochs": 1,
}


@pytest.fixture(scope="module")
def run():
    return simulate(STREAM | {"method": "lifelong"}, 3)[0]


def test_every_client_goes_through_its_phases(run):
    assert num_phases(run) == 3
    curves = phase_curves(run)
    assert curves.keys() == {0, 1, 2}
    for accuracies, phases in curves.values():
        assert accuracies.shape == (9, 3)
        assert phases[0] == 0
        assert phases[-1] == 2
        assert (np.diff(phases) >= 0).all()
    assert len({tuple(phases) for _, phases in curves.values()}) > 1  # at times of their own


def test_the_scores_are_those_of_the_matrix_and_are_written(run, tmp_path):
    scores = stream_scores(run)
    for client, curves in phase_curves(run).items():
        matrix = accuracy_matrix(*curves)
        assert scores[client]["average_accuracy"] == average_accuracy(matrix)
        assert scores[client]["forgetting"] == forgetting(matrix)
    write(tmp_path, [run])
    rows = list(csv.DictReader((tmp_path / "stream.csv").open()))
    assert [int(row["client"]) for row in rows] == [0, 1, 2]
    assert float(rows[1]["plasticity"]) == scores[1]["plasticity"]
    summary = json.loads((tmp_path / "summary.json").read_text())["lifelong"]["stream"]
    expected = np.mean([score["forgetting"] for score in scores.values()])
    assert summary["forgetting"]["mean"] == pytest.approx(expected)
    assert "Of 3 phases each is known" in describe([run])[0]


def test_what_is_tested_in_the_end_is_all_phases(run):
    last = {client: curves[0][-1].mean() for client, curves in phase_curves(run).items()}
    assert run.by_client() == pytest.approx(last, abs=0.02)  # phases are about equally large


def test_all_phases_at_once_have_an_average_only(tmp_path):
    (run,) = simulate(STREAM | {"phases": "joint", "num-server-rounds": 2}, 2)
    for scores in stream_scores(run).values():
        assert 0 <= scores.pop("average_accuracy") <= 1
        assert np.isnan(list(scores.values())).all()
    write(tmp_path, [run])
    assert "Of 3 phases" not in describe([run])[0]


def test_other_data_are_no_stream(tmp_path):
    (run,) = simulate({"num-server-rounds": 1, "baselines": ""}, 2)
    assert num_phases(run) == 0
    assert stream_scores(run) == {}
    write(tmp_path, [run])
    assert not (tmp_path / "stream.csv").exists()


@pytest.mark.integration
def test_announced_and_detected_changes_are_the_same_on_clear_ones():
    config = STREAM | {"method": "lifelong", "num-server-rounds": 30, "local-epochs": 2}
    announced = simulate(config, 3)[0]
    detected = simulate(config | {"task-changes": "detected"}, 3)[0]
    assert set(detected.by_client("tasks").values()) == {3.0}
    assert announced.by_client("tasks") == detected.by_client("tasks")


def test_every_score_has_a_name():
    assert list(STREAM_SCORES) == [
        "average_accuracy",
        "backward_transfer",
        "forgetting",
        "plasticity",
    ]
