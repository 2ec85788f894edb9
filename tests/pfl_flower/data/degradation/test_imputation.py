"""Imputation of missing values, against closed forms; and own data with missing values."""

import json
import logging
import math
import os
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from clients.data.preprocessing import Preprocessing
from pfl_flower.client.build import build_client
from pfl_flower.config.run_config import RunConfig
from pfl_flower.data import ClientData, DataError, DataSchema, DataSettings, Federation
from pfl_flower.data.degradation.devices import Device, take_measurements
from pfl_flower.data.degradation.imputation import DRAWS, IMPUTATIONS
from pfl_flower.data.degradation.measurements import apply_device
from pfl_flower.engines import simulate
from strategies.randomness import generator
from tests.tiers import quick_first

COUNT, CORRELATION, RATE = 20_000, 0.7, 0.4


def correlated():
    """Two correlated covariates, the first missing at random; outcomes with coefficients (1, 1)."""
    draw = generator(100, "correlated")
    root = np.linalg.cholesky(np.array([[1.0, CORRELATION], [CORRELATION, 1.0]]))
    inputs = draw.normal(size=(COUNT, 2)) @ root.T
    outcomes = inputs.sum(axis=1) + 0.1 * draw.normal(size=COUNT)
    inputs[draw.random(COUNT) < RATE, 0] = np.nan
    return inputs, outcomes


def slopes(inputs, outcomes):
    away = inputs - inputs.mean(axis=0)
    return np.linalg.lstsq(away, outcomes - outcomes.mean(), rcond=None)[0]


def fill(name, *parts):
    return IMPUTATIONS[name].fill(parts, 100)


def test_means_bias_the_slopes_of_correlated_covariates_as_the_closed_form_says():
    inputs, outcomes = correlated()
    p = 1 - RATE
    system = np.array([[p, p * CORRELATION], [p * CORRELATION, 1.0]])
    wanted = np.linalg.solve(system, [p * (1 + CORRELATION), 1 + CORRELATION])
    assert wanted == pytest.approx([0.72, 1.40], abs=0.005)
    assert slopes(fill("mean", inputs)[0], outcomes) == pytest.approx(wanted, abs=0.02)


def test_conditional_means_have_no_such_bias():
    inputs, outcomes = correlated()
    assert slopes(fill("conditional", inputs)[0], outcomes) == pytest.approx([1, 1], abs=0.02)


def test_means_do_not_attenuate_a_single_slope():
    inputs, _ = correlated()
    true = generator(100, "single").normal(size=COUNT)
    outcomes = 2.0 * true + 0.1 * inputs[:, 1]
    seen = np.where(np.isnan(inputs[:, 0]), np.nan, true)[:, None]
    filled = fill("mean", seen)[0]
    assert slopes(filled, outcomes)[0] == pytest.approx(2.0, rel=0.02)
    assert filled.var() / true.var() == pytest.approx(1 - RATE, rel=0.03)


def test_draws_have_the_variance_that_means_lack():
    inputs = correlated()[0][:2000]
    lost = np.isnan(inputs[:, 0])
    filled = fill("multiple", inputs, inputs[:0], inputs[:10])
    assert filled[0].shape == (DRAWS * 2000, 2)
    assert filled[1].shape == (0, DRAWS, 2)
    assert filled[2].shape == (10, DRAWS, 2)
    drawn = filled[0].reshape(DRAWS, 2000, 2)
    assert (drawn[:, ~lost] == inputs[~lost]).all()
    # given the other, a value has variance 1 - correlation^2
    residual = drawn[:, lost, 0] - CORRELATION * inputs[lost, 1]
    assert residual.var() == pytest.approx(1 - CORRELATION**2, rel=0.06)
    assert drawn[:, lost, 0].std(axis=0).min() > 0


@pytest.mark.parametrize("name", [n for n in IMPUTATIONS if IMPUTATIONS[n].allows_missing])
def test_all_that_is_known_stays_and_nothing_is_missing_afterwards(name):
    draw = generator(100, "gaps")
    parts = [draw.normal(size=(rows, 4)) for rows in (30, 0, 7)]
    parts = [np.where(draw.random(part.shape) < 0.3, np.nan, part) for part in parts]
    parts[0][:, 2] = np.nan  # missing everywhere
    found = fill(name, *parts)
    again = fill(name, *parts)
    for place, (part, filled) in enumerate(zip(parts, found, strict=True)):
        np.testing.assert_array_equal(filled, again[place])
        assert np.isfinite(filled).all()
        known = ~np.isnan(part)
        draws = IMPUTATIONS[name].draws
        if draws > 1:
            filled = np.moveaxis(filled, 1, 0) if place else filled.reshape(draws, *part.shape)
        else:
            filled = filled[None]
        assert all((one[known] == part[known]).all() for one in filled)
    if name != "multiple":
        assert (found[0][:, 2] == 0).all()


