"""Who is in which group, and how it came to that."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from flwr.app import ArrayRecord
from numpy.typing import NDArray

NO_GROUP = -1
"""Number of the group of a client that is in none."""


class Placement(NamedTuple):
    """A client was put in a group.

    Attributes
    ----------
    round : int
        Before which it was (1 for the start of the run).
    client, group : int
        Their numbers; :data:`NO_GROUP` for none.
    score : float
        How well it fits: what it means depends on the strategy; NaN where there is no measure.
    reason : str
        In words.
    """

    round: int
    client: int
    group: int
    score: float
    reason: str


@dataclass(frozen=True)
class Grouping:
    """Who is in which group, and how it came to that.

    Attributes
    ----------
    groups : mapping of int to int
        Client -> group, :data:`NO_GROUP` for none.
    placements : sequence of Placement
        Every change, in order.
    models : mapping of int to ArrayRecord
        Group -> final arrays of scope ``group``.
    clients, similarity, examples : sequence of int, default ()
        What groups were found by, if by similarities: the clients in the order of the ``(n, n)``
        cosine similarities, and their numbers of examples.
    bytes_down, bytes_up : int, default 0
        Payload bytes that finding the groups took, of all clients together.
    """

    groups: Mapping[int, int]
    placements: Sequence[Placement]
    models: Mapping[int, ArrayRecord]
    clients: Sequence[int] = ()
    similarity: NDArray[Any] | None = None
    examples: Sequence[int] = ()
    bytes_down: int = 0
    bytes_up: int = 0
