import numpy as np
import pytest
import torch
from scipy.stats import ttest_ind
from torch import nn

from clients import Classification, in_memory_loader
from clients.lifelong.change_detection import (
    FEWEST,
    SIGNIFICANCE,
    LossStatistics,
    has_jumped,
    loss_statistics,
)
from tests.helpers import TinyNet, examples


def statistics(values):
    values = np.asarray(values, dtype=float)
    return LossStatistics(len(values), values.mean(), values.var(ddof=1))


def test_it_is_welchs_test():
    draw = np.random.default_rng(0)
    decisions = []
    for shift in np.linspace(0, 3, 40):
        before, now = draw.normal(0, 1, 12), draw.normal(shift, 2, 15)
        p = ttest_ind(now, before, equal_var=False, alternative="greater").pvalue
        decisions.append(has_jumped(statistics(before), statistics(now)))
        assert decisions[-1] == (p < SIGNIFICANCE)
    assert any(decisions)
    assert not all(decisions)


@pytest.mark.integration
def test_false_alarms_are_as_rare_as_it_says():
    draw = np.random.default_rng(1)
    alarms = [
        has_jumped(statistics(draw.normal(1, 0.3, 20)), statistics(draw.normal(1, 0.3, 20)))
        for _ in range(20000)
    ]
    assert np.mean(alarms) == pytest.approx(SIGNIFICANCE, abs=7e-4)  # three deviations


def test_the_same_or_lower_losses_are_no_change():
    same = statistics([0.1, 0.2, 0.3, 0.4, 0.1])
    assert not has_jumped(same, same)
    assert not has_jumped(statistics([5.0, 6, 7, 5, 6]), same)
    assert has_jumped(same, statistics([5.0, 6, 7, 5, 6]))


def test_too_few_examples_or_no_variance():
    assert not has_jumped(LossStatistics(FEWEST - 1, 0, 1e-9), LossStatistics(50, 9, 1e-9))
    assert not has_jumped(LossStatistics(50, 0, 1e-9), LossStatistics(FEWEST - 1, 9, 1e-9))
    assert not has_jumped(LossStatistics(5, 1.0, 0.0), LossStatistics(5, 1.0, 0.0))
    assert has_jumped(LossStatistics(5, 1.0, 0.0), LossStatistics(5, 1.1, 0.0))


def test_statistics_are_of_single_examples_in_eval_mode():
    model, (inputs, targets) = TinyNet(), examples(11)
    found = loss_statistics(model, in_memory_loader(inputs, targets, 4), Classification())
    model.eval()
    losses = nn.functional.cross_entropy(model(inputs), targets, reduction="none").double()
    assert found.count == 11
    assert found.mean == pytest.approx(float(losses.mean()))
    assert found.variance == pytest.approx(float(losses.var()))
    assert LossStatistics.of(found.tensor()) == found
    assert found.tensor().dtype is torch.float64
    empty = loss_statistics(model, in_memory_loader(*examples(0), 4), Classification())
    assert empty == LossStatistics(0, 0.0, 0.0)
