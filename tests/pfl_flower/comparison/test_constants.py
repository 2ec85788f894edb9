import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clients import Classification, LinkPrediction, Regression
from pfl_flower.comparison.compare import Comparison, compare
from pfl_flower.comparison.constants import ANSWERS, NAMES, constant_scores
from pfl_flower.comparison.reporting.tables import table_rows
from pfl_flower.comparison.selection import methods_of


def clients(*targets):
    """Splits of clients whose training, validation and test targets are the same."""
    return [((torch.zeros(len(t), 1), t),) * 3 for t in map(torch.tensor, targets)]


def test_of_numbers_the_error_is_the_deviation_around_the_mean():
    found = constant_scores(
        Regression(unit=10.0), "regression", clients([0.0, 2.0], [4.0, 4.0, 4.0, 4.0])
    )
    # the mean of all is 3; each client's own is 1 and 4
    expected = [[10 * np.sqrt(5), 10.0], [10.0, 0.0]]
    np.testing.assert_allclose(found["constant_test"], expected)
    np.testing.assert_allclose(found["constant_validation"], expected)
    np.testing.assert_allclose(found["constant_r2"], [[-4, np.nan], [0, np.nan]])


def test_of_classes_it_is_the_share_of_the_commonest():
    found = constant_scores(
        Classification(), "classification", clients([0, 0, 0, 2], [2, 2, 1], [2, 2, 2, 2])
    )
    np.testing.assert_allclose(found["constant_test"], [[1 / 4, 2 / 3, 1], [3 / 4, 2 / 3, 1]])
    assert np.isnan(found["constant_r2"]).all()


def test_of_links_there_is_no_preference():
    found = constant_scores(LinkPrediction(), "link-prediction", clients([0.0, 1.0, 1.0]))
    assert found["constant_test"].tolist() == [[0.5]]


def test_without_validation_examples_there_is_no_score():
    train, empty = (torch.zeros(2, 1), torch.tensor([0, 1])), (torch.zeros(0, 1), torch.zeros(0))
    found = constant_scores(Classification(), "classification", [(train, empty, train)])
    assert np.isnan(found["constant_validation"]).all()
    assert found["constant_test"].tolist() == [[0.5], [0.5]]


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=20), st.floats(-100, 100))
def test_no_other_number_has_a_smaller_error(values, other):
    targets = torch.tensor(values, dtype=torch.float64)
    mean = ANSWERS["regression"](targets)
    assert ((targets - mean) ** 2).mean() <= ((targets - other) ** 2).mean() + 1e-9


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20))
def test_no_other_class_is_right_more_often(values):
    targets = torch.tensor(values)
    right = int((targets == ANSWERS["classification"](targets).argmax()).sum())
    assert right == max(values.count(value) for value in values)


LINKS = {"dataset": "social", "partition": "natural", "task": "link-prediction"}


@pytest.mark.parametrize(
    ("data", "task"),
    [
        ({"dataset": "breast-cancer"}, "classification"),
        ({"dataset": "diabetes"}, "regression"),
        pytest.param(LINKS, "link-prediction", marks=pytest.mark.integration),
    ],
)
def test_it_is_a_row_of_every_comparison_beside_the_baselines(tmp_path, data, task):
    config = {**data, "num-server-rounds": 1, "local-epochs": 1}
    outcome = compare(Comparison(["fedprox"], config, 2, (0,)), tmp_path)
    rows = table_rows(outcome.cells)
    names = [row["method"] for row in rows]
    assert names == ["fedavg", "local", *NAMES[task], "fedprox"]
    assert methods_of(outcome.cells) == ["fedavg", "local", "fedprox"]
    constant = rows[2]
    assert constant["clients"] == 2
    assert constant["shared"] == constant["bytes_up"] == 0
    if task == "regression":  # patients' progression has a deviation of 77
        assert 55 < constant["mean"] < 95
