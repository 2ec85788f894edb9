"""Communities found by what training does to the arrays of each client, round after round."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from logging import INFO
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord
from flwr.common.logger import log
from flwr.serverapp import Grid
from numpy.typing import NDArray

from strategies.arrays import as_part, part_of, project, view
from strategies.blocks import Blocks
from strategies.grouping import GroupAveraging
from strategies.placements import NO_GROUP, Grouping
from strategies.pulls import direction_of, find_communities, join, levels, misplaced
from strategies.replies import Reply
from strategies.tribes import Floats, Labels, agreements, cosine_similarities

_ENOUGH = 0.5
"""Part of the clients met so far of which enough must be known before communities are found."""


class UpdateClusters(GroupAveraging):
    """Find communities of clients while they train; average some arrays within each.

    Everybody is sent the same shared encoder, so what a client's training does to it tells what
    the client needs beyond the mean. Its *pull* in a round is the direction of its change, less
    the mean direction of everybody who took part. Pulls are summed over rounds, by which the noise
    of minibatches is averaged out. Clients whose pulls have a high cosine need the same.

    For ``warm_up`` rounds a client is in no community and has the mean over everybody. Once that
    is behind half of the clients, communities are found among those
    (:func:`strategies.pulls.find_communities`). Where none are evident everybody keeps the mean,
    and they are looked for again in each round. A client that comes later joins the community with
    whose members its pulls have the highest mean cosine, if that is nearer to what it is between
    members than to what it is across communities. Clients that agree with none but with each other
    become a new one, unless the number of communities was given.

    By these pulls a client was placed; they are kept. What it pulls towards afterwards is summed
    anew. Every ``revise_every`` rounds a client moves whose new pulls have a higher mean cosine
    with the pulls of another community than with those of its own (see
    :func:`strategies.pulls.misplaced`). Every placement is logged; its score is the mean cosine,
    or for a move by how much it was higher.

    A newcomer has trained nothing, so nothing is known of it: it is evaluated with the mean.

    Parameters
    ----------
    clusters : int (default: 0)
        Number of communities; 0 to find it.
    compared_names : collection of str, optional
        Arrays whose changes are compared. By default those parameters that are averaged over
        everybody, or those of groups where nothing is. Of group arrays the change is that from
        the mean over everybody.
    warm_up : int (default: 5)
        Rounds that a client takes part in before it is put in a community, or moved.
    revise_every : int (default: 2)
        Rounds between revisions; 0 for none.
    margin : float, at least 0 (default: 0.5)
        By how much the cosine must be higher for a move, in units of the difference between what
        it was between members and across communities when they were placed.
    memory : float in (0, 1] (default: 0.95)
        Part of the sum of pulls that is kept from one round of a client to its next.
    projection_size : int (default: 8192)
        Length of the random projection of pulls, of which two are kept of a client; 0 for all.
    others : as in :class:`GroupAveraging`

    Raises
    ------
    ValueError
        If an argument is out of range; in round 1, if there are fewer clients than communities,
        or arrays to compare that are not there.
    """

    finds_groups = True

    def __init__(
        self,
        *args: Any,
        clusters: int = 0,
        compared_names: Collection[str] | None = None,
        warm_up: int = 5,
        revise_every: int = 2,
        margin: float = 0.5,
        memory: float = 0.95,
        projection_size: int = 8192,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if isinstance(compared_names, str):
            raise ValueError(f"compared_names must be several, got the text {compared_names!r}")
        for name, value, least in (
            ("clusters", clusters, 0),
            ("warm_up", warm_up, 1),
            ("revise_every", revise_every, 0),
            ("projection_size", projection_size, 0),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if not margin >= 0.0:
            raise ValueError(f"margin must be at least 0, got {margin}")
        if not 0.0 < memory <= 1.0:
            raise ValueError(f"memory must be above 0 and at most 1, got {memory}")
        self.clusters = clusters
        self.compared_names = frozenset(compared_names or ())
        self.warm_up = warm_up
        self.revise_every = revise_every
        self.margin = margin
        self.memory = memory
        self.projection_size = projection_size
        self.pulls: dict[int, NDArray[np.float32]] = {}
        """Client -> the sum of its pulls until it was placed, projected."""
        self.recent: dict[int, NDArray[np.float32]] = {}
        """Client in a community -> the sum of its pulls since it was put there, projected."""
        self.blocks = Blocks()
        """With whom clients took part while their pulls were summed."""
        self.rounds: dict[int, int] = {}
        """Client -> the number of rounds that it has told a pull in, where it is."""

    def summary(self) -> None:
        """Log what this strategy averages and how."""
        super().summary()
        number = self.clusters or "found"
        log(INFO, "\t└──> Communities by pulls: %s, after %d rounds", number, self.warm_up)
        log(INFO, "\t\t└── Revised every %d rounds, margin %g", self.revise_every, self.margin)

    @property
    def grouping(self) -> Grouping:
        """Who is in which group, and how it came to that."""
        clients = [client for client in sorted(self.pulls) if self.pulls[client].any()]
        if not clients:
            return super().grouping
        similarity = self._similarity(clients)
        return replace(super().grouping, clients=clients, similarity=similarity)

    def state_arrays(self) -> dict[str, NDArray[Any]]:
        """Return what the strategy carries from round to round, for a checkpoint."""
        pulls = {str(client): pull for client, pull in self.pulls.items()}
        recent = {str(client): pull for client, pull in self.recent.items()}
        rounds = {str(client): np.array(count) for client, count in self.rounds.items()}
        return (
            super().state_arrays()
            | as_part("pull", pulls)
            | as_part("recent-pull", recent)
            | as_part("pull-rounds", rounds)
            | as_part("pull-blocks", self.blocks.state_arrays())
        )

    def load_state_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over what :meth:`state_arrays` returned."""
        super().load_state_arrays(arrays)
        self.pulls = {int(c): pull for c, pull in part_of(arrays, "pull").items()}
        self.recent = {int(c): pull for c, pull in part_of(arrays, "recent-pull").items()}
        self.blocks.load_state_arrays(part_of(arrays, "pull-blocks"))
        self.rounds = {int(c): int(n) for c, n in part_of(arrays, "pull-rounds").items()}

    # ------------------------------------------------------------------ placing clients

    def place(
        self,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        grid: Grid,
        nodes: Sequence[int],
    ) -> None:
        """Put clients that were not met before in no community; they have told nothing yet."""
        for node in nodes:
            self.put(server_round, self.client_of(node), NO_GROUP, np.nan, "nothing is known yet")

    def arrange(
        self,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        grid: Grid,
        nodes: Sequence[int],
    ) -> None:
        """Find communities, let clients join them, and revise, before a round of training."""
        self._check(arrays, len(list(grid.get_node_ids())))
        self.place(server_round, arrays, config, grid, self.unplaced(grid, nodes))
        clients = self._known()
        if len(clients) < max(2, self.clusters, _ENOUGH * len(self.groups)):
            return
        similarity = self._similarity(clients)
        before = np.array([self.groups.get(c, NO_GROUP) for c in clients], dtype=np.int64)
        if (before == NO_GROUP).all():
            labels = find_communities(similarity, self.clusters, self.seed)
            self._put_all(server_round, clients, similarity, labels, "found by its pulls")
            return
        inside, across = levels(similarity, before)
        # a number is never used again, lest a new community inherits a model
        free = None if self.clusters else 1 + max(p.group for p in self.placements)
        labels = join(similarity, before, (inside + across) / 2, free)
        self._put_all(server_round, clients, similarity, labels, "joined by its pulls")
        if self.revise_every and (server_round - 1) % self.revise_every == 0:
            self._revise(server_round, clients, labels, self.margin * max(inside - across, 0.0))

    def _similarity(self, clients: Sequence[int]) -> Floats:
        """Return the cosines of what clients pulled towards until they were placed."""
        return cosine_similarities(list(self.blocks.solve(self.pulls, clients)))

    def _known(self) -> list[int]:
        """Return the clients that are placed, or of which enough is known for that."""
        told = [client for client in sorted(self.pulls) if self.pulls[client].any()]
        return [c for c in told if self._is_placed(c) or self.rounds[c] >= self.warm_up]

    def _is_placed(self, client: int) -> bool:
        return self.groups.get(client, NO_GROUP) != NO_GROUP

    def _revise(
        self, server_round: int, clients: Sequence[int], labels: Labels, margin: float
    ) -> None:
        """Move clients whose pulls since they were placed are those of another community."""
        moved = [c for c in clients if c in self.recent and self.recent[c].any()]
        ready = [clients.index(c) for c in moved if self.rounds[c] >= self.warm_up]
        if not ready:
            return
        after = [self.recent[clients[place]] for place in ready]
        found = cosine_similarities([self.pulls[c] for c in clients] + after)
        recent = np.zeros((len(clients), len(clients)))
        recent[ready] = found[len(clients) :, : len(clients)]
        for place, (group, gain) in misplaced(recent, labels, ready, margin).items():
            client = clients[place]
            words = (server_round, client, self.groups[client], group, gain)
            log(INFO, "Before round %d: client %d moves from community %d to %d (%.2f)", *words)
            self.put(server_round, client, group, gain, "is pulled to another community")

    def put(self, server_round: int, client: int, group: int, score: float, reason: str) -> None:
        """Put a client in a community, and note it; its pulls are counted anew there."""
        if group != NO_GROUP and self.groups.get(client) != group:
            self.recent.pop(client, None)
            self.rounds[client] = 0
        super().put(server_round, client, group, score, reason)

    def _check(self, arrays: ArrayRecord, there: int) -> None:
        if there < self.clusters:
            raise ValueError(
                f"clusters is {self.clusters}, but there are only {there} clients; use at "
                f"most {there}, or 0 to have the number found"
            )
        if unknown := sorted(self.compared_names - arrays.keys()):
            raise ValueError(f"compared_names has {unknown}, but the arrays are {list(arrays)}")

    def _put_all(
        self,
        server_round: int,
        clients: Sequence[int],
        similarity: Floats,
        labels: Labels,
        reason: str,
    ) -> None:
        scores = agreements(similarity, np.ones(len(clients)), labels)
        before = dict(self.groups)
        for place, client in enumerate(clients):
            group = int(labels[place])
            score = scores[place, group] if group != NO_GROUP else np.nan
            self.put(server_round, client, group, score, reason)
        if moved := sum(self.groups[client] != before.get(client) for client in clients):
            number = len(set(labels.tolist()) - {NO_GROUP})
            words = (server_round, number, moved, reason)
            log(INFO, "Before round %d: %d communities; %d clients: %s", *words)

    # ------------------------------------------------------------------ the way up

    def aggregate_arrays(self, replies: list[Reply]) -> ArrayRecord:
        """Return the means, as :class:`GroupAveraging` does; note what everybody pulls towards."""
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
            sums = self.recent if self._is_placed(client) else self.pulls
            before = sums.get(client, np.zeros_like(direction)).astype(np.float64)
            sums[client] = (self.memory * before + (direction - mean)).astype(np.float32)
            if sums is self.pulls:
                self.blocks.add(client, directions, self.memory)
            self.rounds[client] = self.rounds.get(client, 0) + 1
        return arrays

    def _direction(self, reply: Reply) -> NDArray[np.float32] | None:
        """Return the direction of a reply's change, projected; None if it changed nothing."""
        sent: Mapping[str, Array] = self._sent or {}
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
