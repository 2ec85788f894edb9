"""The rule by which replies are judged: bounds, outliers, and whose a client's number is."""

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from hypothesis import given
from hypothesis import strategies as st

from pfl_flower.grid import InProcessGrid
from strategies import GradientClusters, PartialAveraging
from strategies.arrays import to_record
from strategies.errors import ArgumentError
from strategies.replies import failure_of
from strategies.reply_comparison import MOST_TIMES_THE_MEDIAN
from strategies.reply_validation import (
    LARGEST_COUNT,
    check_values,
    good_ones,
    largest_value,
    take_apart,
    validate,
)
from tests.errors import refused
from tests.helpers import decoded, error_reply, reply, request

W = np.arange(6, dtype=np.float32).reshape(2, 3)
LOWEST = np.finfo(np.float32).min


def parsed(arrays, node=100, **metrics):
    named = {name.replace("_", "-"): value for name, value in metrics.items()}
    return take_apart(reply(node, arrays, named), "num-examples", with_arrays=True)


def judged(replies, **options):
    """Node -> why its reply is dropped."""
    validate(replies, known={}, **options)
    return {each.node_id: each.dropped for each in replies if each.dropped}


# ---------------------------------------------------------------------- bounds


def test_bounds_are_where_squares_end():
    single, double = largest_value(np.float32), largest_value(np.float64)
    assert np.isfinite(np.square(np.float32(single) * np.float32(0.999)))
    with np.errstate(over="ignore"):
        assert np.isinf(np.square(np.float32(single * 1.001), dtype=np.float32))
    assert double == pytest.approx(1.34e154, rel=0.01)
    assert largest_value(np.float16) == single  # it is summed in single precision
    assert largest_value(np.int64) == largest_value(np.bool_) == LARGEST_COUNT == 2**53


@given(
    st.lists(st.floats(width=32), min_size=1, max_size=40),
    st.sampled_from([np.float16, np.float32, np.float64, np.complex64]),
)
def test_an_array_is_refused_exactly_if_a_value_is_beyond_the_bound(numbers, dtype):
    with np.errstate(over="ignore"):
        values = np.array(numbers).astype(dtype)
        within = np.isfinite(values).all() and np.abs(values).max() <= largest_value(dtype)
    one = parsed({"w": values})
    if not within:
        with pytest.raises(ValueError, match="'w'"):
            check_values(one, {})
        return
    check_values(one, {})
    squares = np.square(np.abs(values.astype(np.complex128)))
    assert one.length == pytest.approx(float(np.sqrt(squares.sum())), rel=1e-3, abs=1e-18)


def test_what_comes_back_as_it_was_sent_is_nobodys_claim():
    """A mask of the largest float and a constant beyond all counts are part of some models."""
    constant = {"mask": np.full((2, 2), LOWEST), "hash": np.array([2**62, 7])}
    sent = to_record({"w": W, **constant})
    assert judged([parsed({"w": W, **constant})], sent=sent) == {}
    counted = parsed({"w": W, **constant, "hash": np.array([2**62 - 2**60, 7])})
    with refused(ArgumentError, argument="largest value in ['hash']"):
        check_values(counted, sent)


def test_large_floats_go_back_up_to_twice_as_large():
    """A prior variance that stands for infinity comes back as a second moment about as large."""
    sent = to_record({"w": W, "variance": np.full(2, 1e30, np.float32)})
    check_values(parsed({"w": W, "variance": np.array([1.99e30, 1.0], np.float32)}), sent)
    with refused(ArgumentError, argument="largest value in ['variance']"):
        check_values(parsed({"w": W, "variance": np.array([2.01e30, 1.0], np.float32)}), sent)
    mixed = to_record({"w": W, "variance": np.array([1e30, 1.0], np.float32)})
    with refused(ArgumentError, argument="largest value in ['variance']"):
        check_values(parsed({"w": W, "variance": np.array([1.0, 1e30], np.float32)}), mixed)


