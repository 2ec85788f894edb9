"""The data schema is sent to a node once, and again only if the node has lost it."""

import time

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from clients.data.data_schema import digest_of, keep_schema
from pfl_flower.client_app import make_app
from pfl_flower.config.run_config import RunConfig
from pfl_flower.grid import InProcessGrid
from pfl_flower.server.base_delivery import BaseDelivery
from pfl_flower.server.run import play
from pfl_flower.server.schema_delivery import SchemaDelivery
from strategies.protocol import CONFIG, DATA_SCHEMA, DATA_SCHEMA_DIGEST, MISSING_SCHEMA
from tests.grids import FIRST_NODE, FailingGrid, RecordingGrid
from tests.helpers import assert_identical

SMALL = {"num-server-rounds": 3, "local-epochs": 1, "max-examples": 40, "model": "mlp"}
FEDAVG = RunConfig.parse({**SMALL, "method": "fedavg", "baselines": ""})


def clients_sent_in_full(grid):
    """The clients of messages with the schema in them, in the order in which they were sent."""
    return [exchange.client for exchange in grid.exchanges if DATA_SCHEMA in exchange.config]


def in_full(grid, schema="{}"):
    """A message to every node, with a schema; nodes share the content, as strategies have it."""
    content = RecordDict({CONFIG: ConfigRecord({DATA_SCHEMA: schema, "x": 1})})
    return [Message(content, node, "train") for node in grid.contexts]


def answering_app():
    """An app that keeps the schema, and replies with the one that its client is given."""
    app = ClientApp(mods=[keep_schema])

    @app.train()
    def train(message, context):
        seen = ConfigRecord({"schema": message.content[CONFIG].get(DATA_SCHEMA, "")})
        return Message(RecordDict({"seen": seen}), reply_to=message)

    return app


class Forgetful(RecordingGrid):
    """A grid on which client 1 loses its state, as by a restart, before it trains in round 2."""

    def answer(self, message):
        config = message.content.config_records.get(CONFIG, {})
        asked = message.metadata.message_type, message.metadata.dst_node_id
        in_round_2 = config.get("server-round") == 2 and DATA_SCHEMA not in config
        if asked == ("train", FIRST_NODE + 1) and in_round_2:
            self.contexts[FIRST_NODE + 1].state = RecordDict()
        return super().answer(message)


class EveryMessageInFull(BaseDelivery):
    """A delivery that leaves the schema in every message."""

    def send_and_receive(self, messages, *, timeout=None):
        return self.grid.send_and_receive(messages, timeout=timeout)


@pytest.mark.integration
def test_a_node_is_sent_the_schema_once_a_run_whatever_it_is_asked():
    values = {**SMALL, "method": "gradient-clusters", "baselines": "fedavg,local"}
    config = RunConfig.parse({**values, "safeguard": True, "threshold": "shrunk", "unseen": 0.2})
    grid = RecordingGrid(make_app(config.dump()), 5)
    runs = list(play(grid, config))
    assert sorted(clients_sent_in_full(grid)) == [0, 1, 2, 3, 4]
    schema = runs[0].config.required_schema.to_json()
    brief = [e.config[DATA_SCHEMA_DIGEST] for e in grid.exchanges if DATA_SCHEMA_DIGEST in e.config]
    assert set(brief) == {digest_of(schema)}
    assert len(grid.exchanges) == len(brief) + 2 * 5  # discovery and the first message
    assert {e.message_type for e in grid.exchanges} == {
        *("query", "query.gradient", "train", "evaluate")
    }
    assert [run.schema_bytes for run in runs] == [5 * len(schema.encode()), 0, 0, 0]
    assert not any(report.dropped for run in runs for report in run.reports)


def test_the_numbers_are_those_of_messages_that_have_the_schema_in_them(monkeypatch):
    values = {**SMALL, "method": "ditto", "baselines": "fedavg", "fraction-train": 0.5}
    config = RunConfig.parse(values)
    brief = list(play(InProcessGrid(make_app(config.dump()), 4), config))
    monkeypatch.setattr("pfl_flower.server.session.BaseDelivery", EveryMessageInFull)
    grid = RecordingGrid(make_app(config.dump()), 4)
    assert_identical(brief, list(play(grid, config)))
    assert len(clients_sent_in_full(grid)) == len(grid.exchanges) - 4


