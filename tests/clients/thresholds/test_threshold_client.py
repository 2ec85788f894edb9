"""A client's own thresholds: every rule, what is reported, what is kept, and bad input."""

import math

import numpy as np
import pytest
import torch
from flwr.app import RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from clients import ClientDetails, PersonalState
from clients.data.loaders import count_examples, in_memory_loader
from clients.evaluation import Predictions
from clients.thresholds.rules import RULES, Evidence, thresholds_of
from clients.thresholds.threshold_client import (
    SCORES,
    ThresholdClient,
    decide,
    kept_thresholds,
    one_against_rest,
    scores_at,
    thresholds_of_round,
)
from strategies.errors import ArgumentError
from strategies.protocol import (
    SERVER_ROUND,
    THRESHOLD,
    THRESHOLD_HISTOGRAM,
    THRESHOLD_SPREADS,
    THRESHOLD_WEIGHTS,
)
from strategies.randomness import generator
from strategies.thresholds.metrics import Objective
from strategies.thresholds.partial_pooling import FEWEST, Fleet, fleet_of
from strategies.thresholds.search import (
    BINS,
    best_threshold,
    histogram,
    shared_curve_threshold,
)
from tests.errors import refused
from tests.helpers import TinyNet, tiny_client

F1 = Objective("f1")
GLOBAL_IF_FEW = ("personal", "shrunk", "platt")


def drawn(count, prevalence, seed=0):
    """Calibrated enough scores, and labels."""
    draw = generator(seed, "drawn")
    labels = draw.random(count) < prevalence
    return np.clip(draw.normal(np.where(labels, 0.62, 0.38), 0.15), 0, 1), labels


@pytest.fixture(scope="module")
def fleet():
    pairs = [drawn(150, p, seed) for seed, p in enumerate((0.05, 0.2, 0.35, 0.5, 0.65))]
    return fleet_of([histogram(*pair) for pair in pairs], F1, 0)


def evidence(fleet, count=80, prevalence=0.3, seed=50, **changes):
    scores, labels = drawn(count, prevalence, seed)
    given = {"scores": scores, "labels": labels, "positives": int(labels.sum()), "examples": count}
    return Evidence(**given | {"fleet": fleet, "objective": F1} | changes)


# ---------------------------------------------------------------------- the rules


def test_what_every_rule_is(fleet):
    own = evidence(fleet)
    found = thresholds_of(own)
    assert list(found) == list(RULES)
    assert found["half"] == 0.5
    assert found["global"] == fleet.threshold(F1)
    assert found["personal"] == best_threshold(own.scores, own.labels, F1, found["global"])
    low, high = sorted((found["personal"], found["global"]))
    assert low < found["shrunk"] < high
    curve = shared_curve_threshold(fleet.pooled, own.prevalence, F1, found["global"])
    assert found["shared-curve"] == curve


def test_shrinking_knows_its_ends(fleet):
    without = evidence(Fleet(fleet.pooled, 0.0, fleet.weight))
    found = thresholds_of(without)
    assert found["shrunk"] == found["global"] != found["personal"]
    found = thresholds_of(evidence(Fleet(fleet.pooled, 1e12, fleet.weight)))
    assert found["shrunk"] == pytest.approx(found["personal"], abs=1e-6)


def test_rarer_patients_have_a_higher_threshold_where_prevalence_counts(fleet):
    few, many = (thresholds_of(evidence(fleet, positives=n, examples=100)) for n in (3, 80))
    for rule in RULES:
        if rule in ("shared-curve", "prior-shift"):
            assert few[rule] > many[rule]
        else:
            assert few[rule] == many[rule]


def test_a_shift_is_the_best_expected_metric_of_shifted_scores(fleet):
    equal = evidence(fleet, positives=0, examples=0)  # so it has the fleet's prevalence
    expected = best_threshold(equal.scores, equal.scores, F1, fleet.threshold(F1))
    assert thresholds_of(equal)["prior-shift"] == pytest.approx(expected, abs=1e-9)


