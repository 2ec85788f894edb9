"""The model that leaves is the model that was judged: ``predict`` gives what was scored."""

import csv
import math

import numpy as np
import pytest
from torch import nn

from clients.__main__ import main
from clients.export.model_card import LIMITS
from clients.export.predict import build_network
from clients.state.model_file import model_files, read_model
from pfl_flower.config.run_config import RunConfig
from pfl_flower.data import federation
from pfl_flower.engines import simulate
from pfl_flower.export_limits import export_limits
from pfl_flower.methods import METHODS
from pfl_flower.results.method_run import MethodRun
from tests.tiers import quick_first

CLIENTS, RULE = 3, "shrunk"
CONFIG = {
    "baselines": "",
    "num-server-rounds": 2,
    "local-epochs": 1,
    "learning-rate": 0.1,
    "validation-fraction": 0.3,
    "test-fraction": 0.3,
}
SAFE, RULED = {"safeguard": True}, {"threshold": RULE}
OPTIONS = {
    "plain": {},
    "safeguard": SAFE,
    "thresholds": RULED,
    "both": SAFE | RULED,
    "imputation": {"imputation": "conditional"},
}
ON_TABLES = [name for name, method in METHODS.items() if not method.graphs]


def write_table(folder, missing=0.0, numbers=False):
    """A table of three clinics; features of unlike sizes, some of them missing."""
    draw = np.random.default_rng(5)
    lines = ["client,label,age,weight,pulse"]
    for client in range(CLIENTS):
        shared = draw.normal(size=(60, 1))
        rows = shared + draw.normal(size=(60, 3))
        outcome = rows @ [1.0, -1.0, client - 1.0] + draw.normal(size=60)
        targets = 7 + 3 * outcome if numbers else np.where(outcome > 0.4, "ill", "well")
        seen = rows * (10.0, 0.1, 1.0) + (40.0, 5.0, 60.0)
        seen[draw.random(seen.shape) < missing] = math.nan
        for target, row in zip(targets.tolist(), seen.tolist(), strict=True):
            cells = ["" if math.isnan(value) else repr(value) for value in row]
            lines.append(",".join([f"c{client}", str(target), *cells]))
    path = folder / "clinics.csv"
    path.write_text("\n".join(lines) + "\n")
    return f"table:{path}"


def played(folder, missing=0.0, numbers=False, **config):
    """Run with a personal directory."""
    data = {"dataset": write_table(folder, missing, numbers)}
    config = CONFIG | data | {"personal-dir": str(folder / "device")} | config
    return simulate(RunConfig.used(config), CLIENTS)


def model_of(folder, client):
    """The file of a client's whole model."""
    return model_files(folder / "device")[f"client-{client}"]


