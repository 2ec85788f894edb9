import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pfl_flower.results.stream_metrics import (
    accuracy_matrix,
    average_accuracy,
    backward_transfer,
    forgetting,
    plasticity,
)
from strategies.errors import ArgumentError
from tests.errors import refused

METRICS = [average_accuracy, backward_transfer, forgetting, plasticity]
NAN = float("nan")

matrices = st.integers(2, 5).flatmap(lambda n: arrays(float, (n, n), elements=st.floats(0, 1)))


def test_by_hand():
    matrix = [[0.9, NAN, NAN], [0.5, 0.8, NAN], [0.6, 0.4, 1.0]]
    assert average_accuracy(matrix) == pytest.approx((0.6 + 0.4 + 1.0) / 3)
    assert plasticity(matrix) == pytest.approx((0.9 + 0.8 + 1.0) / 3)
    assert backward_transfer(matrix) == pytest.approx(((0.6 - 0.9) + (0.4 - 0.8)) / 2)
    assert forgetting(matrix) == pytest.approx(((0.9 - 0.6) + (0.8 - 0.4)) / 2)


def test_what_was_best_later_than_when_learnt_is_forgotten_from_there():
    matrix = [[0.5, NAN, NAN], [0.9, 0.7, NAN], [0.6, 0.8, 1.0]]
    assert backward_transfer(matrix) == pytest.approx((0.1 + 0.1) / 2)
    assert forgetting(matrix) == pytest.approx((0.3 - 0.1) / 2)


def test_one_phase_has_an_accuracy_and_nothing_to_forget():
    assert average_accuracy([[0.7]]) == 0.7
    assert plasticity([[0.7]]) == 0.7
    assert math.isnan(backward_transfer([[0.7]]))
    assert math.isnan(forgetting([[0.7]]))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=5))
def test_a_frozen_model_transfers_and_forgets_nothing(row):
    matrix = [row] * len(row)
    assert backward_transfer(matrix) == 0
    assert forgetting(matrix) == 0
    assert average_accuracy(matrix) == plasticity(matrix) == pytest.approx(np.mean(row))


@given(matrices)
def test_how_they_hang_together(matrix):
    last, count = matrix[-1, -1], len(matrix)
    learnt = (plasticity(matrix) * count - last) / (count - 1)
    kept = (average_accuracy(matrix) * count - last) / (count - 1)
    assert backward_transfer(matrix) == pytest.approx(kept - learnt)
    assert forgetting(matrix) >= -backward_transfer(matrix) - 1e-12
    for metric in METRICS:
        assert -1 <= metric(matrix) <= 1


@given(matrices)
def test_what_is_above_the_diagonal_does_not_matter(matrix):
    holes = matrix.copy()
    holes[np.triu_indices(len(matrix), 1)] = NAN
    for metric in METRICS:
        assert metric(holes) == metric(matrix)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("matrix", "value"),
    [
        ([0.5, 0.5], (2,)),
        ([[0.5, 0.5]], (1, 2)),
        (np.zeros((0, 0)), (0, 0)),
        ([[0.5, 0.1], [NAN, 0.5]], [[0.5, 0.1], [NAN, 0.5]]),
        ([[0.5, 0.1], [0.2, NAN]], [[0.5, 0.1], [0.2, NAN]]),
    ],
)
def test_wrong_matrices_are_errors(metric, matrix, value):
    with refused(ArgumentError, argument="matrix", value=value):
        metric(matrix)


def test_the_matrix_has_the_last_round_of_each_phase():
    rounds = [[0.1, NAN], [0.2, NAN], [0.3, NAN], [0.4, 0.5], [0.6, 0.7]]
    expected = [[0.3, NAN], [0.6, 0.7]]
    np.testing.assert_array_equal(accuracy_matrix(rounds, [0, 0, 0, 1, 1]), expected)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_as_many_rows_as_phases_however_long_they_are(lengths):
    phases = np.repeat(np.arange(len(lengths)), lengths)
    rounds = np.arange(len(phases) * len(lengths)).reshape(len(phases), len(lengths))
    found = accuracy_matrix(rounds, phases)
    np.testing.assert_array_equal(found, rounds[np.cumsum(lengths) - 1])


@pytest.mark.parametrize(
    ("rounds", "phases", "argument", "value"),
    [
        ([0.5], [0], "accuracies", (1,)),
        ([[0.5]], [0, 0], "phase_of_round", (2,)),
        (np.zeros((2, 0)), [0, 0], "accuracies", (2, 0)),
        ([[0.5], [0.5]], [0.0, 0.5], "phase_of_round", "float64"),
        ([[0.5, 0.5]] * 3, [0, 1, 0], "phase_of_round", [0, 1, 0]),
        ([[0.5, 0.5]] * 2, [0, 0], "phase_of_round", [0, 0]),
        ([[0.5]], [1], "phase_of_round", [1]),
        (np.zeros((0, 2)), [], "phase_of_round", []),
    ],
)
def test_rounds_that_make_no_matrix_are_errors(rounds, phases, argument, value):
    with refused(ArgumentError, argument=argument, value=value):
        accuracy_matrix(rounds, phases)
