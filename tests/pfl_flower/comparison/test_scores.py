import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfl_flower.comparison.advice.recommendation import recommend
from pfl_flower.comparison.cells import CellResult
from pfl_flower.comparison.gains import bootstrap_interval, compare, paired_gains, signed_rank
from pfl_flower.comparison.scores import (
    cost_of,
    summarize_method,
    unseen_scores,
    weighted_mean,
)
from pfl_flower.comparison.selection import known_mean, select_round
from tests.pfl_flower.comparison.synthetic import cell, comparison

CLIENTS = 20
EASE = np.linspace(-0.1, 0.1, CLIENTS)


def settled(method, level, validation=None, **options):
    """A cell of one round: clients around a level, with the same or other validation scores."""
    scores = level + EASE
    valid = scores if validation is None else validation + EASE
    return cell(method, scores, valid, **options)


def failed(method, seed=0, reason="no such block"):
    return CellResult(method, seed, {}, reason)


def test_validation_selects_the_round_and_the_earliest_of_equals():
    test = [[0.1], [0.9], [0.2], [0.3]]
    assert select_round(cell("a", test, [[0.5], [0.6], [0.8], [0.8]])) == (2, True)
    assert select_round(cell("a", test, [[0.5], [0.6], [0.8], [0.8]], task="regression")) == (
        0,
        True,
    )
    assert select_round(cell("a", test)) == (3, False)


def test_a_client_without_validation_examples_has_no_say():
    validation = [[0.9, math.nan], [0.4, math.nan], [math.nan, math.nan]]
    assert select_round(cell("a", np.zeros((3, 2)), validation)) == (0, True)


@pytest.mark.integration
@given(st.integers(0, 2**32))
def test_test_scores_change_no_choice(seed):
    cells = comparison(("fedavg", "local", "fedper", "fedprox"), seeds=2, clients=6, rounds=4)
    draw = np.random.default_rng(seed)
    other = [replace(c, test=draw.permuted(c.test) * draw.random()) for c in cells]
    assert [select_round(c) for c in cells] == [select_round(c) for c in other]
    before, after = recommend(cells), recommend(other)
    assert (before.kind, before.method) == (after.kind, after.method)
    assert before.sentences[:2] == after.sentences[:2]  # what to do, and why


def test_a_known_mean():
    values = np.array([[1.0, math.nan], [math.nan, math.nan]])
    np.testing.assert_array_equal(known_mean(values, axis=1), [1.0, math.nan])
    assert known_mean(values) == 1.0


def test_a_summary_of_accuracies():
    test = [np.linspace(0, 1, 11), np.full(11, 0.5)]
    validation = [np.ones(11), np.zeros(11)]
    summary = summarize_method(
        [cell("a", test, validation), cell("a", test, validation, seed=1)], "a"
    )
    assert (summary.rounds, summary.seeds, summary.by_validation) == ((1, 1), (0, 1), True)
    assert summary.chosen.mean == pytest.approx(0.5)
    assert summary.chosen.worst_tenth == pytest.approx(np.mean([0, 0, 0.1]))
    assert summary.chosen.best_tenth == pytest.approx(np.mean([1, 1, 0.9]))
    assert summary.chosen.std == pytest.approx(np.linspace(0, 1, 11).std())
    assert summary.last.std == 0
    assert summary.validation_mean == 1
    assert summary.chosen.clients == 22
    assert math.isnan(summary.chosen.r2)


def test_a_summary_of_errors_has_the_highest_as_the_worst():
    errors = np.linspace(0, 1, 10)
    r2 = np.full((1, 10), 0.25)
    summary = summarize_method([cell("a", errors, errors, task="regression", r2=r2)], "a")
    assert (summary.chosen.worst_tenth, summary.chosen.best_tenth) == (1.0, 0.0)
    assert summary.chosen.mean == pytest.approx(0.5)
    assert summary.chosen.r2 == 0.25


def test_the_weighted_mean_of_errors_is_the_pooled_one():
    scores, weights = np.array([1.0, 3.0, math.nan]), np.array([3.0, 1.0, 9.0])
    assert weighted_mean(scores, weights, "classification") == 1.5
    assert weighted_mean(scores, weights, "regression") == pytest.approx(math.sqrt(3))
    assert math.isnan(weighted_mean(scores[2:], weights[2:], "regression"))


