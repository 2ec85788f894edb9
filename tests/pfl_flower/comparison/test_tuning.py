"""Tuning: the same number of trials for all, and none that diverged."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pfl_flower.comparison.advice.recommendation import recommend
from pfl_flower.comparison.command import settings_of
from pfl_flower.comparison.compare import Comparison, compare
from pfl_flower.comparison.selection import diverged
from pfl_flower.comparison.tuning import TRIALS, grid_of, validation_score
from pfl_flower.config.run_config import RunConfig
from pfl_flower.methods import METHODS
from tests.helpers import data_for
from tests.pfl_flower.comparison.synthetic import one_round

SHORT = {"num-server-rounds": 2, "local-epochs": 1}


def config_of(outcome, method, seed):
    return next(c.config for c in outcome.cells if (c.method, c.seed) == (method, seed))


def test_every_method_gets_the_same_number_of_trials_over_orders_of_magnitude():
    for method in METHODS:
        grid = grid_of(method, 0.1)
        assert len({json.dumps(settings) for settings in grid}) == TRIALS == len(grid)
        for settings in grid:  # none of them is refused
            RunConfig.parse({"method": method, **data_for(method), **settings})
        rates = [settings["learning-rate"] for settings in grid]
        assert min(rates) == pytest.approx(1e-4)
        assert max(rates) == pytest.approx(1)
        assert 0.1 in rates
    by_strength = {
        mu: [s["learning-rate"] for s in grid_of("fedprox", 0.1) if s["mu"] == mu]
        for mu in (0.01, 0.1, 1.0)
    }
    for rates in by_strength.values():
        assert max(rates) / min(rates) == pytest.approx(1000, rel=0.01)
    assert 0.1 in by_strength[0.1]


def test_what_the_user_set_is_not_tuned():
    assert {s["mu"] for s in grid_of("fedprox", 0.1, {"mu": 0.5})} == {0.5}
    rates = [s["learning-rate"] for s in grid_of("fedprox", 0.1, {"learning-rate": 0.2})]
    assert rates == [0.2] * 3
    other = grid_of("ditto", 0.1, {"tau": 0.5})  # lambda would say the same
    assert len(other) == TRIALS
    for settings in other:
        RunConfig.parse({"method": "ditto", **settings})


def test_tuning_chooses_on_validation_and_never_looks_at_test(tmp_path, monkeypatch):
    def made_up(cell, progress=None):
        """Validation prefers a small learning rate, test a large one."""
        rate = cell.config["learning-rate"]
        scores = {"validation": [1 - rate] * 3, "test": [rate] * 3}
        return replace(one_round(cell.method, **scores), config=cell.config, seed=cell.seed)

    monkeypatch.setattr("pfl_flower.comparison.cell_runner.run_cell", made_up)
    outcome = compare(Comparison(["fedprox"], SHORT, 3, (4, 5), tune=True), tmp_path)
    for method in ("fedavg", "local", "fedprox"):
        assert outcome.tuned[method]["learning-rate"] == pytest.approx(1e-4)
        for seed in (4, 5):
            assert config_of(outcome, method, seed)["learning-rate"] == pytest.approx(1e-4)
    kept = json.loads((tmp_path / "comparison.json").read_text())
    assert kept["tuned"]["fedprox"] == outcome.tuned["fedprox"]


def diverging(above):
    """A run of a regression whose error explodes in the end above a learning rate."""

    def run(cell, progress=None):
        rate = cell.config.get("learning-rate", 0.1)
        errors = np.array([[1 - rate, 1.0], [1e9, 1.0] if rate > above else [1 - rate / 2, 1.0]])
        scores = {"validation": errors, "test": errors, "r2": np.zeros((2, 2))}
        constant = {f"constant_{name}": np.full((2, 2), 1.2) for name in ("validation", "test")}
        found = replace(one_round(cell.method, [0, 0], [0, 0]), rounds=np.array([1, 2]), **scores)
        found = replace(found, task="regression", constant_r2=np.zeros((2, 2)), **constant)
        return replace(found, config=cell.config, seed=cell.seed)

    return run


def test_a_setting_that_diverged_is_no_candidate(tmp_path, monkeypatch):
    """The larger the learning rate, the better the first round: until it explodes."""
    monkeypatch.setattr("pfl_flower.comparison.cell_runner.run_cell", diverging(above=0.02))
    outcome = compare(Comparison([], SHORT, 2, (0,), tune=True), tmp_path)
    for method in ("fedavg", "local"):
        assert outcome.tuned[method] == {"learning-rate": 0.01}


def test_where_all_settings_diverged_none_is_chosen_and_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("pfl_flower.comparison.cell_runner.run_cell", diverging(above=0))
    comparison = Comparison([], SHORT, 2, (0,), tune=True)
    outcome = compare(comparison, tmp_path)
    assert outcome.tuned == {}
    assert "no setting" in settings_of(comparison, outcome)["tuned for fedavg"]
    found = recommend(outcome.cells)
    assert (found.kind, found.method) == ("none", "")
    assert found.sentences[0].startswith("Nothing here ")
    assert found.sentences[1].startswith("The training of fedavg and local diverged")


def test_what_a_method_does_not_use_is_not_said_to_be_tuned(tmp_path, monkeypatch):
    monkeypatch.setattr("pfl_flower.comparison.cell_runner.run_cell", diverging(above=1e9))
    config = {"dataset": "diabetes", "heterogeneity": "none", "num-server-rounds": 2}
    comparison = Comparison(["hierarchical-linear"], config, 2, (0,), tune=True)
    outcome = compare(comparison, tmp_path)
    assert outcome.tuned["hierarchical-linear"] == {}
    assert settings_of(comparison, outcome)["tuned for hierarchical-linear"] == "nothing to tune"


def test_settings_that_lose_clients_are_not_better_for_it():
    whole = one_round("fedper", [0.8, 0.8], [0.0, 0.0])
    lost = one_round("fedper", [0.9, np.nan], [0.0, np.nan])
    assert validation_score(whole) > validation_score(lost)
    silent = one_round("fedper", [0.9, np.nan], [0.0, 0.0])  # evaluated, but it cannot judge itself
    assert validation_score(silent) > validation_score(whole)


def heavy_table(file, clients):
    """Features with heavy tails, correlated, and of another spread at each client."""
    draw, frames = np.random.default_rng(0), []
    load = draw.normal(size=(3, 8))
    for client in range(clients):
        factors = draw.normal(size=(50, 3)) * np.exp(draw.normal(0, 0.7))
        x = np.exp(0.6 * factors @ load + draw.normal(0, 0.3, size=(50, 8)))
        frame = pd.DataFrame(x, columns=[f"x{i}" for i in range(8)])
        frame["label"] = 30 + 10 * np.tanh(factors[:, 0]) + draw.normal(0, 1, 50)
        frames.append(frame.assign(client=client))
    pd.concat(frames).to_csv(file, index=False)


@pytest.mark.integration
def test_a_table_that_diverges_without_a_bound_on_gradients_is_found_out_and_tuned(tmp_path):
    """Targets and features are standardised by federated moments, and yet 0.1 is far too much."""
    heavy_table(tmp_path / "t.csv", 12)
    config = {"dataset": f"table:{tmp_path / 't.csv'}", "model": "linear", "num-server-rounds": 3}
    config |= {"gradient-clip": 0.0}
    comparison = Comparison([], config, None, (0,))
    plain = compare(comparison, tmp_path)
    found = recommend(plain.cells)
    assert max(c.test[-1].max() for c in plain.cells if not c.constant) > 1e6
    assert (found.kind, found.method) == ("none", "")
    assert found.sentences[0].startswith("Nothing here ")
    assert found.sentences[1].startswith("The training of fedavg and local diverged")
    tuned = compare(replace(comparison, tune=True), tmp_path)
    for method in ("fedavg", "local"):
        assert tuned.tuned[method]["learning-rate"] < 0.1
    assert all(diverged(cell, "validation") for cell in plain.cells if not cell.constant)
    assert not any(diverged(cell, "validation") for cell in tuned.cells)


def test_tuning_runs_a_method_without_a_learning_rate_once():
    comparison = Comparison(["hierarchical-linear"], {"dataset": "diabetes"}, 4)
    trials = [
        comparison.cell("hierarchical-linear", 0, s) for s in grid_of("hierarchical-linear", 0.2)
    ]
    assert len({trial.name for trial in trials}) == 1
    assert "learning-rate" not in trials[0].config
