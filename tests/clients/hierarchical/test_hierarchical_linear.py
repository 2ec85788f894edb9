import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import relu

from clients import HierarchicalLinearClient, Regression, assign_scopes, in_memory_loader
from clients.evaluation import evaluate
from strategies.errors import ArgumentError
from strategies.hierarchical.hierarchical_linear import first_prior
from strategies.hierarchical.linear_arrays import (
    NAMES,
    PROTOCOLS,
    contribution_arrays,
    moments_arrays,
    prior_arrays,
)
from strategies.hierarchical.mixed_effects import (
    Prior,
    half_width,
    moments,
    posterior,
    predict,
    shrinkage,
)
from strategies.hierarchical.mixed_effects_em import contribution
from tests.errors import refused

FEATURES = 2
SIZE = FEATURES + 1


class Linear(nn.Module):
    """As :class:`pfl_flower.models.LinearModel`, which a client knows nothing of."""

    def __init__(self, outputs=1):
        super().__init__()
        self.head = nn.Linear(FEATURES, outputs)

    def forward(self, inputs):
        return self.head(inputs.flatten(1))


class Bent(Linear):
    def forward(self, inputs):
        return relu(super().forward(inputs) - 100.0)


def numbers(count, seed=0):
    draw = np.random.default_rng(seed)
    inputs = draw.normal(size=(count, FEATURES))
    targets = inputs @ [1.0, -2.0] + 0.5 + 0.3 * draw.normal(size=count)
    return torch.from_numpy(inputs).float(), torch.from_numpy(targets).float()


def labels(count, seed=0):
    inputs, targets = numbers(count, seed)
    return inputs, (targets > 0).long() + (targets > 2).long()


def client(train=None, model=None, personal="none", task=None, test=None, batch=4, **options):
    inputs, targets = numbers(10) if train is None else train
    model = model or Linear(1 if task is None else 3)
    return HierarchicalLinearClient(
        model,
        assign_scopes(model, personal),
        in_memory_loader(inputs, targets, batch, shuffle=True),
        None,
        in_memory_loader(*(test or numbers(50, seed=9)), 16),
        **({"task": Regression(unit=7.0)} if task is None else {}),
        **options,
    )


def prior(size=SIZE):
    draw = np.random.default_rng(1)
    factor, other = draw.normal(size=(2, size, 2 * size))
    return Prior(draw.normal(size=size), factor @ factor.T, other @ other.T / 50, 0.4, 1e-6)


def sent(found):
    values = prior_arrays(found)
    return [values[name] for name in NAMES]


def design(inputs):
    return np.column_stack([inputs.double().numpy(), np.ones(len(inputs))])


def exact(examples):
    return moments(design(examples[0]), examples[1].double().numpy())


def coefficients(model):
    return np.append(model.head.weight.detach().numpy(), model.head.bias.detach().numpy())


def test_its_model_is_the_posterior_mean_whatever_the_batches():
    for batch in (1, 4, 100):
        one = client(batch=batch)
        loss, count, metrics = one.evaluate(sent(prior()), {"server-round": 3})
        wanted = posterior(exact(numbers(10)), prior())
        np.testing.assert_allclose(coefficients(one.model), wanted.mean, rtol=1e-5)
        assert (count, loss) == (50, evaluate(one.model, one.test_loader, one.task).loss)
        assert metrics["shrinkage"] == pytest.approx(shrinkage(wanted))
        distance = np.linalg.norm(wanted.mean - prior().mean)
        assert metrics["prior-distance"] == pytest.approx(distance)


def test_intervals_are_those_of_the_predictive_distribution_in_the_unit_of_the_target():
    _, _, metrics = client().evaluate(sent(prior()), {})
    found, (inputs, targets) = posterior(exact(numbers(10)), prior()), numbers(50, seed=9)
    covariance = found.total_covariance(prior())
    mean, variance = predict(design(inputs), found.mean, covariance, 0.4)
    half = half_width(variance, 0.9)
    inside = np.abs(targets.double().numpy() - mean) <= half
    assert metrics["interval-coverage"] == pytest.approx(inside.mean())
    assert metrics["interval-width"] == pytest.approx(7.0 * 2 * half.mean())
    empty = client(test=numbers(0)).evaluate(sent(prior()), {})[2]
    assert math.isnan(empty["interval-coverage"])


def test_it_sends_its_contribution_or_its_moments():
    arrays, count, metrics = client().fit(sent(prior()), {"server-round": 1})
    wanted = contribution_arrays(contribution(exact(numbers(10)), prior()))
    for name, values in zip(NAMES, arrays, strict=True):
        np.testing.assert_allclose(values, wanted[name], rtol=1e-9)
        assert values.dtype == np.float64
    assert count == 10
    assert metrics["train-loss"] == pytest.approx(
        (
            (
                design(numbers(10)[0]) @ posterior(exact(numbers(10)), prior()).mean
                - numbers(10)[1].double().numpy()
            )
            ** 2
        ).mean(),
        rel=1e-4,
    )
    arrays, _, _ = client(protocol="one-shot").fit(sent(prior()), {"server-round": 1})
    wanted = moments_arrays(exact(numbers(10)))
    for name, values in zip(NAMES, arrays, strict=True):
        np.testing.assert_allclose(values, wanted[name], rtol=1e-12)


