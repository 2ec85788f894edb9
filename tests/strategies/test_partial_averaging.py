import logging
import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.serverapp.strategy import FedAvg

from pfl_flower.grid import InProcessGrid
from strategies import PartialAveraging
from strategies.arrays import to_record
from strategies.errors import ArgumentError
from strategies.replies import of_clients
from tests.errors import refused
from tests.grids import RecordingGrid, ShuffledGrid
from tests.helpers import as_array, decoded, error_reply, reply

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
W = np.arange(6, dtype=np.float32).reshape(2, 3)


def aggregate(strategy, replies, server_round=1):
    arrays, metrics = strategy.aggregate_train(server_round, replies)
    return (None if arrays is None else decoded(arrays)), metrics


def some_replies(count=5, size=1000):
    draw = np.random.default_rng(0)
    return [
        reply(
            100 + i,
            {"w": draw.normal(size=size).astype(np.float32), "b": np.float32(draw.normal(size=3))},
            {"num-examples": i + 1, "train-loss": float(i)},
        )
        for i in range(count)
    ]


def test_equals_flowers_own_fedavg():
    mine, metrics = aggregate(PartialAveraging(), some_replies())
    theirs, their_metrics = FedAvg().aggregate_train(1, some_replies())
    for name, values in decoded(theirs).items():
        np.testing.assert_allclose(mine[name], values, atol=1e-6)
    assert metrics["train-loss"] == pytest.approx(their_metrics["train-loss"])


def test_the_order_of_replies_changes_no_bit():
    forward, _ = aggregate(PartialAveraging(), some_replies())
    backward, _ = aggregate(PartialAveraging(), some_replies()[::-1])
    for name in forward:
        np.testing.assert_array_equal(forward[name], backward[name])


def test_uniform_weighting_ignores_examples():
    replies = [reply(100 + i, {"w": W * i}, {"num-examples": 10**i}) for i in range(3)]
    arrays, _ = aggregate(PartialAveraging(weighting="uniform"), replies)
    np.testing.assert_allclose(arrays["w"], W, atol=1e-6)


def test_a_hand_computed_round_with_an_integer_buffer():
    replies = [
        reply(100, {"w": W, "n": np.array(4)}, {"num-examples": 1}),
        reply(101, {"w": 5 * W, "n": np.array(9)}, {"num-examples": 3}),
    ]
    arrays, _ = aggregate(PartialAveraging(), replies)
    np.testing.assert_array_equal(arrays["w"], 4 * W)
    assert arrays["n"] == 9
    assert arrays["n"].dtype == np.int64


def nan_at(index):
    values = W.copy()
    values.flat[index] = np.nan
    return {"w": values}


