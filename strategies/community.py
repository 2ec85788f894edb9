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
from strategies.grouping import GroupAveraging
from strategies.placements import NO_GROUP, Grouping
from strategies.replies import Reply
from strategies.tribes import (
    Floats,
    Labels,
    TribeRules,
    agglomerative,
    agreements,
    cosine_similarities,
    nearest,
    refine,
    renumbered,
)

_ENOUGH = 0.5
"""Part of the clients met so far of which enough must be known before communities are found."""

_MOST = 32
"""Most communities that are found where their number is not given."""

_EVIDENCE = 5.0
"""Least evidence for communities, in nats: strong by the scale of Kass & Raftery 1995."""


class AdapterCommunities(GroupAveraging):
    """Find communities of clients while they train; average some arrays within each.

    Everybody is sent the same shared encoder, so what a client's training does to it tells what
    the client needs beyond the mean. Its *pull* in a round is the direction of its change, less
    the mean direction of everybody who took part. The sum over rounds is kept, of which minibatch
    noise is averaged out. Clients whose pulls have a high cosine need the same.

    For ``warm_up`` rounds a client is in no community and has the mean over everybody. Once that
    is behind half of the clients, communities are found among those (:func:`find_communities`).
    Where none are evident everybody keeps the mean, and they are looked for again in each round.

    Agreement with a community is the mean cosine with its other members. It has a typical value
    between members and a lower one between communities (:func:`levels`), and all bars are relative
    to these. A client that comes later joins the community that it agrees with most, if that is
    nearer to the higher value. Clients that agree with none but with each other become a new one,
    unless the number of communities was given. Every ``revise_every`` rounds a client moves to the
    community that it agrees with more than with its own, by more than ``margin`` times the
    difference of the two values: one client at a time, the clearest case first. Every move is
    logged and among the placements, whose score is the agreement.

    A newcomer has trained nothing, so that nothing is known of it: it is evaluated with the mean.

    Parameters
    ----------
    clusters : int (default: 0)
        Number of communities; 0 to find it (see :func:`find_communities`).
    compared_names : collection of str, optional
        Arrays whose changes are compared. By default those parameters that are averaged over
        everybody, or those of groups where nothing is. Of group arrays the change is that from
        the mean over everybody.
    warm_up : int (default: 5)
        Rounds that a client takes part in before it is put in a community.
    revise_every : int (default: 2)
        Rounds between revisions; 0 for none.
    margin : float, at least 0 (default: 0.5)
        See there. Of a client in the wrong place the difference is about 1, in the right place -1.
    memory : float in (0, 1] (default: 0.95)
        Part of the sum of pulls that is kept from one round of a client to its next.
    projection_size : int (default: 8192)
        Length of the random projection of pulls that is kept of each client; 0 for all of them.
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
        """Client -> the sum of its pulls, projected."""
        self.rounds: dict[int, int] = {}
        """Client -> the number of rounds that it has told a pull in."""

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
        similarity = cosine_similarities([self.pulls[client] for client in clients])
        return replace(super().grouping, clients=clients, similarity=similarity)

    def state_arrays(self) -> dict[str, NDArray[Any]]:
        """Return what the strategy carries from round to round, for a checkpoint."""
        pulls = {str(client): pull for client, pull in self.pulls.items()}
        rounds = {str(client): np.array(count) for client, count in self.rounds.items()}
        return super().state_arrays() | as_part("pull", pulls) | as_part("pull-rounds", rounds)

    def load_state_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over what :meth:`state_arrays` returned."""
        super().load_state_arrays(arrays)
        self.pulls = {int(c): pull for c, pull in part_of(arrays, "pull").items()}
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
        clients = sorted(c for c, n in self.rounds.items() if n >= self.warm_up)
        clients = [client for client in clients if self.pulls[client].any()]
        if len(clients) < max(2, self.clusters, _ENOUGH * len(self.groups)):
            return
        similarity = cosine_similarities([self.pulls[client] for client in clients])
        before = np.array([self.groups.get(c, NO_GROUP) for c in clients], dtype=np.int64)
        if (before == NO_GROUP).all():
            labels = find_communities(similarity, self.clusters)
            self._put_all(server_round, clients, similarity, labels, "found by its pulls")
            return
        inside, across = levels(similarity, before)
        # a number is never used again, lest a new community inherits a model
        free = None if self.clusters else 1 + max(p.group for p in self.placements)
        labels = join(similarity, before, (inside + across) / 2, free)
        self._put_all(server_round, clients, similarity, labels, "joined by its pulls")
        if self.revise_every and (server_round - 1) % self.revise_every == 0:
            labels = _refined(similarity, labels, self.clusters, self.margin * (inside - across))
            self._put_all(server_round, clients, similarity, labels, "agrees clearly more")

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
        moved = 0
        for place, client in enumerate(clients):
            group = int(labels[place])
            score = scores[place, group] if group != NO_GROUP else np.nan
            moved += self.groups.get(client) != group
            self.put(server_round, client, group, score, reason)
        if moved:
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
            before = self.pulls.get(client, np.zeros_like(direction))
            pull = self.memory * before.astype(np.float64) + (direction - mean)
            self.pulls[client] = pull.astype(np.float32)
            self.rounds[client] = self.rounds.get(client, 0) + 1
        return arrays

    def _direction(self, reply: Reply) -> NDArray[np.float32] | None:
        """Return a reply's change as a vector of length 1, projected; None if it changed nothing.

        Of length 1, so that one wild client has no more say in the mean than any other.
        """
        sent: Mapping[str, Array] = self._sent or {}
        parts = [
            (reply.views[name].astype(np.float64) - view(sent[name])).ravel()
            for name in self._compared(reply)
            if name in sent
        ]
        change = np.concatenate(parts) if parts else np.zeros(1)
        largest = np.abs(change).max()
        if not (np.isfinite(largest) and largest > 0):
            return None
        change /= largest  # so that no square overflows
        change /= np.linalg.norm(change)
        return project(change, self.projection_size, self.seed).astype(np.float32)

    def _compared(self, reply: Reply) -> list[str]:
        """Return the names of the arrays whose changes are compared, in the order of the reply."""
        if self.compared_names:
            return [name for name in reply.views if name in self.compared_names]
        floats = [
            n for n, values in reply.views.items() if np.issubdtype(values.dtype, np.floating)
        ]
        names = [n for n in floats if n in self.parameter_names or not self.parameter_names]
        return [n for n in names if n not in self.group_names] or names


