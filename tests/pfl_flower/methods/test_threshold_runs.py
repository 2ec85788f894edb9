"""Thresholds end to end: what is played, reported, kept, written, and bad input."""

import csv
import json
import math
import re
from functools import partial

import numpy as np
import pytest
import torch

from clients.thresholds.rules import RULES
from clients.thresholds.threshold_client import SCORES, ThresholdClient
from pfl_flower.client_app import make_app
from pfl_flower.config.errors import ConfigError
from pfl_flower.config.run_config import RunConfig
from pfl_flower.engines import simulate
from pfl_flower.results.files import describe, write
from pfl_flower.results.thresholds import describe_thresholds, threshold_summary
from pfl_flower.server.run import play
from pfl_flower.server.thresholds import histograms_of
from strategies import ClientReport
from strategies.arrays import view
from strategies.protocol import THRESHOLD, THRESHOLD_HISTOGRAM
from strategies.thresholds.search import BINS
from tests.errors import refused
from tests.grids import RecordingGrid, numbers_in
from tests.tiers import quick_first

CONFIG = {
    "dataset": "hospitals",
    "partition": "natural",
    "validation-fraction": 0.08,
    "model": "linear",
    "method": "fedavg",
    "baselines": "",
    "num-server-rounds": 2,
    "local-epochs": 1,
    "threshold": "shared-curve",
}
REPORTED = {f"{score}-{rule}" for score in SCORES for rule in RULES}


def thresholds_of(grid, node):
    """What a client keeps of its thresholds, of all methods."""
    records = grid.contexts[node].state.array_records.values()
    kept = [r["threshold/values"] for r in records if "threshold/values" in r]
    return np.concatenate([np.array(view(array)) for array in kept])


def recorded(config, clients):
    grid = RecordingGrid(make_app(config), clients)
    return grid, list(play(grid, RunConfig.parse(config | {"wait": 0.0})))


@pytest.mark.parametrize(
    "method",
    quick_first(["fedper", "ditto", "fedavg", "fedavg-ft", "local", "apfl", "ifca", "pfedhn"], 2),
)
def test_every_kind_of_method_has_thresholds(method):
    config = CONFIG | {"method": method, "model": "mlp", "unseen": 0.25}
    (run,) = simulate(RunConfig.used(config | {"fine-tuning-epochs": "0,1"}), 5)
    assert not any(report.dropped for report in run.thresholds)
    assert all(report.metrics.keys() >= REPORTED for report in run.thresholds)
    unseen_clients = {r.client for reports in run.unseen.values() for r in reports}
    assert len(run.thresholds) == 5 - len(unseen_clients) == 4
    assert unseen_clients.isdisjoint({report.client for report in run.thresholds})


def test_the_rounds_are_those_without_thresholds():
    with_rule, without = (simulate(CONFIG | {"threshold": rule}, 4)[0] for rule in ("half", ""))
    assert str(with_rule.reports) == str(without.reports)
    assert without.thresholds == []
    other = simulate(CONFIG | {"threshold": "personal"}, 4)[0]
    assert str(other.thresholds) == str(with_rule.thresholds)  # all rules are reported of anyway


def test_calling_half_positive_is_the_accuracy_that_was_reported():
    (run,) = simulate(CONFIG, 4)
    accuracy = run.by_client()
    for report in run.thresholds:
        assert report.metrics["accuracy-half"] == pytest.approx(accuracy[report.client])


DIGITS = {"dataset": "digits", "partition": "dirichlet", "validation-fraction": 0.2}


