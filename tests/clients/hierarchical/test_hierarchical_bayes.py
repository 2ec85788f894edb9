import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import RecordDict
from torch import nn

from clients import (
    HierarchicalBayesClient,
    Optimization,
    PersonalClient,
    PersonalState,
    ProximalRule,
    Regression,
    Scope,
    ScopeError,
    assign_scopes,
    in_memory_loader,
    joint,
)
from clients.hierarchical.hierarchical_bayes import prior_parameters
from clients.inference.gaussian_posterior import Gaussian, PosteriorAverage, mixture
from clients.task import Classification
from pfl_flower.engines import simulate
from pfl_flower.methods import METHODS
from strategies import HierarchicalBayes
from strategies.errors import ArgumentError
from tests.errors import refused
from tests.helpers import TinyNet, examples

HEAD = ("head.weight", "head.bias")


def bayes_client(count=20, model=None, personal="none", partition_id=0, records=None, **options):
    """A client with a prior over the head of a TinyNet."""
    model = model or TinyNet()
    loader = in_memory_loader(*examples(count, seed=partition_id), 8, shuffle=True)
    test = in_memory_loader(*examples(12, seed=99), 12)
    options.setdefault("state", PersonalState(records if records is not None else RecordDict()))
    return HierarchicalBayesClient(
        *(model, assign_scopes(model, personal), loader, test, test),
        partition_id=partition_id,
        **options,
    )


def first_arrays(client, variance):
    """What the server sends first: the network's values, and one variance."""
    sent = dict(zip(client.shared_names, client.get_parameters({}), strict=True))
    return {n: np.full_like(a, variance) if "/" in n else a for n, a in sent.items()}


def fitted(client, sent, server_round=1):
    arrays, count, metrics = client.fit(list(sent.values()), {"server-round": server_round})
    return dict(zip(client.shared_names, arrays, strict=True)), count, metrics


def evaluated(client, sent, **config):
    return client.evaluate(list(sent.values()), {k.replace("_", "-"): v for k, v in config.items()})


# ---------------------------------------------------------------------- what the mathematics says


def test_the_pull_is_one_over_examples_and_variance():
    variance = torch.tensor([0.0, 0.5, 2.0])
    found = Gaussian({"w": torch.zeros(3)}, {"w": variance}).proximal_term(10).of("w")
    torch.testing.assert_close(found, torch.tensor([math.inf, 0.2, 0.05]))


def test_the_posterior_of_certain_and_of_ignorant_priors():
    prior = Gaussian({"w": torch.zeros(4)}, {"w": torch.tensor([0.0, 2.0, 2.0, math.inf])})
    found = prior.posterior_variance({"w": torch.tensor([3.0, 0.0, 1.5, 4.0])})["w"]
    torch.testing.assert_close(found, torch.tensor([0.0, 2.0, 0.5, 0.25]))
    shares = torch.tensor([1.0, 1.0, 0.25, 0.0])
    precision = {"w": torch.tensor([3.0, 0.0, 1.5, 4.0])}
    assert prior.shrinkage(precision) == pytest.approx(float(shares.mean()))


def test_the_precision_of_a_logistic_regression_is_its_fisher_information():
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    scopes = assign_scopes(model)
    inputs, targets = examples(30)
    client = HierarchicalBayesClient(
        model,
        scopes,
        in_memory_loader(inputs, targets, 8, shuffle=True),
        prior="all",
        optimization=Optimization(learning_rate=1e-3),
    )
    sent = first_arrays(client, 0.5)
    reply, _, _ = fitted(client, sent)
    with torch.no_grad():
        shares = model(inputs).softmax(dim=1)
    spread = shares * (1 - shares)
    precision = {"weight": spread.T @ inputs.square(), "bias": spread.sum(dim=0)}
    for name, values in precision.items():
        away = reply[name] - sent[name]
        assert np.abs(away).max() > 0
        expected = 1 / (1 / 0.5 + values.numpy()) + away**2
        np.testing.assert_allclose(reply[f"prior-variance/{name}"], expected, rtol=1e-4)


