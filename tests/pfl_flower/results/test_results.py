import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from pfl_flower.engines import simulate
from pfl_flower.results.files import (
    describe,
    results_folder,
    summarize,
    write,
)
from pfl_flower.results.rows import client_rows, round_rows
from pfl_flower.results.spread import spread, worst_tenth
from pfl_flower.utils.files import write_csv, write_json
from tests.helpers import decoded


@pytest.fixture(scope="module")
def runs():
    config = {"num-server-rounds": 2, "baselines": "fedavg,local"}
    return simulate(config, 4)


def test_the_worst_tenth_is_the_mean_of_the_lowest_tenth():
    assert worst_tenth(np.arange(20)) == 0.5
    assert worst_tenth(np.arange(21)) == 1.0
    assert worst_tenth([0.3]) == 0.3
    assert math.isnan(worst_tenth([]))
    assert spread([1.0, math.nan, 3.0]) == spread([1.0, 3.0])
    assert spread([1.0, 3.0]) == {"mean": 2.0, "std": 1.0, "worst_tenth": 1.0}


def test_means_say_over_how_many_clients_they_are(runs):
    def spoilt(report):
        if (report.phase, report.client) != ("evaluate", 2):
            return report
        return replace(report, metrics={**report.metrics, "accuracy": math.nan})

    run, *others = [replace(r, reports=[spoilt(each) for each in r.reports]) for r in runs]
    assert summarize(run)["accuracy"]["clients"] == 3
    assert summarize(run)["validation_accuracy"]["clients"] == 4
    assert "of the time over 3 of 4 clients (" in describe([run])[0]
    assert "of the time (" in describe(runs)[0]
    assert "nan" not in describe([run, *others])[1]
    assert "of 3 clients" in describe([run, *others])[1]


def test_everything_is_on_disk(runs, tmp_path):
    folder = tmp_path / "results"
    write(folder, runs)
    assert {path.name for path in folder.iterdir()} == {
        "accuracy.png",
        "clients.csv",
        "config.json",
        "rounds.csv",
        "shared.safetensors",
        "summary.json",
    }
    rows = list(csv.DictReader((folder / "clients.csv").open()))
    assert len(rows) == 3 * 2 * 4
    last = [float(r["accuracy"]) for r in rows if (r["method"], r["round"]) == ("fedper", "2")]
    np.testing.assert_allclose(last, runs[0].values())
    rounds = list(csv.DictReader((folder / "rounds.csv").open()))
    assert [(r["method"], r["round"]) for r in rounds][:3] == [
        ("fedper", "1"),
        ("fedper", "2"),
        ("fedavg", "1"),
    ]
    assert float(rounds[1]["accuracy"]) == pytest.approx(runs[0].values().mean())
    summary = json.loads((folder / "summary.json").read_text())
    assert summary.keys() == {"fedper", "fedavg", "local"}
    arrays = load_file(folder / "shared.safetensors")
    for name, values in decoded(runs[0].arrays).items():
        np.testing.assert_array_equal(arrays[name], values)
    assert "head.weight" not in arrays
    assert Image.open(folder / "accuracy.png").size[0] > 300
    assert json.loads((folder / "config.json").read_text())["method"] == "fedper"


def test_the_table_of_rounds_reads_the_reports_once_however_many_rounds_there_are(runs, tmp_path):
    class Counted(list):
        def __iter__(self):
            nonlocal times
            times += 1
            return super().__iter__()

    def rows_of(run, name):
        write_csv(tmp_path / name, round_rows(run))
        return list(csv.DictReader((tmp_path / name).open()))

    first, times = runs[0], 0
    blocks = reversed(range(20))
    later = [replace(r, round=r.round + 2 * i) for i in blocks for r in first.reports]
    rows = rows_of(replace(first, reports=Counted(later)), "long.csv")
    assert times == 1
    assert [row["round"] for row in rows] == [str(number) for number in range(1, 41)]
    two = rows_of(first, "short.csv")
    for place, row in enumerate(rows):
        assert {**row, "round": ""} == {**two[place % 2], "round": ""}


def test_costs_are_those_of_the_arrays(runs):
    fedper, fedavg, local = (summarize(run) for run in runs)
    assert fedavg["parameters"]["personal"] == 0
    assert local["parameters"]["shared"] == 0
    assert local["bytes_per_round"] == {"down": 0.0, "up": 0.0}
    head = 4 * (64 * 10 + 10)
    missing = fedavg["bytes_per_round"]["up"] - fedper["bytes_per_round"]["up"]
    assert missing == head + 2 * 128  # two arrays, each with a header of 128 bytes
    assert fedper["bytes_per_round"]["down"] == 2 * fedper["bytes_per_round"]["up"]


def test_the_closing_words_say_what_clients_got(runs):
    lines = describe(runs)
    assert lines[0].startswith("fedper: every one of 4 clients has a model of its own.")
    for word in ("standard deviation", "worst tenth"):
        assert word in lines[0]
    assert lines[1].startswith("Against fedavg")
    assert "of 4 clients" in lines[1]


def test_the_closing_words_are_true_of_one_model_and_of_clients_that_failed(runs):
    fedavg = runs[1]
    assert "every one of 4 clients has the same model" in describe([fedavg])[0]
    kept = [
        replace(r, dropped="broke") if (r.phase, r.client) == ("evaluate", 2) else r
        for r in runs[0].reports
    ]
    lines = describe([replace(runs[0], reports=kept), fedavg])
    assert "3 of 4 clients (the others could not be evaluated) have" in lines[0]
    assert "of 3 clients" in lines[1]


def test_results_never_overwrite_each_other(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    first, second = results_folder("", "x"), results_folder("", "x")
    assert first != second
    assert first.parent == tmp_path / "pfl-flower-results"
    assert results_folder("mine", "x").parent == tmp_path / "mine"
    assert results_folder(str(tmp_path / "abs"), "x").parent == tmp_path / "abs"


def test_files_are_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": math.nan, "b": [1, math.inf]})
    assert json.loads(path.read_text()) == {"a": None, "b": [1, None]}
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    write_csv(tmp_path / "y.csv", [{"a": 1}, {"b": 2}])
    assert (tmp_path / "y.csv").read_text() == "a,b\n1,\n,2\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.json", "y.csv"]


def test_a_results_folder_has_a_plain_name_whatever_the_data_set_is_called(tmp_path):
    folder = results_folder(str(tmp_path), "fedper-folder:/data/my hospitals")
    assert folder.parent == tmp_path
    assert folder.name.endswith("-fedper-folder-data-my-hospitals")


def test_clients_that_have_names_are_named(tmp_path, runs):
    lines = [f"Clinic {10 if i % 2 else 2},{i % 3},{(i // 2) % 2}" for i in range(80)]
    (tmp_path / "t.csv").write_text("\n".join(["client,age,label", *lines]))
    config = {"dataset": f"table:{tmp_path / 't.csv'}", "num-server-rounds": 1, "baselines": ""}
    (run,) = simulate(config, 2)
    write(tmp_path / "named", [run])
    rows = list(csv.DictReader((tmp_path / "named" / "clients.csv").open()))
    assert [(row["client"], row["name"]) for row in rows] == [("0", "Clinic 2"), ("1", "Clinic 10")]
    assert "name" not in client_rows(runs[0])[0]  # of digits nobody has a name