def test_the_round_changes_no_bit():
    one, two = client(protocol="one-shot"), client(protocol="one-shot")
    first, _, _ = one.fit(sent(prior()), {"server-round": 1})
    later, _, _ = two.fit(sent(prior()), {"server-round": 8})
    assert [a.tobytes() for a in first] == [a.tobytes() for a in later]


@pytest.mark.parametrize("count", [0, 1, 3, -1])
def test_an_unseen_client_takes_the_posterior_of_its_first_examples(count):
    one = client()
    one.evaluate(sent(prior()), {"adaptation-examples": count, "adaptation-steps": 0})
    found = coefficients(one.model)
    if count == 0:
        np.testing.assert_allclose(found, prior().mean, rtol=1e-6)
        return
    whole = posterior(exact(numbers(10)), prior()).mean
    assert np.allclose(found, whole, rtol=1e-5) == (count == -1)
    with one.random(0, "join"):
        batches = list(one.train_loader)
    end = 10 if count == -1 else count
    few = tuple(torch.cat([b[part] for b in batches])[:end] for part in (0, 1))
    np.testing.assert_allclose(found, posterior(exact(few), prior()).mean, rtol=1e-5)


def test_without_examples_it_has_the_priors_model_and_weighs_nothing():
    one = client(train=numbers(0))
    _, count, metrics = one.fit(sent(prior()), {})
    assert count == 0
    assert math.isnan(metrics["train-loss"])
    _, _, metrics = one.evaluate(sent(prior()), {})
    assert (metrics["shrinkage"], metrics["prior-distance"]) == (1.0, 0.0)
    np.testing.assert_allclose(coefficients(one.model), prior().mean, rtol=1e-6)


def test_one_example_and_constant_features_are_no_harm():
    constant = torch.ones(4, FEATURES), torch.tensor([1.0, 2.0, 3.0, 4.0])
    for train in (numbers(1), constant):
        arrays, _, _ = client(train=train).fit(sent(prior()), {})
        assert all(np.isfinite(values).all() for values in arrays)


def test_classes_by_laplace_and_their_noise_is_no_parameter():
    size = 3 * SIZE
    one = client(train=labels(40), task="classes", test=labels(60, seed=9))
    start = first_prior(np.zeros(size))
    arrays, _, _ = one.fit(sent(start), {})
    reported = dict(zip(NAMES, arrays, strict=True))
    assert reported["noise"].tolist() == [40.0, 40.0]
    assert reported["covariance"].shape == (size, size)
    _, _, metrics = one.evaluate(sent(start), {})
    assert metrics["accuracy"] > 0.8
    assert 0 < metrics["shrinkage"] < 1
    assert "interval-coverage" not in metrics


# ---------------------------------------------------------------------- what is refused


def test_a_model_that_is_not_linear_is_refused():
    deep = nn.Sequential(nn.Linear(FEATURES, 4), nn.ReLU(), nn.Linear(4, 1))
    with refused(ArgumentError, argument="model", value="2 linear layers and ReLU"):
        client(model=deep)
    for model in (nn.Linear(FEATURES, 1, bias=False), nn.Sequential(nn.Flatten())):
        with refused(ArgumentError, argument="model"):
            client(model=model)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(FEATURES, 1))
    client(model=plain).fit(sent(prior()), {})
    with refused(ArgumentError, argument="model", value="Bent"):
        client(model=Bent()).fit(sent(prior()), {})


def test_other_things_it_cannot_do_are_refused():
    with refused(ArgumentError, argument="personal_names"):
        client(personal="all")
    with refused(ArgumentError, argument="protocol", value="one-shot"):
        client(train=labels(4), task="classes", protocol="one-shot")
    with refused(ArgumentError, argument="protocol", value="twice", choices=PROTOCOLS):
        client(protocol="twice")
    with refused(ArgumentError, argument="out_features", value=2):
        client(model=Linear(2))


def test_a_prior_that_does_not_fit_is_refused():
    with refused(ArgumentError, argument="shape of mean", value=(4,)):
        client().fit(sent(first_prior(np.zeros(4))), {})
    arrays = sent(prior())
    with refused(ArgumentError, argument="number of arrays", value=3):
        client().fit(arrays[:3], {})
    with refused(ArgumentError, argument="mean", value=math.nan):
        client().fit([arrays[0] * np.nan, *arrays[1:]], {})
    with refused(ArgumentError, argument="noise"):
        client().fit([*arrays[:3], -arrays[3]], {})
    with refused(ArgumentError, argument="shapes of the prior"):
        client().fit([arrays[0], arrays[1][:2], *arrays[2:]], {})