@pytest.mark.parametrize("config", [{}, DIGITS])
def test_no_threshold_is_in_any_message_and_only_histograms_and_scores_are(config):
    config = CONFIG | config
    grid, (run,) = recorded(config, 4)
    classes = len(run.config.required_schema.labels)
    exchanges = [e for e in grid.exchanges if THRESHOLD in e.config]
    assert len(exchanges) == 2 * 4
    steps = [e.config[THRESHOLD] for e in exchanges]
    assert steps == 4 * ["count"] + 4 * ["choose"]
    for reply, step in zip([e.reply for e in exchanges], steps, strict=True):
        assert not reply.has_error(), reply.error.reason
        assert not reply.content.array_records
        (metrics,) = reply.content.metric_records.values()
        about = {"num-examples", "loss", "partition-id"}
        assert metrics.keys() == about | ({THRESHOLD_HISTOGRAM} if step == "count" else REPORTED)
        if step == "count":
            reported = metrics[THRESHOLD_HISTOGRAM]
            assert len(reported) == (1 if classes == 2 else classes) * 2 * BINS
            assert all(type(count) is int for count in reported)
    own = [thresholds_of(grid, node) for node in grid.get_node_ids()]
    assert len({values.tobytes() for values in own}) > 1
    messages = [message for e in exchanges for message in (e.message, e.reply)]
    travelled = {value for value in numbers_in(*messages) if isinstance(value, float)}
    assert travelled.isdisjoint(np.concatenate(own).tolist())


