"""No malformed reply costs anybody else a bit, whatever the strategy."""

import inspect

import pytest
from flwr.app import Message

import strategies
from tests.helpers import request
from tests.strategies.malformed import (
    BAD,
    CLIENTS,
    CONSTRUCTIONS,
    COUNTERS,
    MALFORMED,
    Construction,
    Outcome,
    good,
    play,
)

HONEST = [client for client in range(CLIENTS) if client != BAD]


def honest(construction: Construction) -> list[Message]:
    return [good(construction, client) for client in HONEST]


@pytest.fixture(scope="module")
def without() -> dict[str, Outcome]:
    """What the honest clients come to by themselves."""
    return {name: play(each, honest(each)) for name, each in CONSTRUCTIONS.items()}


def assert_costs_nobody_a_bit(found: Outcome, expected: Outcome) -> None:
    assert found.arrays == expected.arrays
    assert found.metrics == expected.metrics
    assert found.state == expected.state
    assert found.used == expected.used
    assert list(found.dropped) == [100 + BAD]
    assert found.dropped[100 + BAD] != expected.dropped[100 + BAD]  # "no reply in time"


def test_every_strategy_has_a_construction():
    kinds = {
        kind
        for kind in (getattr(strategies, name) for name in strategies.__all__)
        if inspect.isclass(kind) and issubclass(kind, strategies.ClientStrategy)
    }
    built = {type(construction.make()) for construction in CONSTRUCTIONS.values()}
    assert built == kinds - {strategies.ClientStrategy}


@pytest.mark.parametrize("kind", MALFORMED)
@pytest.mark.parametrize("name", CONSTRUCTIONS)
def test_a_malformed_reply_is_dropped_and_costs_nobody_a_bit(name, kind, without):
    construction = CONSTRUCTIONS[name]
    replies = [MALFORMED[kind](construction), *honest(construction)]
    assert_costs_nobody_a_bit(play(construction, replies), without[name])


@pytest.mark.parametrize("kind", COUNTERS)
@pytest.mark.parametrize("name", [n for n, c in CONSTRUCTIONS.items() if "n" in c.sent])
def test_a_counter_beyond_all_bounds_is_dropped(name, kind, without):
    construction = CONSTRUCTIONS[name]
    replies = [COUNTERS[kind](construction), *honest(construction)]
    assert_costs_nobody_a_bit(play(construction, replies), without[name])


@pytest.mark.parametrize("name", CONSTRUCTIONS)
def test_a_reply_that_is_delivered_twice_counts_once(name):
    construction = CONSTRUCTIONS[name]
    replies = [good(construction, client) for client in range(CLIENTS)]
    once, twice = play(construction, replies), play(construction, [*replies, replies[2]])
    assert (twice.arrays, twice.metrics) == (once.arrays, once.metrics)
    assert (twice.state, twice.used) == (once.state, once.used)
    assert list(twice.dropped) == [102]


@pytest.mark.parametrize("name", CONSTRUCTIONS)
def test_a_node_that_was_not_asked_is_not_heard(name, without):
    construction = CONSTRUCTIONS[name]
    content = good(construction, BAD, partition_id=99).content
    stranger = Message(content, reply_to=request(999))
    found = play(construction, [stranger, *honest(construction)])
    assert found.arrays == without[name].arrays
    assert found.state == without[name].state
    assert set(found.dropped) == {100 + BAD, 999}
