import math

import numpy as np
import pytest

from clients import Classification, Regression
from clients.safeguard import SafeguardedClient
from strategies.errors import ArgumentError
from strategies.protocol import SERVER_ROUND
from tests.errors import refused


class Candidate:
    """A client whose scores are known."""

    def __init__(self, name, validation, test, task=None):
        self.shared_names = [name]
        self.task = task or Classification()
        self.validation, self.test = validation, test
        self.received = None
        self.kept_at = []

    def keep_model(self, server_round, thresholds):
        self.kept_at.append((server_round, thresholds))

    def scored(self, parameters, config):
        self.received = parameters
        score = self.task.score
        return 0.1, 7, {score: self.test, f"validation-{score}": self.validation}


def choose(*pairs, task=None):
    candidates = {
        f"m{place}": Candidate(f"w{place}", validation, test, task)
        for place, (validation, test) in enumerate(pairs)
    }
    client = SafeguardedClient(candidates)
    arrays = [np.full(2, place) for place in range(len(pairs))]
    loss, examples, metrics = client.evaluate(arrays, {SERVER_ROUND: 4})
    assert (loss, examples) == (0.1, 7)
    for candidate, array in zip(candidates.values(), arrays, strict=True):
        assert candidate.received == [array] or np.array_equal(candidate.received[0], array)
    kept = [place for place, each in enumerate(candidates.values()) if each.kept_at]
    assert kept == [metrics["chosen"]]  # the model of that one, and no other
    assert candidates[f"m{kept[0]}"].kept_at == [(4, {})]
    return metrics["chosen"]


def test_the_best_on_validation_is_chosen_whatever_the_test_says():
    assert choose((0.5, 0.9), (0.7, 0.1), (0.6, 1.0)) == 1


def test_ties_go_to_the_first():
    assert choose((0.7, 0.1), (0.7, 0.9)) == 0


def test_without_validation_examples_it_stays_with_the_first():
    assert choose((math.nan, 0.1), (math.nan, 0.9)) == 0


def test_a_client_that_cannot_judge_its_own_model_stays_with_it():
    assert choose((math.nan, 0.1), (0.2, 0.9)) == 0
    assert choose((0.2, 0.9), (math.nan, 0.1)) == 0


def test_a_model_that_cannot_be_evaluated_is_no_candidate():
    broken, fine = Candidate("a", 0.9, 0.9), Candidate("b", 0.1, 0.2)

    def diverged(parameters, config):
        raise RuntimeError("diverged")

    broken.scored = diverged
    client = SafeguardedClient({"fedper": broken, "local": fine})
    assert client.evaluate([np.zeros(1), np.zeros(1)], {})[2]["chosen"] == 1
    with pytest.raises(RuntimeError, match="diverged"):
        SafeguardedClient({"fedper": broken}).evaluate([np.zeros(1)], {})


def test_of_errors_the_smallest_is_chosen():
    assert choose((3.0, 0), (2.0, 0), (2.5, 0), task=Regression()) == 1
    assert choose((3.0, 0), (math.nan, 0), task=Regression()) == 0


def test_names_and_nothing_to_choose_among():
    client = SafeguardedClient({"fedper": Candidate("a", 0, 0), "local": Candidate("a", 0, 0)})
    assert client.shared_names == ["fedper/a", "local/a"]
    with refused(ArgumentError, argument="candidates", value={}):
        SafeguardedClient({})
