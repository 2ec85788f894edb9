"""The discovery of a federation whose nodes are slow, silent or broken."""

import math
import time
from dataclasses import replace

import pytest
from flwr.app import Error, Message

from pfl_flower.client_app import make_app
from pfl_flower.config.run_config import RunConfig
from pfl_flower.grid import InProcessGrid
from pfl_flower.server.discovery import STARTING, FederationError, wait_for_clients
from pfl_flower.server.run import play

NEVER = math.inf
CONFIG = RunConfig(wait=0.05, num_server_rounds=1, baselines="")


class SlowGrid(InProcessGrid):
    """A grid on which a reply is there only some seconds after the client has made it.

    Parameters
    ----------
    delays : client -> seconds; the others reply at once
    """

    def __init__(self, *arguments, delays, **options):
        super().__init__(*arguments, **options)
        self.delays = {100 + client: seconds for client, seconds in delays.items()}
        self.ready = {}

    def answer(self, message):
        reply = super().answer(message)
        delay = self.delays.get(message.metadata.dst_node_id, 0.0)
        self.ready[message.metadata.message_id] = time.monotonic() + delay
        return reply

    def pull_messages(self, message_ids):
        now = time.monotonic()
        return super().pull_messages([i for i in message_ids if self.ready[i] <= now])


@pytest.fixture(autouse=True, scope="module")
def _data_are_loaded():
    """Loading takes longer than these runs wait."""
    wait_for_clients(InProcessGrid(make_app(CONFIG.dump()), 3), CONFIG)


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch):
    monkeypatch.setattr("pfl_flower.server.discovery._POLL", 0.001)


def slow_grid(delays, clients=3, broken=()):
    grid = SlowGrid(make_app(CONFIG.dump()), clients, delays=delays)
    for client in broken:
        grid.contexts[100 + client].node_config["partition-id"] = 9
    return grid


def test_a_run_waits_on_while_every_client_is_starting():
    grid = slow_grid({0: 4 * CONFIG.wait, 1: NEVER, 2: NEVER})
    start = time.monotonic()
    assert wait_for_clients(grid, CONFIG).clients == {100: 0}
    assert time.monotonic() - start > 4 * CONFIG.wait


def test_a_run_does_not_wait_on_for_others_once_one_client_can_work():
    start = time.monotonic()
    assert wait_for_clients(slow_grid({1: NEVER, 2: NEVER}), CONFIG).clients == {100: 0}
    assert time.monotonic() - start < STARTING * CONFIG.wait


@pytest.mark.parametrize("wait", [0.0, 0.02])
def test_the_error_names_those_who_did_not_answer_and_the_key(wait):
    grid = slow_grid({0: NEVER, 1: NEVER, 2: NEVER})
    with pytest.raises(FederationError) as caught:
        wait_for_clients(grid, replace(CONFIG, wait=wait))
    assert caught.value.nodes == (100, 101, 102)
    assert (caught.value.key, caught.value.value) == ("wait", wait)
    assert caught.value.reason == ""


def test_the_error_says_why_the_others_cannot_start():
    grid = slow_grid({1: NEVER, 2: NEVER}, broken=[0])
    with pytest.raises(FederationError) as caught:
        wait_for_clients(grid, CONFIG)
    assert caught.value.nodes == (101, 102)
    assert "partition-id 9" in caught.value.reason


def test_a_broken_node_does_not_end_a_run_whose_other_clients_are_starting():
    grid = slow_grid({1: 3 * CONFIG.wait, 2: 3 * CONFIG.wait}, broken=[0])
    found = wait_for_clients(grid, CONFIG)
    assert set(found.clients) <= {101, 102}
    assert found.clients
    assert found.failures.keys() == {100}


def test_a_run_in_which_nobody_answers_ends_with_that_error():
    with pytest.raises(FederationError) as caught:
        list(play(slow_grid({0: NEVER, 1: NEVER, 2: NEVER}), CONFIG))
    assert caught.value.key == "wait"


def test_the_error_names_the_key_where_no_node_connects():
    grid = slow_grid({})
    grid.contexts.clear()
    with pytest.raises(FederationError) as caught:
        wait_for_clients(grid, CONFIG)
    assert (caught.value.key, caught.value.value, caught.value.nodes) == ("wait", 0.05, ())


def test_the_error_has_the_nodes_and_the_commonest_reason_where_no_client_can_start():
    with pytest.raises(FederationError) as caught:
        wait_for_clients(slow_grid({}, broken=[0, 1, 2]), CONFIG)
    assert caught.value.nodes == (100, 101, 102)
    assert "partition-id 9" in caught.value.reason


ODD = {
    "no properties": lambda content: content.pop("properties"),
    "no number": lambda content: content["properties"].pop("partition-id"),
    "a negative number": lambda content: content["properties"].update({"partition-id": -1}),
    "a number in words": lambda content: content["properties"].update({"partition-id": "1"}),
    "no schema": lambda content: content["properties"].pop("client-schema"),
    "no JSON": lambda content: content["properties"].update({"client-schema": "{"}),
    "other JSON": lambda content: content["properties"].update({"client-schema": "[]"}),
}


class OddGrid(InProcessGrid):
    """A grid whose node 101 answers in another way."""

    odd = staticmethod(lambda content: None)

    def answer(self, message):
        reply = super().answer(message)
        if message.metadata.dst_node_id == 101:
            self.odd(reply.content)
        return reply


@pytest.mark.parametrize("kind", ODD)
def test_an_answer_that_cannot_be_read_leaves_out_its_node_and_no_other(kind):
    grid = OddGrid(make_app(CONFIG.dump()), 3)
    grid.odd = ODD[kind]
    found = wait_for_clients(grid, CONFIG)
    assert dict(found.clients) == {100: 0, 102: 2}
    assert list(found.schemas) == [0, 2]
    assert list(found.failures) == [101]


class SuperNodeGrid(InProcessGrid):
    """A grid that writes errors as a SuperNode does, which begins them with the class."""

    def answer(self, message):
        reply = super().answer(message)
        if not reply.has_error():
            return reply
        kind, _, text = reply.error.reason.partition(": ")
        reason = f"<class 'pfl_flower.data.errors.{kind}'>:<'{text}'>"
        return Message(Error(reply.error.code, reason), reply_to=message)


def test_the_reason_is_in_words_whoever_writes_it(tmp_path):
    config = replace(CONFIG, dataset=f"folder:{tmp_path}")
    found = []
    for kind in (InProcessGrid, SuperNodeGrid):
        with pytest.raises(FederationError) as caught:
            wait_for_clients(kind(make_app(config.dump()), 2), config)
        found.append(caught.value.reason)
    assert found[0] == found[1]
    assert found[0].startswith(("client 0: folder ", "client 1: folder "))