BAD = {
    "wrong shape": (reply(150, {"w": W.T.copy()}), r"'w' is float32 \(3, 2\) instead of"),
    "wrong dtype": (reply(150, {"w": W.astype(np.float64)}), "is float64"),
    "missing array": (reply(150, {}), r"missing \['w'\]"),
    "unexpected array": (reply(150, {"w": W, "head": W}), r"unexpected \['head'\]"),
    "NaN": (reply(150, nan_at(3)), r"not finite in \['w'\]"),
    "infinity": (reply(150, {"w": W + np.float32(np.inf)}), "not finite"),
    "zero examples": (reply(150, {"w": W}, {"num-examples": 0}), "num-examples is 0"),
    "negative weight": (reply(150, {"w": W}, {"num-examples": -1}), "must be positive"),
    "NaN weight": (reply(150, {"w": W}, {"num-examples": float("nan")}), "must be positive"),
    "no weight": (reply(150, {"w": W}, {"num-examples": None}), "no number 'num-examples'"),
    "no arrays": (reply(150), "0 array records instead of 1"),
    "damaged bytes": (reply(150, ArrayRecord({"w": as_array(b"xx")})), "cannot be read"),
    "a client that raised": (error_reply(150), "the client failed: out of memory"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_reply_is_dropped_with_a_reason_and_costs_nobody_else(case, caplog):
    bad, words = BAD[case]
    good = [reply(100, {"w": W}), reply(101, {"w": 3 * W})]
    strategy = PartialAveraging()
    with caplog.at_level(logging.WARNING, logger="flwr"):
        logging.getLogger("flwr").propagate = True
        arrays, _ = aggregate(strategy, [good[0], bad, good[1]])
    np.testing.assert_array_equal(arrays["w"], 2 * W)
    assert "node 150" in caplog.text
    (dropped,) = [report for report in strategy.reports if report.dropped]
    assert dropped.node_id == 150
    assert re.search(words, dropped.dropped)


def test_a_round_of_bad_replies_only_changes_nothing_and_does_not_raise():
    assert aggregate(PartialAveraging(), [error_reply(100), error_reply(101)]) == (None, None)
    assert aggregate(PartialAveraging(), []) == (None, None)


def test_two_clients_that_disagree_are_judged_by_what_was_sent():
    strategy = PartialAveraging()
    grid = InProcessGrid(ClientApp(), 2)
    list(strategy.configure_train(1, to_record({"w": W}), ConfigRecord(), grid))
    arrays, _ = aggregate(strategy, [reply(100, {}), reply(101, {"w": W})])
    np.testing.assert_array_equal(arrays["w"], W)


def test_clients_may_share_a_part_of_what_was_sent():
    strategy = PartialAveraging()
    grid = InProcessGrid(ClientApp(), 2)
    whole = to_record({"w": W, "head": W})
    list(strategy.configure_train(1, whole, ConfigRecord(), grid))
    arrays, _ = aggregate(strategy, [reply(100, {"w": W}), reply(101, {"w": 3 * W})])
    np.testing.assert_array_equal(arrays["w"], 2 * W)
    np.testing.assert_array_equal(arrays["head"], W)  # what nobody shares stays as it was sent


def test_an_empty_reply_cannot_empty_the_model():
    strategy = PartialAveraging()
    grid = InProcessGrid(ClientApp(), 2)
    list(strategy.configure_train(1, to_record({"w": W, "v": W}), ConfigRecord(), grid))
    arrays, _ = aggregate(strategy, [error_reply(100), reply(101, {})])
    assert arrays.keys() == {"w", "v"}


def test_names_that_were_not_sent_are_never_accepted():
    strategy = PartialAveraging()
    grid = InProcessGrid(ClientApp(), 3)
    list(strategy.configure_train(1, to_record({"w": W}), ConfigRecord(), grid))
    odd = [reply(100, {"x": W}), reply(101, {"x": W})]
    arrays, _ = aggregate(strategy, [*odd, reply(102, {"w": 2 * W})])
    assert arrays.keys() == {"w"}
    np.testing.assert_array_equal(arrays["w"], 2 * W)


def test_a_node_that_never_answers_is_reported(caplog):
    strategy = PartialAveraging()
    list(strategy.configure_train(1, ArrayRecord(), ConfigRecord(), InProcessGrid(ClientApp(), 2)))
    aggregate(strategy, [reply(100, {})])
    assert [(r.node_id, r.dropped) for r in strategy.reports if r.dropped] == [
        (101, "no reply in time")
    ]


def test_what_the_superlink_says_of_a_node_that_went_away_is_said_of_that_node(caplog):
    """It answers in its own name (node 1), which is not to count as one more client."""
    strategy = PartialAveraging()
    grid = InProcessGrid(ClientApp(), 3)
    sent = list(strategy.configure_train(1, to_record({"w": W}), ConfigRecord(), grid))
    for number, message in enumerate(sent):  # as a grid does when it sends them
        message.metadata.__dict__["_message_id"] = f"message {number}"
    notice = error_reply(SUPERLINK_NODE_ID)
    notice.metadata.__dict__["_reply_to_message_id"] = "message 2"
    arrays, _ = aggregate(strategy, [notice, reply(100, {"w": W})])
    np.testing.assert_array_equal(arrays["w"], W)
    found = [(r.node_id, r.client, r.dropped) for r in strategy.reports]
    gone, slow = "no reply: out of memory", "no reply in time"
    assert found == [(100, 0, ""), (101, 101, slow), (102, 102, gone)]
    assert "node 102 (client 102): no reply: out of memory" in caplog.text


def test_an_error_of_a_client_is_its_reply(caplog):
    aggregate(PartialAveraging(), [error_reply(101), reply(100, {"w": W})])
    assert "node 101 (client 101): the client failed: out of memory" in caplog.text
    (odd,) = of_clients([reply(SUPERLINK_NODE_ID, {"w": W})])[0]  # a client, whatever its node's id
    assert odd.has_content()


def test_of_two_nodes_with_one_number_the_second_is_dropped():
    replies = [reply(100, {"w": W}), reply(101, {"w": 9 * W}, {"partition-id": 0})]
    strategy = PartialAveraging()
    arrays, _ = aggregate(strategy, replies)
    np.testing.assert_array_equal(arrays["w"], W)
    assert "node 100 is client 0 too" in strategy.reports[1].dropped


def test_a_failed_reply_takes_no_number_from_a_good_one():
    strategy = PartialAveraging()
    strategy.clients.update({100: 0, 101: 0})  # a SuperNode that came back under a new id
    arrays, _ = aggregate(strategy, [error_reply(100), reply(101, {"w": W}, {"partition-id": 0})])
    np.testing.assert_array_equal(arrays["w"], W)


def test_sharing_nothing_is_a_run_too():
    arrays, metrics = aggregate(PartialAveraging(), [reply(100, {}, {"train-loss": 2.0})])
    assert arrays == {}
    assert metrics["train-loss"] == 2.0


def test_metrics_that_are_missing_are_left_out_of_the_mean():
    strategy = PartialAveraging()
    replies = [
        reply(100, None, {"num-examples": 1, "accuracy": 0.5, "validation": float("nan")}),
        reply(101, None, {"num-examples": 3, "accuracy": 1.0, "validation": 0.25}),
    ]
    metrics = strategy.aggregate_evaluate(1, replies)
    assert dict(metrics) == pytest.approx({"accuracy": 0.875, "validation": 0.25})


def test_server_momentum_is_fedavgm_and_never_touches_buffers():
    strategy = PartialAveraging(server_momentum=0.5, parameter_names=["w"])
    grid = InProcessGrid(ClientApp(), 2)
    position, velocity = np.zeros(1, np.float32), 0.0
    sent = {"w": position, "running_var": np.ones(1, np.float32)}
    for server_round in (1, 2, 3):
        list(strategy.configure_train(server_round, to_record(sent), ConfigRecord(), grid))
        mean = sent["w"] + 1
        variance = sent["running_var"] + 1
        replies = [reply(100 + i, {"w": mean, "running_var": variance}) for i in (0, 1)]
        sent, _ = aggregate(strategy, replies, server_round)
        velocity = 0.5 * velocity - 1.0
        position = position - velocity
        np.testing.assert_allclose(sent["w"], position)
        np.testing.assert_array_equal(sent["running_var"], variance)


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        ({"fraction_train": 1.5}, "fraction_train", 1.5),
        ({"weighting": "loss"}, "weighting", "loss"),
        ({"server_momentum": 1.0}, "server_momentum", 1.0),
        ({"server_momentum": 0.5}, "parameter_names", None),
    ],
)
def test_arguments_are_checked(arguments, name, value):
    with refused(ArgumentError, argument=name, value=value):
        PartialAveraging(**arguments)