def test_missing_scores_are_left_out_and_counted():
    scores = [0.2, math.nan, 0.4]
    summary = summarize_method([cell("a", scores, scores), cell("a", [0.6, 0.6, 0.6], seed=1)], "a")
    assert (summary.chosen.clients, summary.chosen.missing) == (5, 1)
    assert summary.chosen.seed_std == pytest.approx(np.std([0.3, 0.6], ddof=1))
    assert not summary.by_validation
    assert summarize_method([failed("a")], "a") is None


def test_gains_are_paired_by_client_and_positive_when_better():
    own = cell("a", [0.9, 0.2, 0.5], clients=np.array([2, 0, 7]))
    other = cell("fedavg", [0.1, 0.4, math.nan], clients=np.array([0, 2, 7]))
    found = [(g.client, g.gain) for g in paired_gains([own, other], "a", "fedavg")]
    assert found == [(0, pytest.approx(0.1)), (2, pytest.approx(0.5))]
    errors = [replace(c, task="regression") for c in (own, other)]
    assert [g.gain for g in paired_gains(errors, "a", "fedavg")] == [
        pytest.approx(-0.1),
        pytest.approx(-0.5),
    ]


def test_both_sides_count_at_their_own_choice():
    own = cell("a", [[0.9], [0.1]], [[1.0], [0.0]])
    other = cell("fedavg", [[0.2], [0.7]], [[0.0], [1.0]])
    (gain,) = paired_gains([own, other], "a", "fedavg")
    assert gain.gain == pytest.approx(0.2)


def test_a_comparison_is_on_shared_seeds():
    cells = [settled("fedavg", 0.5, seed=s) for s in range(3)]
    cells += [settled("a", 0.6, seed=1), failed("a", 0), settled("a", 0.1, seed=5)]
    found = compare(cells, "a", "fedavg")
    assert (found.seeds, found.clients) == ((1,), CLIENTS)
    assert found.mean == pytest.approx(0.1)
    assert compare(cells, "fedavg", "fedavg") is None
    assert compare(cells, "a", "local") is None


def test_harmed_clients_are_named_worst_first():
    cells = [cell("fedavg", [0.5, 0.5, 0.5, 0.5]), cell("a", [0.4, 0.5, 0.1, 0.9])]
    found = compare(cells, "a", "fedavg")
    assert [(h.seed, h.client) for h in found.harmed] == [(0, 2), (0, 0)]
    assert found.share_worse == 0.5


def test_the_interval_of_one_seed_is_that_of_a_mean():
    gains = np.random.default_rng(0).normal(1.0, 2.0, 400)
    low, high = bootstrap_interval([gains])
    half = 1.96 * gains.std() / math.sqrt(len(gains))
    assert low == pytest.approx(gains.mean() - half, abs=0.03)
    assert high == pytest.approx(gains.mean() + half, abs=0.03)
    assert bootstrap_interval([gains]) == (low, high)


def test_seeds_are_drawn_as_well_as_clients():
    # within a seed all clients gain the same, so only drawing seeds can move the mean
    low, high = bootstrap_interval([np.zeros(5), np.ones(5)])
    assert (low, high) == (0.0, 1.0)
    # and with one kind of seed only drawing clients can
    wide = bootstrap_interval([np.array([0.0, 1.0]), np.array([0.0, 1.0])])
    assert wide == (0.0, 1.0)


def test_seeds_may_have_different_numbers_of_clients():
    means = bootstrap_interval([np.full(3, 2.0), np.full(1, 2.0)])
    assert means == (2.0, 2.0)  # the padding of the shorter one is never drawn


def test_the_order_of_cells_changes_nothing():
    cells = comparison(("fedavg", "fedper"), clients=7, rounds=2)
    assert compare(cells, "fedper", "fedavg") == compare(cells[::-1], "fedper", "fedavg")


def test_the_signed_rank_test_needs_six_seeds():
    assert signed_rank(np.arange(1.0, 6.0)) is None
    assert signed_rank(np.arange(1.0, 7.0)) == pytest.approx(2 / 2**6)
    assert signed_rank(np.zeros(6)) == 1.0
    cells = [settled(m, 0.5 + 0.1 * (m == "a"), seed=s) for m in ("a", "fedavg") for s in range(6)]
    assert compare(cells, "a", "fedavg").p_value == pytest.approx(2 / 2**6)
    assert compare(cells[1:], "a", "fedavg").p_value is None