def test_platt_finds_the_threshold_of_a_logistic_truth(fleet):
    draw = generator(0, "platt")
    scores = draw.random(20_000)
    truth = 1 / (1 + np.exp(-(2 * (np.log(scores) - np.log1p(-scores)) - 1)))
    labels = draw.random(len(scores)) < truth
    own = evidence(fleet, scores=scores, labels=labels)
    inside = (scores > 0.01) & (scores < 0.99)  # scores nearer the ends are cut
    expected = best_threshold(scores[inside], truth[inside], F1, 0.5)
    assert thresholds_of(own)["platt"] == pytest.approx(expected, abs=0.01)


def test_platt_is_the_global_threshold_where_high_scores_are_the_healthy(fleet):
    own = evidence(fleet)
    found = thresholds_of(evidence(fleet, scores=1 - own.scores, labels=own.labels))
    assert found["platt"] == found["global"] != found["personal"]


@pytest.mark.parametrize("ill", [0, FEWEST - 1])
@pytest.mark.parametrize("flipped", [False, True])
def test_with_few_of_a_class_the_global_threshold_is_used(fleet, ill, flipped):
    labels = (np.arange(40) < ill) ^ flipped
    found = thresholds_of(evidence(fleet, scores=np.linspace(0, 1, 40), labels=labels))
    assert {found[rule] for rule in GLOBAL_IF_FEW} == {found["global"]}
    assert np.isfinite(list(found.values())).all()


def test_with_just_enough_it_has_one_of_its_own(fleet):
    labels = np.arange(40) >= 40 - FEWEST
    found = thresholds_of(evidence(fleet, scores=np.linspace(0, 1, 40), labels=labels))
    assert all(found[rule] != found["global"] for rule in ("personal", "shrunk"))


def test_without_validation_it_has_the_fleets(fleet):
    found = thresholds_of(evidence(fleet, 0, positives=2, examples=60))
    assert {found[rule] for rule in (*GLOBAL_IF_FEW, "prior-shift")} == {found["global"]}
    assert found["shared-curve"] > found["global"]  # by its prevalence


@pytest.mark.parametrize("positives", [0, 80])
def test_a_hospital_without_ill_or_healthy_patients(fleet, positives):
    labels = np.full(80, bool(positives))
    found = thresholds_of(
        evidence(Fleet(fleet.pooled, 1.0, 0.0), positives=positives, labels=labels)
    )
    assert np.isfinite(list(found.values())).all()
    assert found["prior-shift"] == found["global"]


def test_scores_that_are_all_equal(fleet):
    labels = np.arange(40) % 2 == 0
    found = thresholds_of(evidence(fleet, scores=np.full(40, 0.7), labels=labels))
    assert found["personal"] == 0.0  # everybody is ill, or nobody: F1 of the latter is 0
    assert np.isfinite(list(found.values())).all()


def test_a_fleet_that_knows_one_class(fleet):
    one_sided = Fleet(fleet.pooled * np.array([[0], [1]]), 0.0, math.inf)
    assert set(thresholds_of(evidence(one_sided)).values()) == {0.5}


def test_nan_scores_are_an_error(fleet):
    scores = np.full(40, math.nan)
    with pytest.raises(ArgumentError) as raised:
        thresholds_of(evidence(fleet, scores=scores, labels=np.arange(40) % 2 == 0))
    assert raised.value.argument == "scores"
    assert math.isnan(raised.value.value)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 60), st.floats(0, 1), st.data())
def test_every_rule_gives_a_threshold_whatever_comes_in_whatever_order(
    fleet, seed, count, prevalence, data
):
    own = evidence(fleet, count, prevalence, seed)
    order = data.draw(st.permutations(range(count)))
    found = thresholds_of(own)
    assert all(0 <= t <= 1.1 for t in found.values())
    other = evidence(fleet, count, prevalence, seed)
    shuffled = Evidence(
        other.scores[order], other.labels[order], own.positives, own.examples, fleet, F1
    )
    for rule, threshold in thresholds_of(shuffled).items():
        # logistic regression sums in the order of examples
        assert threshold == pytest.approx(found[rule], abs=0.02 if rule == "platt" else 0)


