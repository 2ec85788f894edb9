"""The table of all scores of a comparison, and what it selects by."""

import csv
import math

import numpy as np
import pytest

from pfl_flower.comparison.cells import Cell, load_cell, run_cell, save_cell
from pfl_flower.comparison.reporting.report import to_html
from pfl_flower.comparison.reporting.score_table import score_rows, shown_scores, to_markdown
from pfl_flower.comparison.reporting.tables import write_tables
from pfl_flower.comparison.selection import score_name, select_round
from tests.pfl_flower.comparison.synthetic import cell

NAN = math.nan
NAMES = ("accuracy", "auroc", "log-loss")


def scored(method, seed=0):
    """Two rounds of three clients, of which validation chooses the first; one has no AUROC."""
    scores = [
        [[0.5, 0.6, 0.7], [0.9, 0.9, 0.9]],
        [[0.5, NAN, 0.7], [0.9, NAN, 0.9]],
        [[1.0, 2.0, 3.0], [9.0, 9.0, 9.0]],
    ]
    test, validation = np.array(scores[0]), [[0.8] * 3, [0.1] * 3]
    options = {"score_names": NAMES, "scores": np.array(scores)}
    return cell(method, test, validation, seed=seed, **options)


def test_a_row_says_over_how_many_clients_a_score_is():
    rows = score_rows([scored("fedavg"), scored("fedavg", seed=1), scored("local")])
    assert [(r["method"], r["score"]) for r in rows] == [
        (method, name) for method in ("fedavg", "local") for name in NAMES
    ]
    first = {row["score"]: row for row in rows[:3]}
    assert first["auroc"]["mean"] == pytest.approx(0.6)
    assert (first["auroc"]["clients"], first["auroc"]["of"]) == (4, 6)
    assert (first["accuracy"]["clients"], first["accuracy"]["of"]) == (6, 6)
    assert first["accuracy"]["worst_tenth"] == 0.5
    assert first["log-loss"]["worst_tenth"] == 3.0  # less is better


def test_people_see_the_gaps(tmp_path):
    cells = [scored("fedavg"), cell("local", [0.5, 0.6, 0.7], [0.5] * 3)]
    shown = shown_scores(cells)
    assert shown["headings"] == ["accuracy", "AUROC", "log loss"]
    assert shown["rows"] == [{"name": "fedavg", "texts": ["0.600", "0.600 (2 of 3)", "2.000"]}]
    assert "| fedavg | 0.600 | 0.600 (2 of 3) | 2.000 |" in to_markdown(cells)
    assert 'id="scores"' in to_html(cells, [], "t")
    write_tables(cells, tmp_path)
    assert "0.600 (2 of 3)" in (tmp_path / "table.md").read_text()
    assert len(list(csv.DictReader((tmp_path / "scores.csv").open()))) == 3


def test_accuracy_alone_needs_no_table(tmp_path):
    cells = [cell("fedavg", [0.5, 0.6], [0.5, 0.6])]
    assert score_rows(cells) == []
    assert to_markdown(cells) == ""
    assert 'id="scores"' not in to_html(cells, [], "t")
    write_tables(cells, tmp_path)
    assert not (tmp_path / "scores.csv").exists()


def test_a_comparison_selects_by_the_score_that_a_key_names(tmp_path):
    keys = {"method": "fedavg", "seed": 0, "baselines": "", "num-server-rounds": 2}
    keys |= {"dataset": "breast-cancer", "heterogeneity": "none", "model": "linear"}
    found = run_cell(Cell(keys | {"select-by": "auroc", "scores": "brier"}, 3))
    assert found.score == "auroc"
    assert found.score_names == ("accuracy", "brier", "auroc")
    np.testing.assert_array_equal(found.scores[2], found.test)
    assert found.constant_test.flatten().tolist() == [0.5] * 6  # no preference
    assert score_name([found]) == "AUROC"
    assert "AUROC in per cent" in to_html([found], [], "t")
    save_cell(found, tmp_path / "c.json")
    again = load_cell(tmp_path / "c.json")
    np.testing.assert_array_equal(again.scores, found.scores)
    assert again.score_names == found.score_names
    assert select_round(again) == select_round(found)
