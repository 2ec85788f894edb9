"""Cluster assignments: which client is in which group, since when and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from flwr.app import ArrayRecord
from numpy.typing import NDArray

__all__ = ["NO_GROUP", "Assignment", "Grouping"]

NO_GROUP = -1
"""Number of the group of a client that is in none."""


class Assignment(NamedTuple):
    """A client was assigned to a group.

    Attributes
    ----------
    round : int
        The assignment happened before this round (1 for the start of the run).
    client, group : int
        Numbers of the client and of the group; :data:`NO_GROUP` for none.
    score : float
        How well the client fits. The meaning depends on the strategy; NaN if there is no measure.
    reason : str
        Why the client was assigned.
    """

    round: int
    client: int
    group: int
    score: float
    reason: str


@dataclass(frozen=True)
class Grouping:
    """The groups of a run, and how they were found.

    Attributes
    ----------
    groups : mapping of int to int
        Client -> group; :data:`NO_GROUP` for none.
    assignments : sequence of Assignment
        All assignments in order; the last one of a client counts.
    models : mapping of int to ArrayRecord
        Group -> final arrays of scope ``group``.
    clients, similarity, examples : optional
        For methods that find groups by similarity: the clients in the order of the rows, their
        cosine similarities ``(n, n)``, and their numbers of examples.
    bytes_down, bytes_up : int, default 0
        Payload bytes that finding the groups took, summed over all clients.
    """

    groups: Mapping[int, int]
    assignments: Sequence[Assignment]
    models: Mapping[int, ArrayRecord]
    clients: Sequence[int] = ()
    similarity: NDArray[Any] | None = None
    examples: Sequence[int] = ()
    bytes_down: int = 0
    bytes_up: int = 0