# ---------------------------------------------------------------------- deciding and scoring


def test_deciding_between_two_and_between_several():
    chances = np.array([[0.7, 0.3], [0.6, 0.4], [0.1, 0.9]])
    assert decide(chances, [0.4]).tolist() == [0, 1, 1]
    three = np.array([[0.5, 0.3, 0.2], [0.4, 0.5, 0.1]])
    assert decide(three, [0.5, 0.5, 0.5]).tolist() == three.argmax(axis=1).tolist()
    assert decide(three, [0.9, 0.5, 0.05]).tolist() == [2, 2]


def test_scores_are_scikit_learns():
    from sklearn import metrics

    draw = generator(0, "scored")
    chances, targets = draw.dirichlet(np.ones(3), 60), draw.integers(0, 3, 60)
    thresholds = [0.2, 0.3, 0.4]
    found = scores_at(Predictions(0.0, chances, targets), thresholds)
    theirs = {"f1": metrics.f1_score, "precision": metrics.precision_score}
    theirs |= {"recall": metrics.recall_score, "balanced-accuracy": metrics.balanced_accuracy_score}
    for name, function in theirs.items():
        each = [function(targets == c, chances[:, c] >= thresholds[c]) for c in range(3)]
        assert found[name] == pytest.approx(np.mean(each))
    assert found["accuracy"] == (decide(chances, thresholds) == targets).mean()
    assert tuple(found) == SCORES


def test_scores_of_a_class_that_is_not_there():
    chances = np.array([[0.6, 0.4], [0.3, 0.7]])
    found = scores_at(Predictions(0.0, chances, np.array([0, 0])), [0.5])
    assert found["accuracy"] == 0.5
    assert all(math.isnan(found[name]) for name in SCORES[:-1])
    found = scores_at(Predictions(0.0, chances, np.array([1, 1])), [0.5])
    assert (found["recall"], found["precision"]) == (0.5, 1.0)
    assert math.isnan(found["balanced-accuracy"])
    found = scores_at(Predictions(0.0, chances, np.array([0, 1])), [0.9])
    assert (found["recall"], found["precision"], found["f1"]) == (0.0, 0.0, 0.0)
    three = np.array([[0.6, 0.3, 0.1], [0.1, 0.8, 0.1]])
    found = scores_at(Predictions(0.0, three, np.array([0, 1])), [0.5, 0.5, 0.5])
    assert found["f1"] == 1.0  # the mean over the two classes that are there
    assert math.isnan(scores_at(Predictions(0.0, np.zeros((0, 2)), np.zeros(0)), [0.5])["accuracy"])


# ---------------------------------------------------------------------- the client


def asked(client, step, **reported):
    config = {THRESHOLD: step, SERVER_ROUND: 3, **reported}
    return client.evaluate(client.client.get_parameters({}), config)


def reported_of(client, classes=3):
    """What a server would say, had it only this client."""
    counts = np.array(asked(client, "count")[2][THRESHOLD_HISTOGRAM])
    fleets = [fleet_of(part[None], F1, 0) for part in counts.reshape(classes, 2, BINS)]
    return {
        THRESHOLD_HISTOGRAM: counts.tolist(),
        THRESHOLD_SPREADS: [fleet.spread for fleet in fleets],
        THRESHOLD_WEIGHTS: [fleet.weight for fleet in fleets],
    }


def thresholding(client, rule="personal", classes=3, objective=F1):
    return ThresholdClient(client, rule, objective, classes)