@pytest.mark.parametrize("name", ["conditional", "multiple"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_handful_of_examples_is_enough(name, count):
    draw = generator(100, "few")
    parts = [
        np.where(draw.random((n, 5)) < 0.5, np.nan, draw.normal(size=(n, 5))) for n in (count, 4)
    ]
    assert all(np.isfinite(part).all() for part in fill(name, *parts))


def test_only_training_examples_are_learnt_from():
    inputs = correlated()[0][:200]
    for name in ("mean", "conditional", "multiple", "mask"):
        one = fill(name, inputs, inputs[:0], inputs[:20])[0]
        other = fill(name, inputs, inputs[:0], 9 * inputs[:50])[0]
        np.testing.assert_array_equal(one, other)


REPEATABLE = [n for n in IMPUTATIONS if IMPUTATIONS[n].fitted(np.zeros((1, 1)), 0).fills]


@pytest.mark.parametrize("name", REPEATABLE)
@pytest.mark.parametrize(
    ("rows", "size", "gap", "empty"),
    [
        (30, 4, 0.3, False),
        (30, 4, 0.3, True),
        (30, 4, 0.0, False),
        (2, 3, 0.3, False),
        (12, 1, 0.3, False),
    ],
)
def test_what_was_fitted_does_the_same_again_row_by_row(name, rows, size, gap, empty):
    draw, centre = generator(100, "again"), np.arange(size) * 10.0
    mixed = draw.normal(size=(size, size))
    training, others = (draw.normal(size=(n, size)) @ mixed for n in (rows, 9))
    training[draw.random(training.shape) < gap] = np.nan
    others[draw.random(others.shape) < 0.3] = np.nan
    if empty:
        training[:, 1] = np.nan
    wanted = fill(name, training, others)[1] + centre
    found = IMPUTATIONS[name].fitted(training, 100).moved(centre)
    assert "conditional" not in name or size == 1 or len(found.features)
    stored = Preprocessing.from_tensors(found.tensors())
    rows_alone = [stored(row[None])[0] for row in others + centre]
    np.testing.assert_allclose(np.array(rows_alone)[:, :size], wanted, rtol=1e-9, atol=1e-9)
    assert np.isfinite(rows_alone).all()


def test_the_values_of_a_regression_follow_from_one_another():
    """x1 = 2 x0 + 1 and x2 = x1 - x0, by hand, in another unit."""
    chained = replace(
        Preprocessing.filling(np.array([5.0, 7.0, 9.0])),
        features=np.array([1, 2]),
        coefficients=np.array([[2.0, 0.0, 0.0], [-1.0, 1.0, 0.0]]),
        intercepts=np.array([1.0, 0.0]),
    )
    rows = np.array([[3.0, np.nan, np.nan], [np.nan, np.nan, 1.0]])
    np.testing.assert_array_equal(chained(rows), [[3.0, 7.0, 4.0], [5.0, 11.0, 1.0]])
    centre = np.array([1.0, 10.0, 100.0])
    np.testing.assert_allclose(chained.moved(centre)(rows + centre), chained(rows) + centre)
    halved = chained.calibrated(0.5 * np.eye(3), np.ones(3))
    np.testing.assert_allclose(halved(rows), 1 + 0.5 * (chained(rows) - 1))
    masked = replace(halved, mask=np.array([True]))
    np.testing.assert_array_equal(masked(rows)[:, 3:], [[0, 1, 1], [1, 1, 0]])


# ---------------------------------------------------------------------- through the federation


def data(imputation, dataset="breast-cancer", **options):
    options = {"missing": "0.3", "seed": 100} | options
    settings = DataSettings(dataset=dataset, imputation=imputation, heterogeneity="none", **options)
    return Federation(settings, 4)


@pytest.mark.integration
def test_the_first_imputation_of_a_process_is_on_one_thread_too():
    """Which loads scikit-learn's own linear algebra when all there was has been limited already."""
    code = """
import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits
from pfl_flower.data.degradation.imputation import IMPUTATIONS
with threadpool_limits(1, user_api="blas"):
    from sklearn.experimental import enable_iterative_imputer
    import sklearn.impute
    fit = sklearn.impute.IterativeImputer.fit_transform
    def spied(self, values):
        print([pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"])
        return fit(self, values)
    sklearn.impute.IterativeImputer.fit_transform = spied
    IMPUTATIONS["conditional"].fill((np.array([[1.0, np.nan], [2.0, 1.0], [0.0, 3.0]]),), 0)
"""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "2"}
    command = [sys.executable, "-c", code]
    reported = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert set(json.loads(reported.stdout)) == {1}


@pytest.mark.parametrize(
    ("name", "calibrates"),
    quick_first([*((n, c) for n in REPEATABLE for c in (False, True)), ("multiple", True)], 4),
)
def test_a_clients_preprocessing_does_what_was_done_to_its_measurements(name, calibrates):
    made = data(name, "diabetes", missing="0.1", noise="0.5", calibrate_inputs=calibrates)
    client, true = made.client(0), perfect(made).client(0)
    splits = [part[0].double().numpy() for part in (true.train, true.validation, true.test)]
    measured = take_measurements(made.devices[0], splits, 100, 0)[2]
    wanted = client.test[0].numpy()
    if name == "multiple":  # all draws of what was measured are alike
        complete = ~np.isnan(measured).any(axis=1)
        measured, wanted = measured[complete], wanted[complete, 0]
    assert len(measured)
    found = client.preprocessing(measured)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    assert bool(len(client.preprocessing.mean)) is calibrates


def test_pixels_are_filled_in_as_they_were_too():
    made = data("mean", "digits", missing="0.2")
    client, true = made.client(0), perfect(made).client(0)
    splits = [p[0].flatten(1).double().numpy() for p in (true.train, true.validation, true.test)]
    measured = take_measurements(made.devices[0], splits, 100, 0)[2]
    found = client.preprocessing(measured).reshape(client.test[0].shape)
    np.testing.assert_allclose(found, client.test[0].numpy(), rtol=1e-6, atol=1e-6)


def perfect(made):
    """The same clients, with devices that measure exactly."""
    settings = replace(made.settings, missing="0", noise="0", imputation="none")
    return Federation(replace(settings, calibrate_inputs=False), 4)


def test_nothing_is_done_to_measurements_by_default():
    assert perfect(data("mean")).client(0).preprocessing is None


def test_a_mask_says_what_was_missing():
    found = data("mask").client(0)
    for inputs, _ in (found.train, found.validation, found.test):
        values, mask = inputs[:, :30], inputs[:, 30:]
        assert set(mask.unique().tolist()) == {0.0, 1.0}
        assert (values[mask == 1] == 0).all()
        assert mask.mean() == pytest.approx(0.3, abs=0.08)


def test_a_client_with_nothing_missing_has_a_mask_too():
    found = data("mask", missing="0").client(0)
    assert found.train[0].shape[1] == 60
    assert (found.train[0][:, 30:] == 0).all()


def test_examples_of_several_draws_count_once():
    found, single = data("multiple", "diabetes").client(0), data("mean", "diabetes").client(0)
    count = len(single.train[1])
    assert found.num_examples == count
    assert found.quality is not None
    assert found.quality.examples == count
    assert found.train[0].shape == (DRAWS * count, 10)
    assert torch.equal(found.train[1], single.train[1].repeat(DRAWS))
    assert found.test[0].shape == (len(single.test[1]), DRAWS, 10)
    known = found.train[0].reshape(DRAWS, count, 10).std(dim=0) == 0
    first = found.train[0][:count]
    assert torch.equal(first[known], single.train[0][known])


@pytest.mark.integration
@pytest.mark.parametrize("imputation", ["none", *IMPUTATIONS])
def test_a_run_with_every_imputation(imputation):
    config = {
        **{"dataset": "breast-cancer", "heterogeneity": "none", "baselines": "", "seed": 100},
        **{"method": "fedper", "num-server-rounds": 2, "imputation": imputation},
        **{"max-examples": 30, "min-examples": 30, "missing": 0.0, "unseen": 0.34},
    }
    if imputation != "none":
        config |= {"missing": "0,0.3"}
    if imputation == "multiple":
        config |= {"dataset": "diabetes"}  # of ten features instead of thirty, which take longer
    run = simulate(config, num_clients=3)[0]
    assert np.isfinite(run.values(run.score, 2)).all()


@pytest.mark.integration
@pytest.mark.parametrize("method", ["ditto", "apfl", "hierarchical-bayes", "fedbabu", "local"])
def test_predictions_are_averaged_under_other_methods_too(method):
    config = {
        **{"dataset": "diabetes", "heterogeneity": "none", "baselines": "fedavg", "seed": 100},
        **{"method": method, "num-server-rounds": 1, "imputation": "multiple", "missing": "0.2"},
        **{"max-examples": 20, "min-examples": 20, "safeguard": True, "unseen": 0.34},
    }
    runs = simulate(config, num_clients=3)
    for run in runs:
        assert np.isfinite(run.values(run.score, 1)).all()


@pytest.mark.integration
def test_every_test_example_has_one_prediction():
    """The loss that a client reports is that of predictions averaged by hand."""
    from flwr.app import Context, RecordDict

    config = RunConfig.parse(
        {
            **{"dataset": "diabetes", "heterogeneity": "none", "method": "fedavg", "seed": 100},
            **{"imputation": "multiple", "missing": "0.3", "model": "linear", "baselines": ""},
        }
    )
    node = {"partition-id": 0, "num-partitions": 4}
    everybody = Federation(config.data, 4)
    client = build_client(config, Context(0, 0, node, RecordDict(), {}))
    loss, count, _ = client.evaluate(client.get_parameters({}), {})
    trained = everybody.client(0)
    assert client.num_examples == len(trained.train[1]) // DRAWS
    assert client.details.quality is not None
    assert client.details.quality.missing_rate == pytest.approx(0.3, abs=0.05)
    inputs, targets = trained.test
    with torch.no_grad():
        outputs = torch.stack([client.model(inputs[:, m]) for m in range(DRAWS)]).mean(dim=0)
    assert count == len(targets)
    wanted = float((outputs.flatten() - targets).square().mean())
    assert loss == pytest.approx(wanted, rel=1e-5)


def test_a_column_missing_everywhere_on_one_client(monkeypatch, caplog):
    """It gets the federated mean, one log line says so, and other clients do not change."""
    caplog.set_level(logging.WARNING, logger="flwr")
    name = own(monkeypatch, lambda client: {"x_train": _gaps(client, everywhere=client == 1)})
    found = Federation(DataSettings(dataset=name, imputation="mean", seed=100), 3)
    inputs = found.client(1).train[0]
    known = np.concatenate([found.clients.load(client).train[0][:, 1] for client in (0, 2)])
    np.testing.assert_allclose(inputs[:, 1], np.nanmean(known), rtol=1e-6)
    assert abs(np.nanmean(known) - 5) < 1
    assert found.client(0).train[0][:, 1].std() > 0
    quality = found.client(1).quality
    assert quality is not None
    assert quality.missing_rate > 1 / 3
    found.client(1)
    lines = [r.getMessage() for r in caplog.records if "no training value" in r.getMessage()]
    assert lines == [
        "client 1 has no training value of feature 1, so the federated mean replaces it"
    ]
    run = simulate(
        {
            **{"dataset": name, "imputation": "conditional", "baselines": "", "method": "fedper"},
            **{"num-server-rounds": 1, "seed": 100},
        },
        num_clients=3,
    )[0]
    assert len(run.values("accuracy", 1)) == 3


@pytest.mark.parametrize("imputation", ["mean", "conditional", "multiple", "mask"])
def test_calibration_knows_that_imputed_values_have_no_error(monkeypatch, imputation):
    """With reliability 1/2, each known measurement moves half the way to its mean.

    The expected true value of a missing one is the mean; all features are independent.
    """
    import tests.helpers as module

    draw = generator(100, "half of it")
    true = draw.normal(size=(4000, 3))
    measurements = true + draw.normal(size=true.shape)
    lost = draw.random(true.shape) < (0.5, 0.2, 0.0)
    arrays = {
        **{"x_train": np.where(lost, np.nan, measurements), "y_train": np.arange(4000) % 2},
        **{"x_test": measurements[:50], "y_test": np.arange(50) % 2, "noise": [1.0, 1.0, 1.0]},
    }
    monkeypatch.setattr(module, "own_measurements", lambda *_: arrays, raising=False)
    settings = DataSettings(
        dataset="tests.helpers:own_measurements",
        **{"imputation": imputation, "calibrate_inputs": True, "seed": 100},
    )
    inputs = Federation(settings, 1).client(0).test[0].numpy()
    found = inputs.mean(axis=1)[:, :3] if inputs.ndim == 3 else inputs[:, :3]
    np.testing.assert_allclose(found, measurements[:50] / 2, atol=0.15)


# ---------------------------------------------------------------------- own data


def _gaps(client, everywhere=False, count=40):
    draw = generator(100, "own", client)
    inputs = draw.normal([0.0, 5.0, 0.0], size=(count, 3))
    inputs[draw.random(inputs.shape) < 0.2] = np.nan
    if everywhere:
        inputs[:, 1] = np.nan
    return inputs


def own(monkeypatch, arrays):
    """Return the name of a function of one's own, of 40 examples."""
    import tests.helpers as module

    def load(partition_id, num_partitions):
        return {"y_train": np.arange(40) % 2} | arrays(partition_id)

    monkeypatch.setattr(module, "own_measurements", load, raising=False)
    return "tests.helpers:own_measurements"


def test_a_mask_takes_the_federated_mean_of_features_that_are_not_standardised(monkeypatch):
    arrays = [{"x_train": _gaps(client), "x_test": _gaps(client)} for client in range(3)]
    test = {"y_test": np.arange(40) % 2}
    name = own(monkeypatch, lambda client: arrays[client] | test)
    found = Federation(DataSettings(dataset=name, imputation="mask", seed=100), 3)
    known = np.concatenate([found.clients.load(client).train[0][:, 1] for client in range(3)])
    raw, inputs = arrays[0]["x_test"], found.client(0).test[0].numpy()
    lost = np.isnan(raw)
    np.testing.assert_allclose(inputs[lost[:, 1], 1], np.nanmean(known), rtol=1e-6)
    np.testing.assert_array_equal(inputs[:, :3][~lost], raw.astype(np.float32)[~lost])
    np.testing.assert_array_equal(inputs[:, 3:], lost)


def test_small_integers_of_a_table_are_filled_in_as_other_numbers(monkeypatch):
    codes = generator(100, "codes").integers(0, 256, size=(40, 3)).astype(np.uint8)
    name = own(monkeypatch, lambda _: {"x_train": codes})
    settings = DataSettings(dataset=name, imputation="mask", missing="0.5", seed=100)
    inputs = Federation(settings, 2).client(0).train[0].numpy()
    filled = inputs[:, :3][inputs[:, 3:] == 1]
    assert (np.abs(filled - 127.5) < 51).all()
    assert len(np.unique(filled)) == 3


def test_missing_values_of_own_data_need_an_imputation(monkeypatch):
    name = own(monkeypatch, lambda client: {"x_train": _gaps(client)})
    with pytest.raises(DataError, match="imputation") as error:
        Federation(DataSettings(dataset=name), 2).client_schema(0)
    rows = np.flatnonzero(np.isnan(_gaps(0)).any(axis=1)).tolist()
    assert (error.value.key, error.value.value, error.value.client) == ("x_train", rows, 0)
    found = Federation(DataSettings(dataset=name, imputation="mean"), 2).client(0)
    assert bool(torch.isfinite(found.train[0]).all())


@pytest.mark.parametrize(("imputation", "reliability"), [("mean", 1.0), ("none", 0.0)])
def test_a_feature_that_is_constant_everywhere_is_no_stuck_sensor(
    monkeypatch, imputation, reliability
):
    """Where that is known: clients send moments of their features if there is an imputation."""
    inputs = np.nan_to_num(_gaps(0))
    inputs[:, 2] = 7.0
    name = own(monkeypatch, lambda _: {"x_train": inputs})
    settings = DataSettings(dataset=name, imputation=imputation, seed=100)
    found = Federation(settings, 2).client(0).quality
    assert found is not None
    assert found.reliability.tolist() == [1.0, 1.0, reliability]


@pytest.mark.parametrize(("count", "is_stuck"), [(19, False), (20, True)])
def test_a_feature_that_never_varies_is_a_stuck_sensor_of_enough_examples(count, is_stuck):
    """It has no reliability even if it is taken for exact, and no error to correct."""
    inputs = np.nan_to_num(_gaps(0, count=count))
    inputs[:, 2] = 7.0
    split = (torch.from_numpy(inputs), torch.arange(count) % 2)
    schema = DataSchema((3,), "classification", (0, 1))
    exact, noisy = (
        apply_device(
            ClientData(split, split, split), Device(), noise, schema, DataSettings(seed=100), 0
        ).quality
        for noise in (None, np.full(3, 0.01))
    )
    assert exact is not None
    assert exact.reliability.tolist() == [1.0, 1.0, 0.0 if is_stuck else 1.0]
    assert noisy is not None
    assert (noisy.noise == 0).tolist() == [False, False, is_stuck]


def test_infinite_values_are_refused_whatever_the_imputation(monkeypatch):
    inputs = _gaps(0)
    inputs[3, 1] = math.inf
    name = own(monkeypatch, lambda _: {"x_train": inputs})
    with pytest.raises(DataError) as error:
        Federation(DataSettings(dataset=name, imputation="mean"), 2).client_schema(0)
    assert (error.value.key, error.value.value) == ("x_train", [3])


def test_every_client_draws_what_is_missing_by_itself():
    split = (torch.from_numpy(_gaps(0)), torch.arange(40) % 2)
    settings = DataSettings(imputation="multiple", seed=100)
    schema = DataSchema((3,), "classification", (0, 1))
    one, other = (
        apply_device(ClientData(split, split, split), Device(), None, schema, settings, client)
        for client in (0, 1)
    )
    assert not torch.equal(one.test[0], other.test[0])


@pytest.mark.parametrize("imputation", ["mean", "conditional", "mask"])
def test_nothing_is_learnt_from_test_examples(monkeypatch, imputation):
    """Other test examples do not change training examples and their reported quality."""
    tests = iter([_gaps(5), 100.0 + 50.0 * _gaps(6)])
    name = own(
        monkeypatch,
        lambda client: {
            **{"x_train": _gaps(client), "x_test": next(tests), "y_test": np.arange(40) % 2},
            "reliability": [0.5, 1.0, 0.8],
        },
    )
    options = {"imputation": imputation, "calibrate_inputs": True, "noise": "0.5"}
    settings = DataSettings(dataset=name, seed=100, **options)
    one, other = (Federation(settings, 1).client(0) for _ in range(2))
    assert not torch.equal(one.test[0], other.test[0])
    assert torch.equal(one.train[0], other.train[0])
    assert torch.equal(one.validation[0], other.validation[0])
    assert one.quality is not None
    assert other.quality is not None
    np.testing.assert_array_equal(one.quality.reliability, other.quality.reliability)


def test_a_table_may_have_missing_values_and_is_standardised_by_known_ones(tmp_path):
    lines = ["client,label,a,b"]
    draw = generator(100, "table")
    a = 10 + 3 * draw.normal(size=60)
    for row in range(60):
        b = "" if row < 30 else f"{row}"  # nobody measures it at the first client
        lines.append(f"{row // 30},{row % 2},{'' if row % 5 == 0 else a[row]},{b}")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    settings = DataSettings(dataset=f"table:{tmp_path / 't.csv'}", imputation="mean", seed=100)
    found = Federation(settings, 2)
    features = found.schema.features
    assert features is not None
    assert np.isfinite([*features.means, *features.variances]).all()
    trained = [found.clients.load(client).train[0] for client in range(2)]
    known = np.concatenate(trained)[:, 0]
    assert features.means[0] == pytest.approx(np.nanmean(known), rel=1e-6)
    assert features.variances[0] == pytest.approx(np.nanvar(known), rel=1e-6)
    assert features.counts == (int(np.isfinite(known).sum()), len(trained[1]))
    assert (found.client(0).train[0][:, 1] == 0).all()
    assert not (found.client(1).train[0][:, 1] == 0).all()


def test_a_folder_may_have_missing_values_and_declare_its_noise(tmp_path):
    for client in range(2):
        np.savez(
            tmp_path / f"{client}.npz",
            **{"x_train": _gaps(client), "y_train": np.arange(40) % 2},
            **{"x_test": _gaps(client + 5), "y_test": np.arange(40) % 2},
            noise=np.array([0.25, 0.0, 1.0]),
        )
    settings = DataSettings(dataset=f"folder:{tmp_path}", imputation="mean", seed=100)
    found = Federation(settings, 2)
    reported = found.client(0).quality
    assert reported is not None
    known = 1 - np.isnan(found.clients.load(0).train[0]).mean(axis=0)
    assert 0 < known[0] < 1
    np.testing.assert_allclose(reported.noise, known * [0.25, 0.0, 1.0])
    assert reported.reliability[1] == 1.0
    assert 0 < reported.reliability[2] < reported.reliability[0] < 1


DECLARED = {
    "noise": lambda inputs: [0.5, 0.0, 0.2],
    "reliability": lambda inputs: [0.5, 1.0, 0.8],
    "replicates": lambda inputs: np.stack([inputs, inputs + np.array([1.0, 0.0, 2.0])]),
}


@pytest.mark.parametrize("name", DECLARED)
def test_declared_noise_is_reported(monkeypatch, name):
    inputs = np.nan_to_num(_gaps(0))
    dataset = own(monkeypatch, lambda _: {"x_train": inputs, name: DECLARED[name](inputs)})
    found = Federation(DataSettings(dataset=dataset, seed=100), 2).client(0)
    reported, training = found.quality, found.train[0].double().numpy()
    assert reported is not None
    assert len(training) < len(inputs)  # some are held out, which nothing may be learnt from
    wanted = {
        "noise": [0.5, 0.0, 0.2],
        "reliability": (1 - np.array([0.5, 1.0, 0.8])) * training.var(axis=0, ddof=1),
        "replicates": [0.5, 0.0, 2.0],
    }[name]
    np.testing.assert_allclose(reported.noise, wanted, rtol=1e-5)


@pytest.mark.parametrize("name", ["noise", "reliability"])
def test_noise_of_pixels_is_reported_in_the_unit_of_the_model(monkeypatch, name):
    pixels = generator(100, "pixels").integers(0, 256, size=(40, 1, 3, 1)).astype(np.uint8)
    variance = pixels.astype(float).var(axis=0, ddof=1).ravel()
    declared = [0.9] * 3 if name == "reliability" else 0.1 * variance
    dataset = own(monkeypatch, lambda _: {"x_train": pixels, name: declared})
    found = Federation(DataSettings(dataset=dataset, seed=100), 2).client(0)
    reported = found.quality
    assert reported is not None
    if name == "reliability":
        variance = 255**2 * found.train[0].double().numpy().var(axis=0, ddof=1).ravel()
        assert reported.reliability == pytest.approx([0.9] * 3)
    np.testing.assert_allclose(reported.noise, 0.1 * variance / 255**2, rtol=1e-6)


@pytest.mark.parametrize(
    ("arrays", "value"),
    [
        ({"reliability": [0.5, 0.0, 1.0]}, "0.0"),
        ({"reliability": [0.5, 1.2, 1.0]}, "1.2"),
        ({"reliability": [0.5, -0.2, 1.0]}, "-0.2"),
        ({"reliability": [0.5, math.nan, 1.0]}, "nan"),
        ({"noise": [0.5, -0.2, 1.0]}, "-0.2"),
        ({"noise": [0.5, math.inf, 1.0]}, "inf"),
        ({"noise": [0.5, 1.0]}, "(2,)"),
        ({"noise": "much"}, "'much'"),
        ({"replicates": np.zeros((1, 40, 3))}, "(1, 40, 3)"),
        ({"replicates": np.zeros((40, 3))}, "(40, 3)"),
        ({"noise": [0, 0, 0], "reliability": [1, 1, 1]}, "reliability"),
    ],
)
def test_impossible_declared_errors_are_refused(monkeypatch, arrays, value):
    name = own(monkeypatch, lambda _: {"x_train": np.nan_to_num(_gaps(0))} | arrays)
    with pytest.raises(DataError, match=re.escape(value)) as error:
        Federation(DataSettings(dataset=name), 2).client_schema(0)
    assert (error.value.key, error.value.client) == (", ".join(arrays), 0)


@pytest.mark.parametrize("reliability", [0.0, 1.2])
def test_a_client_with_impossible_declared_errors_is_left_out_and_others_go_on(
    monkeypatch, reliability
):
    declared = {1: {"reliability": [0.5, reliability, 1.0]}}
    name = own(monkeypatch, lambda c: {"x_train": np.nan_to_num(_gaps(c))} | declared.get(c, {}))
    config = {"dataset": name, "method": "fedavg", "baselines": "", "seed": 100}
    run = simulate(config | {"num-server-rounds": 1}, num_clients=3)[0]
    assert len(run.values("accuracy", 1)) == 2
