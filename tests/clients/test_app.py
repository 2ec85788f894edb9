import numpy as np
import pytest
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod, fixedclipping_mod
from flwr.compat.common.parameter import ndarrays_to_parameters, parameters_to_ndarrays
from flwr.compat.common.recorddict_compat import fitins_to_recorddict, recorddict_to_fitres
from flwr.compat.common.typing import FitIns
from flwr.serverapp.strategy import DifferentialPrivacyClientSideFixedClipping, FedAvg

from clients import PersonalState, client_app
from pfl_flower.grid import InProcessGrid
from strategies import PartialAveraging
from strategies.arrays import to_record
from strategies.protocol import GRADIENT_QUERY
from tests.helpers import config, decoded, flat, tiny_client


def build(context, message_config):
    number = context.node_config["partition-id"]
    return tiny_client(
        PERSONAL, count=20 + number, partition_id=number, state=PersonalState(context.state)
    )


PERSONAL = "head"


def initial():
    client = tiny_client(PERSONAL)
    return to_record(dict(zip(client.shared_names, client.get_parameters({}), strict=True)))


def start(strategy, grid, rounds=3):
    return decoded(strategy.start(grid, initial(), num_rounds=rounds).arrays)


def test_without_personal_parts_it_is_flowers_own_fedavg(monkeypatch):
    monkeypatch.setattr("tests.clients.test_app.PERSONAL", "none")
    mine = start(PartialAveraging(), InProcessGrid(client_app(build), 4))
    theirs = start(FedAvg(), InProcessGrid(client_app(build), 4))
    assert mine.keys() == theirs.keys()
    for name, values in theirs.items():
        if "num_batches_tracked" not in name:
            np.testing.assert_allclose(mine[name], values, atol=1e-6)


def test_flowers_own_strategies_and_mods_take_our_clients():
    seen = []

    def mod(message, context, call_next):
        seen.append(message.metadata.message_type)
        return call_next(message, context)

    app = client_app(build, mods=[mod], evaluate_mods=[mod])
    start(FedAvg(), InProcessGrid(app, 3), rounds=1)
    assert seen == ["train"] * 3 + ["evaluate"] * 3


def test_flowers_differential_privacy_works_around_ours():
    app = client_app(build, mods=[fixedclipping_mod, LocalDpMod(1.0, 1.0, 100.0, 1e-5)])
    inner = PartialAveraging()
    strategy = DifferentialPrivacyClientSideFixedClipping(inner, 0.1, 1.0, num_sampled_clients=3)
    start(strategy, InProcessGrid(app, 3), rounds=2)
    assert [report.dropped for report in inner.reports] == [""] * 12


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda arrays: arrays.pop("body.bias"), "missing ['body.bias'], unexpected []"),
        (lambda arrays: arrays.update(x=np.ones(1)), "missing [], unexpected ['x']"),
    ],
)
def test_missing_and_unexpected_arrays_are_named(change, words):
    arrays = decoded(initial())
    change(arrays)
    content = RecordDict({"arrays": to_record(arrays), "config": config(server_round=1)})
    grid = InProcessGrid(client_app(build), 1)
    (reply,) = grid.send_and_receive([Message(content, 100, "train")])
    assert reply.has_error()
    assert words in reply.error.reason


def test_a_message_without_arrays_says_so():
    grid = InProcessGrid(client_app(build), 1)
    (reply,) = grid.send_and_receive([Message(RecordDict(), 100, "train")])
    assert "array records is []" in reply.error.reason


def test_one_that_raises_ends_neither_the_run_nor_the_work_of_others():
    def failing(context, message_config):
        if context.node_config["partition-id"] == 1 and message_config["server-round"] == 2:
            raise MemoryError("no memory left")
        return build(context, message_config)

    strategy = PartialAveraging()
    grid = InProcessGrid(client_app(failing), 3)
    start(strategy, grid)
    dropped = [(r.round, r.client, r.phase) for r in strategy.reports if r.dropped]
    assert dropped == [(2, 1, "train"), (2, 1, "evaluate")]
    assert "no memory left" in next(r.dropped for r in strategy.reports if r.dropped)
    assert "personal.personal" in grid.contexts[101].state.array_records


def test_a_reply_has_the_order_of_the_message_whatever_that_is():
    arrays = initial()
    turned = dict(reversed(arrays.items()))
    replies = []
    for order in (arrays, turned):
        content = RecordDict({"arrays": ArrayRecord(dict(order)), "config": config(server_round=1)})
        grid = InProcessGrid(client_app(build), 1)
        (reply,) = grid.send_and_receive([Message(content, 100, "train")])
        replies.append(decoded(reply.content["arrays"]))
    assert [list(reply) for reply in replies] == [list(arrays), list(turned)]
    for name, values in replies[0].items():
        np.testing.assert_array_equal(values, replies[1][name])


def test_it_is_a_numpy_client_for_projects_with_a_client_fn():
    client = tiny_client()
    assert isinstance(client, NumPyClient)

    def client_fn(context: Context):
        return build(context, {}).to_client()

    grid = InProcessGrid(ClientApp(client_fn=client_fn), 1)
    instruction = FitIns(ndarrays_to_parameters(client.get_parameters({})), {"server-round": 1})
    content = fitins_to_recorddict(instruction, keep_input=False)
    (reply,) = grid.send_and_receive([Message(content, 100, "train")])
    result = recorddict_to_fitres(reply.content, keep_input=False)
    expected, count, _ = client.fit(client.get_parameters({}), {"server-round": 1})
    assert result.num_examples == count
    np.testing.assert_array_equal(flat(parameters_to_ndarrays(result.parameters)), flat(expected))
    assert "personal.personal" in grid.contexts[100].state.array_records


def test_an_empty_record_for_clients_that_share_nothing(monkeypatch):
    monkeypatch.setattr("tests.clients.test_app.PERSONAL", "all")
    strategy = PartialAveraging()
    result = strategy.start(InProcessGrid(client_app(build), 2), ArrayRecord(), num_rounds=2)
    assert not any(report.dropped for report in strategy.reports)
    assert flat(list(decoded(result.arrays).values())).size == 0


def answer_of(made):
    """What a federation of one client answers to a question of clustered strategies."""
    grid = InProcessGrid(client_app(made), 1)
    (reply,) = grid.send_and_receive(
        [Message(RecordDict({"arrays": initial()}), 100, GRADIENT_QUERY)]
    )
    return reply


def test_a_client_answers_questions_by_a_hook_whatever_its_class():
    def counting(context, message_config):
        client = build(context, message_config)
        client.answer = lambda question, arrays, config: RecordDict(
            {"metrics": MetricRecord({question: len(arrays)})}
        )
        return client

    assert dict(answer_of(counting).content["metrics"]) == {GRADIENT_QUERY: len(initial())}


def test_a_client_without_the_hook_is_an_error_to_the_server():
    assert "PersonalClient" in answer_of(build).error.reason