@pytest.mark.parametrize("count", [2, 40])
def test_a_linear_gaussian_client_finds_the_maximum_of_its_posterior(count):
    draw = torch.Generator().manual_seed(1)
    inputs = torch.randn(count, 3, generator=draw)
    targets = inputs @ torch.tensor([1.0, -2.0, 0.5]) + 0.3 * torch.randn(count, generator=draw)
    torch.manual_seed(1)
    model = nn.Linear(3, 1, bias=False)
    client = HierarchicalBayesClient(
        model,
        assign_scopes(model),
        in_memory_loader(inputs, targets, count),
        prior="all",
        task=Regression(),
        schedule=joint(0, steps=1000),
        optimization=Optimization(learning_rate=0.1, momentum=0.0),
    )
    sent = first_arrays(client, 0.0)
    variance = np.float32([[0.1, 1.0, 3.0]])
    sent["prior-variance/weight"] = variance
    reply, _, _ = fitted(client, sent)
    # a squared error without a half is the likelihood of noise of variance 1/2
    x, y = inputs.numpy().astype(float), targets.numpy()
    hessian = 2 * x.T @ x + np.diag(1 / variance[0])
    expected = np.linalg.solve(hessian, 2 * x.T @ y + sent["weight"][0] / variance[0])
    np.testing.assert_allclose(reply["weight"][0], expected, atol=1e-4)
    laplace = 1 / np.diag(hessian)
    moment = laplace + (reply["weight"] - sent["weight"])[0] ** 2
    np.testing.assert_allclose(reply["prior-variance/weight"][0], moment, rtol=1e-4)


def test_without_variance_the_own_part_is_the_prior_mean():
    client = bayes_client()
    sent = first_arrays(client, 1e-30)
    reply, _, _ = fitted(client, sent)
    for name in HEAD:
        np.testing.assert_array_equal(reply[name], sent[name])
    assert np.abs(reply["body.weight"] - sent["body.weight"]).max() > 0


def test_with_endless_variance_it_is_a_personal_head():
    client = bayes_client(seed=3)
    model, records = TinyNet(), RecordDict()
    loader = in_memory_loader(*examples(20), 8, shuffle=True)
    fedper = PersonalClient(
        model,
        assign_scopes(model, "head"),
        loader,
        state=PersonalState(records),
        partition_id=0,
        seed=3,
    )
    sent = first_arrays(client, math.inf)
    other, _, _ = fitted(fedper, {n: sent[n] for n in fedper.shared_names})
    reply, _, _ = fitted(client, sent)
    for name, values in other.items():
        np.testing.assert_array_equal(reply[name], values)
    for name in HEAD:
        np.testing.assert_array_equal(reply[name], model.state_dict()[name].numpy())


class FixedPrior(HierarchicalBayes):
    """The variances stay as they were first."""

    def means(self, replies, names):
        means = super().means(replies, names)
        return means and {n: a for n, a in means.items() if not n.startswith("prior-variance/")}


def test_a_run_with_endless_variance_is_fedper(monkeypatch):
    row = replace(METHODS["hierarchical-bayes"], strategy=FixedPrior)
    monkeypatch.setitem(METHODS, "hierarchical-bayes", row)
    config = {"num-server-rounds": 2, "max-examples": 20, "baselines": "", "weighting": "uniform"}
    (found,) = simulate(config | {"method": "hierarchical-bayes", "prior-variance": 1e30}, 3)
    (expected,) = simulate(config | {"method": "fedper"}, 3)
    for server_round in (1, 2):
        for name in ("loss", "accuracy"):
            one, other = (run.by_client(name, server_round) for run in (found, expected))
            assert one == other
    (pooled,) = simulate(config | {"method": "hierarchical-bayes", "prior-variance": 1.0}, 3)
    assert pooled.by_client("loss") != expected.by_client("loss")


# ---------------------------------------------------------------------- what a client does


