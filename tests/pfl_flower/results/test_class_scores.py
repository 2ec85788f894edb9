"""Scores beside accuracy on their way from a client to the files of a run."""

import csv
import json
import math

import numpy as np
import pandas as pd
import pytest

from clients.evaluation import Evaluation
from clients.inference.class_scores import CLASS_SCORES, classification
from clients.local_training.fine_tuning import quality
from pfl_flower.config.errors import ConfigError
from pfl_flower.config.run_config import RunConfig
from pfl_flower.engines import simulate
from pfl_flower.results.files import describe, write
from tests.errors import refused

ALL = ",".join(CLASS_SCORES)


def table(path):
    """Three clients, of which the last is tested on one class."""
    draw = np.random.default_rng(0)
    rows = pd.DataFrame(draw.normal(size=(120, 3)), columns=list("abc"))
    rows["client"] = np.repeat(["x", "y", "z"], 40)
    rows["label"] = (rows["a"] + draw.normal(size=120) > 0).astype(int)
    rows["part"] = np.tile(["train", "train", "validation", "test"], 30)
    rows.loc[(rows["client"] == "z") & (rows["part"] == "test"), "label"] = 1
    rows.to_csv(path, index=False)
    return {"dataset": f"table:{path}", "split-column": "part", "baselines": "", "seed": 3} | {
        "num-server-rounds": 2,
        "model": "linear",
        "method": "fedavg",
    }


def test_every_file_says_over_how_many_clients_a_score_is(tmp_path):
    keys = table(tmp_path / "t.csv") | {"scores": ALL, "baselines": "local"}
    runs = simulate(keys, 3)
    write(tmp_path / "r", runs)
    rows = list(csv.DictReader((tmp_path / "r" / "scores.csv").open()))
    assert [row["score"] for row in rows] == [*CLASS_SCORES] * 2
    known = {row["score"]: (row["clients"], row["of"]) for row in rows}
    assert known["auroc"] == known["auprc"] == known["macro-f1"] == ("2", "3")
    assert known["accuracy"] == known["brier"] == ("3", "3")
    per_client = list(csv.DictReader((tmp_path / "r" / "clients.csv").open()))
    last = [r for r in per_client if (r["method"], r["round"]) == ("fedavg", "2")]
    found = [float(r["auroc"]) for r in last]
    assert [math.isnan(value) for value in found] == [False, False, True]
    assert float(rows[2]["mean"]) == pytest.approx(np.mean(found[:2]))
    losses = [float(r["log_loss"]) for r in last]
    assert losses == pytest.approx([float(r["loss"]) for r in last], rel=1e-5)
    assert float(rows[4]["worst_tenth"]) == pytest.approx(max(losses))
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert summary["fedavg"]["scores"]["auroc"]["clients"] == 2
    (words,) = [line for line in describe(runs) if "AUROC" in line]
    assert "over 2 of 3 clients" in words


def test_accuracy_alone_is_as_it_was(tmp_path):
    keys = table(tmp_path / "t.csv")
    (plain,) = simulate(keys, 3)
    (scored,) = simulate(keys | {"scores": ALL}, 3)
    write(tmp_path / "r", [plain])
    assert not (tmp_path / "r" / "scores.csv").exists()
    assert "scores" not in json.loads((tmp_path / "r" / "summary.json").read_text())["fedavg"]
    assert plain.by_client() == scored.by_client()
    names = {name for r in scored.reports for name in r.metrics}
    assert {name for r in plain.reports for name in r.metrics} == names - {
        f"{part}{name}" for part in ("", "validation-") for name in [*CLASS_SCORES][1:]
    }


def test_what_models_are_selected_by_is_the_score_of_a_run(tmp_path):
    keys = table(tmp_path / "t.csv") | {"select-by": "macro-f1", "baselines": "local"}
    runs = simulate(keys, 3)
    write(tmp_path / "r", runs)
    assert runs[0].score == "macro-f1"
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())["fedavg"]
    assert summary["macro_f1"]["clients"] == 2
    assert summary["validation_macro_f1"]["clients"] == 3
    rounds = list(csv.DictReader((tmp_path / "r" / "rounds.csv").open()))
    assert float(rounds[1]["macro_f1"]) == pytest.approx(summary["macro_f1"]["mean"])
    assert "macro F1" in describe(runs)[0]
    assert (tmp_path / "r" / "macro-f1.png").exists()


def test_a_safeguard_chooses_by_it(tmp_path):
    keys = table(tmp_path / "t.csv") | {"method": "ditto", "safeguard": True, "scores": ALL}
    choices = []
    for name in ("accuracy", "auroc"):
        runs = simulate(keys | {"select-by": name}, 3)
        (chosen,) = [run for run in runs if run.label]
        own = [run.by_client(f"validation-{name}") for run in runs if not run.label]
        best = {client: max(values[client] for values in own) for client in range(3)}
        assert chosen.by_client(f"validation-{name}") == pytest.approx(best, abs=1e-6)
        choices.append(chosen.by_client("chosen"))
    assert choices[0] != choices[1]


def test_fine_tuning_chooses_by_it():
    task = classification((), "auroc")
    few, many = ({"accuracy": 0.9, "auroc": 0.6}, {"accuracy": 0.5, "auroc": 0.8})
    assert quality(Evaluation(9, 0.5, few), task) < quality(Evaluation(9, 0.5, many), task)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"scores": "f1"}, "scores"),
        ({"select-by": "brier"}, "select-by"),
        ({"dataset": "diabetes", "scores": "auroc"}, "scores"),
        ({"dataset": "diabetes", "select-by": "auroc"}, "select-by"),
    ],
)
def test_scores_that_there_are_not_are_refused(values, key):
    with refused(ConfigError, key=key, choices=("accuracy",)):
        RunConfig.parse(values)


def test_numbers_keep_what_they_have(tmp_path):
    (run,) = simulate({"dataset": "diabetes", "baselines": "", "num-server-rounds": 1}, 3)
    assert run.score == "rmse"