def test_what_may_be_huge_does_not_hide_the_rest():
    mask = np.array([LOWEST, 0.0], np.float32)
    one = parsed({"w": W, "mask": mask})
    check_values(one, to_record({"w": W, "mask": mask}))
    assert one.length == pytest.approx(float(np.linalg.norm(W)))
    counted = {"hash": np.array([2**62]), "counter": np.array([7])}
    other = parsed(counted)
    check_values(other, to_record(counted))
    assert other.counter == 7


def test_columns_first_and_scalars_and_nothing_are_read_like_any_other_array():
    for values in (np.asfortranarray(W), np.float32(3), np.zeros((0, 3), np.float32)):
        one = parsed({"w": values})
        check_values(one, {})
        assert one.length == pytest.approx(float(np.linalg.norm(values)))


# ---------------------------------------------------------------------- outliers


def sizes(replies):
    return {"size": [each.length for each in replies]}


@pytest.mark.parametrize(("count", "dropped"), [(2, False), (3, True)])
def test_outliers_take_three_replies(count, dropped):
    replies = [parsed({"w": W}, 100 + c) for c in range(count - 1)]
    replies.append(parsed({"w": W * np.float32(10 * MOST_TIMES_THE_MEDIAN)}, 150))
    assert bool(judged(replies, sizes=sizes)) == dropped


def test_a_model_that_moves_from_zero_is_no_outlier():
    strategy = PartialAveraging()
    still = [reply(100 + c, {"w": W * np.float32(1e-20)}) for c in range(3)]
    strategy.aggregate_train(1, [*still, reply(103, {"w": W})])
    assert not any(report.dropped for report in strategy.reports)


# ---------------------------------------------------------------------- whose number it is


def strategy_that_knows(*clients):
    strategy = PartialAveraging()
    strategy.clients.update({100 + client: client for client in clients})
    return strategy


def test_a_node_that_had_the_number_before_keeps_it_whatever_its_id():
    strategy = strategy_that_knows(0, 1)
    arrays, _ = strategy.aggregate_train(
        1, [reply(100, {"w": 9 * W}, {"partition-id": 1}), reply(101, {"w": W})]
    )
    np.testing.assert_array_equal(decoded(arrays)["w"], W)
    (impostor,) = [report for report in strategy.reports if report.dropped]
    assert (impostor.node_id, impostor.client) == (100, 0)  # it is reported as who it is
    assert "node 101 is client 1 too" in impostor.dropped
    assert strategy.clients == {100: 0, 101: 1}


def test_a_reply_that_is_dropped_takes_no_number_even_later():
    strategy = strategy_that_knows(0, 1)
    nan = reply(100, {"w": W * np.nan}, {"partition-id": 1})
    strategy.aggregate_train(1, [nan, reply(101, {"w": W})])
    assert strategy.clients == {100: 0, 101: 1}


def test_a_node_that_comes_back_under_another_id_has_the_number_again():
    strategy = strategy_that_knows(0, 1)
    strategy.aggregate_train(1, [reply(99, {"w": W}, {"partition-id": 1}), error_reply(101)])
    assert strategy.clients == {99: 1, 100: 0, 101: 1}
    assert [report.client for report in strategy.reports if not report.dropped] == [1]


class WithAStranger(InProcessGrid):
    """A grid through which a node answers that was not asked."""

    def send_and_receive(self, messages, *, timeout=None):
        return [reply(100), reply(105)]


def test_the_answer_of_a_node_that_was_not_asked_is_no_answer():
    strategy = strategy_that_knows(0)
    strategy.round.grid = WithAStranger(ClientApp(), 1)
    found = strategy.ask([100], RecordDict(), "query.something", "something")
    assert [each.node_id for each in found] == [100]


