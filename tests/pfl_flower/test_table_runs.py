"""Runs on a table with surnames, dates, two columns of words, missing values and many visits."""

import csv
import logging
import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from clients.__main__ import main
from clients.export.predict import build_network
from clients.logs import forget
from clients.state.model_file import model_files, read_model
from pfl_flower.client_app import make_app
from pfl_flower.config.run_config import RunConfig
from pfl_flower.data import federation
from pfl_flower.engines import simulate
from pfl_flower.server.run import play
from strategies.arrays import view
from tests.grids import RecordingGrid

MADE = runpy.run_path(str(Path(__file__).parents[2] / "examples/own_table/make_visits.py"))
HOSPITALS = 3


def visits(path):
    """Write the visits of a few hospitals; return the run keys that read them."""
    table = pd.concat([MADE["hospital"](number) for number in range(1, HOSPITALS + 1)])
    draw = np.random.default_rng(0)
    parts = draw.choice(["train", "validation", "test"], len(table), p=[0.6, 0.2, 0.2])
    table["part"] = pd.Series(parts)[table["patient"].rank(method="dense").astype(int)].to_numpy()
    table.to_csv(path, index=False)
    return {
        "dataset": f"table:{path}",
        "client-column": "hospital",
        "label-column": "readmitted",
        "drop-columns": "visit",
        "imputation": "mean",
        "baselines": "",
        "num-server-rounds": 2,
        "local-epochs": 1,
        "method": "fedper",
    }


def texts_of(content):
    """All words in a message: names, values of configs and metrics, and the bytes of arrays."""
    arrays = [array for record in content.array_records.values() for array in record.values()]
    return repr(content) + "".join(view(a).tobytes().decode("latin-1") for a in arrays)


def test_a_surname_never_leaves(tmp_path):
    """Of a patient with ten visits there are ten rows; a name in categories is the worst case."""
    keys = visits(tmp_path / "v.csv") | {"group-column": "patient", "wait": 0.0}
    names = pd.read_csv(tmp_path / "v.csv")["surname"].unique().tolist()
    sent = {}
    for fewest in (5, 1):
        words = keys | {"categories": "ward,kind,surname", "drop-columns": "visit,part"}
        config = RunConfig.parse(words | ({} if fewest == 5 else {"min-category": fewest}))
        grid = RecordingGrid(make_app(config.dump()), HOSPITALS)
        (run,) = play(grid, config)
        assert run.by_client()
        every = [part for e in grid.exchanges for part in (e.message.content, e.reply.content)]
        sent[fewest] = "".join(map(texts_of, every))
        assert all(f"kind={word}" in run.config.required_schema.columns for word in ("day", "stay"))
    assert "surgery" in sent[5]
    assert not [name for name in names if name in sent[5]]
    assert all(name in sent[1] for name in names[:3])  # what such a message would look like


def test_what_is_reported_and_what_may_be_an_id_is_in_the_log(tmp_path, caplog):
    keys = visits(tmp_path / "v.csv") | {"group-column": "patient", "drop-columns": "part,surname"}
    forget()
    logger = logging.getLogger("flwr")
    logger.addHandler(caplog.handler)
    try:
        config = RunConfig.parse(keys | {"categories": "all", "wait": 0.0})
        list(play(RecordingGrid(make_app(config.dump()), HOSPITALS), config))
    finally:
        logger.removeHandler(caplog.handler)
    assert "'ward'" in caplog.text
    assert "eyes, medicine, surgery" in caplog.text
    assert "days since 1970: seen" in caplog.text
    warned = {r.message for r in caplog.records if r.levelno == logging.WARNING}
    (of_visit,) = [words for words in warned if "'visit'" in words]
    assert "3 of 3" in of_visit


@pytest.mark.parametrize("imputation", ["mean", "mask"])
def test_the_exported_model_takes_the_same_table(tmp_path, capsys, imputation):
    keys = visits(tmp_path / "v.csv") | {"imputation": imputation}
    keys |= {"categories": "ward,kind", "drop-columns": "visit,surname,patient"}
    keys |= {"split-column": "part", "personal-dir": str(tmp_path / "models")}
    (run,) = simulate(keys, HOSPITALS)
    file = model_files(tmp_path / "models")["client-1"]
    table = pd.read_csv(tmp_path / "v.csv", dtype=str, keep_default_na=False)
    mine = table[(table["hospital"] == "hospital-2") & (table["part"] == "test")]
    mine.to_csv(tmp_path / "new.csv", index=False)
    assert main(["predict", "--model", str(file), "--inputs", str(tmp_path / "new.csv")]) == 0
    said = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    right = np.mean([row["prediction"] == row["readmitted"] for row in said])
    assert right == pytest.approx(run.by_client()[1])
    assert set(run.by_client("validation-accuracy")) == set(range(HOSPITALS))
    (trained,) = {r.metrics["reliability"] for r in run.reports if r.phase == "train"}
    assert trained == 1.0  # a ward that a hospital lacks is no stuck sensor
    data = federation(run.config.data, HOSPITALS).client(1, run.config.required_schema)
    with torch.no_grad():
        chances = build_network(read_model(file))(data.test[0]).double().softmax(dim=1)
    order = np.lexsort(chances.numpy().T)
    found = np.array([[float(row[f"probability-{n}"]) for n in ("no", "yes")] for row in said])
    np.testing.assert_allclose(found[np.lexsort(found.T)], chances.numpy()[order], atol=1e-5)


def test_a_table_to_predict_with_a_wrong_date_says_so(tmp_path, capsys):
    keys = visits(tmp_path / "v.csv") | {"categories": "ward,kind"}
    keys |= {"drop-columns": "visit,surname,patient,part", "num-server-rounds": 1}
    simulate(keys | {"personal-dir": str(tmp_path / "models")}, HOSPITALS)
    file = model_files(tmp_path / "models")["client-0"]
    new = tmp_path / "new.csv"
    new.write_text("seen,ward,kind,age,pulse\n31.12.2025,eyes,day,60,70\n")
    assert main(["predict", "--model", str(file), "--inputs", str(new)]) == 2
    assert "'seen'" in capsys.readouterr().err
    new.write_text("seen,ward,kind,age\n2025-12-31,eyes,day,60\n")
    assert main(["predict", "--model", str(file), "--inputs", str(new)]) == 2
    assert "'pulse'" in capsys.readouterr().err