def sampled(strategy, grid, server_round):
    messages = strategy.configure_train(server_round, ArrayRecord(), ConfigRecord(), grid)
    return [grid.contexts[m.metadata.dst_node_id].node_config["partition-id"] for m in messages]


def answering_app():
    app = ClientApp()

    @app.query()
    def query(message: Message, context) -> Message:
        number = context.node_config["partition-id"]
        record = RecordDict({"properties": ConfigRecord({"partition-id": number})})
        return Message(record, reply_to=message)

    return app


def test_sampling_depends_on_seed_and_round_but_not_on_node_ids():
    first = [sampled(PartialAveraging(0.3, seed=5), InProcessGrid(answering_app(), 20), 4)]
    other = [sampled(PartialAveraging(0.3, seed=5), ShuffledGrid(answering_app(), 20), 4)]
    assert first == other
    assert len(first[0]) == 6
    assert first[0] != sampled(PartialAveraging(0.3, seed=6), InProcessGrid(answering_app(), 20), 4)
    strategy = PartialAveraging(0.3, seed=5)
    grid = InProcessGrid(answering_app(), 20)
    assert sampled(strategy, grid, 1) != sampled(strategy, grid, 2)


def test_clients_that_cannot_be_asked_are_sampled_by_node_id(caplog):
    with caplog.at_level(logging.CRITICAL, logger="flwr"):
        chosen = sampled(PartialAveraging(0.5), InProcessGrid(ClientApp(), 10), 1)
    assert len(set(chosen)) == 5


def test_nodes_are_asked_for_their_numbers_once(caplog):
    strategy, grid = PartialAveraging(0.5), RecordingGrid(ClientApp(), 4)
    with caplog.at_level(logging.CRITICAL, logger="flwr"):
        for server_round in (1, 2, 3):
            sampled(strategy, grid, server_round)
    assert [e.message_type for e in grid.exchanges] == ["query"] * 4


def test_everybody_is_asked_when_everybody_trains():
    assert sampled(PartialAveraging(), InProcessGrid(answering_app(), 7), 1) == list(range(7))


@pytest.mark.long  # a measurement of speed needs a machine that does nothing else
@pytest.mark.parametrize("values", [65_000, 1_000_000, 11_000_000])
def test_faster_than_flower_by_half_in_at_most_two_models_of_memory(values, monkeypatch):
    """By the CPU: what else the machine does takes time by the clock from either of them."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    benchmark = import_module("aggregation")
    received = benchmark.replies(clients=20, values=values)
    found = benchmark.compared(received, turns=9)
    ratio = found["FedAvg"][0] / found["PartialAveraging"][0]
    peak = benchmark.peak_memory(PartialAveraging(), received) / (4 * values)
    print(f"\nFedAvg takes {ratio:.1f} times as long; peak extra memory {peak:.2f} models")
    assert ratio >= 1.5
    assert peak <= 2