def test_a_known_node_does_not_become_another_in_its_absence():
    strategy = strategy_that_knows(0, 1)
    strategy.aggregate_train(1, [reply(100, {"w": W}, {"partition-id": 1})])
    assert strategy.clients == {100: 0, 101: 1}
    strategy.aggregate_train(2, [reply(n, {"w": W}, {"partition-id": 1}) for n in (100, 101)])
    assert [r.node_id for r in strategy.reports[-2:] if not r.dropped] == [101]


def test_a_number_is_taken_once_also_by_replies_that_are_dropped():
    strategy = strategy_that_knows(0, 1)
    bad = [reply(node, {"w": W * np.nan}, {"partition-id": 7}) for node in (200, 201)]
    strategy.aggregate_train(1, bad)
    assert list(strategy.clients.values()).count(7) == 1


def test_a_first_reply_that_is_dropped_still_says_whose_it_is():
    strategy = PartialAveraging()
    strategy.aggregate_train(1, [reply(107, {"w": W * np.nan}), reply(101, {"w": W})])
    assert {r.node_id: r.client for r in strategy.reports} == {101: 1, 107: 7}


def test_evaluations_are_judged_by_the_same_rule():
    strategy = strategy_that_knows(0, 1)
    good = reply(101, None, {"loss": 1.0})
    bad = reply(100, None, {"loss": 9.0, "num-examples": 1e300, "partition-id": 1})
    metrics = strategy.aggregate_evaluate(1, [bad, good, good])
    assert dict(metrics) == {"loss": 1.0}
    assert [report.node_id for report in strategy.reports if not report.dropped] == [101]


def test_the_second_reply_of_a_node_counts_if_the_first_one_cannot_be_read():
    replies = [parsed({"w": W}, num_examples=-1), parsed({"w": W}), parsed({"w": 2 * W})]
    validate(replies, known={})
    assert good_ones(replies) == [replies[1]]
    assert "replied already" in replies[2].dropped


@pytest.mark.parametrize("odd", ["zero", "NaN", "a matrix", "nothing", "half an example"])
def test_a_gradient_that_is_none_takes_no_clients_place(odd):
    """Node 100 says that it is client 1, with what is no gradient; node 101 is client 1."""
    vector = np.ones(5, np.float32)
    values = {"zero": 0 * vector, "NaN": np.nan * vector, "a matrix": vector[None]}
    app = ClientApp()

    @app.query()
    def query(message: Message, context) -> Message:
        record = ConfigRecord({"partition-id": context.node_config["partition-id"]})
        return Message(RecordDict({"properties": record}), reply_to=message)

    @app.query("gradient")
    def gradient(message: Message, context) -> Message:
        is_odd = context.node_config["partition-id"] == 0
        arrays = {"gradient": values.get(odd, vector) if is_odd else vector}
        if is_odd and odd == "nothing":
            arrays = {}
        examples = 0.5 if is_odd and odd == "half an example" else 9
        metrics = MetricRecord({"num-examples": examples, "partition-id": 1})
        return Message(
            RecordDict({"arrays": to_record(arrays), "metrics": metrics}), reply_to=message
        )

    strategy, grid = GradientClusters(), InProcessGrid(app, 2)
    list(strategy.configure_train(1, to_record({"w": W}), ConfigRecord(), grid))
    assert list(strategy.signatures) == [1]
    np.testing.assert_array_equal(strategy.signatures[1].values, vector)


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("<class 'pfl_flower.data.errors.DataError'>:<'no table'>", "DataError: no table"),
        ("<class 'OSError'>:<'one\ntwo: <'three'>'>", "OSError: one\ntwo: <'three'>"),
        (
            "<class 'flwr.clientapp.client_app.ClientAppException'>:<'\nException "
            "ClientAppException occurred. Message: no table'>",
            "no table",
        ),
        ("DataError: no table", "DataError: no table"),
        ("out of memory", "out of memory"),
        ("", "no reason given"),
    ],
)
def test_why_a_client_failed_is_said_in_words(reason, words):
    message = Message(Error(2, reason), reply_to=request(100))
    assert failure_of(message) == words