def test_counting_tells_two_histograms_a_class_and_nothing_else():
    client = thresholding(tiny_client(count=40, partition_id=7))
    loss, examples, metrics = asked(client, "count")
    assert metrics.keys() == {"partition-id", THRESHOLD_HISTOGRAM}
    counts = np.array(metrics[THRESHOLD_HISTOGRAM]).reshape(3, 2, BINS)
    said = client.client.predictions(client.client.get_parameters({}), {}, 3)["validation"]
    assert examples == len(said.targets) == 12
    assert loss == said.loss
    for place, (scores, labels) in enumerate(one_against_rest(said)):
        np.testing.assert_array_equal(counts[place], histogram(scores, labels))
    assert all(type(count) is int for count in metrics[THRESHOLD_HISTOGRAM])


def test_choosing_tells_scores_of_every_rule_and_keeps_one():
    client = thresholding(tiny_client(count=40, partition_id=7), "shared-curve")
    assert kept_thresholds(client.client) is None
    reported = reported_of(client)
    _, examples, metrics = asked(client, "choose", **reported)
    assert examples == 12
    assert metrics.keys() == {"partition-id"} | {f"{s}-{r}" for s in SCORES for r in RULES}
    kept = kept_thresholds(client.client)
    assert len(kept) == 3
    said = client.client.predictions(client.client.get_parameters({}), {}, 3)["test"]
    for name, value in scores_at(said, kept).items():
        assert metrics[f"{name}-shared-curve"] == value
    for threshold in kept:
        assert threshold not in metrics.values()


def prevalence_reported(client, monkeypatch):
    """What a client takes for positives and examples to learn from, of each class."""
    found = []
    whole = Evidence.__init__

    def spy(self, **values):
        found.append((values["positives"], values["examples"]))
        whole(self, **values)

    monkeypatch.setattr(Evidence, "__init__", spy)
    asked(client, "choose", **reported_of(client))
    return found


def counted(client):
    """The classes among a client's training and validation examples, and how many there are."""
    parts = (client.train_loader, client.validation_loader)
    targets = torch.cat([loader.targets for loader in parts])
    return [(int((targets == place).sum()), len(targets)) for place in range(3)]


def test_every_example_to_learn_from_counts_once_in_the_prevalence(monkeypatch):
    plain = tiny_client(count=21)
    assert prevalence_reported(thresholding(plain), monkeypatch) == counted(plain)


def test_examples_that_no_epoch_takes_count_in_the_prevalence(monkeypatch):
    plain = tiny_client(count=21)
    inputs, targets = plain.train_loader.inputs, plain.train_loader.targets
    short = tiny_client(count=21, details=ClientDetails(num_examples=21))
    short.train_loader = in_memory_loader(inputs, targets, 8, shuffle=True, drop_last=True)
    assert count_examples(short.train_loader) == 16
    assert prevalence_reported(thresholding(short), monkeypatch) == counted(plain)


def test_examples_with_several_fillings_count_once_in_the_prevalence(monkeypatch):
    plain = tiny_client(count=21)
    inputs, targets = plain.train_loader.inputs, plain.train_loader.targets
    filled = tiny_client(count=21, details=ClientDetails(num_examples=21))
    filled.train_loader = in_memory_loader(inputs.repeat(4, 1), targets.repeat(4), 8)
    assert prevalence_reported(thresholding(filled), monkeypatch) == counted(plain)


def test_the_evaluated_model_is_the_one_that_is_evaluated():
    from sklearn.metrics import accuracy_score

    plain = tiny_client(count=40)
    said = plain.predictions(plain.get_parameters({}), {}, 3)["test"]
    loss, _, metrics = plain.evaluate(plain.get_parameters({}), {})
    assert accuracy_score(said.targets, said.chances.argmax(axis=1)) == metrics["accuracy"]
    assert said.loss == loss


