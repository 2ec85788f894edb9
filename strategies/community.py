"""Communities found by what training does to the arrays of each client, round after round."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from logging import INFO
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord
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
    agreements,
    cluster,
    cosine_similarities,
    join_tribes,
    refine,
    renumbered,
)

_ENOUGH = 0.5
"""Part of the clients met so far of which enough must be known before communities are found."""


class AdapterCommunities(GroupAveraging):
    """Find communities of clients while they train; average some arrays within each.

    Everybody is sent the same shared encoder, so what a client's training does to it tells what
    the client needs beyond the mean. Its *pull* in a round is the direction of its change, less
    the mean direction of everybody who took part. The sum over rounds is kept, of which minibatch
    noise is averaged out. Clients whose pulls have a high cosine need the same.

    For ``warm_up`` rounds a client is in no community and has the mean over everybody. Once that
    is behind half of the clients, communities are found among those. The others follow: one that
    agrees with a community (mean cosine with its members at least ``threshold``) joins it, and
    those that agree with each other only become a new one. Where no communities are evident
    everybody keeps the mean, and they are looked for again after every round.

    Every ``revise_every`` rounds a client moves to the community that it agrees with by ``margin``
    more than with its own, one at a time, the clearest case first. Every move is among the
    placements, where the score is the mean cosine of the client with its community's members.

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
    margin : float in [0, 2] (default: 0.2)
        See there.
    threshold : float in (0, 1) (default: 0.15)
        Least mean cosine in a community that was not asked for.
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
        margin: float = 0.2,
        threshold: float = 0.15,
        memory: float = 0.95,
        projection_size: int = 8192,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if isinstance(compared_names, str):
            raise ValueError(f"compared_names must be several, got the text {compared_names!r}")
        for name, value, least in (
            ("warm_up", warm_up, 1),
            ("revise_every", revise_every, 0),
            ("projection_size", projection_size, 0),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if not 0.0 <= margin <= 2.0:
            raise ValueError(f"margin must be in [0, 2], got {margin}")
        if not 0.0 < memory <= 1.0:
            raise ValueError(f"memory must be above 0 and at most 1, got {memory}")
        # a community of one would have no say of others; it has the mean instead
        self.rules = TribeRules(clusters, threshold=threshold, few_examples=0, smallest=2)
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
        number = self.rules.clusters or "found"
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
        if len(clients) < max(2, self.rules.clusters, _ENOUGH * len(self.groups)):
            return
        similarity = cosine_similarities([self.pulls[client] for client in clients])
        before = np.array([self.groups.get(c, NO_GROUP) for c in clients], dtype=np.int64)
        if (before == NO_GROUP).all():
            labels = find_communities(similarity, self.rules)
            self._put_all(server_round, clients, similarity, labels, "found by its pulls")
            return
        ones, many = np.ones(len(clients)), [1] * len(clients)
        # a number is never used again, lest a new community inherits a model
        free = 1 + max(p.group for p in self.placements)
        labels = join_tribes(similarity, ones, many, before, self.rules, free)
        self._put_all(server_round, clients, similarity, labels, "joined by its pulls")
        if self.revise_every and (server_round - 1) % self.revise_every == 0:
            labels = refine(similarity, ones, many, labels, self.rules, self.margin)
            self._put_all(server_round, clients, similarity, labels, "agrees clearly more")

    def _check(self, arrays: ArrayRecord, there: int) -> None:
        if there < self.rules.clusters:
            raise ValueError(
                f"clusters is {self.rules.clusters}, but there are only {there} clients; use at "
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
        sent = self._sent or {}
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


def fit(similarity: Floats, members: Sequence[int]) -> float:
    """Return the mean cosine of a member of a group with the mean direction of the others.

    It grows with the cosines ``c`` of members and with their number ``m``, since the noise of the
    others cancels out: ``c sqrt(m - 1) / sqrt(1 + (m - 2) c)`` where all cosines are the same.

    Parameters
    ----------
    similarity : ``(n, n)`` cosines
    members : places of the members; the fit of one that is alone is 0
    """
    if len(members) < 2:
        return 0.0
    inside = similarity[np.ix_(members, members)]
    sums = inside.sum(axis=1)
    # the squared length of the sum of the others' directions: all pairs but those of the member
    lengths = np.sqrt(np.maximum(inside.sum() - 2 * sums + 1.0, 0.0))
    cosines = np.divide(sums - 1.0, lengths, out=np.zeros_like(sums), where=lengths > 1e-9)
    return float(cosines.mean())


def best_cut(similarity: Floats) -> Labels:
    """Return the groups of the average-linkage tree whose mean :func:`fit` is highest.

    Any branches may be cut off, at any height, as in the pruning of decision trees. Pulls sum to
    zero, so that the fit of everybody together is low, and so is that of parts of a community.

    Parameters
    ----------
    similarity : ``(n, n)`` cosines, ``n`` at least 2
    """
    from sklearn.cluster import AgglomerativeClustering

    tree = AgglomerativeClustering(
        n_clusters=None, distance_threshold=0.0, metric="precomputed", linkage="average"
    )
    branches: list[list[int]] = [[leaf] for leaf in range(len(similarity))]
    best: list[tuple[float, list[list[int]]]] = [(0.0, [leaf]) for leaf in branches]
    for left, right in tree.fit(1.0 - similarity).children_.tolist():
        members = branches[left] + branches[right]
        together = len(members) * fit(similarity, members)
        apart = best[left][0] + best[right][0]
        joint = best[left][1] + best[right][1]
        best.append((together, [members]) if together >= apart else (apart, joint))
        branches.append(members)
    labels = np.empty(len(similarity), dtype=np.int64)
    for label, members in enumerate(best[-1][1]):
        labels[members] = label
    return renumbered(labels)


def find_communities(similarity: Floats, rules: TribeRules) -> Labels:
    """Return the community of each client, numbered by their first members; -1 for none.

    Without a number, it is that of :func:`best_cut`. There are no communities where their mean
    fit is below the threshold, as it is where only noise tells clients apart.

    Parameters
    ----------
    similarity : ``(n, n)`` cosines of pulls
    rules : the number of communities or 0, and the threshold

    Raises
    ------
    ValueError
        If there are fewer clients than communities.
    """
    ones, many = np.ones(len(similarity)), [1] * len(similarity)
    if rules.clusters:
        found = cluster(similarity, ones, rules)
        return renumbered(refine(similarity, ones, many, found, rules))
    labels = best_cut(similarity)
    members = [np.flatnonzero(labels == label).tolist() for label in range(labels.max() + 1)]
    total = sum(len(places) * fit(similarity, places) for places in members)
    if total < rules.threshold * len(labels):
        return np.full(len(labels), NO_GROUP, dtype=np.int64)
    for places in members:
        if len(places) < rules.smallest:
            labels[places] = NO_GROUP
    return renumbered(refine(similarity, ones, many, labels, rules))
