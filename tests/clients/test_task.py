import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import (
    average_precision_score,
    r2_score,
    roc_auc_score,
    root_mean_squared_error,
)
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from clients import (
    Classification,
    FineTuning,
    LinkPrediction,
    Regression,
    evaluate,
    fine_tune,
    in_memory_loader,
)
from clients.evaluation import Evaluation
from clients.local_training.fine_tuning import cross_fitted, quality
from clients.scopes import assign_scopes
from tests.helpers import tiny_client

numbers = st.floats(-100, 100, width=32)


@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=30), st.integers(1, 30))
def test_regression_scores_are_those_of_scikit_learn_whatever_the_batches(pairs, batch_size):
    outputs, targets = torch.tensor(pairs).T
    found = evaluate(nn.Identity(), in_memory_loader(outputs, targets, batch_size), Regression())
    wanted, given_ = targets.double().numpy(), outputs.double().numpy()
    assert found.scores["rmse"] == pytest.approx(root_mean_squared_error(wanted, given_), abs=1e-6)
    if np.ptp(wanted) > 0.01:
        assert found.scores["r2"] == pytest.approx(r2_score(wanted, given_), rel=1e-6, abs=1e-6)


def test_outputs_in_a_column_are_not_broadcast_against_targets():
    targets = torch.tensor([1.0, 2.0, 3.0])
    task = Regression()
    assert float(task.criterion(targets[:, None], targets)) == 0
    assert task.scores(task.sums(targets[:, None], targets), 3) == {"rmse": 0, "r2": 1}


def test_the_error_is_reported_in_the_users_unit():
    targets = torch.tensor([0.0, 2.0])
    task = Regression(unit=10.0)
    assert task.scores(task.sums(targets + 1, targets), 2) == {"rmse": 10.0, "r2": 0.0}


def test_undefined_scores_are_nan():
    equal = torch.full((3,), 0.1)
    scores = Regression().scores(Regression().sums(equal, equal), 3)
    assert scores["rmse"] == 0
    assert math.isnan(scores["r2"])
    assert all(math.isnan(v) for v in Regression().scores(torch.zeros(0), 0).values())
    assert math.isnan(Classification().scores(torch.zeros(0), 0)["accuracy"])


def test_a_smaller_error_is_better_quality_and_so_is_more_accuracy():
    def found(score, value, loss):
        return Evaluation(3, loss, {score: value})

    assert quality(found("rmse", 1.0, 9), Regression()) > quality(
        found("rmse", 2.0, 1), Regression()
    )
    task = Classification()
    assert quality(found("accuracy", 0.5, 9), task) > quality(found("accuracy", 0.4, 1), task)
    assert quality(found("accuracy", 0.5, 1), task) > quality(found("accuracy", 0.5, 2), task)


def test_fine_tuning_a_regression_takes_the_epochs_with_the_smallest_error():
    model = nn.Linear(4, 1)
    inputs = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    data = in_memory_loader(inputs, inputs.sum(dim=1), 10)
    chosen = fine_tune(
        model, data, data, FineTuning(epochs=(0, 9)), assign_scopes(model), task=Regression()
    )
    assert chosen.epochs == 9
    assert chosen.validation.examples == 30
    assert math.isnan(chosen.validation.scores["r2"])


def test_a_client_reports_the_scores_of_its_task():
    client = tiny_client(model=nn.Sequential(nn.Linear(4, 1)), personal="none", task=Regression())
    for loader in (client.test_loader, client.validation_loader, client.train_loader):
        loader.inputs, loader.targets = loader.inputs.float(), loader.targets.float()
    _, _, metrics = client.evaluate(client.get_parameters({}), {})
    assert {"rmse", "r2", "validation-rmse", "validation-r2"} <= metrics.keys()
    assert "accuracy" not in metrics


def test_a_choice_is_scored_by_examples_that_had_no_part_in_it():
    def found(*scores):
        return [Evaluation(2, 0.0, {"accuracy": score}) for score in scores]

    # The first half prefers candidate 1, the second one candidate 0: each scores the other's.
    fitted = cross_fitted([found(0.5, 1.0), found(1.0, 0.0)], Classification())
    assert fitted.scores["accuracy"] == (0.5 + 0.0) / 2
    # On noise the best of many candidates looks good on its own examples, and is not.
    draw = np.random.default_rng(0)
    noise = [[found(*draw.binomial(10, 0.5, 2) / 10) for _ in range(20)] for _ in range(300)]
    means = [cross_fitted(candidates, Classification()).scores["accuracy"] for candidates in noise]
    assert abs(np.mean(means) - 0.5) < 0.02