def test_a_client_that_lost_the_schema_is_sent_it_again_and_no_work_is_lost():
    grid = Forgetful(make_app(FEDAVG.dump()), 3)
    runs = list(play(grid, FEDAVG))
    missing = [e for e in grid.exchanges if MISSING_SCHEMA in e.reply.content]
    assert [(e.client, e.message_type, e.config["server-round"]) for e in missing] == [
        (1, "train", 2)
    ]
    assert sorted(clients_sent_in_full(grid)) == [0, 1, 1, 2]
    assert not any(report.dropped for report in runs[0].reports)
    assert runs[0].schema_bytes == 4 * len(runs[0].config.required_schema.to_json())
    undisturbed = list(play(InProcessGrid(make_app(FEDAVG.dump()), 3), FEDAVG))
    assert_identical(undisturbed, runs)


def test_a_client_that_failed_at_its_first_message_is_sent_the_schema_with_the_next():
    def fails(message):
        first = message.content.config_records.get(CONFIG, {}).get("server-round") == 1
        asked = message.metadata.message_type, message.metadata.dst_node_id
        if first and asked == ("train", FIRST_NODE + 1):
            assert DATA_SCHEMA in message.content[CONFIG]
            return True
        if asked == ("evaluate", FIRST_NODE + 1):
            evaluated.append(DATA_SCHEMA in message.content[CONFIG])
        return False

    evaluated = []
    grid = FailingGrid(make_app(FEDAVG.dump()), 3, fails=fails)
    (run,) = play(grid, FEDAVG)
    assert evaluated == [True, False, False]
    assert [(r.client, r.round, r.phase) for r in run.reports if r.dropped] == [(1, 1, "train")]


def test_a_slow_node_does_not_hold_up_the_repeat_and_the_timeout_holds():
    class Slow(RecordingGrid):
        pull_interval = 0.01

        def pull_messages(self, message_ids):
            found = super().pull_messages(message_ids)
            return [r for r in found if not slow or r.metadata.src_node_id != FIRST_NODE + 2]

    slow = False
    grid = Slow(answering_app(), 3)
    delivery = SchemaDelivery(grid)
    assert len(list(delivery.send_and_receive(in_full(grid), timeout=5.0))) == 3
    slow = True
    grid.contexts[FIRST_NODE + 1].state = RecordDict()
    messages, start = in_full(grid), time.monotonic()
    replies = list(delivery.send_and_receive(messages, timeout=0.2))
    assert 0.2 <= time.monotonic() - start < 2.0
    assert [r.metadata.src_node_id for r in replies] == [FIRST_NODE, FIRST_NODE + 1]
    # the sender knows the request by its first id, although the reply is to the repeat
    assert [r.metadata.reply_to_message_id for r in replies] == [
        message.metadata.message_id for message in messages[:2]
    ]
    assert clients_sent_in_full(grid) == [0, 1, 2, 1]
    assert delivery.schema_bytes == 4 * len("{}")


@pytest.mark.parametrize("config", [{}, {"x": 1}])
def test_messages_without_a_schema_pass_as_they_are(config):
    grid = RecordingGrid(answering_app(), 2)
    content = RecordDict({CONFIG: ConfigRecord(config)})
    messages = [Message(content, node, "train") for node in grid.contexts]
    delivery = SchemaDelivery(grid)
    replies = list(delivery.send_and_receive(messages, timeout=1.0))
    assert [reply.has_content() for reply in replies] == [True, True]
    assert [dict(exchange.config) for exchange in grid.exchanges] == [config, config]
    assert delivery.schema_bytes == 0


def test_another_schema_is_sent_in_full():
    grid = RecordingGrid(answering_app(), 2)
    delivery = SchemaDelivery(grid)
    for schema in ("{}", "{}", '{"task": 1}', '{"task": 1}'):
        delivery.send_and_receive(in_full(grid, schema), timeout=1.0)
    assert clients_sent_in_full(grid) == [0, 1, 0, 1]
    assert [e.reply.content["seen"]["schema"] for e in grid.exchanges[::2]] == [
        *("{}", "{}", '{"task": 1}', '{"task": 1}')
    ]
