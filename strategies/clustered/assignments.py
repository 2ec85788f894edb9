"""Cluster assignments: which client is in which group, since when and why."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
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


def client_numbers(clients: Iterable[int]) -> NDArray[np.uint64]:
    """Return clients' numbers as an array; a node's id needs 64 bits without a sign."""
    return np.array(list(clients), dtype=np.uint64)


def assignment_arrays(assignments: Sequence[Assignment]) -> dict[str, NDArray[Any]]:
    """Return assignments as arrays, for a checkpoint."""
    reasons = "\n".join(a.reason for a in assignments).encode()
    return {
        "rounds": np.array([a.round for a in assignments], dtype=np.int64),
        "clients": client_numbers(a.client for a in assignments),
        "groups": np.array([a.group for a in assignments], dtype=np.int64),
        "scores": np.array([a.score for a in assignments], dtype=np.float64),
        "reasons": np.frombuffer(reasons, dtype=np.uint8),
    }


def assignments_of(arrays: Mapping[str, NDArray[Any]]) -> list[Assignment]:
    """Return the assignments that :func:`assignment_arrays` wrote."""
    reasons = arrays["reasons"].tobytes().decode().split("\n")
    columns = (arrays[name].tolist() for name in ("rounds", "clients", "groups", "scores"))
    return [Assignment(*row) for row in zip(*columns, reasons, strict=False)]
