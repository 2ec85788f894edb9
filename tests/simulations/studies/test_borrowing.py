import json
from dataclasses import replace

import numpy as np
import pytest

from pfl_flower.data.sources.mixed_effects import mixed_effects_truth
from pfl_flower.engines import simulate
from simulations.__main__ import main
from simulations.studies.borrowing import (
    DIABETES_STUDY,
    METHOD,
    STUDY,
    estimates,
    gathered,
    measure_generated,
    measure_sites,
    never_below,
    scaled,
    standard_errors,
    table,
)
from simulations.study import Arm, Outcome, Result, run_study
from simulations.summary import summary_of


def test_the_method_is_judged_as_its_clients_report_it():
    config = {**DIABETES_STUDY.config, "covariance": "diagonal", "seed": 100, "baselines": ""}
    (run,) = simulate(config, 12)
    found = measure_sites(run)
    np.testing.assert_allclose(np.sqrt(found["errors"][METHOD]), run.values(), rtol=1e-4)
    assert sum(found["examples"]) == sum(
        r.metrics["num-examples"] for r in run.reports if r.phase == "train"
    )


def test_the_truth_survives_that_targets_are_standardised():
    truth = mixed_effects_truth(100, 3)
    prior, own = scaled(truth, mean=4.0, deviation=2.5)
    inputs = np.column_stack([np.random.default_rng(0).normal(size=(6, 5)), np.ones(6)])
    for client in range(3):
        raw = inputs @ truth.coefficients[client]
        np.testing.assert_allclose(inputs @ own[client], (raw - 4.0) / 2.5)
    np.testing.assert_allclose(prior.mean * 2.5 + [0, 0, 0, 0, 0, 4.0], truth.mean)
    np.testing.assert_allclose(prior.covariance * 2.5**2, truth.covariance)
    assert prior.noise * 2.5**2 == pytest.approx(truth.noise)


def test_on_generated_data_least_squares_comes_near_the_truth_and_the_oracle_nearer():
    config = {**STUDY.config, "min-examples": 200, "seed": 100, "baselines": ""}
    (run,) = simulate(config, 20)
    found = measure_generated(run)
    assert found["examples"] == [200] * 20
    means = {name: np.mean(errors) for name, errors in found["errors"].items()}
    assert means["oracle"] <= means[METHOD] < means["local"] < 0.1 < means["pooled"]
    assert found["excess"].keys() == found["errors"].keys()
    assert 0.8 < np.mean(found["coverage"]) < 1


def made_up(errors, sizes, seed=0):
    measures = {"examples": sizes, "errors": errors, "coverage": [0.9] * len(sizes)}
    return Outcome([Result(Arm("a", {}), seed, dict(enumerate(sizes)), {}, measures)])


def test_gains_are_in_standard_errors_at_each_data_size():
    sizes = [2, 2, 2, 9, 9]
    errors = {METHOD: [1.0, 2.0, 3.0, 4.0, 4.0], "local": [2.0, 4.0, 6.0, 1.0, 1.1]}
    errors["pooled"] = errors["local"]
    rows = table(made_up(errors, sizes), "a", (1, 5, 8, 20))
    assert [row["clients"] for row in rows] == [3, 2]  # nobody in between
    assert rows[0][METHOD] == 2.0
    gains = np.array([1.0, 2.0, 3.0])
    wanted = gains.mean() / (gains.std(ddof=1) / np.sqrt(3))
    assert rows[0]["gain on local (se)"] == pytest.approx(wanted)
    claim = never_below(made_up(errors, sizes), "a", (1, 5, 8, 20))
    assert claim.value == 0.5
    assert not claim.holds
    assert np.isnan(standard_errors(np.array([1.0])))
    assert standard_errors(np.array([1.0, 1.0])) == np.inf


def test_estimates_of_a_client_with_fewer_examples_than_coefficients_fit_them():
    config = {**STUDY.config, "max-examples": 3, "seed": 100, "baselines": ""}
    (run,) = simulate(config, 6)
    from simulations.studies.borrowing import _clients, _design

    clients = _clients(run)
    found, _ = estimates(run, clients)
    for own, client in zip(found["local"], clients, strict=True):
        fitted = _design(client.train[0]) @ own
        np.testing.assert_allclose(fitted, client.train[1].double().numpy(), atol=1e-6)


@pytest.mark.integration
def test_a_study_by_errors_has_its_tables_and_pictures(tmp_path, capsys):
    arguments = ["borrowing", "--seeds", "100", "--jobs", "1", "--out", str(tmp_path)]
    assert main(arguments) == 0
    for name in ("curve.png", "rmse.png", "clients.csv"):
        assert (tmp_path / name).exists()
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["score"] == "rmse"
    assert summary["methods"][METHOD].keys() >= {"rmse", "rmse_by_seed"}
    assert len(summary["tables"]) == 1
    printed = capsys.readouterr().out
    assert "mean squared errors" in printed
    assert "gain on pooled" in printed


def test_the_worst_tenth_of_errors_are_the_largest():
    small = replace(STUDY, num_clients=10, claims=lambda outcome: [], config=STUDY.config)
    outcome = run_study(small, [100])
    entry = summary_of(small, outcome)["methods"][METHOD]["rmse"]
    assert entry["worst_tenth"] == max(outcome.results[0].by_client.values())
    sizes, _ = gathered(outcome, METHOD)
    assert len(sizes) == 10
