"""Runs with bad data, from the run config to the final model."""

import numpy as np
import pytest
from flwr.app import MetricRecord

from pfl_flower.client_app import make_app
from pfl_flower.config.errors import ConfigError
from pfl_flower.config.run_config import RunConfig
from pfl_flower.data import federation
from pfl_flower.engines import simulate
from pfl_flower.grid import InProcessGrid
from pfl_flower.server.checkpoint import Checkpoints
from pfl_flower.server.run import play
from strategies.arrays import to_record, view
from strategies.measurement_error.errors_in_variables import COEFFICIENTS
from strategies.measurement_error.quality_weighted import WEIGHT_SHARE
from tests.errors import refused
from tests.helpers import numbers_of
from tests.tiers import quick_first

NOISY = {
    "dataset": "wearables",
    "partition": "natural",
    "tiers": "2,2,2",
    "noise": "0,0.7,1.4",
    "max-examples": 60,
    "min-examples": 40,
    "model": "linear",
    "learning-rate": 0.05,
    "num-server-rounds": 3,
    "baselines": "",
    "seed": 100,
}
CLIENTS = 6
METHODS = ("quality-weighted", "errors-in-variables")


def run_of(**changes):
    values = {name.replace("_", "-"): value for name, value in changes.items()}
    return simulate(RunConfig.used({**NOISY, **values}), CLIENTS)[0]


def test_a_better_device_has_a_larger_share_by_the_formula_that_is_stated():
    run = run_of(method="quality-weighted", largest_share=1.0)
    reports = [r for r in run.reports if (r.phase, r.round) == ("train", 3)]
    effective = {
        r.client: r.metrics["num-examples"]
        * (1 - r.metrics["missing-rate"])
        * r.metrics["reliability"]
        for r in reports
    }
    total = sum(effective.values())
    for report in reports:
        wanted = effective[report.client] / total
        assert report.metrics[WEIGHT_SHARE] == pytest.approx(wanted, rel=1e-6)
    tiers = [federation(run.config.data, CLIENTS).tier(r.client) for r in reports]
    reliability = np.array([r.metrics["reliability"] for r in reports])
    assert reliability[np.equal(tiers, 0)].min() > reliability[np.equal(tiers, 2)].max()


def test_without_noise_and_bounds_quality_weighted_is_fedavg():
    exact = {"noise": "", "tiers": "", "model": "auto"}
    bounds = {"largest_share": 1.0, "update_clip": 0.0}
    plain = run_of(method="fedavg", **exact)
    weighted = run_of(method="quality-weighted", **exact, **bounds)
    for name, array in plain.arrays.items():
        np.testing.assert_allclose(view(weighted.arrays[name]), view(array), rtol=1e-5, atol=1e-6)


