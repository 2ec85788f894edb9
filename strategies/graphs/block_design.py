"""Incomplete block design: individual effects of clients if only some take part in each round."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strategies.clustered.gradient_similarity import Floats

_SMALLEST = 1e-8
"""Singular values below this part of the largest count as zero."""


class Blocks:
    """Intra-block analysis (Yates 1936): separate clients' effects from those of rounds.

    A round is a *block* of an experimental design, and the clients that take part are its
    treatments. In round t, client i reports ``a_i + b_t``: its individual effect and an effect
    common to the round. The sum over rounds of its report less the mean of the round does not
    depend on ``b_t``, but on the other clients of its rounds: ``q = W a``, where ``W`` counts joint
    rounds. Solving for ``a`` is least squares with a free effect for every round. If all clients
    take part in every round, ``a`` equals ``q`` up to the scale.
    """

    def __init__(self) -> None:
        self.met: list[int] = []
        """All clients seen so far, in order of appearance: the columns of ``rows``."""
        self.rows: dict[int, Floats] = {}
        """Client -> its row of W; trailing zeros are left out."""

    def add(self, client: int, together: Collection[int], memory: float) -> None:
        """Record that a client took part in a round.

        Parameters
        ----------
        client : int
            Number of the client.
        together : collection of int
            All clients of the round, including this one.
        memory : float
            Factor by which its earlier rounds count, as in its sum.
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
        """Return the individual effects of clients.

        Parameters
        ----------
        sums : mapping of int to ndarray
            Client -> sum ``(p,)`` of its reports less the means of rounds, for all recorded
            clients.
        clients : sequence of int
            The n clients to return.

        Returns
        -------
        ndarray
            Effects ``(n, p)``: the least-squares solution of least norm, in which the effects of
            all clients add up to zero.
        """
        known = [client for client in self.met if client in self.rows]
        design = np.zeros((len(known), len(self.met)))
        for place, client in enumerate(known):
            design[place, : len(self.rows[client])] = self.rows[client]
        inverse = np.linalg.pinv(design, rcond=_SMALLEST)
        places = [self.met.index(client) for client in clients]
        own = inverse[places] @ np.stack([sums[client] for client in known])
        asked = np.stack([sums[client] for client in clients])
        return np.where(own.any(axis=1, keepdims=True), own, asked)  # so that it has a direction

    def state_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the design as arrays, for a checkpoint."""
        rows = {str(client): row for client, row in self.rows.items()}
        return {"met": np.array(self.met, dtype=np.uint64)} | rows  # a node id needs 64 bits

    def load_state_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore the design from :meth:`state_arrays`."""
        rows = dict(arrays)
        self.met = rows.pop("met", np.zeros(0, dtype=np.uint64)).tolist()
        self.rows = {int(client): row for client, row in rows.items()}