def test_it_goes_on_from_its_own_value_under_the_prior_of_the_round():
    records = RecordDict()
    sent = first_arrays(bayes_client(), 10.0)
    first, _, _ = fitted(bayes_client(records=records), sent)
    moved = {n: a + 1 if n in HEAD else a for n, a in sent.items()}
    _, _, metrics = evaluated(bayes_client(records=records), moved)
    gaps = [first[n] - moved[n] for n in HEAD]
    distance = math.sqrt(sum(float((gap**2).sum()) for gap in gaps))
    assert metrics["prior-distance"] == pytest.approx(distance, rel=1e-5)
    assert 0 < metrics["shrinkage"] < 1
    # a wider prior leaves more to the same data
    wider = {n: a * 10 if "/" in n else a for n, a in moved.items()}
    _, _, less = evaluated(bayes_client(records=records), wider)
    assert less["shrinkage"] < metrics["shrinkage"]


def test_before_it_has_trained_its_posterior_is_the_prior():
    client = bayes_client()
    _, _, metrics = evaluated(client, first_arrays(client, 1.0))
    assert (metrics["shrinkage"], metrics["prior-distance"]) == (1.0, 0.0)
    assert 0 <= metrics["calibration-error"] <= 1


def test_without_examples_it_follows_the_prior_wherever_that_goes():
    records = RecordDict()
    client = bayes_client(count=0, records=records)
    sent = first_arrays(client, 1.0)
    _, count, metrics = fitted(client, sent)
    assert count == 0
    assert math.isnan(metrics["train-loss"])
    moved = {n: a + 1 if n in HEAD else a for n, a in sent.items()}
    _, _, metrics = evaluated(bayes_client(count=0, records=records), moved)
    assert metrics["prior-distance"] == 0.0


def test_a_second_play_of_a_round_and_a_restart_find_the_state_of_the_round_before(tmp_path):
    def restarted():
        state = PersonalState(client="c", directory=tmp_path, run="r")
        return bayes_client(state=state, posterior_samples=3)

    sent = first_arrays(bayes_client(), 1.0)
    once, _, _ = fitted(restarted(), sent, 1)
    twice, _, _ = fitted(restarted(), once, 2)
    again, _, _ = fitted(restarted(), once, 2)
    for name, values in twice.items():
        np.testing.assert_array_equal(again[name], values)
    one, other = (evaluated(restarted(), twice, server_round=2) for _ in range(2))
    assert one == other


def test_buffers_of_the_part_are_shared_and_have_no_prior():
    client = bayes_client(prior="all")
    names = {n.partition("/")[2] for n in client.shared_names if "/" in n}
    assert names == {n for n, _ in TinyNet().named_parameters()}
    sent = first_arrays(client, 1.0)
    reply, _, _ = fitted(client, sent)
    assert np.abs(reply["bn.running_mean"] - sent["bn.running_mean"]).max() > 0


def test_a_personal_part_may_stand_beside_the_prior():
    records = RecordDict()
    client = bayes_client(personal="norm", records=records)
    assert "bn.weight" not in client.shared_names
    reply, _, _ = fitted(client, first_arrays(client, 1.0))
    assert "bn.weight" not in reply
    (kept,) = records.array_records.values()
    assert {name.partition("/")[0] for name in kept} == {"own", "precision", "personal"}


@pytest.mark.parametrize(
    ("rule", "personal", "entries"),
    [
        ("bn.running_mean", "none", ("bn.running_mean",)),
        ("none", "none", ()),
        ("head", "head", ("head.weight", "head.bias")),
        ("tail", "none", ()),
    ],
)
def test_a_prior_over_nothing_or_over_what_is_personal_is_refused(rule, personal, entries):
    with refused(ScopeError, rule=rule, entries=entries):
        bayes_client(prior=rule, personal=personal)
    with refused(ArgumentError, argument="posterior_samples", value=-1):
        bayes_client(posterior_samples=-1)


def test_what_the_user_froze_has_no_prior():
    model = TinyNet()
    model.head.bias.requires_grad_(False)
    assert prior_parameters(model, "head") == ("head.weight",)


def test_other_pulls_leave_the_part_with_a_prior_alone():
    strong = [
        ProximalRule(Scope.SHARED, "received", 1e9),
        ProximalRule(Scope.PERSONAL, "zero", 1e9),
    ]
    client = bayes_client(proximal_rules=strong)
    sent = first_arrays(client, 1e6)
    reply, _, _ = fitted(client, sent)
    np.testing.assert_allclose(reply["body.weight"], sent["body.weight"], atol=1e-6)
    assert np.abs(reply["head.weight"] - sent["head.weight"]).max() > 1e-3
    assert np.abs(reply["head.weight"]).max() > 1e-3


