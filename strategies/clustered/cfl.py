"""CFL: one model, split in two where its clients' updates disagree, again and again."""

from collections.abc import Mapping, Sequence
from logging import INFO
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from flwr.common.logger import log
from numpy.typing import NDArray

from strategies.arrays import as_part, part_of, view
from strategies.clustered.assignments import NO_GROUP
from strategies.clustered.clusterers import bipartition
from strategies.clustered.gradient_similarity import cosine_similarities
from strategies.clustered.group_averaging import GroupAveraging
from strategies.clustered.projection import project
from strategies.errors import ArgumentError
from strategies.replies import Reply
from strategies.rounds import Round

__all__ = ["CFL"]

_ENOUGH = 0.75
"""Part of a group's members whose updates must be known before it is split."""


class CFL(GroupAveraging):
    """Clustered Federated Learning by recursive bipartition (Sattler et al., arXiv:1910.01991).

    Everybody starts in one group. Where a group's mean update has become small while its members'
    own have not, their updates disagree, and the group is split in two: so that the
    highest cosine between updates across the split is low (complete linkage, as the authors do).
    Both halves go on from the group's model.

    The two thresholds are relative to the updates' own scale, so they do not depend on learning
    rate, epochs or the network. Of ``m`` clients whose updates have no common direction the mean
    update is about ``1/sqrt(m)`` as long as theirs, so by the first threshold groups of fewer than
    ``1/mean_below^2`` clients (6 by default) are hardly ever split.

    A client that comes later is put in the group whose model has the lowest loss on its training
    examples (query ``query.losses``, as :class:`clients.ClusteredClient` answers it).

    Parameters
    ----------
    mean_below : float, default 0.4
        A group is split when the length of its mean update is below this part of the median
        length of its members' updates (the paper's first threshold).
    median_above : float, default 0.8
        And when the median length of its members' updates is above this part of that of everybody
        in round 1: they would still move. (The paper's second threshold is on the longest update,
        which one wild client can keep long for ever.) Two equal groups whose optima lie at right
        angles settle at 0.71; and a group far larger than the others, which decides the median,
        lower still: lower it there.
    across_below : float, default 0.0
        And when the mean cosine of updates across the split is below this: the halves' updates
        point against each other, as those of different optima do where the joint model stands
        still.
    first_split : int, default 3
        The first round after which a group may be split.
    projection_size : int, default 1024
        Length of the random projection of updates that is kept.
    others
        As in :class:`GroupAveraging`; ``parameter_names`` are needed.

    Raises
    ------
    ArgumentError
        If an argument is out of range, or there are no ``parameter_names``.
    """

    finds_groups = True

    def __init__(
        self,
        *args: Any,
        mean_below: float = 0.4,
        median_above: float = 0.8,
        across_below: float = 0.0,
        first_split: int = 3,
        projection_size: int = 1024,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        for name, value in (("mean_below", mean_below), ("median_above", median_above)):
            if not value > 0.0:
                raise ArgumentError(name, value, "above 0")
        if not self.parameter_names:
            wanted = "given: updates are those of parameters"
            raise ArgumentError("parameter_names", [], wanted)
        self.mean_below = mean_below
        self.median_above = median_above
        self.across_below = across_below
        self.first_split = first_split
        self.projection_size = projection_size
        self.scale = np.nan
        """Median length of the updates in round 1."""
        self.updates: dict[int, NDArray[Any]] = {}
        """Client -> its last update in its group, projected."""

    def state_arrays(self) -> dict[str, NDArray[Any]]:
        """Return what the strategy carries from round to round, for a checkpoint."""
        updates = {str(client): update for client, update in self.updates.items()}
        scale = {"scale": np.array(self.scale)}
        return super().state_arrays() | as_part("update", updates) | as_part("cfl", scale)

    def load_state_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over what :meth:`state_arrays` returned."""
        super().load_state_arrays(arrays)
        self.updates = {int(c): update for c, update in part_of(arrays, "update").items()}
        self.scale = float(part_of(arrays, "cfl").get("scale", np.nan))

    def assign(self, current: Round, nodes: Sequence[int]) -> None:
        """Put new clients where the loss is lowest; while there is one group nothing is to be done.

        Whoever has trained by then is in it.
        """
        if len(self.models) > 1:
            self.assign_by_losses(current, nodes)

    def aggregate_arrays(self, replies: list[Reply]) -> ArrayRecord:
        """Return the means, as :class:`GroupAveraging` does; then split groups that disagree."""
        for reply in replies:
            if reply.client not in self.groups and len(self.models) < 2:
                self.assign_client(self.round.number, reply.client, 0, np.nan, "the first group")
        sent = {group: dict(record) for group, record in self.models.items()}
        arrays = super().aggregate_arrays(replies)
        good = [reply for reply in replies if not reply.dropped]
        for reply in good:
            group = self.groups.get(reply.client, NO_GROUP)
            self.updates[reply.client] = self._update(reply, sent.get(group, self.round.sent))
        lengths = [float(np.linalg.norm(self.updates[reply.client])) for reply in good]
        if np.isnan(self.scale) and lengths:
            self.scale = float(np.median(lengths))
        if self.round.number >= self.first_split:
            for group in sorted(self.models):
                self._split(group)
        return arrays

    def _update(self, reply: Reply, sent: Mapping[str, Any]) -> NDArray[Any]:
        names = [name for name in reply.views if name in self.parameter_names & self.group_names]
        parts = [(reply.views[name] - view(sent[name])).ravel() for name in names]
        whole = np.concatenate(parts).astype(np.float32) if parts else np.zeros(1, np.float32)
        return project(whole, self.projection_size, self.seed)

    def _split(self, group: int) -> None:
        everybody = sorted(c for c, g in self.groups.items() if g == group)
        members = [c for c in everybody if c in self.updates and self.updates[c].any()]
        if len(members) < max(2, _ENOUGH * len(everybody)):
            return
        updates = np.stack([self.updates[client] for client in members]).astype(np.float64)
        lengths = np.linalg.norm(updates, axis=1)
        median, mean = np.median(lengths), np.linalg.norm(updates.mean(axis=0))
        if mean >= self.mean_below * median or median <= self.median_above * self.scale:
            return
        similarity = cosine_similarities(list(updates))
        left, right = bipartition(similarity)
        across = float(similarity[np.ix_(left, right)].mean())
        if across >= self.across_below:
            return
        new = max(self.models) + 1
        log(
            INFO,
            "Round %d: group %d is split into %d and %d clients (mean update %.2f of the median "
            "one, mean cosine across %.2f)",
            *(self.round.number, group, len(left), len(right), mean / median, across),
        )
        self.models[new] = self.models[group]
        for place in right:
            self.assign_client(
                self.round.number + 1, members[place], new, across, f"split from group {group}"
            )
        for client in everybody:  # what it did in the old group says nothing of the new ones
            self.updates.pop(client, None)
            if client not in members:  # it is placed by its losses when it is there again
                self.assign_client(
                    self.round.number + 1, client, NO_GROUP, np.nan, "no update of it is known"
                )
                del self.groups[client]