def test_errors_of_two_halves_are_merged_as_mean_squares():
    halves = [Evaluation(3, 9.0, {"rmse": 3.0}), Evaluation(1, 1.0, {"rmse": 1.0})]
    fitted = cross_fitted([halves], Regression())
    assert fitted.scores["rmse"] == pytest.approx(math.sqrt((3 * 9 + 1) / 4))
    assert fitted.loss == 7.0


# ---------------------------------------------------------------------- links

LINKS = ("auc", "average-precision", "hits-at-10")


def link_scores(outputs, targets, batch_size=1000):
    outputs, targets = torch.tensor(outputs), torch.tensor(targets, dtype=torch.float32)
    return evaluate(nn.Identity(), in_memory_loader(outputs, targets, batch_size), LinkPrediction())


# few different values, so that there are ties
guesses = st.lists(
    st.tuples(st.one_of(st.integers(-3, 3).map(float), numbers), st.booleans()),
    min_size=2,
    max_size=60,
).filter(lambda pairs: len({link for _, link in pairs}) == 2)


@pytest.mark.integration
@given(guesses, st.integers(1, 60))
def test_link_scores_are_those_of_scikit_learn_whatever_the_batches(pairs, batch_size):
    outputs, targets = map(list, zip(*pairs, strict=True))
    found = link_scores(outputs, targets, batch_size)
    assert found.examples == len(pairs)
    assert found.scores.keys() == set(LINKS)
    assert found.scores["auc"] == pytest.approx(roc_auc_score(targets, outputs))
    expected = average_precision_score(targets, outputs)
    assert found.scores["average-precision"] == pytest.approx(expected)
    wrong = sorted(output for output, link in pairs if not link)[::-1]
    if len(wrong) < 10:
        assert math.isnan(found.scores["hits-at-10"])
    else:  # Hu et al. 2020: ranked above the tenth of those that are none
        links = [output for output, link in pairs if link]
        hits = sum(output > wrong[9] for output in links) / len(links)
        assert found.scores["hits-at-10"] == pytest.approx(hits)
    together = link_scores(outputs, targets).scores
    assert str(together) == str(found.scores)  # as text: NaN equals NaN


def test_link_scores_by_hand():
    # two wrong pairs above the worst of three links: 2 of 3 * 4 pairs are in the wrong order
    found = link_scores([9.0, 8.0, 3.0, 5.0, 4.0, 1.0, 0.0], [1, 1, 1, 0, 0, 0, 0]).scores
    assert found["auc"] == pytest.approx(10 / 12)
    assert found["average-precision"] == pytest.approx((1 + 1 + 3 / 5) / 3)
    assert math.isnan(found["hits-at-10"])


def test_hits_are_links_above_all_but_nine_of_those_that_are_none():
    wrong = [float(value) for value in range(12)]  # the tenth from above is 2
    found = link_scores([2.0, 2.5, 1.0, 99.0, *wrong], [1] * 4 + [0] * 12).scores
    assert found["hits-at-10"] == 2 / 4
    nine = link_scores([2.0, *wrong[:9]], [1] + [0] * 9).scores
    assert math.isnan(nine["hits-at-10"])
    assert not math.isnan(nine["auc"])


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [
        ([1.0, 2.0], [1, 1]),
        ([1.0, 2.0], [0, 0]),
        ([1.0, math.nan], [0, 1]),
        ([math.inf, 0.0], [1, 0]),
    ],
)
def test_link_scores_that_are_undefined_are_nan(outputs, targets):
    found = link_scores(outputs, targets)
    assert found.examples == 2
    assert all(math.isnan(found.scores[name]) for name in LINKS)


def test_without_pairs_there_are_no_link_scores():
    for loader in (None, ()):
        found = evaluate(nn.Identity(), loader, LinkPrediction())
        assert found.examples == 0
        assert found.scores.keys() == set(LINKS)
        assert all(math.isnan(score) for score in (found.loss, *found.scores.values()))


