import json
import os

import pytest

from clients.scopes import select
from pfl_flower.data import DataError
from pfl_flower.engines import simulate
from pfl_flower.model_setup import initial_model
from pfl_flower.results.shared_file import read_shared
from simulations.__main__ import main
from simulations.studies import pictures
from simulations.study import Arm, run_arm
from tests.errors import refused

CONFIG = {"model": "cnn", "num-server-rounds": 1, "learning-rate": 0.05, "seed": 1, "baselines": ""}


@pytest.fixture(autouse=True)
def _nothing_trained_before():
    pictures._body_of.cache_clear()


def test_the_body_is_that_of_fedavg_without_its_head():
    whole, body = (read_shared(path)[0] for path in pictures.body_of(CONFIG, 3))
    (run,) = simulate({**CONFIG, "method": "fedavg"}, 3)
    model, _ = initial_model(run.config.architecture, 1)
    assert whole.keys() == {name for name, _ in run.arrays.items()}
    assert whole.keys() - body.keys() == select(model, "head")
    assert pictures.body_of(CONFIG, 3) == pictures.body_of(dict(reversed(CONFIG.items())), 3)


def test_every_arm_starts_where_it_says():
    study = {name: value for name, value in CONFIG.items() if name not in ("seed", "baselines")}
    found = {
        arm.name: run_arm(study, 3, arm, 1, "in-process", rounds)
        for arm in pictures.STUDY.arms
        if arm.name != pictures.DITTO
    }
    assert found[pictures.HEAD].summary["bytes_per_round"] == {"down": 0.0, "up": 0.0}
    assert found[pictures.HEAD].summary["parameters"]["shared"] == 0
    assert found[pictures.LOCAL].measures == {"rounds": 2}
    longer = {**study, "num-server-rounds": 2}
    (again,) = (run_arm(longer, 3, Arm("x", {"method": "fedavg"}), 1, "in-process"),)
    once, on = found[pictures.BODY], found[pictures.ON]
    assert on.accuracy.mean() > once.accuracy.mean()
    assert abs(on.accuracy.mean() - again.accuracy.mean()) < 0.15  # other orders of examples


def rounds(run):
    return {"rounds": run.config.num_server_rounds}


def test_without_photographs_it_does_not_start(monkeypatch, tmp_path):
    monkeypatch.setenv("PFL_DATA_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with refused(DataError, key="dataset", value=pictures.FOLDER):
        pictures.STUDY.require()


@pytest.mark.integration
@pytest.mark.skipif(not os.environ.get("PFL_DATA_DIR"), reason="needs $PFL_DATA_DIR")
def test_a_round_of_the_study(tmp_path):
    arguments = ["pictures", "--seeds", "100", "--rounds", "1", "--jobs", "1"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["methods"].keys() == {arm.name for arm in pictures.STUDY.arms}
    assert summary["methods"][pictures.HEAD]["bytes_per_round"]["up"] == 0
    (table,) = summary["tables"].values()
    assert [row["arm"] for row in table] == [name for name, _ in pictures.PAIRS]
