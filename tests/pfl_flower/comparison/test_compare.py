import json
from dataclasses import replace

import numpy as np
import pytest

from pfl_flower.comparison.advice.recommendation import recommend
from pfl_flower.comparison.cells import Cell, CellResult, load_cell, run_cell, save_cell
from pfl_flower.comparison.command import parser
from pfl_flower.comparison.compare import Comparison, compare
from pfl_flower.comparison.guarded import safeguarded
from pfl_flower.comparison.reporting.tables import client_rows
from pfl_flower.comparison.selection import client_name, select_round
from pfl_flower.comparison.tuning import validation_score
from pfl_flower.config.errors import ConfigError
from pfl_flower.config.run_config import RunConfig
from pfl_flower.data import DataError
from pfl_flower.engines import simulate
from simulations.__main__ import main
from tests.errors import refused
from tests.pfl_flower.comparison.synthetic import one_round

SHORT = {"num-server-rounds": 2, "local-epochs": 1}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A comparison of two rounds, its outcome and its folder."""
    folder = tmp_path_factory.mktemp("small")
    comparison = Comparison(["fedper"], {**SHORT, "unseen": 0.25}, 4, (0, 1), safeguard=True)
    return comparison, compare(comparison, folder), folder


def test_every_method_has_every_seed_and_the_baselines_are_there(small):
    _, outcome, _ = small
    found = [(cell.method, cell.seed) for cell in outcome.cells]
    assert found[:6] == [(m, s) for m in ("fedavg", "local", "fedper") for s in (0, 1)]
    assert found[6:8] == [("fedper safeguarded", 0), ("fedper safeguarded", 1)]
    constants = ("commonest class", "own commonest class")
    assert found[8:] == [(name, seed) for name in constants for seed in (0, 1)]


def test_methods_of_a_seed_have_the_same_clients_data_and_unseen_clients(small):
    _, outcome, _ = small
    cells = [c for c in outcome.cells if c.seed == 1 and not (c.safeguarded or c.constant)]
    first = cells[0]
    assert first.label_counts.sum() == first.train_examples.sum()
    for cell in cells[1:]:
        assert cell.clients.tolist() == first.clients.tolist()
        assert cell.unseen_clients.tolist() == first.unseen_clients.tolist()
        assert cell.label_counts.tolist() == first.label_counts.tolist()
        assert cell.test_examples.tolist() == first.test_examples.tolist()
    assert not set(first.clients) & set(first.unseen_clients)
    assert len(first.clients) + len(first.unseen_clients) == 4


@pytest.mark.integration
def test_finished_cells_are_not_run_again_and_a_missing_one_is(small, monkeypatch):
    comparison, outcome, folder = small
    ran = []

    def counted(cell, progress=None):
        ran.append((cell.method, cell.seed))
        return run_cell(cell, progress)

    monkeypatch.setattr("pfl_flower.comparison.cell_runner.run_cell", counted)
    again = compare(comparison, folder)
    assert ran == []
    for left, right in zip(outcome.cells, again.cells, strict=True):
        assert json.dumps(left.test.tolist()) == json.dumps(right.test.tolist())
        assert left.config == right.config
    next((folder / "cells").glob("local-seed1-*")).write_text("{ torn")
    compare(comparison, folder)
    assert ran == [("local", 1)]
    compare(replace(comparison, config={**comparison.config, "learning-rate": 0.05}), folder)
    assert len(ran) == 1 + 6


@pytest.mark.integration
def test_cells_side_by_side_are_the_same_cells(small, tmp_path):
    comparison, outcome, _ = small
    together = compare(comparison, tmp_path, jobs=2)
    for left, right in zip(outcome.cells, together.cells, strict=True):
        assert (left.method, left.seed) == (right.method, right.seed)
        assert left.test.tolist() == right.test.tolist()
        assert left.unseen_test.tolist() == right.unseen_test.tolist()


def test_a_cell_is_the_same_on_disk(small, tmp_path):
    _, outcome, _ = small
    for cell in outcome.cells:
        save_cell(cell, tmp_path / "cell.json")
        found = load_cell(tmp_path / "cell.json")
        assert repr(found) == repr(cell)
    assert load_cell(tmp_path / "other.json") is None


@pytest.mark.integration
def test_the_safeguard_of_a_comparison_is_what_clients_choose_themselves(small):
    _, outcome, _ = small
    found = {(cell.method, cell.seed): cell for cell in outcome.cells}
    config = {**SHORT, "method": "fedper", "baselines": "", "unseen": 0.25, "safeguard": True}
    for seed in (0, 1):
        run = simulate({**config, "heterogeneity": "none", "seed": seed}, 4)[-1]
        assert run.method == "fedper safeguarded"
        cell = found["fedper safeguarded", seed]
        assert dict(zip(cell.clients.tolist(), cell.test[-1], strict=True)) == run.by_client()


def test_a_safeguard_takes_the_best_on_validation_and_its_own_in_a_tie():
    own = one_round("fedper", [0.5, 0.5, 0.9, np.nan], [0.1, 0.2, 0.3, 0.4])
    common = one_round("fedavg", [0.5, 0.7, 0.8, np.nan], [1.0, 1.0, 1.0, 1.0])
    alone = one_round("local", [0.4, 0.6, 0.9, np.nan], [0.0, 0.0, 0.0, 0.0])
    assert safeguarded(own, [common, alone]).test.tolist() == [[0.1, 1.0, 0.3, 0.4]]


def test_a_model_that_could_not_be_evaluated_is_no_candidate():
    own = one_round("fedper", [np.nan, 0.5], [np.nan, 0.2])
    common = one_round("fedavg", [0.7, np.nan], [0.9, 0.8])
    assert safeguarded(own, [common]).test.tolist() == [[0.9, 0.2]]


def test_a_safeguard_of_a_regression_takes_the_smallest_error():
    own, common = (
        replace(one_round(name, errors, errors), task="regression")
        for name, errors in (("fedper", [3.0, 1.0]), ("fedavg", [2.0, 2.0]))
    )
    assert safeguarded(own, [common]).test.tolist() == [[2.0, 1.0]]


def test_whatever_one_method_raises_the_others_go_on(tmp_path, monkeypatch):
    def odd(config, *arguments):
        if config["method"] == "fedper":
            raise TypeError("a user's mistake")
        return simulate(config, *arguments)

    monkeypatch.setattr("pfl_flower.comparison.cells.simulate", odd)
    outcome = compare(Comparison(["fedper"], SHORT, 3, (0,)), tmp_path)
    failures = {cell.method: cell.failure for cell in outcome.cells}
    assert failures["fedper"] == 'TypeError("a user\'s mistake")'
    assert not failures["fedavg"]


def test_a_round_is_chosen_among_those_that_lost_no_client():
    def cell(validation, test):
        two = {"validation": np.array(validation), "test": np.array(test)}
        none = np.full((2, 2), np.nan)
        return replace(one_round("fedper", [0, 0], [0, 0]), rounds=np.array([1, 2]), r2=none, **two)

    lost = cell([[0.5, 0.5], [0.9, np.nan]], [[0.0, 0.0], [0.0, np.nan]])
    assert select_round(lost) == (0, True)
    silent = cell([[0.5, 0.5], [0.9, np.nan]], [[0.0, 0.0], [0.0, 0.0]])
    assert select_round(silent) == (1, True)
    assert validation_score(CellResult("fedper", 0, {}, "broken")) == (0, -np.inf)


def test_an_infinite_error_is_one_on_disk_too(tmp_path):
    cell = replace(one_round("fedper", [np.inf, np.nan], [1.0, -np.inf]), task="regression")
    save_cell(cell, tmp_path / "cell.json")
    found = load_cell(tmp_path / "cell.json")
    assert repr(found) == repr(cell)


def test_when_nothing_can_run_the_reason_is_said(tmp_path):
    with pytest.raises(DataError) as error:
        compare(Comparison(["fedper"], SHORT, 1700, (0,)), tmp_path)
    assert (error.value.key, error.value.value) == ("num_clients", 1700)
    small = Comparison(["fedper"], {**SHORT, "model": "large-cnn"}, 3, (0,))
    with refused(ConfigError, key="methods", value=["fedavg", "local", "fedper"]) as caught:
        compare(small, tmp_path)
    assert "(1, 8, 8)" in str(caught.value)


def test_clients_without_usable_data_are_named_and_so_are_the_others(tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("North", "South", "West"):
        x = np.random.default_rng(len(name)).normal(size=(40, 3)).astype(np.float32)
        x[0, 0] = np.nan if name == "South" else 0
        arrays = {"x_train": x[:30], "y_train": x[:30, 1] > 0, "x_test": x[30:]}
        np.savez(tmp_path / "data" / f"{name}.npz", **arrays, y_test=x[30:, 1] > 0)
    config = {**SHORT, "dataset": f"folder:{tmp_path / 'data'}"}
    outcome = compare(Comparison(["fedper"], config, None, (0,)), tmp_path)
    for cell in outcome.cells:
        assert cell.names == ("North", "West")
        (words,) = cell.left_out
        assert "client 1: " in words
        assert "South.npz" in words
    sentences = recommend(outcome.cells).sentences
    assert sentences[1].startswith("Left out of everything, client 1: ")
    rows = client_rows(outcome.cells)
    assert {row["name"] for row in rows} == {"North", "West"}
    assert client_name(outcome.cells, 2) == "client 2, West"


def test_data_that_come_in_phases_are_refused_unless_they_come_at_once():
    stream = {"dataset": "smartwatch", "partition": "natural"}
    with refused(ConfigError, key="phases", value="stream", choices=("joint",)):
        Comparison(["lifelong"], stream)
    Comparison(["lifelong"], stream | {"phases": "joint"})


@pytest.mark.integration
def test_shuffled_test_labels_change_no_choice(tmp_path, monkeypatch):
    """From the data up: round, settings and recommendation are those without the shuffle."""
    comparison = Comparison(["fedavg-ft", "fedper"], {**SHORT, "heterogeneity": "taste"}, 3, (0,))
    honest = compare(comparison, tmp_path / "honest")

    from pfl_flower.data import Federation

    client = Federation.client

    def shuffled(self, number, schema=None):
        data = client(self, number, schema)
        inputs, targets = data.test
        return replace(data, test=(inputs, targets.roll(7)))

    monkeypatch.setattr(Federation, "client", shuffled)
    blind = compare(comparison, tmp_path / "blind")
    for left, right in zip(honest.cells, blind.cells, strict=True):
        assert left.validation.tolist() == right.validation.tolist()
        # the order of labels is nothing to an answer that is always the same
        assert (left.test.tolist() == right.test.tolist()) == left.constant
        assert validation_score(left) == validation_score(right)
    chosen, other = recommend(honest.cells), recommend(blind.cells)
    assert (chosen.kind, chosen.method) == (other.kind, other.method)


def test_one_network_for_all():
    cells = [Comparison(["personal-se"], {}, 3).cell(m, 0) for m in ("fedavg", "personal-se")]
    assert [cell.config["model"] for cell in cells] == ["se-cnn", "se-cnn"]
    with refused(ConfigError, key="model", value="auto"):
        Comparison(["personal-se", "adapters"], {}, 3).cell("fedavg", 0)
    named = Comparison(["personal-se", "adapters"], {"model": "cnn"}, 3).cell("fedavg", 0)
    assert named.config["model"] == "cnn"


@pytest.mark.parametrize(
    ("options", "key", "value"),
    [
        ({"methods": ["fedpr"]}, "methods", ["fedpr"]),
        ({"methods": ["fedper"], "seeds": (1, 1)}, "seeds", [1, 1]),
        ({"methods": ["fedper"], "seeds": ()}, "seeds", []),
        ({"methods": ["fedper"], "config": {"seed": 3}}, "seed", 3),
        ({"methods": ["fedper"], "config": {"threshold": "own"}}, "threshold", "own"),
        ({"methods": ["fedper"], "config": {"cost-ratio": 2.0}}, "cost-ratio", 2.0),
        ({"methods": ["fedper"], "config": {"wait": 3.0}}, "wait", 3.0),
        ({"methods": ["ditto"], "config": {"lambda": 0.5}}, "lambda", 0.5),
        ({"methods": ["fedper"], "settings": {"ditto": {"lambda": 0.5}}}, "set", "ditto"),
        ({"methods": ["ditto"], "settings": {"ditto": {"clusters": 2}}}, "clusters", 2),
        ({"methods": ["ditto"], "settings": {"ditto": {"alpha": 2.0}}}, "alpha", 2.0),
        ({"methods": ["ditto"], "settings": {"ditto": {"lambda": -1.0}}}, "lambda", -1.0),
        ({"methods": ["ditto"], "settings": {"ditto": {"lambda": True}}}, "lambda", True),
    ],
)
def test_bad_comparisons_are_refused(options, key, value):
    with refused(ConfigError, key=key, value=value):
        Comparison(**{"config": {}, **options})


def test_a_cell_is_without_the_keys_that_only_other_methods_have_a_use_for():
    config = {"head-epochs": 3, "partition": "dirichlet", "alpha": 0.1, "adapter-size": 4}
    comparison = Comparison(["fedrep", "adapters"], config, 4)
    assert {"head-epochs", "alpha"} <= comparison.cell("fedrep", 0).config.keys()
    fedavg = comparison.cell("fedavg", 0).config
    assert {"alpha", "adapter-size"} <= fedavg.keys()  # all have one network, with adapters
    assert "head-epochs" not in fedavg
    simulate({**fedavg, "num-server-rounds": 1, "local-epochs": 1}, 2)


def test_a_key_that_no_method_of_a_comparison_has_a_use_for_is_refused():
    with refused(ConfigError, key="head-epochs", value=3):
        Comparison(["fedper"], {"head-epochs": 3}, 4)


def test_a_key_set_for_a_method_that_has_no_use_for_it_is_refused():
    settings = {"hierarchical-linear": {"learning-rate": 0.3}}
    with refused(ConfigError, key="learning-rate", value=0.3):
        Comparison(["hierarchical-linear"], {"dataset": "diabetes"}, 4, settings=settings)


def test_different_networks_are_said():
    def with_network(name, network):
        return replace(one_round(name, [0.5, 0.5], [0.5, 0.5]), network=network)

    cells = [with_network("fedavg", "mlp"), with_network("local", "mlp")]
    other = with_network("hierarchical-linear", "linear")
    words = "mlp (fedavg, local) and linear (hierarchical-linear)"
    assert any(words in sentence for sentence in recommend([*cells, other]).sentences)
    assert not any("network" in sentence for sentence in recommend(cells).sentences)


def test_a_cells_name_changes_with_what_decides_its_numbers(monkeypatch):
    cell = Cell({"method": "fedper", "seed": 0}, 3)
    assert cell.name == replace(cell).name
    assert cell.name.startswith("fedper-seed0-")
    assert cell.name != replace(cell, num_clients=4).name
    assert cell.name != replace(cell, config={**cell.config, "alpha": 0.1}).name
    before = cell.name
    monkeypatch.setattr("pfl_flower.comparison.cells.code_digest", lambda config: "other")
    assert replace(cell).name != before


def test_a_cells_name_changes_with_the_users_own_files(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("client,label,x\n0,1,2\n")
    cell = Cell({"method": "fedper", "seed": 0, "dataset": f"table:{table}"}, 3)
    before = cell.name
    assert replace(cell).name == before
    table.write_text("client,label,x\n0,1,20\n")
    assert replace(cell).name != before


@pytest.mark.integration
def test_the_command_writes_a_report_and_says_what_it_recommends(tmp_path, capsys):
    arguments = ["compare", "--methods", "fedper", "--clients", "3", "--seeds", "0", "--jobs", "1"]
    arguments += ["--num-server-rounds", "2", "--heterogeneity", "taste", "--out", str(tmp_path)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "worse, %" in printed
    assert "Report:" in printed
    for name in ("report.html", "table.md", "table.csv", "clients.csv", "comparison.json"):
        assert (tmp_path / name).stat().st_size


def test_a_mistyped_option_is_one_line(tmp_path, capsys):
    for wrong in (["--learning-rat", "0.1"], ["--larning-rate=0.1"]):
        assert main(["compare", "--methods", "fedper", *wrong]) == 2
        assert "did you mean --learning-rate?" in capsys.readouterr().out
    for wrong, meant in (("--rounds=3", "num-server-rounds"), ("--client=3", "clients")):
        assert main(["compare", "--methods", "fedper", wrong]) == 2
        assert f"did you mean --{meant}" in capsys.readouterr().out


def test_a_wrong_value_is_one_line(tmp_path, capsys):
    arguments = ["compare", "--methods", "fedper", "--out", str(tmp_path), "--seeds", "0"]
    assert main([*arguments, "--partition", "iidd"]) == 2
    printed = capsys.readouterr().out
    assert "partition is 'iidd'; it must be one of iid" in printed
    assert "Traceback" not in printed


@pytest.mark.integration
def test_tensorboard_gets_the_news_of_every_round(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    comparison = Comparison(["fedper"], SHORT, 3, (0,))
    compare(comparison, tmp_path, tensorboard=True)
    events = reader.EventAccumulator(str(tmp_path / "tensorboard" / "fedper seed 0"))
    events.Reload()
    assert len(events.Scalars("evaluate/accuracy")) == 2


def test_keys_of_one_number_or_one_a_tier_are_options_too():
    given = ["--methods", "local", "--noise", "0,1", "--missing", "0.2", "--imputation", "mean"]
    found = vars(parser().parse_args(given))
    config = {name: found[name] for name in ("noise", "missing", "imputation")}
    data = RunConfig.parse(config).data
    assert (data.noise, data.missing, data.imputation) == ("0,1", "0.2", "mean")