def test_the_loss_of_links_is_the_cross_entropy_of_their_chances():
    outputs, targets = torch.tensor([0.3, -2.0, 1.0]), torch.tensor([1.0, 0.0, 0.0])
    found = evaluate(nn.Identity(), in_memory_loader(outputs, targets, 2), LinkPrediction())
    chance = outputs.sigmoid()
    expected = -(targets * chance.log() + (1 - targets) * (1 - chance).log()).mean()
    assert found.loss == pytest.approx(float(expected))


def test_a_link_and_none_have_chances_whose_logarithm_is_the_loss():
    outputs, task = torch.tensor([0.3, -2.0]), LinkPrediction()
    targets, shares = task.outcomes(outputs)
    assert targets.tolist() == [[0, 0], [1, 1]]
    torch.testing.assert_close(shares.sum(dim=0), torch.ones(2))
    for target, share in zip(targets, shares, strict=True):
        for one in range(2):
            loss = task.criterion(outputs[one : one + 1], target[one : one + 1])
            assert float(loss) == pytest.approx(-math.log(share[one]), rel=1e-5)


def test_more_auc_is_better_quality_and_without_it_the_loss_decides():
    def found(auc, loss):
        return Evaluation(3, loss, dict.fromkeys(LINKS, auc))

    task = LinkPrediction()
    assert quality(found(0.6, 9), task) > quality(found(0.5, 1), task)
    assert quality(found(math.nan, 1), task) > quality(found(math.nan, 2), task)


ONE = torch.tensor([[9.0], [-9.0], [2.0], [-3.0], [-1.0]])


@pytest.mark.parametrize("shape", [(5, 1), (5,)])
@pytest.mark.parametrize("kind", [torch.int64, torch.float32])
def test_one_output_is_the_logit_of_class_1(shape, kind):
    targets = (ONE[:, 0] > 0).to(kind)
    task = Classification(binary_cross_entropy_with_logits)
    assert task.scores(task.sums(ONE.reshape(shape), targets), 5) == {"accuracy": 1.0}
    assert task.scores(task.sums(-ONE.reshape(shape), targets), 5) == {"accuracy": 0.0}
    assert task.scores(task.sums(ONE.reshape(shape), targets[:, None]), 5) == {"accuracy": 1.0}


def test_the_chances_of_one_output_are_those_of_its_sigmoid():
    classes, chances = Classification(binary_cross_entropy_with_logits).outcomes(ONE)
    assert classes.tolist() == [[0] * 5, [1] * 5]
    torch.testing.assert_close(chances, torch.stack([(-ONE[:, 0]).sigmoid(), ONE[:, 0].sigmoid()]))


def test_the_only_class_there_is_is_always_right():
    task = Classification()
    targets = torch.zeros(5, dtype=torch.long)
    assert task.scores(task.sums(ONE, targets), 5) == {"accuracy": 1.0}
    assert task.outcomes(ONE)[1].tolist() == [[1.0] * 5]


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [
        (torch.zeros(3, 3), torch.zeros(3, 3, dtype=torch.long)),  # several labels an example
        (torch.zeros(3, 2), torch.tensor([0.0, 0.5, 1.0])),
        (torch.zeros(3, 1), torch.tensor([0.0, 0.5, 1.0])),
        (torch.zeros(3, 4, 5), torch.zeros(3, dtype=torch.long)),
        (torch.full((3, 2), math.nan), torch.zeros(3, dtype=torch.long)),
        (torch.tensor([[0.0, math.inf]] * 3), torch.ones(3, dtype=torch.long)),
    ],
)
def test_what_is_no_class_has_no_accuracy(outputs, targets):
    task = Classification()
    assert math.isnan(task.scores(task.sums(outputs, targets), 3)["accuracy"])


def test_a_model_that_diverged_is_never_the_best():
    task = Classification()
    diverged = Evaluation(3, math.nan, {"accuracy": math.nan})
    useless = Evaluation(3, 9.0, {"accuracy": 0.0})
    assert max([diverged, useless], key=lambda e: quality(e, task)) is useless
    assert max([useless, diverged], key=lambda e: quality(e, task)) is useless