def test_without_noise_errors_in_variables_is_least_squares_of_everybodys_examples():
    run = run_of(method="errors-in-variables", noise="", tiers="", num_server_rounds=1)
    data = federation(run.config.data, CLIENTS)
    clients = [data.client(client) for client in range(CLIENTS)]
    inputs = np.concatenate([c.train[0].double().numpy() for c in clients])
    targets = np.concatenate([c.train[1].double().numpy() for c in clients])
    design = np.column_stack([inputs, np.ones(len(inputs))])
    wanted = np.linalg.lstsq(design, targets, rcond=None)[0]
    np.testing.assert_allclose(view(run.arrays[COEFFICIENTS])[0], wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_unseen_clients_a_safeguard_and_late_clients(method):
    run, *_ = simulate(
        {**NOISY, "method": method, "unseen": 0.34, "safeguard": True, "late": 0.25}, CLIENTS
    )
    assert {len(reports) for reports in run.unseen.values()} == {2}
    for reports in run.unseen.values():
        assert all(np.isfinite(r.metrics["rmse"]) for r in reports)


class Stopped(Exception):
    pass


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_is_resumed_ends_as_one_never_stopped(tmp_path, method):
    changes = {"method": method, "fraction-train": 0.5, "num-server-rounds": 6}
    config = RunConfig.used({**NOISY, **changes})
    whole = simulate(config, CLIENTS)

    def stop(news):
        if news.round == 3:
            raise Stopped

    with pytest.raises(Stopped):
        simulate(config, CLIENTS, progress=stop, folder=tmp_path)
    at = Checkpoints.__new__(Checkpoints)
    at.folder = tmp_path / "checkpoint"
    assert 1 <= at.load(method).round < 6
    resumed = simulate({**config, "resume": str(tmp_path)}, CLIENTS)
    assert numbers_of(resumed) == numbers_of(whole)


@pytest.mark.deployment
def test_the_same_numbers_on_ray_bit_for_bit():
    config = {**NOISY, "method": "quality-weighted", "baselines": "errors-in-variables"}
    assert numbers_of(simulate(config, CLIENTS)) == numbers_of(simulate(config, CLIENTS, "ray"))


class WithCorrupted(InProcessGrid):
    """A federation one client of which says it is perfect and sends noise instead of an update."""

    def __init__(self, *arguments, length, **options):
        super().__init__(*arguments, **options)
        self.length = length
        self.corrupted = 0

    def answer(self, message):
        reply = super().answer(message)
        metrics = reply.content.metric_records.get("metrics") if reply.has_content() else None
        is_corrupted = metrics is not None and metrics.get("partition-id") == 0
        if not is_corrupted or message.metadata.message_type != "train":
            return reply
        draw = np.random.default_rng(self.corrupted)
        self.corrupted += 1
        arrays = reply.content.array_records["arrays"]
        reply.content["arrays"] = to_record(
            {
                name: (self.length * draw.normal(size=view(array).shape)).astype(array.dtype)
                for name, array in arrays.items()
            }
        )
        reported = {"missing-rate": 0.0, "reliability": 1.0, "effective-examples": 30.0}
        reply.content["metrics"] = MetricRecord({**metrics, **reported, "num-examples": 30})
        return reply


CLASSES = {
    "dataset": "breast-cancer",
    "heterogeneity": "none",
    "model": "linear",
    "learning-rate": 0.05,
    "num-server-rounds": 15,
    "baselines": "",
    "seed": 100,
}


def honest_accuracy(method, length=None):
    config = RunConfig.parse({**CLASSES, "method": method})
    make = InProcessGrid if length is None else WithCorrupted
    grid = make(make_app(config.dump()), 10, **({} if length is None else {"length": length}))
    (run,) = play(grid, config)
    return np.mean([score for client, score in run.by_client().items() if client])


@pytest.mark.integration
@pytest.mark.parametrize("length", quick_first([1e3, 1.0, 1e30]))
def test_a_client_that_says_it_is_perfect_and_sends_noise_of_any_length_costs_little(length):
    fair = honest_accuracy("quality-weighted")
    assert honest_accuracy("quality-weighted", length) > fair - 0.05


def test_the_same_noise_ruins_plain_averaging():
    assert honest_accuracy("fedavg", 1e3) < honest_accuracy("fedavg") - 0.1


REFUSED = {
    "deep": ({"model": "mlp"}, ("linear",)),
    "twice": ({"calibrate-inputs": True}, ()),
    "masks": ({"imputation": "mask", "missing": 0.1}, ("mean", "conditional")),
    "draws": ({"imputation": "multiple", "missing": 0.1}, ()),
    "personal": ({"personal": "head"}, ()),
    "momentum": ({"server-momentum": 0.5}, ()),
    "weighting": ({"weighting": "uniform"}, ()),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_makes_no_sense_with_errors_in_variables_is_refused(what):
    values, choices = REFUSED[what]
    key, value = next(iter(values.items()))
    with refused(ConfigError, key=key, value=value, choices=choices):
        RunConfig.parse({**NOISY, "method": "errors-in-variables", **values})


@pytest.mark.parametrize(
    ("values", "choices"),
    [
        ({"largest-share": 0.0}, ()),
        ({"least-quality": 1.5}, ()),
        ({"update-clip": -1.0}, ()),
        ({"weighting": "uniform"}, ()),
        ({"update-clip": 1.0, "method": "fedavg"}, ("quality-weighted",)),
    ],
)
def test_wrong_settings_of_quality_weighted_say_what_is_right(values, choices):
    key, value = next(iter(values.items()))
    with refused(ConfigError, key=key, value=value, choices=choices):
        RunConfig.parse({**NOISY, "method": "quality-weighted", **values})