@pytest.mark.integration
def test_every_method_of_a_run_has_thresholds_and_what_is_written(tmp_path):
    runs = simulate(CONFIG | {"baselines": "local", "safeguard": True}, 4)
    *candidates, safe = runs
    assert all(run.thresholds for run in candidates)
    chosen = safe.by_client("chosen")  # and with the model its thresholds
    of = [{r.client: r for r in run.thresholds} for run in candidates]
    assert list(safe.thresholds) == [of[int(place)][c] for c, place in chosen.items()]
    write(tmp_path, runs)
    with (tmp_path / "thresholds.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 3 * 4 * len(RULES)
    assert list(rows[0]) == ["method", "client", "rule", *(s.replace("-", "_") for s in SCORES)]
    summary = json.loads((tmp_path / "summary.json").read_text())
    own = [float(r["f1"]) for r in rows if (r["method"], r["rule"]) == ("local", "personal")]
    assert summary["local"]["thresholds"]["personal"]["f1"] == pytest.approx(np.mean(own))
    assert (tmp_path / "thresholds.png").stat().st_size > 1000
    assert "With the threshold 'shared-curve' (f1, positive: 1): F1 of" in "\n".join(describe(runs))


def test_what_is_called_positive_is_said_where_there_are_two_classes():
    (run,) = simulate(CONFIG | DIGITS, 4)
    assert "With the threshold 'shared-curve' (f1): F1 of" in "\n".join(describe([run]))


def test_a_run_that_is_resumed_finds_the_same_thresholds(tmp_path):
    config = CONFIG | {"method": "fedper", "baselines": "local", "model": "mlp"}
    config |= {"personal-dir": str(tmp_path / "devices")}
    first = simulate(config, 3, folder=tmp_path / "run")
    again = simulate(config | {"resume": str(tmp_path / "run")}, 3)
    assert [str(r.thresholds) for r in again] == [str(r.thresholds) for r in first]


def test_a_personal_directory_keeps_the_thresholds_of_a_shared_model(tmp_path):
    from safetensors.numpy import load_file

    simulate(CONFIG | {"personal-dir": str(tmp_path)}, 3)
    kept = [load_file(tmp_path / f"client-{c}.safetensors")["threshold/values"] for c in range(3)]
    grid, _ = recorded(CONFIG, 3)
    inside = [thresholds_of(grid, node) for node in sorted(grid.get_node_ids())]
    assert sorted(v.tolist() for v in kept) == sorted(v.tolist() for v in inside)


@pytest.mark.deployment
def test_the_same_thresholds_on_ray():
    config = CONFIG | {"method": "fedper", "model": "mlp"}
    here, ray = (simulate(config, 4, engine=engine)[0] for engine in ("in-process", "ray"))
    assert [(r.client, dict(r.metrics)) for r in here.thresholds] == [
        (r.client, dict(r.metrics)) for r in ray.thresholds
    ]


# ---------------------------------------------------------------------- bad clients


def spoilt(monkeypatch, change):
    """Let the data of the clients be changed, by ``change(client number, data)``."""
    from pfl_flower.data import Federation

    whole = Federation.client

    def client(self, number, schema=None):
        return change(number, whole(self, number, schema))

    monkeypatch.setattr(Federation, "client", client)


def without_validation(who, number, data):
    if number not in who:
        return data
    inputs, targets = data.validation
    return type(data)(data.train, (inputs[:0], targets[:0]), data.test)


def of_one_class(who, label, number, data):
    if number not in who:
        return data
    parts = [
        (inputs[targets == label], targets[targets == label])
        for inputs, targets in (data.train, data.validation)
    ]
    return type(data)(*parts, data.test)


def test_a_client_without_validation_examples_has_the_fleets(monkeypatch, caplog):
    spoilt(monkeypatch, partial(without_validation, (1,)))
    (run,) = simulate(CONFIG, 4)
    assert [bool(report.dropped) for report in run.thresholds] == [False] * 4
    own = run.thresholds[1].metrics
    assert own["f1-personal"] == own["f1-global"]
    assert "validation_loader is []" in caplog.text


def test_a_fleet_without_validation_examples_uses_half(monkeypatch, caplog):
    spoilt(monkeypatch, partial(without_validation, range(4)))
    (run,) = simulate(CONFIG, 4)
    for report in run.thresholds:
        assert len({report.metrics[f"f1-{rule}"] for rule in RULES}) == 1
    assert "All thresholds of class 1 are 0.5" in caplog.text


@pytest.mark.parametrize("label", [0, 1])
def test_a_hospital_with_one_class_only(monkeypatch, label):
    spoilt(monkeypatch, partial(of_one_class, (2,), label))
    (run,) = simulate(CONFIG, 4)
    own = run.thresholds[2]
    assert not own.dropped
    assert own.metrics["f1-personal"] == own.metrics["f1-global"]
    assert all(np.isfinite(own.metrics[name]) for name in REPORTED)


def test_a_hospital_that_tests_on_nobody_ill_is_left_out_of_the_means(monkeypatch):
    def healthy(number, data):
        if number != 2:
            return data
        inputs, targets = data.test
        return type(data)(
            data.train, data.validation, (inputs[targets == 0], targets[targets == 0])
        )

    spoilt(monkeypatch, healthy)
    (run,) = simulate(CONFIG, 4)
    reported = [report.metrics["f1-personal"] for report in run.thresholds]
    assert np.isnan(reported).tolist() == [False, False, True, False]
    clients = threshold_summary(run)["threshold_clients"]["personal"]
    assert (clients["f1"], clients["accuracy"]) == (3, 4)
    assert "on average over 3 of 4 clients" in describe_thresholds(run)[0]
    found = threshold_summary(run)["thresholds"]["personal"]
    assert found["f1"] == pytest.approx(np.nanmean(reported))
    assert 0 < found["accuracy"] < 1


def test_a_fleet_with_one_class_only_uses_half_and_says_so(monkeypatch, caplog):
    spoilt(monkeypatch, partial(of_one_class, range(4), 0))
    (run,) = simulate(CONFIG, 4)
    assert len({run.thresholds[0].metrics[f"f1-{rule}"] for rule in RULES}) == 1
    assert "are 0 of it" in caplog.text


def test_a_client_whose_scores_are_nan_ends_nothing(monkeypatch, caplog):
    def nan(number, data):
        if number != 3:
            return data
        inputs, targets = data.validation
        return type(data)(data.train, (inputs * torch.nan, targets), data.test)

    spoilt(monkeypatch, nan)
    (run,) = simulate(CONFIG, 4)
    assert [bool(report.dropped) for report in run.thresholds] == [False] * 3 + [True]
    assert "scores is nan" in run.thresholds[3].dropped
    assert "scores is nan" in caplog.text


def lying(monkeypatch, who, change):
    """Let what one client answers be changed, by ``change(step, examples, metrics)``."""
    honest = ThresholdClient.evaluate

    def evaluate(self, parameters, config):
        loss, examples, metrics = honest(self, parameters, config)
        if self.client.partition_id == who:
            examples, metrics = change(config[THRESHOLD], examples, metrics)
        return loss, examples, metrics

    monkeypatch.setattr(ThresholdClient, "evaluate", evaluate)


def test_a_client_that_reports_as_many_examples_as_it_may_leaves_the_others_their_thresholds(
    monkeypatch,
):
    def change(step, examples, metrics):
        if step == "choose":
            return examples, metrics
        reported = [2**31] * (2 * BINS)  # the most that is not refused
        return sum(reported), metrics | {THRESHOLD_HISTOGRAM: reported}

    lying(monkeypatch, 1, change)
    (run,) = simulate(CONFIG, 4)
    assert [report.dropped for report in run.thresholds] == [""] * 4


@pytest.mark.parametrize("odd", [None, 1.5, -0.1, math.inf])
def test_a_client_that_reports_no_scores_is_left_out_of_them(monkeypatch, caplog, tmp_path, odd):
    def change(step, examples, metrics):
        name = "recall-platt"
        metrics = {n: v for n, v in metrics.items() if n != name}
        return examples, metrics | ({} if odd is None or step == "count" else {name: odd})

    lying(monkeypatch, 1, change)
    (run,) = simulate(CONFIG, 4)
    assert [bool(report.dropped) for report in run.thresholds] == [False, True, False, False]
    assert f"client 1 do not count: recall-platt is {odd}" in caplog.text
    write(tmp_path, [run])
    with (tmp_path / "thresholds.csv").open() as stream:
        assert {row["client"] for row in csv.DictReader(stream)} == {"0", "2", "3"}


def report(client, reported, examples=10, dropped=""):
    lists = {THRESHOLD_HISTOGRAM: reported} if reported is not None else {}
    metrics = {"num-examples": examples}
    return ClientReport(2, "evaluate", client + 100, client, metrics, 0, 0, dropped, lists)


def test_histograms_that_are_none_are_left_out_with_a_reason(caplog):
    good = [10, *[0] * (2 * BINS - 1)]
    reports = [
        report(5, good),
        report(4, good[1:]),
        report(3, [20, -10, *good[2:]]),
        report(2, [9, *good[1:]]),
        report(1, None),
        report(0, good, dropped="late"),
    ]
    found = histograms_of(reports, 1)
    assert found.tolist() == [np.array(good).reshape(1, 2, BINS).tolist()]
    for client, what in ((4, "399"), (3, "-10"), (2, "9;.* 10"), (1, "0")):
        assert re.search(rf"client {client}\b.* {what}\b", caplog.text)
    assert histograms_of([], 3).shape == (0, 3, 2, BINS)


# ---------------------------------------------------------------------- the config


@pytest.mark.parametrize(
    ("change", "key", "choices"),
    [
        ({"threshold": "best"}, "threshold", ("half", "global")),
        ({"threshold-metric": "auc"}, "threshold-metric", ("f1",)),
        ({"cost-ratio": 0.0}, "cost-ratio", ()),
        ({"wanted-recall": 1.5}, "wanted-recall", ()),
        ({"dataset": "diabetes", "partition": "iid"}, "threshold", ()),
        ({"dataset": "social", "task": "link-prediction", "model": "auto"}, "threshold", ()),
        ({"validation-fraction": 0.0}, "validation-fraction", ()),
        ({"dataset": "smartwatch", "validation-fraction": 0.2}, "phases", ("joint",)),
    ],
)
def test_what_is_refused(change, key, choices):
    value = {**CONFIG, "phases": "stream", **change}[key]
    with refused(ConfigError, key=key, value=value, choices=choices):
        RunConfig.parse(CONFIG | change)


@pytest.mark.parametrize("metric", ["balanced-accuracy", "cost", "precision-at-recall"])
def test_the_other_metrics(metric):
    config = CONFIG | {"threshold-metric": metric, "cost-ratio": 4.0, "wanted-recall": 0.95}
    (run,) = simulate(RunConfig.used(config), 4)
    (f1,) = simulate(CONFIG, 4)
    recall = [
        np.mean([report.metrics["recall-global"] for report in each.thresholds])
        for each in (run, f1)
    ]
    assert recall[0] != recall[1]
    if metric != "balanced-accuracy":
        assert recall[0] > recall[1]