def test_costs_are_means_over_seeds():
    cells = [
        cell("a", [0.5], seed=s, bytes_down=100.0 * s, bytes_up=7.0, seconds_per_round=1.0 + s)
        for s in (0, 1)
    ]
    cost = cost_of([*cells, failed("a", 2)], "a")
    assert (cost.bytes_down, cost.bytes_up, cost.seconds_per_round) == (50, 7, 1.5)
    assert (cost.shared, cost.personal, cost.rounds) == (100, 10, 1)


def test_unseen_clients_by_local_examples():
    options = {"unseen_examples": np.array([-1, 0, 5]), "unseen_clients": np.array([8, 9])}
    first = np.array([[0.9, 0.7], [0.1, math.nan], [math.nan, math.nan]])
    second = np.array([[0.8, 0.8], [0.3, 0.5], [math.nan, math.nan]])
    cells = [
        cell("a", [0.5], seed=s, unseen_test=t, **options) for s, t in enumerate((first, second))
    ]
    found = unseen_scores(cells, "a")
    assert list(found) == [0, -1]
    assert found == {0: pytest.approx(0.3), -1: pytest.approx(0.8)}


def levels(**by_method):
    """Cells of two seeds; a tuple is a test and a validation level."""
    pairs = {
        m.replace("_", "-"): v if isinstance(v, tuple) else (v, v) for m, v in by_method.items()
    }
    return [settled(m, test, valid, seed=s) for m, (test, valid) in pairs.items() for s in (0, 1)]


@pytest.mark.parametrize(
    ("scores", "kind", "method"),
    [
        ({"fedavg": 0.5, "local": 0.6, "fedper": 0.8, "fedrep": 0.7}, "personalized", "fedper"),
        ({"fedavg": 0.5, "local": 0.6, "fedavg_ft": 0.8}, "personalized", "fedavg-ft"),
        ({"fedavg": 0.5, "local": 0.4, "fedprox": 0.8, "fedper": 0.7}, "global", "fedprox"),
        ({"fedavg": 0.7, "local": 0.4, "fedper": 0.6}, "global", "fedavg"),
        ({"fedavg": 0.5, "local": 0.7, "fedper": 0.6}, "alone", "local"),
        ({"fedavg": 0.5, "local": 0.5, "fedper": 0.5}, "global", "fedavg"),
        ({"fedavg": 0.5, "local": 0.6}, "alone", "local"),
        # the test says the opposite of the validation data, which alone decide
        (
            {"fedavg": (0.9, 0.5), "local": (0.9, 0.6), "fedper": (0.2, 0.8)},
            "personalized",
            "fedper",
        ),
        ({"fedavg": (0.2, 0.8), "local": (0.9, 0.5), "fedper": (0.9, 0.7)}, "global", "fedavg"),
    ],
)
def test_what_is_recommended(scores, kind, method):
    found = recommend(levels(**scores))
    assert (found.kind, found.method) == (kind, method)
    assert method in found.sentences[0]


def test_less_error_is_recommended():
    cells = [
        settled(m, level, task="regression", seed=s)
        for m, level in {"fedavg": 0.9, "local": 0.8, "fedper": 0.5, "fedrep": 0.95}.items()
        for s in (0, 1)
    ]
    found = recommend(cells)
    assert (found.kind, found.method) == ("personalized", "fedper")
    assert "root mean squared error of 0.500" in " ".join(found.sentences)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_diverged_method_is_no_candidate():
    errors = {"fedavg": [1.0, math.inf], "local": [1.0, 1.0], "a": [math.inf, 1.0], "b": [0.9, 0.9]}
    cells = [cell(m, e, e, task="regression") for m, e in errors.items()]
    found = recommend(cells)
    assert found.method == "b"
    assert found == recommend([cells[0], cells[1], cells[3], cells[2]])


def test_a_gain_that_may_be_luck_is_not_recommended():
    noise = np.where(np.arange(CLIENTS) % 2, 0.3, -0.28)
    cells = [settled("fedavg", 0.5), settled("local", 0.5), cell("fedper", 0.5 + EASE + noise)]
    cells[2] = replace(cells[2], validation=cells[2].test)
    assert recommend(cells).method == "fedavg"


def test_without_validation_examples_nothing_is_recommended():
    cells = [cell(m, level + EASE) for m, level in {"fedavg": 0.5, "local": 0.4, "a": 0.7}.items()]
    found = recommend(cells)
    assert (found.kind, found.method) == ("none", "")
    words = " ".join(found.sentences)
    assert "no validation examples" in words
    assert "As a description only: of all methods a has the best mean" in words
    assert "+20.0 points over the global model" in words