def levels(similarity: Floats, labels: Labels) -> tuple[float, float]:
    """Return the mean cosine of pairs in one community, and that of pairs in different ones.

    Parameters
    ----------
    similarity : ``(n, n)`` cosines
    labels : the community of each client; pairs with one in none (-1) do not count

    Returns
    -------
    NaN, and then 0, where there is no such pair: pulls sum to zero
    """
    inside, across = _pairs(similarity, labels)
    high = float(inside.mean()) if inside.size else np.nan
    low = float(across.mean()) if across.size else 0.0
    return high, low


def _pairs(similarity: Floats, labels: Labels) -> tuple[Floats, Floats]:
    """Return the cosines of pairs in one community, and those of pairs in different ones."""
    known = np.flatnonzero(labels != NO_GROUP)
    left, right = np.triu_indices(len(known), k=1)
    cosines = similarity[known[left], known[right]]
    same = labels[known[left]] == labels[known[right]]
    return cosines[same], cosines[~same]


def evidence(similarity: Floats, labels: Labels) -> float:
    """Return the evidence for communities against none, in nats, by description length.

    The cosines of pairs are described as normal around one mean within communities and around
    another across, of one variance (a stochastic block model of two levels), instead of around one
    mean for all. That saves ``pairs / 2 log(variance before / variance after)`` nats, and costs
    the labels, ``n log K``. It has no scale, so noise that makes all cosines small does not matter.

    Parameters
    ----------
    similarity : ``(n, n)`` cosines
    labels : the community of each of the ``n`` clients, none -1

    Returns
    -------
    minus infinity where members are no more alike than others, or there are no two communities
    """
    inside, across = _pairs(similarity, labels)
    if not inside.size or not across.size or inside.mean() <= across.mean():
        return -np.inf
    cosines = np.concatenate([inside, across])
    after = np.sum((inside - inside.mean()) ** 2) + np.sum((across - across.mean()) ** 2)
    before = np.sum((cosines - cosines.mean()) ** 2)
    saved = len(cosines) / 2 * np.log(before / max(after, 1e-12 * before))
    return float(saved - len(labels) * np.log(labels.max() + 1))


def find_communities(similarity: Floats, clusters: int = 0) -> Labels:
    """Return the community of each client, numbered by their first members; -1 for none.

    By average linkage, after which clients move to where they agree most. Without a number, the
    one with the most :func:`evidence` is taken, up to half the clients and 32; there is no
    community where that is not strong. Then whoever is alone is in none.

    Parameters
    ----------
    similarity : ``(n, n)`` cosines of pulls, ``n`` at least 2
    clusters : the number of communities, at most ``n``; 0 to find it
    """
    ones = np.ones(len(similarity))
    if clusters:
        return renumbered(_refined(similarity, agglomerative(similarity, ones, clusters, 0.0)))
    best, most = np.full(len(similarity), NO_GROUP, dtype=np.int64), _EVIDENCE
    for number in range(2, min(len(similarity) // 2, _MOST) + 1):
        labels = _refined(similarity, agglomerative(similarity, ones, number, 0.0))
        if (found := evidence(similarity, labels)) > most:
            best, most = labels, found
    sizes = np.bincount(best[best != NO_GROUP], minlength=1)
    return renumbered(np.where(sizes[best] > 1, best, NO_GROUP))


def join(similarity: Floats, labels: Labels, least: float, free: int | None) -> Labels:
    """Return the labels after each client in no community has joined one, if it agrees with one.

    Parameters
    ----------
    similarity : ``(n, n)`` cosines
    labels : the community of each client, -1 for none
    least : agreement with which one joins, or with which those that agree with none become a new
        community
    free : the number of the first new community; None if there can be none
    """
    ones, joined = np.ones(len(labels)), labels.copy()
    for client in np.flatnonzero(labels == NO_GROUP).tolist():
        group, score = nearest(similarity, ones, client, labels)
        if score >= least:
            joined[client] = group
    rest = np.flatnonzero(joined == NO_GROUP)
    if free is None or len(rest) < 2:
        return joined
    found = agglomerative(similarity[np.ix_(rest, rest)], ones[rest], 0, least)
    for label in range(int(found.max()) + 1):
        if len(members := rest[found == label]) > 1:
            joined[members] = free
            free += 1
    return joined


def _refined(
    similarity: Floats, labels: Labels, clusters: int | None = None, margin: float = 0.0
) -> Labels:
    """Return the labels after clients have moved to where they agree more, by the margin.

    No community ends, unless ``clusters`` is 0.
    """
    number = int(labels.max()) + 1 if clusters is None else clusters
    rules = TribeRules(number, few_examples=0)
    size = len(labels)
    return refine(similarity, np.ones(size), [1] * size, labels, rules, margin)
