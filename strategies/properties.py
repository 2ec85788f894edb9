"""Questions to clients about themselves."""

from collections.abc import Mapping, Sequence
from logging import WARNING
from typing import Any

from flwr.app import ConfigRecord, MessageType, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid

from strategies.client_registry import MakeMessages
from strategies.protocol import PROPERTIES, SERVER_ROUND


def ask_properties(
    grid: Grid,
    make: MakeMessages,
    nodes: Sequence[int],
    names: str,
    *,
    config: Mapping[str, Any],
    config_key: str,
    server_round: int,
    timeout: float,
) -> dict[int, Mapping[str, Any]]:
    """Ask nodes for properties; return node id -> answer, of those that gave one.

    The others are logged with the reason, and may be asked again.

    Parameters
    ----------
    grid, make : to ask, and what makes the messages
    nodes : ids of the nodes
    names : of the properties (a,b,c)
    config, config_key, server_round : of the message
    timeout : seconds to wait for answers
    """
    if not nodes:
        return {}
    asked = ConfigRecord({**config, PROPERTIES: names, SERVER_ROUND: server_round})
    messages = make(RecordDict({config_key: asked}), list(nodes), MessageType.QUERY)
    found: dict[int, Mapping[str, Any]] = {}
    for reply in grid.send_and_receive(messages, timeout=timeout):
        node = reply.metadata.src_node_id
        answer = reply.content.config_records.get(PROPERTIES) if reply.has_content() else None
        if answer:
            found[node] = answer
        else:
            reason = reply.error.reason if reply.has_error() else "no properties"
            log(WARNING, "Node %d does not tell its %s: %s", node, names, reason)
    return found
