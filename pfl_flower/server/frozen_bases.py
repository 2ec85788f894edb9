"""The base of a run, and who has another one than the server, or than a run to be resumed had."""

import json
from collections.abc import Mapping
from dataclasses import replace
from logging import WARNING
from typing import Any

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid
from numpy.typing import NDArray

from clients import base_fingerprint
from clients.frozen import base_digests
from pfl_flower.config.run_config import RunConfig
from pfl_flower.frozen_base import base_entries, base_of
from pfl_flower.sent_bases import hold_base
from pfl_flower.server.discovery import FederationError, after_kind
from pfl_flower.server.initial_arrays import given_base
from strategies.protocol import CONFIG, DATA_SCHEMA, FROZEN_BASE, PROPERTIES
from strategies.replies import failure_of

_MOST_NAMED = 3
"""How many of the entries that differ are named."""


def with_base(config: RunConfig) -> RunConfig:
    """Return a config in whose schema the fingerprint of the frozen base is, where there is one.

    Where the file of first arrays (``initial``) has frozen entries, these are the base, which
    clients with another one are sent.

    Parameters
    ----------
    config : RunConfig
        Of the run, with the schema of the data.

    Raises
    ------
    FederationError
        If that file cannot be read, or its frozen entries do not fit.
    """
    made = base_entries(config)
    if not made:
        return config
    given = given_base(config, made)
    whole = {name: given.get(name, values) for name, values in made.items()}
    digests = base_digests(whole, whole)
    base = base_fingerprint(digests)
    if given:
        hold_base(base, whole)
    schema = replace(config.required_schema, base=base, sends_base=bool(given))
    found = config.with_schema(schema)
    found.once("base", lambda: digests)  # not to be hashed again
    return found


def given_base_of(config: RunConfig) -> Mapping[str, NDArray[Any]]:
    """Return the frozen base of a run, if its file of first arrays gave it; empty otherwise.

    Parameters
    ----------
    config : RunConfig
        Of the run, as :func:`with_base` returns it.
    """
    if not config.required_schema.sends_base:
        return {}
    return {name: tensor.numpy() for name, tensor in base_entries(config).items()}


def other_bases(grid: Grid, config: RunConfig, clients: Mapping[int, int]) -> dict[int, str]:
    """Return client -> in what its frozen base differs, or why it has none.

    Where the server has a base to send, clients that miss it get it on the way to their answer
    (:mod:`pfl_flower.server.base_delivery`). One that does not answer is not among them: it refuses
    by itself when it comes (:func:`pfl_flower.client.frozen_base.check_base`). Nobody is asked
    where nothing is frozen.

    Parameters
    ----------
    grid : Grid
        To ask.
    config : RunConfig
        Of the run, with the schema of the data and of the base (:func:`with_base`).
    clients : mapping of int to int
        Node id -> client, of those to ask.
    """
    expected = base_of(config)
    if not expected:
        return {}
    schema = config.required_schema.to_json()
    question = RecordDict({CONFIG: ConfigRecord({PROPERTIES: FROZEN_BASE, DATA_SCHEMA: schema})})
    messages = [Message(question, node, MessageType.QUERY) for node in sorted(clients)]
    found: dict[int, str] = {}
    for reply in grid.send_and_receive(messages, timeout=config.timeout):
        node = reply.metadata.src_node_id
        if node in clients and (words := _in_words(reply, expected)):
            found[clients[node]] = words
            log(WARNING, "Node %d (client %d) cannot take part: %s", node, clients[node], words)
    return dict(sorted(found.items()))


def _in_words(reply: Message, expected: Mapping[str, str]) -> str:
    """Return what is wrong with a reply; empty if the base is that which is expected."""
    if reply.has_error():
        return f"it has no base to work with: {after_kind(failure_of(reply))}"
    try:
        digests = json.loads(str(reply.content.config_records[PROPERTIES][FROZEN_BASE]))
        differing = base_difference(expected, digests)
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # JSON from the wire
        return f"its answer cannot be read: {type(error).__name__}: {error}"
    return differing and f"its frozen base is not the server's: {differing}"


def base_difference(expected: Mapping[str, str], found: Mapping[str, Any]) -> str:
    """Return in words how digests of a base differ; empty if they do not.

    Parameters
    ----------
    expected, found : mapping
        Entry -> digest, as :func:`clients.frozen.base_digests` returns them.
    """
    words = [f"{name!r} is not frozen or not there" for name in expected if name not in found]
    words += [f"{name!r} is frozen, too" for name in found if name not in expected]
    for name in expected:
        if name in found and found[name] != expected[name]:
            kind, wanted = (str(each[name]).rpartition(" ")[0] for each in (found, expected))
            how = "has other values" if kind == wanted else f"is {kind}, not {wanted}"
            words.append(f"{name!r} {how}")
    more = len(words) - _MOST_NAMED
    return "; ".join(words[:_MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")


def other_schema(there: str, here: str, folder: str) -> FederationError:
    """Return the error for a run to be resumed whose data, or whose base alone, are other ones.

    Parameters
    ----------
    there, here : str
        The schema of then and of now, as JSON.
    folder : str
        Of the run.
    """
    was, now = json.loads(there), json.loads(here)
    key, value = "schema", here
    reason = f"the clients' data are not what they were. They were {there} and are {here}"
    no_base = {"base": "", "sends_base": False}
    if was | no_base == now | no_base:
        key, value = "base", now["base"]
        reason = (
            f"the frozen base of the network is not what it was. Its fingerprint was "
            f"{was.get('base') or 'none'} and is {value or 'none'}; give the network, or initial, "
            f"the file that it had"
        )
    words = f"{folder} cannot be resumed: {reason}"
    return FederationError(words, key=key, value=value, reason=reason)