# ---------------------------------------------------------------------- unseen clients


def joined(client, sent, examples_of_its_own, steps=50):
    evaluated(client, sent, adaptation_examples=examples_of_its_own, adaptation_steps=steps)
    return {name: tensor.numpy().copy() for name, tensor in client.model.state_dict().items()}


def test_an_unseen_client_without_examples_is_the_prior_mean():
    client = bayes_client()
    sent = first_arrays(client, 1.0)
    for name, values in joined(client, sent, 0).items():
        np.testing.assert_array_equal(values, sent[name])


def test_an_unseen_client_fits_its_part_to_few_examples_and_holds_the_rest():
    sent = first_arrays(bayes_client(), 1.0)
    moves = {}
    for count in (1, 5, -1):
        found = joined(bayes_client(), sent, count)
        for name, values in found.items():
            if name not in HEAD:
                np.testing.assert_array_equal(values, sent[name])
        moves[count] = np.abs(found["head.weight"] - sent["head.weight"]).sum()
    assert 0 < moves[1] < moves[-1]
    tight = {n: a * 1e-30 if "/" in n else a for n, a in sent.items()}
    np.testing.assert_array_equal(joined(bayes_client(), tight, 5)["head.weight"], sent[HEAD[0]])


def test_an_unseen_client_is_judged_by_its_own_examples_only():
    client = bayes_client(posterior_samples=4)
    sent = first_arrays(client, 1.0)
    evaluated(client, sent, adaptation_examples=5, adaptation_steps=0)
    assert client._fitted_on == 5
    few = {n: float(v.sum()) for n, v in client._precision.items()}
    client = bayes_client(posterior_samples=4)
    evaluated(client, sent, adaptation_examples=-1, adaptation_steps=0)
    assert client._fitted_on == 20
    for name, values in client._precision.items():
        assert 0 < few[name] < float(values.sum())


# ---------------------------------------------------------------------- averaged predictions


def test_averaging_over_a_point_is_the_prediction_of_the_point():
    sent = first_arrays(bayes_client(), 1e-30)
    point = evaluated(bayes_client(), sent)
    average = evaluated(bayes_client(posterior_samples=5), sent)
    assert average[0] == pytest.approx(point[0], rel=1e-6)
    assert average[2]["accuracy"] == point[2]["accuracy"]
    wide = {n: a * 1e30 if "/" in n else a for n, a in sent.items()}
    assert evaluated(bayes_client(posterior_samples=5), wide)[0] != pytest.approx(point[0])


def test_a_mixture_of_two_is_the_mean_of_their_probabilities():
    logits = torch.tensor([[[0.0, 1.0, 2.0]], [[3.0, 0.0, -1.0]]])
    found = mixture(logits).exp()
    torch.testing.assert_close(found, logits.softmax(dim=2).mean(dim=0))
    torch.testing.assert_close(found.sum(), torch.tensor(1.0))


def test_numbers_are_averaged_as_they_are_and_classes_as_probabilities():
    model = nn.Linear(2, 2, bias=False)
    draws = [{"weight": torch.eye(2)}, {"weight": 3 * torch.eye(2)}]
    inputs = torch.tensor([[1.0, -2.0]])
    found = PosteriorAverage(model, draws, Regression())(inputs)
    torch.testing.assert_close(found, 2 * inputs)
    found = PosteriorAverage(model, draws, Classification())(inputs).exp()
    expected = (inputs.softmax(dim=1) + (3 * inputs).softmax(dim=1)) / 2
    torch.testing.assert_close(found, expected)


def test_draws_are_those_of_the_posterior():
    torch.manual_seed(0)
    gaussian = Gaussian({"w": torch.tensor([1.0, -1.0])}, {"w": torch.tensor([4.0, 0.0])})
    draws = torch.stack([gaussian.draw()["w"] for _ in range(4000)])
    assert draws[:, 0].mean() == pytest.approx(1.0, abs=0.15)
    assert draws[:, 0].std() == pytest.approx(2.0, rel=0.05)
    assert (draws[:, 1] == -1.0).all()
