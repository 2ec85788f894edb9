import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from torch.nn.functional import binary_cross_entropy_with_logits

from clients.inference.calibration_error import (
    BINS,
    CalibratedClassification,
    calibration_gaps,
    expected_calibration_error,
)


def error_of(confidence, right):
    gaps = calibration_gaps(torch.tensor(confidence), torch.tensor(right))
    return expected_calibration_error(gaps, len(confidence))


def test_by_hand():
    # 0.62 and 0.64 share the bin (9/15, 10/15]; 0.95 has the last one for itself
    found = error_of([0.62, 0.64, 0.95], [True, False, False])
    assert found == pytest.approx((2 * abs(0.5 - 0.63) + 1 * abs(0.0 - 0.95)) / 3, rel=1e-6)


def test_sure_and_right_is_perfect_and_sure_and_wrong_is_not():
    assert error_of([1.0, 1.0], [True, True]) == 0.0
    assert error_of([1.0, 1.0], [False, False]) == 1.0
    assert error_of([0.75] * 4, [True, True, True, False]) == 0.0
    assert math.isnan(expected_calibration_error(torch.zeros(BINS), 0))


@given(some.lists(some.tuples(some.integers(1, 99), some.booleans()), min_size=1, max_size=40))
def test_bins_are_open_below_and_batches_add_up(pairs):
    confidence = torch.tensor([percent / 100 for percent, _ in pairs], dtype=torch.float64)
    right = torch.tensor([answer for _, answer in pairs])
    found = calibration_gaps(confidence, right)
    expected = torch.zeros(BINS, dtype=torch.float64)
    for (percent, answer), claimed in zip(pairs, confidence, strict=True):
        place = -(-percent * BINS // 100) - 1  # exact: whole numbers
        expected[place] += float(answer) - claimed
    torch.testing.assert_close(found, expected)
    halves = calibration_gaps(confidence[::2], right[::2])
    halves += calibration_gaps(confidence[1::2], right[1::2])
    torch.testing.assert_close(halves, expected)


def test_a_task_scores_logits_and_says_nothing_of_what_are_none():
    task = CalibratedClassification()
    logits = torch.tensor([[0.9, 0.1], [0.3, 0.7]]).log()
    found = task.scores(task.sums(logits, torch.tensor([0, 0])), 2)
    assert found == pytest.approx({"accuracy": 0.5, "calibration-error": (0.1 + 0.7) / 2}, rel=1e-5)
    binary = CalibratedClassification(binary_cross_entropy_with_logits)
    logits = torch.tensor([[0.9 / 0.1], [3 / 7]]).log()
    one = binary.scores(binary.sums(logits, torch.tensor([0, 0])), 2)
    assert one == pytest.approx({"accuracy": 0.5, "calibration-error": (0.9 + 0.3) / 2}, rel=1e-5)
    none = task.scores(task.sums(torch.zeros(2, 1), torch.full((2,), 0.5)), 2)
    assert all(math.isnan(value) for value in none.values())
    assert none.keys() == task.scores(torch.zeros(0), 0).keys()