def answers(folder, run: MethodRun, client, rows=None):
    """What ``predict`` says of test rows of a client, and what is true of them."""
    raw = federation(run.config.data, CLIENTS)._load(client)
    assert raw.test is not None
    inputs, targets = raw.test
    places = range(len(inputs)) if rows is None else rows
    with (folder / "rows.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        columns = run.config.required_schema.columns
        writer.writerow(columns or [f"x{place}" for place in range(inputs.shape[1])])
        for row in inputs[list(places)]:
            writer.writerow(["" if math.isnan(v) else repr(float(v)) for v in row])
    path, out = model_of(folder, client), folder / "answers.csv"
    paths = ["--model", str(path), "--inputs", str(folder / "rows.csv"), "--out", str(out)]
    network = ["--network", run.config.model] if ":" in run.config.model else []
    assert main(["predict", *paths, *network]) == 0
    with out.open() as stream:
        return list(csv.DictReader(stream)), [targets[place] for place in places]


def scores_of(rows, targets):
    """Accuracy and cross-entropy of answers."""
    right = [row["prediction"] == target for row, target in zip(rows, targets, strict=True)]
    chances = [float(r[f"probability-{y}"]) for r, y in zip(rows, targets, strict=True)]
    return {"accuracy": float(np.mean(right)), "loss": float(-np.log(chances).mean())}


def judged(runs, client):
    """What the last question of a run found out about the client's model."""
    run = runs[-1]
    if run.config.threshold is None:
        return {name: run.by_client(name)[client] for name in ("accuracy", "loss")}
    (report,) = [r for r in run.thresholds if r.client == client]
    return {"accuracy": report.metrics[f"accuracy-{RULE}"], "loss": report.metrics["loss"]}


def check_all(folder, runs):
    """Every client's file says of every one of its test rows what was scored."""
    for client in range(CLIENTS):
        found = scores_of(*answers(folder, runs[0], client))
        assert found == pytest.approx(judged(runs, client), rel=1e-4, abs=1e-6), client


class Gated(nn.Module):
    """What no network for tables has: batch norm, and a gate."""

    parts = {"se": ("gate",), "head": ("head",)}

    def __init__(self, size, outputs):
        super().__init__()
        self.body, self.norm = nn.Linear(size, 8), nn.BatchNorm1d(8)
        self.gate, self.head = nn.Linear(8, 8), nn.Linear(8, outputs)

    def forward(self, inputs):
        hidden = self.norm(self.body(inputs)).relu()
        return self.head(hidden * self.gate(hidden).sigmoid())


def gated(shape, outputs):
    return Gated(shape[0], outputs)


GATED = "tests.pfl_flower.test_exported_is_judged:gated"
NETWORKS = {"fedbn": {"model": GATED}, "personal-se": {"model": GATED}}
"""Method -> keys of a network for tables that it can do with, where there is none."""

QUICK = [("apfl", option) for option in OPTIONS]
CASES = [*QUICK, *((m, o) for m in ON_TABLES for o in OPTIONS if (m, o) not in QUICK)]


@pytest.mark.parametrize(("method", "option"), quick_first(CASES, len(QUICK)))
def test_what_is_exported_is_what_was_judged(tmp_path, method, option):
    missing = 0.2 if option == "imputation" else 0.0
    keys = OPTIONS[option] | NETWORKS.get(method, {})
    check_all(tmp_path, played(tmp_path, missing, method=method, **keys))


@pytest.mark.parametrize(
    ("prior", "option"),
    quick_first([("head", "plain"), ("head", "both"), ("all", "plain"), ("all", "imputation")]),
)
def test_samples_of_a_posterior_are_averaged(tmp_path, prior, option):
    keys = {"posterior-samples": 3, "prior": prior, "method": "hierarchical-bayes"}
    missing = 0.2 if option == "imputation" else 0.0
    check_all(tmp_path, played(tmp_path, missing, **keys | OPTIONS[option]))


def errors_of(folder, run):
    """Client -> root mean squared error of what ``predict`` says."""
    found = {}
    for client in range(CLIENTS):
        rows, targets = answers(folder, run, client)
        away = np.array([float(row["prediction"]) for row in rows]) - targets
        found[client] = float(np.sqrt(np.mean(away**2)))
    return found


@pytest.mark.parametrize(
    "keys",
    quick_first(
        [
            {"method": "hierarchical-linear", "imputation": "mean"},
            {"method": "hierarchical-bayes", "posterior-samples": 3, "safeguard": True},
            {"method": "fedper", "imputation": "mask"},
        ]
    ),
)
def test_numbers_are_those_that_were_judged(tmp_path, keys):
    missing = 0.2 if "imputation" in keys else 0.0
    runs = played(tmp_path, missing, numbers=True, **keys)
    assert errors_of(tmp_path, runs[0]) == pytest.approx(runs[-1].by_client(), rel=1e-4)


@pytest.mark.parametrize(
    ("imputation", "model"),
    quick_first([("mask", "auto"), ("mask", GATED), ("mean", "auto"), ("mean", GATED)]),
)
def test_missing_values_are_filled_in_as_they_were(tmp_path, imputation, model):
    keys = {"method": "fedper", "imputation": imputation, "model": model, "personal": "head"}
    check_all(tmp_path, played(tmp_path, 0.2, **keys))


def write_folder(folder):
    """Clients that say how noisy their measurements are, and lack some."""
    draw, path = np.random.default_rng(6), folder / "clients"
    path.mkdir()
    for client in range(CLIENTS):
        arrays = {}
        for split, count in (("train", 40), ("val", 15), ("test", 15)):
            rows = draw.normal(size=(count, 1)) + draw.normal(size=(count, 3))
            arrays[f"y_{split}"] = np.where(rows[:, 0] > rows[:, 1], "ill", "well")
            rows += draw.normal(size=rows.shape) * (0.0, 1.0, 0.5)
            rows[draw.random(rows.shape) < 0.2] = math.nan
            arrays[f"x_{split}"] = (30 + 10 * rows).astype(np.float32)
        np.savez(path / f"{client}.npz", **arrays, noise=np.array([0.0, 100.0, 25.0]))
    return f"folder:{path}"


@pytest.mark.parametrize("imputation", quick_first(["conditional", "mean", "mask"]))
def test_inputs_are_calibrated_as_they_were(tmp_path, imputation):
    keys = {"dataset": write_folder(tmp_path), "learning-rate": 0.001, "calibrate-inputs": True}
    runs = played(tmp_path, method="fedper", imputation=imputation, **keys)
    check_all(tmp_path, runs)
    assert len(read_model(model_of(tmp_path, 0)).preprocessing["mean"])


@pytest.mark.parametrize("imputation", quick_first(["mean", "conditional"]))
def test_a_calibration_of_the_methods_own_stands_behind_an_imputation(tmp_path, imputation):
    keys = {"dataset": write_folder(tmp_path), "method": "errors-in-variables"}
    check_all(tmp_path, played(tmp_path, imputation=imputation, **keys))


def test_complete_clients_fill_in_by_what_they_measured(tmp_path):
    runs = played(tmp_path, method="fedavg", imputation="mean")
    check_all(tmp_path, runs)
    data = federation(runs[0].config.data, CLIENTS)
    fill = read_model(model_of(tmp_path, 0)).preprocessing["fill"]
    known = data.client(0, runs[0].config.schema).train[0].double().mean(dim=0)
    assert fill.tolist() == pytest.approx(known.tolist())


@pytest.mark.integration
def test_draws_are_a_limit_that_is_told_before_training(tmp_path, capsys, caplog):
    told = []  # before the end of every round

    def progress(news):
        told.append([r.args[0] for r in caplog.records if r.levelname == "WARNING" and r.args])

    data = {"dataset": write_table(tmp_path, 0.2), "personal-dir": str(tmp_path / "device")}
    keys = CONFIG | data | {"method": "fedavg", "imputation": "multiple"}
    (run,) = simulate(keys, CLIENTS, progress=progress)
    (limit,) = export_limits(run.config)
    assert limit in told[0]
    assert read_model(model_of(tmp_path, 0)).about[LIMITS] == limit
    inputs, _ = federation(run.config.data, CLIENTS)._load(0).test
    complete = np.flatnonzero(~np.isnan(inputs).any(axis=1))
    data = federation(run.config.data, CLIENTS).client(0, run.config.schema)
    rows, _ = answers(tmp_path, run, 0, complete)
    network = build_network(read_model(model_of(tmp_path, 0)))
    outputs = network(data.test[0][complete, 0])  # of a complete row all draws are alike
    labels = run.config.schema.labels
    assert [row["prediction"] for row in rows] == [labels[k] for k in outputs.argmax(dim=1)]
    with pytest.raises(AssertionError):
        answers(tmp_path, run, 0)
    assert "missing" in capsys.readouterr().err