def test_failures_are_survived():
    one = levels(fedavg=0.5, fedper=0.8)
    found = recommend([failed("local"), *one])
    assert (found.kind, found.method) == ("personalized", "fedper")
    assert "Training alone could not be run" in " ".join(found.sentences)
    found = recommend([failed("fedavg"), *levels(local=0.5, fedper=0.4)])
    assert (found.kind, found.method) == ("alone", "local")
    assert "sharing does not pay" not in found.sentences[0]  # nobody knows
    assert recommend([failed("fedavg"), failed("local"), *levels(fedper=0.8)]).kind == "none"
    assert recommend([failed("fedavg")]).kind == recommend([]).kind == "none"


def test_a_lucky_seed_does_not_make_a_candidate():
    # both baselines have an easy seed 1, the only one that fedrep ran on
    cells = [settled(m, 0.5 + 0.3 * s, seed=s) for m in ("fedavg", "local") for s in (0, 1)]
    cells += [settled("fedper", 0.6 + 0.3 * s, seed=s) for s in (0, 1)]
    cells += [settled("fedrep", 0.85, seed=1), failed("fedrep", 0)]
    assert recommend(cells).method == "fedper"


def test_who_is_harmed_is_named():
    """Label skew and tiny clients: the global model is best on average, but not for all."""
    alone = np.full(CLIENTS, 0.3)
    alone[:7] = [0.95, 0.9, 0.9, 0.85, 0.8, 0.75, 0.72]
    cells = [
        settled("fedavg", 0.7),
        cell("local", alone + EASE, alone + EASE),
        settled("fedper", 0.5),
    ]
    found = recommend(cells)
    assert (found.kind, found.method) == ("global", "fedavg")
    words = " ".join(found.sentences)
    assert "personalization does not pay here" in words
    assert "7 of 20 clients (35%) would be better off training alone" in words
    assert "client 0 (seed 0): 25.0 points below training alone" in words
    assert "client 4 (seed 0)" in words
    assert "client 5 (seed 0)" not in words  # at most five names


def test_a_client_is_named_once_with_its_greater_loss():
    cells = levels(fedavg=0.5, local=0.6, fedper=0.8)
    broken = [replace(c, test=np.where(np.arange(CLIENTS) == 3, 0.1, c.test)) for c in cells[4:]]
    words = " ".join(recommend([*cells[:4], *broken]).sentences)
    assert words.count("client 3 (seed 1)") == 1
    assert "client 3 (seed 1): 43.2 points below training alone" in words


@pytest.mark.parametrize(("level", "best"), [("fedavg", "local"), ("local", "fedavg")])
def test_what_is_not_shown_is_not_said_to_be_so(level, best):
    """A candidate ahead by luck on few clients: neither better nor worse, for all one knows."""
    noisy = 0.71 + 0.2 * np.array([1, -1, 1, -1, 1, -1, 1, -1])
    flat = np.full(8, 0.7)
    cells = [cell(level, flat, flat), cell(best, flat - 0.3, flat - 0.3)]
    cells.append(cell("fedper", noisy, noisy))
    first, *others = recommend(cells).sentences
    assert "for now: it is not shown here that" in first
    assert "More seeds, clients or validation examples could decide it." in others
    assert others[-1].startswith("The test data do not settle it") or level == "local"
    sure = [*cells[:2], cell("fedper", flat - 0.1, flat - 0.1)]
    assert "does not pay here" in recommend(sure).sentences[0]


def test_a_method_that_diverged_and_a_client_left_out_are_said_to_have():
    constants = {f"constant_{name}": np.full((2, 6), 2.0) for name in ("validation", "test")}
    rounds = {"fedavg": (3.0, 1.0), "local": (3.0, 90.0), "fedper": (3.0, 1.1), "ditto": (90, 80)}
    cells = [
        cell(method, errors, errors, task="regression", **constants)
        for method, pair in rounds.items()
        for errors in [np.repeat([pair], 6, axis=0).T]
    ]
    cells = [replace(c, left_out=("client 6: 6.npz is damaged.",)) for c in cells]
    words = recommend(cells).sentences
    assert words[1] == "Left out of everything, client 6: 6.npz is damaged."
    assert words[2].startswith("The training of local diverged")
    blind = [replace(c, validation=np.full(c.test.shape, np.nan)) for c in cells]
    assert words[1] in recommend(blind).sentences


