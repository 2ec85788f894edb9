"""What is kept of every client asked, in every phase: metrics, traffic, why a reply was dropped."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from logging import INFO, WARNING
from typing import Any

from flwr.common.logger import log

from strategies.arrays import num_bytes
from strategies.replies import Phase, Reply
from strategies.rounds import Round

__all__ = ["ClientReport"]


@dataclass(frozen=True)
class ClientReport:
    """A client's metrics and traffic in one phase of one round.

    Attributes
    ----------
    round : int
        From 1.
    phase : str
        ``"train"`` or ``"evaluate"``.
    node_id : int
        Flower's id of the node.
    client : int
        The client's number: its ``partition-id``, or the node id if it sent none.
    metrics : mapping of str to float
        The scalars the client reported.
    bytes_down, bytes_up : int
        Payload bytes of the arrays sent to it and received from it.
    dropped : str, default ""
        Why the reply was not used; empty if it was used.
    lists : mapping of str to sequence of int or sequence of float, default {}
        The lists of numbers that the client reported.
    """

    round: int
    phase: Phase
    node_id: int
    client: int
    metrics: Mapping[str, float]
    bytes_down: int
    bytes_up: int
    dropped: str = ""
    lists: Mapping[str, Sequence[int] | Sequence[float]] = field(default_factory=dict)


def reports_of(
    current: Round,
    replies: Sequence[Reply],
    reasons: Mapping[str, str],
    client_of: Callable[[int], int],
    fields: Callable[[int], dict[str, float]],
) -> list[ClientReport]:
    """Return a report of every reply, and of every node that was asked and did not reply.

    Why a reply is not used is logged.

    Parameters
    ----------
    current : Round
        The phase, with what was asked.
    replies : sequence of Reply
        All replies, those that are dropped included.
    reasons : mapping of str to str
        Id of a message without a reply -> why, where that is known.
    client_of : callable
        Node id -> the client's number.
    fields : callable
        Client -> what is reported of it beside its metrics.
    """
    used = sum(not reply.unused for reply in replies)
    log(INFO, "aggregate_%s: %d replies used, %d dropped", current.phase, used, len(replies) - used)
    reports = [
        ClientReport(
            **_place(current, reply.node_id, reply.client, reply.unused),
            metrics=reply.scalars | fields(reply.client),
            bytes_up=num_bytes(reply.arrays),
            lists=reply.lists,
        )
        for reply in replies
    ]
    present = {reply.node_id for reply in replies}
    for asked in current.asked:
        if (node := asked.dst_node_id) not in present:
            why = reasons.get(asked.message_id)
            dropped = f"no reply: {why}" if why else "no reply in time"
            place = _place(current, node, client_of(node), dropped)
            reports.append(ClientReport(**place, metrics={}, bytes_up=0))
    for report in reports:
        if report.dropped:
            words = (report.round, report.phase, report.node_id, report.client, report.dropped)
            log(WARNING, "Round %d, %s: node %d (client %d): %s", *words)
    return reports


def _place(current: Round, node: int, client: int, dropped: str) -> dict[str, Any]:
    """Return the fields of a report that say whose it is, and of when."""
    return {
        "round": current.number,
        "phase": current.phase,
        "node_id": node,
        "client": client,
        "bytes_down": current.bytes_down.get(node, 0),
        "dropped": dropped,
    }
