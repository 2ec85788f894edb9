"""Directions of clients' updates, summed over rounds: what communities are found by."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from numpy.typing import NDArray

from strategies.arrays import as_part, part_of, view
from strategies.clustered.assignments import NO_GROUP, Grouping
from strategies.clustered.gradient_similarity import Floats, cosine_similarities
from strategies.clustered.group_averaging import GroupAveraging
from strategies.clustered.projection import project
from strategies.errors import ArgumentError
from strategies.graphs.block_design import Blocks
from strategies.graphs.community_detection import direction_of
from strategies.replies import Reply


class UpdateDirections(GroupAveraging):
    """Sum the directions of each client's updates.

    A client's *update direction* in a round is the direction of its change, less the mean direction
    of everybody who took part. Directions are summed over rounds, by which the noise of minibatches
    is averaged out. Where only some clients take part, whom a client met is taken out of the sum
    (:class:`strategies.graphs.block_design.Blocks`). Once a client is put in a group its sum is
    kept, and what its updates point to afterwards is summed anew.

    Parameters
    ----------
    compared_names : collection of str, optional
        Arrays whose changes are compared. By default those parameters that are averaged over
        everybody, or those of groups where nothing is. Of group arrays the change is that from
        the mean over everybody.
    memory : float in (0, 1], default 0.95
        Part of the sum of update directions that is kept from one round of a client to its next.
    projection_size : int, default 8192
        Length of the random projection of directions, of which two are kept of a client; 0
        for all.
    others
        As in :class:`GroupAveraging`.

    Raises
    ------
    ArgumentError
        If an argument is out of range.
    """

    def __init__(
        self,
        *args: Any,
        compared_names: Collection[str] | None = None,
        memory: float = 0.95,
        projection_size: int = 8192,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if isinstance(compared_names, str):
            raise ArgumentError("compared_names", compared_names, "several names, no text")
        if projection_size < 0:
            raise ArgumentError("projection_size", projection_size, "at least 0")
        if not 0.0 < memory <= 1.0:
            raise ArgumentError("memory", memory, "above 0 and at most 1")
        self.compared_names = frozenset(compared_names or ())
        self.memory = memory
        self.projection_size = projection_size
        self.directions: dict[int, NDArray[np.float32]] = {}
        """Client -> the sum of its update directions until it was assigned, projected."""
        self.recent: dict[int, NDArray[np.float32]] = {}
        """Client in a community -> the sum of its update directions there, projected."""
        self.blocks = Blocks()
        """With whom clients took part while their update directions were summed."""
        self.rounds: dict[int, int] = {}
        """Client -> the number of rounds that it has sent an update in, where it is."""

    @property
    def grouping(self) -> Grouping:
        """Who is in which group, and how it came to that."""
        clients = [client for client in sorted(self.directions) if self.directions[client].any()]
        if not clients:
            return super().grouping
        similarity = self.similarity(clients)
        return replace(super().grouping, clients=clients, similarity=similarity)

    def similarity(self, clients: Sequence[int]) -> Floats:
        """Return the cosines of update directions until clients were assigned."""
        return cosine_similarities(list(self.blocks.solve(self.directions, clients)))

    def is_assigned(self, client: int) -> bool:
        """Tell whether a client is in a community."""
        return self.groups.get(client, NO_GROUP) != NO_GROUP

    def assign_client(
        self, server_round: int, client: int, group: int, score: float, reason: str
    ) -> None:
        """Put a client in a community, and note it; its directions are counted anew there."""
        if group != NO_GROUP and self.groups.get(client) != group:
            self.recent.pop(client, None)
            self.rounds[client] = 0
        super().assign_client(server_round, client, group, score, reason)

    def check_names(self, arrays: ArrayRecord) -> None:
        """Refuse a name of an array to compare that is not there."""
        if unknown := sorted(self.compared_names - arrays.keys()):
            raise ArgumentError("compared_names", unknown, f"among {list(arrays)}")

    def state_arrays(self) -> dict[str, NDArray[Any]]:
        """Return what the strategy carries from round to round, for a checkpoint."""
        directions = {str(client): direction for client, direction in self.directions.items()}
        recent = {str(client): direction for client, direction in self.recent.items()}
        rounds = {str(client): np.array(count) for client, count in self.rounds.items()}
        return (
            super().state_arrays()
            | as_part("direction", directions)
            | as_part("recent-direction", recent)
            | as_part("direction-rounds", rounds)
            | as_part("direction-blocks", self.blocks.state_arrays())
        )

    def load_state_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over what :meth:`state_arrays` returned."""
        super().load_state_arrays(arrays)
        self.directions = {
            int(c): direction for c, direction in part_of(arrays, "direction").items()
        }
        self.recent = {
            int(c): direction for c, direction in part_of(arrays, "recent-direction").items()
        }
        self.blocks.load_state_arrays(part_of(arrays, "direction-blocks"))
        self.rounds = {int(c): int(n) for c, n in part_of(arrays, "direction-rounds").items()}

    # ------------------------------------------------------------------ the way up

    def aggregate_arrays(self, replies: list[Reply]) -> ArrayRecord:
        """Return the means, as :class:`GroupAveraging` does; note the directions of updates."""
        arrays = super().aggregate_arrays(replies)
        directions: dict[int, NDArray[np.float32]] = {}
        for reply in replies:
            direction = None if reply.dropped else self._direction(reply)
            if direction is not None:
                directions[reply.client] = direction
        if len(directions) < 2:  # alone there is nothing to be compared with
            return arrays
        mean = np.mean(list(directions.values()), axis=0, dtype=np.float64)
        for client, direction in directions.items():
            sums = self.recent if self.is_assigned(client) else self.directions
            before = sums.get(client, np.zeros_like(direction)).astype(np.float64)
            sums[client] = (self.memory * before + (direction - mean)).astype(np.float32)
            if sums is self.directions:
                self.blocks.add(client, directions, self.memory)
            self.rounds[client] = self.rounds.get(client, 0) + 1
        return arrays

    def _direction(self, reply: Reply) -> NDArray[np.float32] | None:
        """Return the direction of a reply's change, projected; None if it changed nothing."""
        sent = self.round.sent
        parts = [
            (reply.views[name].astype(np.float64) - view(sent[name])).ravel()
            for name in self._compared(reply)
            if name in sent
        ]
        direction = direction_of(np.concatenate(parts) if parts else np.zeros(1))
        if direction is None:
            return None
        return project(direction, self.projection_size, self.seed).astype(np.float32)

    def _compared(self, reply: Reply) -> list[str]:
        """Return the names of the arrays whose changes are compared, in the order of the reply."""
        if self.compared_names:
            return [name for name in reply.views if name in self.compared_names]
        floats = [
            n for n, values in reply.views.items() if np.issubdtype(values.dtype, np.floating)
        ]
        names = [n for n in floats if n in self.parameter_names or not self.parameter_names]
        return [n for n in names if n not in self.group_names] or names
