"""What is a client's own, where only some clients take part in each round (incomplete blocks)."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strategies.clustered.similarity_clustering import Floats

_SMALLEST = 1e-8
"""Singular values below this part of the largest count as zero."""


class Blocks:
    """With whom clients took part in rounds, so that this can be taken out of sums over rounds.

    A round is a *block* of the design of an experiment, the clients that take part are its
    treatments. A client tells ``a_i + b_t``: what is its own, and what is common to the round. The
    sum of what it tells less the mean of the round is free of ``b_t``, but not of the others that
    it happened to meet: ``q = W a``, where ``W`` counts with whom it took part. Solving for ``a``
    is the intra-block analysis of Yates 1936 (least squares with a free effect of every round).
    Where everybody takes part in each round, ``a`` is ``q`` but for the scale.
    """

    def __init__(self) -> None:
        self.met: list[int] = []
        """Clients in the order in which they were met; columns of the rows."""
        self.rows: dict[int, Floats] = {}
        """Client -> its row of W, as long as those were that had been met."""

    def add(self, client: int, together: Collection[int], memory: float) -> None:
        """Note that a client took part in a round with others.

        Parameters
        ----------
        client : int
            Number.
        together : collection of int
            All clients of the round, itself too.
        memory : float
            Part of what was before that is kept, as in its sum.
        """
        known = set(self.met)
        self.met += [other for other in sorted(together) if other not in known]
        taking_part = np.isin(self.met, list(together)).astype(np.float64)
        row = -taking_part / len(together)
        row[self.met.index(client)] += 1.0
        before = self.rows.get(client, np.zeros(0))
        row[: len(before)] += memory * before
        self.rows[client] = row

    def solve(self, sums: Mapping[int, NDArray[Any]], clients: Sequence[int]) -> Floats:
        """Return what is clients' own, from sums of what they told less the means of rounds.

        Parameters
        ----------
        sums : mapping of int to ndarray
            Client -> ``(p,)``, of everybody that was noted.
        clients : sequence of int
            Those asked for.

        Returns
        -------
        ndarray
            ``(n, p)``, which of all clients add up to zero (the least-squares solution of least
            norm).
        """
        told = [client for client in self.met if client in self.rows]
        design = np.zeros((len(told), len(self.met)))
        for place, client in enumerate(told):
            design[place, : len(self.rows[client])] = self.rows[client]
        inverse = np.linalg.pinv(design, rcond=_SMALLEST)
        places = [self.met.index(client) for client in clients]
        own = inverse[places] @ np.stack([sums[client] for client in told])
        asked = np.stack([sums[client] for client in clients])
        return np.where(own.any(axis=1, keepdims=True), own, asked)  # so that it has a direction

    def state_arrays(self) -> dict[str, NDArray[Any]]:
        """Return what is known, for a checkpoint."""
        rows = {str(client): row for client, row in self.rows.items()}
        return {"met": np.array(self.met, dtype=np.uint64)} | rows  # a node id needs 64 bits

    def load_state_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over what :meth:`state_arrays` returned."""
        rows = dict(arrays)
        self.met = rows.pop("met", np.zeros(0, dtype=np.uint64)).tolist()
        self.rows = {int(client): row for client, row in rows.items()}
