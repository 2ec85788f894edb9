"""What a cell of a table means."""

import numpy as np
import pytest
from pandas._libs.parsers import STR_NA_VALUES

from clients.data.table_cells import (
    MISSING,
    NO_VALUE,
    OTHER,
    category_of,
    days_since_1970,
    one_hot,
    one_hot_names,
    width,
)


@pytest.mark.parametrize(
    ("cell", "category"),
    [
        (" eyes ", "eyes"),
        ("Eyes", "Eyes"),
        ("", MISSING),
        (" NA", MISSING),
        ("007", "7"),
        ("7.0", "7"),
        ("7.5", "7.5"),
        ("1_000", "1_000"),
        ("inf", "inf"),
        ("true", "True"),
    ],
)
def test_cells_that_mean_one_category_are_one(cell, category):
    assert category_of(cell) == category


def test_what_means_no_value_in_training_does_in_prediction():
    assert set(STR_NA_VALUES) == NO_VALUE


@pytest.mark.parametrize(
    ("cell", "days"),
    [
        ("1970-01-02", 1.0),
        (" 1970-01-01 12:00 ", 0.5),
        ("1969-12-31T00:00:00", -1.0),
        ("1970-01-02T02:00:00+02:00", 1.0),
        ("1970-01-01 00:00:00.000000", 0.0),
        ("01.02.1970", None),
        ("12:30", None),
        ("Haas", None),
        ("", None),
    ],
)
def test_a_date_is_days_since_1970(cell, days):
    assert days_since_1970(cell) == days


def test_a_row_has_one_category_and_unknown_words_are_other():
    found = one_hot(["b", "z", MISSING, "a", OTHER], ("a", "b"))
    expected = [[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, 0, 1, 0]]
    np.testing.assert_array_equal(found, expected)
    assert one_hot([], ("a",)).shape == (0, 3)
    assert one_hot_names("w", ("a",)) == ("w=a", "w=other", "w=missing")
    assert width((("w", ("a", "b")), ("v", ()))) == 6