@pytest.mark.parametrize("personal", ["none", "head"])
def test_thresholds_are_those_of_one_round_of_one_run(tmp_path, personal):
    """Kept ones of an earlier run are of another model; so is what was trained since."""

    def build(run):
        state = PersonalState(RecordDict(), "fedper", "client-0", tmp_path, run=run)
        return tiny_client(personal, count=40, state=state)

    client = thresholding(build("first"))
    assert thresholds_of_round(client.client, 3) == {}
    asked(client, "choose", **reported_of(client))
    kept = kept_thresholds(client.client)
    found = thresholds_of_round(client.client, 3)
    assert tuple(found["values"].tolist()) == kept
    assert thresholds_of_round(client.client, 4) == {}
    later = build("second")
    later.fit(later.get_parameters({}), {SERVER_ROUND: 3})
    assert kept_thresholds(later) == kept
    assert thresholds_of_round(later, 3) == {}


def test_who_could_keep_no_thresholds_has_none(tmp_path):
    model = tiny_client(state=PersonalState(RecordDict(), "fedper", "client-0", tmp_path))
    (tmp_path / "client-0.safetensors").write_bytes(b"another file")
    assert thresholds_of_round(model, 0) == {}


@pytest.mark.parametrize("personal", ["none", "head"])
def test_thresholds_survive_a_restart_with_and_without_personal_parameters(tmp_path, personal):
    def build(records):
        state = PersonalState(records, "fedper", "client-0", tmp_path)
        return tiny_client(personal, count=40, state=state)

    client = thresholding(build(RecordDict()))
    model = client.client
    model.fit(model.get_parameters({}), {SERVER_ROUND: 2})
    trained = model.kept("personal")
    asked(client, "choose", **reported_of(client))
    kept = kept_thresholds(model)
    restarted = build(RecordDict())
    assert kept_thresholds(restarted) == kept
    assert restarted.kept("personal").keys() == trained.keys()
    for name, tensor in restarted.kept("personal").items():
        assert torch.equal(tensor, trained[name])
    # a run without a rule loads the same file, and leaves the thresholds where they are
    restarted.fit(restarted.get_parameters({}), {SERVER_ROUND: 3})
    assert kept_thresholds(build(RecordDict())) == kept


class Broken(TinyNet):
    """A network that diverged."""

    def forward(self, inputs):
        return super().forward(inputs) * math.nan


def test_a_network_that_diverged_counts_nothing():
    client = thresholding(tiny_client(model=Broken()))
    for step in ("count", "choose"):
        with pytest.raises(ArgumentError) as raised:
            asked(client, step, **{THRESHOLD_HISTOGRAM: [0] * 6 * BINS})
        assert raised.value.argument == "scores"


def test_without_validation_examples_nothing_is_counted_but_thresholds_are_found():
    other = thresholding(tiny_client(count=40))
    reported = reported_of(other)
    plain = tiny_client(count=40)
    plain.validation_loader = None
    client = thresholding(plain)
    with refused(ArgumentError, argument="validation_loader"):
        asked(client, "count")
    _, _, metrics = asked(client, "choose", **reported)
    assert metrics["f1-personal"] == metrics["f1-global"]


class Two(TinyNet):
    """A network for two classes."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 2)


def of_two_classes():
    client = tiny_client(model=Two(), count=40)
    for name in ("train_loader", "validation_loader", "test_loader"):
        loader = getattr(client, name)
        setattr(client, name, [(inputs, targets % 2) for inputs, targets in loader])
    return client


def test_what_cannot_be_asked():
    client = thresholding(tiny_client())
    with refused(ArgumentError, value="guess", choices=("count", "choose")):
        asked(client, "guess")
    reported = reported_of(client)
    with refused(ArgumentError, argument="number of classes", value=3):
        asked(thresholding(of_two_classes(), classes=2), "choose", **reported)
    with refused(ArgumentError, argument="rule", value="best", choices=RULES):
        thresholding(tiny_client(), "best")
    with refused(ArgumentError, argument="num_classes", value=1):
        thresholding(tiny_client(), classes=1)


def test_two_classes_have_one_threshold():
    client = thresholding(of_two_classes(), classes=2)
    assert len(asked(client, "count")[2][THRESHOLD_HISTOGRAM]) == 2 * BINS
    asked(client, "choose", **reported_of(client, classes=1))
    assert len(kept_thresholds(client.client)) == 1
