"""The line in the log on every message."""

import logging

import pytest
import torch
from flwr.app import Context, Error, Message, RecordDict

from clients.message_log import INSPECT, log_message, words_on
from clients.state.personal_state import PersonalState, Snapshot, watched
from pfl_flower.client_app import make_app
from pfl_flower.config.run_config import RunConfig
from pfl_flower.grid import InProcessGrid
from pfl_flower.server.run import play
from tests.helpers import error_reply, request

SMALL = {"num-server-rounds": 2, "local-epochs": 1, "baselines": "", "max-examples": 30}


def test_the_line_on_an_error_says_that_nothing_leaves():
    message, context = request(1), Context(1, 1, {}, RecordDict(), {})
    reply = log_message(message, context, lambda m, _: Message(Error(2, "full"), reply_to=m))
    assert reply.error.reason == "full"
    assert words_on(message, reply, context, RecordDict()).endswith(
        "sends no arrays; reports nothing"
    )


def test_what_only_the_file_has_after_a_restart_is_kept(tmp_path):
    spec = {"personal/head": ((2,), "float32")}
    saved = Snapshot(3, {"personal/head": torch.zeros(2)})
    PersonalState(RecordDict(), "fedper", "c", tmp_path).save(saved, spec)
    with watched() as read:
        PersonalState(RecordDict(), "fedper", "c", tmp_path).load(spec)
    context = Context(1, 1, {}, RecordDict(), {})
    words = words_on(request(1), error_reply(1), context, read)
    assert "(personal/head) for fedper; sends no arrays" in words


def play_with(monkeypatch, method, more=(), **node_config):
    """Play two rounds on three nodes; return the first run and what the clients said."""
    said = []
    monkeypatch.setattr(
        "clients.message_log.log", lambda level, form, *words: said.append((level, form % words))
    )
    config = RunConfig.parse(SMALL | {"method": method} | dict(more))
    grid = InProcessGrid(make_app(config.dump()), 3, node_config=lambda number: node_config)
    run, *_ = play(grid, config)
    return run, said


@pytest.mark.parametrize("method", ["fedper", "mr-mtl", "hierarchical-bayes"])
def test_an_inspected_run_is_the_same_run(monkeypatch, method):
    plain, quiet = play_with(monkeypatch, method)
    looked, loud = play_with(monkeypatch, method, **{INSPECT: True})
    assert plain.by_client() == looked.by_client()
    assert {level for level, _ in quiet} == {logging.DEBUG}
    assert {level for level, _ in loud} == {logging.INFO}


def test_a_line_says_what_came_stays_and_goes_in_names_and_bytes(monkeypatch, tmp_path):
    _, said = play_with(monkeypatch, "fedper", **{"personal-dir": str(tmp_path)})
    assert {level for level, _ in said} == {logging.INFO}
    trained = [words for _, words in said if ", round 2, train: received " in words]
    assert len(trained) == 3
    received, keeps, sends, reports = trained[0].split("; ")
    who, _, arrays = received.partition(", round 2, train: received ")
    assert who == "client 0"
    assert sends.removeprefix("sends ") == arrays
    assert keeps.startswith("keeps 2 arrays of")
    assert keeps.endswith("(personal/head.weight, personal/head.bias) for fedper")
    assert "head" not in sends
    assert {"train-loss", "num-examples"} <= set(reports.removeprefix("reports ").split(", "))


def test_the_line_has_the_name_and_the_number_of_a_client_before_it_trains(monkeypatch):
    _, said = play_with(monkeypatch, "fedper", name="ward", **{INSPECT: True})
    asked = next(words for _, words in said if "query: " in words)
    assert asked.startswith("ward (client 0), round -, query: received no arrays; keeps no arrays;")
    assert asked.endswith("reports partition-id, num-partitions, client-schema, client-name")
