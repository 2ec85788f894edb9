"""Communities found by what training does to the arrays of each client, round after round."""

from collections.abc import Sequence
from logging import INFO, WARNING
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from flwr.common.logger import log

from strategies.clustered.assignments import NO_GROUP
from strategies.clustered.gradient_similarity import Floats, Labels, agreements, cosine_similarities
from strategies.errors import ArgumentError
from strategies.graphs.community_detection import (
    assign_to_communities,
    find_communities,
    reassignments,
)
from strategies.graphs.community_evidence import levels
from strategies.graphs.update_directions import UpdateDirections
from strategies.rounds import Round

__all__ = ["UpdateClusters"]

_ENOUGH = 0.5
"""Part of the clients met so far of which enough must be known before communities are found."""


class UpdateClusters(UpdateDirections):
    """Find communities of clients while they train; average some arrays within each.

    Everybody is sent the same shared encoder, so what a client's training does to it shows what
    the client needs beyond the mean. Its *update direction* in a round is the direction of its
    change, less the mean direction of everybody who took part. Directions are summed over rounds,
    by which the noise of minibatches is averaged out. Clients whose update directions have a high
    cosine are put in one community.

    In its first ``warm_up`` rounds a client is in no community and gets the mean over everybody.
    Communities are looked for as soon as half of the clients have trained that often, among these
    clients (:func:`strategies.graphs.community_detection.find_communities`). If none are
    evident, everybody keeps the mean, and the next round looks again. A client that gets there
    later is compared with each community by the mean cosine of its update direction with those of
    the members. It joins the community with the highest one, if this mean is nearer to the mean
    cosine of two members of one community than to that of two clients of different ones. Clients
    that fit no community but fit each other become a new one, unless ``clusters`` was given.

    The directions by which a client was assigned are kept, and sums of new ones begin. Every
    ``revise_every`` rounds a client moves to another community if its new directions have a higher
    mean cosine with those of that community than with those of its own
    (:func:`strategies.graphs.community_detection.reassignments`). Every assignment is logged.
    Its score is the mean cosine, or for a move the difference of the two.

    An unseen client has trained nothing, so nothing is known of it: it is evaluated with the mean.

    Parameters
    ----------
    clusters : int, default 0
        Number of communities; 0 to find it.
    warm_up : int, default 5
        Rounds that a client takes part in before it is put in a community, or moved.
    revise_every : int, default 2
        Rounds between revisions; 0 for none.
    margin : float, at least 0, default 0.5
        How much higher the mean cosine has to be for a move, as a fraction of the difference
        between the mean cosine within communities and that across, when they were found.
    others
        As in :class:`strategies.graphs.update_directions.UpdateDirections`, and
        :class:`GroupAveraging`.

    Raises
    ------
    ArgumentError
        If an argument is out of range; in round 1, if there are fewer clients than communities,
        or arrays to compare that are not there.
    """

    finds_groups = True

    def __init__(
        self,
        *args: Any,
        clusters: int = 0,
        warm_up: int = 5,
        revise_every: int = 2,
        margin: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        for name, value, least in (
            ("clusters", clusters, 0),
            ("warm_up", warm_up, 1),
            ("revise_every", revise_every, 0),
        ):
            if value < least:
                raise ArgumentError(name, value, f"at least {least}")
        if not margin >= 0.0:
            raise ArgumentError("margin", margin, "at least 0")
        self.clusters = clusters
        self.warm_up = warm_up
        self.revise_every = revise_every
        self.margin = margin

    def summary(self) -> None:
        """Log what this strategy averages and how."""
        super().summary()
        number = self.clusters or "found"
        words = "\t└──> Communities by update directions: %s, from round %d on; the mean before"
        log(INFO, words, number, self.warm_up + 1)
        log(INFO, "\t\t└── Revised every %d rounds, margin %g", self.revise_every, self.margin)

    # ------------------------------------------------------------------ placing clients

    def assign(self, current: Round, nodes: Sequence[int]) -> None:
        """Put clients that were not met before in no community; they have reported nothing yet."""
        for node in nodes:
            client = self.registry.client_of(node)
            self.assign_client(current.number, client, NO_GROUP, np.nan, "nothing is known yet")

    def arrange(self, current: Round) -> None:
        """Find communities, let clients join them, and revise, before a round of training."""
        assert current.grid is not None
        self._check(current.sent, len(list(current.grid.get_node_ids())))
        self.assign(current, self.unassigned(current.nodes))
        self._look(current.number)
        if current.number == self.warm_up + 1 and not any(map(self.is_assigned, self.groups)):
            words = (
                "Before round %d: no communities are evident (enough is known of %d of %d clients)"
            )
            words += "; everybody has the mean until there are"
            log(WARNING, words, current.number, len(self._known()), len(self.groups))

    def _look(self, server_round: int) -> None:
        """Find communities, let clients join them, and revise."""
        clients = self._known()
        if len(clients) < max(2, self.clusters, _ENOUGH * len(self.groups)):
            return
        before = np.array([self.groups.get(c, NO_GROUP) for c in clients], dtype=np.int64)
        if (before == NO_GROUP).all():
            self._find(server_round, clients)
            return
        due = self.revise_every and (server_round - 1) % self.revise_every == 0
        if not due and (before != NO_GROUP).all():
            return
        similarity = self.similarity(clients)
        inside, across = levels(similarity, before)
        # a number is never used again, lest a new community inherits a model
        free = None if self.clusters else 1 + max(p.group for p in self.assignments)
        labels = assign_to_communities(similarity, before, (inside + across) / 2, free)
        self._put_all(server_round, clients, similarity, labels, "joined by its update directions")
        if due:
            self._revise(server_round, clients, labels, self.margin * max(inside - across, 0.0))

    def _find(self, server_round: int, clients: Sequence[int]) -> None:
        """Put clients in the communities that are evident, if any are."""
        similarity = self.similarity(clients)
        labels = find_communities(similarity, self.clusters, self.seed)
        self._put_all(server_round, clients, similarity, labels, "found by its update directions")

    def _known(self) -> list[int]:
        """Return the clients that are assigned, or of which enough is known for that."""
        known = [client for client in sorted(self.directions) if self.directions[client].any()]
        return [c for c in known if self.is_assigned(c) or self.rounds[c] >= self.warm_up]

    def _revise(
        self, server_round: int, clients: Sequence[int], labels: Labels, margin: float
    ) -> None:
        """Move clients whose newer update directions are those of another community."""
        moved = [c for c in clients if c in self.recent and self.recent[c].any()]
        ready = [clients.index(c) for c in moved if self.rounds[c] >= self.warm_up]
        if not ready:
            return
        after = [self.recent[clients[place]] for place in ready]
        found = cosine_similarities([*self.blocks.solve(self.directions, clients), *after])
        recent = np.zeros((len(clients), len(clients)))
        recent[ready] = found[len(clients) :, : len(clients)]
        for place, (group, gain) in reassignments(recent, labels, ready, margin).items():
            client = clients[place]
            words = (server_round, client, self.groups[client], group, gain)
            log(INFO, "Before round %d: client %d moves from community %d to %d (%.2f)", *words)
            self.assign_client(server_round, client, group, gain, "goes with another community")

    def _check(self, arrays: ArrayRecord, there: int) -> None:
        if there < self.clusters:
            wanted = f"at most {there}, as there are no more clients, or 0 to be found"
            raise ArgumentError("clusters", self.clusters, wanted)
        self.check_names(arrays)

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
            self.assign_client(server_round, client, group, score, reason)
        if moved := sum(self.groups[client] != before.get(client) for client in clients):
            number = len(set(labels.tolist()) - {NO_GROUP})
            words = (server_round, number, moved, reason)
            log(INFO, "Before round %d: %d communities; %d clients: %s", *words)