def constant(name, level, **options):
    """Always answering the same: equally good for all clients."""
    scores = np.full(CLIENTS, level)
    return cell(name, scores, scores, constant=True, **options)


def test_a_global_model_at_chance_is_not_recommended():
    """Four classes, 26 %: better than training alone, and than nothing else."""
    guess = constant("commonest class", 0.25)
    noise = np.where(np.arange(CLIENTS) % 2, 0.2, -0.2)
    cells = [cell("fedavg", 0.26 + noise, 0.26 + noise), settled("local", 0.2), guess]
    found = recommend(cells)
    assert (found.kind, found.method) == ("none", "")
    assert found.sentences[0].startswith("Nothing here is shown to beat always answering the com")
    worse = recommend([settled("fedavg", 0.2), settled("local", 0.2), guess])
    assert worse.sentences[0].startswith("Nothing here beats always answering the commonest class")
    assert (worse.kind, recommend([settled("fedavg", 0.6), guess]).kind) == ("none", "global")


def test_only_what_beats_always_answering_the_same_can_be_chosen():
    guess = constant("commonest class", 0.5)
    cells = [settled("fedavg", 0.4), settled("local", 0.3), guess]
    found = recommend([*cells, settled("fedper", 0.8)])
    assert (found.kind, found.method) == ("personalized", "fedper")
    assert any("fedavg and local did not clearly beat" in words for words in found.sentences)
    alone = recommend([settled("fedavg", 0.4), settled("local", 0.8), guess])
    assert (alone.kind, alone.method) == ("alone", "local")
    own = constant("own commonest class", 0.9)
    assert recommend([*cells, settled("fedper", 0.8), own]).kind == "none"


def test_diverged_baselines_do_not_drown_the_others_in_rounding():
    def errors(method, level):
        scores = np.full(CLIENTS, level)
        return cell(method, scores, scores, task="regression")

    cells = [errors("fedavg", 1e17), errors("local", 2e17), errors("fedper", 3.0)]
    cells += [errors("ditto", 2.0), constant("mean target", 10.0, task="regression")]
    assert recommend(cells).method == "ditto"


def test_the_answer_that_is_not_beaten_is_named():
    """The mean of one is higher, and of the other the gain is less sure."""
    spread = np.where(np.arange(CLIENTS) % 2, 0.9, 0.06)
    pooled = cell("commonest class", spread, spread, constant=True)
    own = constant("own commonest class", 0.485)
    scores = np.full(CLIENTS, 0.52)
    found = recommend([cell("fedavg", scores, scores), pooled, own])
    assert found.kind == "none"
    assert "always answering the commonest class" in found.sentences[0]


def test_where_one_class_is_common_accuracy_is_said_to_tell_little():
    scores = np.full(CLIENTS, 0.96)
    cells = [cell("fedavg", scores, scores), constant("commonest class", 0.96)]
    assert "threshold" in recommend(cells).sentences[-1]


def test_without_validation_the_gain_over_always_answering_the_same_is_said():
    blind = cell("fedavg", np.full(CLIENTS, 0.26))
    found = recommend([blind, constant("commonest class", 0.25)])
    assert found.kind == "none"
    assert any("over always answering the commonest class" in s for s in found.sentences)


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ({"fedavg": 0.5, "local": 0.6, "fedper": 0.8}, "agree with the choice"),
        ({"fedavg": 0.5, "local": 0.7, "fedper": 0.6}, "agree with the choice"),
        ({"fedavg": 0.8, "local": 0.7, "fedper": 0.6}, "agree with the choice"),
        ({"fedavg": 0.5, "local": 0.6, "fedper": (0.6, 0.8)}, "do not settle it"),
        ({"fedavg": 0.5, "local": 0.6, "fedper": (0.55, 0.8)}, "there training alone would have"),
        ({"fedavg": 0.8, "local": (0.9, 0.7), "fedper": 0.6}, "there training alone would have"),
        ({"fedavg": 0.8, "local": 0.7, "fedper": (0.9, 0.6)}, "there fedper would have"),
        ({"fedavg": 0.5, "local": 0.7, "fedper": 0.6, "ditto": (0.9, 0.55)}, "there ditto would"),
    ],
)
def test_whether_test_data_agree(scores, words):
    assert words in recommend(levels(**scores)).sentences[-1]
