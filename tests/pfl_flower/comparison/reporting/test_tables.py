import csv
import math

import numpy as np
import pytest

from pfl_flower.comparison.cells import CellResult
from pfl_flower.comparison.reporting.tables import (
    client_rows,
    columns_of,
    table_rows,
    to_markdown,
    write_tables,
)
from pfl_flower.comparison.wording import bytes_text, gain_texts, listed, score_text
from tests.pfl_flower.comparison.synthetic import METHODS, cell, comparison

FAILURE = CellResult("fedbn", 1, {}, "no normalization | layers\nin this network")


def lines_of(markdown):
    return [[field.strip() for field in line.split(" | ")] for line in markdown.splitlines()]


def test_baselines_first_then_by_validation_and_failures_last():
    scores = {"b": (0.9, 0.6), "local": (0.5, 0.1), "c": (0.1, 0.8), "fedavg": (0.6, 0.2)}
    cells = [FAILURE]
    cells += [cell(m, [[test] * 3], [[valid] * 3]) for m, (test, valid) in scores.items()]
    cells.append(cell("blind", [0.99] * 3))  # no validation scores: behind those that have some
    found = [row["method"] for row in table_rows(cells)]
    assert found == ["fedavg", "local", "c", "b", "blind", "fedbn"]


def test_less_error_is_higher_in_the_table():
    errors = {"blind": (0.1, np.nan), "a": (0.9, 0.9), "b": (0.3, 0.3)}
    cells = [cell(m, [[e]], [[v]], task="regression") for m, (e, v) in errors.items()]
    assert [row["method"] for row in table_rows(cells)] == ["b", "a", "blind"]


def test_the_markdown_in_per_cent_and_points():
    cells = [
        cell("fedavg", [0.5, 0.7], [0.5, 0.7], bytes_down=123_000, bytes_up=1234),
        cell("fedper", [0.7, 0.6], [0.7, 0.6]),
        FAILURE,
    ]
    head, rule, fedavg, fedper, failure = lines_of(to_markdown(table_rows(cells)))
    assert len(head) == len(rule) == len(fedavg) == len(fedper) == 15
    by_name = dict(zip(head, fedper, strict=True))
    assert by_name["mean at the chosen round"] == "65.0"
    assert by_name["std over clients"] == "5.0"
    assert by_name["gain over global [95% interval]"] == "+5.0 [-10.0, +20.0]"
    assert by_name["worse than global, %"] == "50"
    assert by_name["gain over alone [95% interval]"] == "n/a"
    assert dict(zip(head, fedavg, strict=True))["kB a round, down + up"] == "123 + 1.2"
    assert failure[0] == "| fedbn, seed 1"
    assert failure[1] == "failed: no normalization \\| layers in this network"


def test_columns_that_are_not_always_there():
    few = table_rows(comparison(("fedavg", "fedper"), seeds=5, clients=4, rounds=2))
    many = table_rows(comparison(("fedavg", "fedper"), 6, 4, 2, task="regression"))
    assert not {"r2", "p_global"} & columns_of(few).keys()
    assert {"r2", "p_global"} <= columns_of(many).keys()
    text = to_markdown(many)
    assert "R2" in text
    assert "%" not in text.splitlines()[2]  # errors are no percentages


def test_failures_are_one_row_a_reason():
    cells = [CellResult("fedbn", s, {}, "no layers" if s else "no data") for s in (2, 1, 0)]
    rows = table_rows(cells)
    assert [(row["seeds"], row["failure"]) for row in rows] == [
        ("1 2", "no layers"),
        ("0", "no data"),
    ]
    assert len(lines_of(to_markdown(rows))) == 4
    assert table_rows([]) == []


def test_a_row_a_client():
    cells = [
        cell("fedavg", [[0.5, 0.6], [0.1, 0.1]], [[0.9, 0.9], [0.2, 0.2]]),
        cell("fedper", [[0.4, math.nan], [0.8, 0.3]], [[0.1, 0.1], [0.7, 0.5]]),
    ]
    first, second = client_rows(cells)[2:]
    assert (first["chosen_round"], first["score"], first["last_score"]) == (2, 0.8, 0.8)
    assert (first["validation_score"], second["validation_score"]) == (0.7, 0.5)
    assert first["gain_over_global"] == pytest.approx(0.3)
    assert second["gain_over_global"] == pytest.approx(-0.3)
    assert math.isnan(first["gain_over_alone"])
    assert (first["train_examples"], first["test_examples"]) == (50, 10)
    assert client_rows(cells)[0]["last_score"] == 0.1


def test_all_tables_on_disk(tmp_path):
    cells = [*comparison(seeds=2, clients=5, rounds=3), FAILURE]
    write_tables(cells, tmp_path)
    found = {name: list(csv.DictReader((tmp_path / name).open())) for name in (
        "table.csv", "clients.csv", "curves.csv", "unseen.csv"
    )}  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == {*found, "table.md"}
    assert len(found["table.csv"]) == len(METHODS) + 1
    assert len(found["clients.csv"]) == len(METHODS) * 2 * 5
    assert len(found["curves.csv"]) == len(METHODS) * 2 * 3
    last = [
        r
        for r in found["curves.csv"]
        if (r["method"], r["seed"], r["round"]) == ("fedbn", "1", "3")
    ]
    own = next(c for c in cells if (c.method, c.seed) == ("fedbn", 1))
    assert float(last[0]["mean_test"]) == pytest.approx(own.test[2].mean())
    assert float(last[0]["mean_validation"]) == pytest.approx(own.validation[2].mean())
    weighted = np.average(own.test[2], weights=own.test_examples)
    assert float(last[0]["weighted_mean_test"]) == pytest.approx(weighted)


def test_numbers_in_words():
    assert score_text("classification", 0.12345) == "12.3"
    found = [score_text("regression", error) for error in (1.2, 0.01234, 1234.5)]
    assert found == ["1.20", "0.0123", "1,234"]
    assert gain_texts("classification", [0.1, -0.021, math.nan]) == ["+10.0", "-2.1", "n/a"]
    assert gain_texts("regression", [0.0501, 0.00525]) == ["+0.0501", "+0.0053"]
    assert gain_texts("regression", [0.0, -math.inf]) == ["+0.00", "-inf"]
    assert [bytes_text(count) for count in (0, 1234, 1_234_567)] == ["0.0", "1.2", "1,235"]
    assert [listed(words) for words in ([], ["a"], ["a", "b", "c"])] == ["", "a", "a, b and c"]
