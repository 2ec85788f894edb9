"""Averaging within groups of clients: some arrays over everybody, some within a group only."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from logging import INFO, WARNING
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from flwr.common.logger import log
from numpy.typing import NDArray

from strategies.arrays import (
    as_numbered_parts,
    as_part,
    encode,
    numbered_parts,
    part_of,
    to_record,
    view,
    weighted_mean,
)
from strategies.clustered.assignments import (
    NO_GROUP,
    Assignment,
    Grouping,
    assignment_arrays,
    assignments_of,
    client_numbers,
)
from strategies.clustered.group_losses import group_losses, lowest_of
from strategies.errors import ArgumentError
from strategies.partial_averaging import PartialAveraging
from strategies.protocol import ADAPTATION_EXAMPLES, GROUP
from strategies.replies import Reply
from strategies.rounds import Round

__all__ = ["GroupAveraging"]

Means = dict[str, NDArray[Any]]
"""Name of an array -> its mean."""


class GroupAveraging(PartialAveraging):
    """Average some arrays over everybody and the others within the sender's group.

    Every node is sent its own group's arrays. With everything of scope ``group`` this is clustered
    federated learning, a FedAvg in each group (bit for bit); with nothing it is FedAvg. What a
    group has not learned yet, and what is sent to a client in no group, is the mean over everybody
    who took part in the last round. A group of which nobody took part keeps its arrays.

    Groups are given, or each client is asked for its own once (property ``"group"``, a whole
    number); subclasses find them.

    Parameters
    ----------
    group_names : collection of str, optional
        The arrays that are averaged within groups; all by default.
    groups : mapping of int to int, optional
        A client's own number (its ``"partition-id"``) -> its group.
    others
        As in :class:`PartialAveraging`.

    Raises
    ------
    ArgumentError
        If ``group_names`` is a text, a group's number is negative, or groups are given to a
        strategy that finds them.
    """

    finds_groups = False
    """Whether groups are found, so that none can be given."""

    unseen_state: tuple[str, ...] = ("groups", "assignments", "query_bytes")

    def __init__(
        self,
        *args: Any,
        group_names: Collection[str] | None = None,
        groups: Mapping[int, int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if groups and self.finds_groups:
            wanted = f"empty: {type(self).__name__} finds groups itself"
            raise ArgumentError("groups", dict(groups), wanted)
        if isinstance(group_names, str):
            raise ArgumentError("group_names", group_names, "several names, no text")
        self._all_in_groups = group_names is None
        self.group_names = frozenset(group_names or ())
        self.groups: dict[int, int] = dict(groups or {})
        """Client -> group; :data:`NO_GROUP` for one that fits none, absent if not assigned yet."""
        if negative := sorted(g for g in self.groups.values() if g < 0):
            raise ArgumentError("groups", negative, "numbered from 0")
        self.models: dict[int, ArrayRecord] = {}
        """Group -> its arrays, once it has some of its own."""
        self.assignments: list[Assignment] = []
        for client, group in sorted(self.groups.items()):
            self.assignments.append(Assignment(1, client, group, np.nan, "given"))

    @property
    def grouping(self) -> Grouping:
        """Who is in which group, and how it came to that."""
        down, up = self.query_bytes
        return Grouping(
            dict(sorted(self.groups.items())),
            tuple(self.assignments),
            dict(sorted(self.models.items())),
            bytes_down=down,
            bytes_up=up,
        )

    def outcome(self) -> dict[str, Any]:
        """Return ``grouping``."""
        return {"grouping": self.grouping}

    def summary(self) -> None:
        """Log what this strategy averages and how."""
        super().summary()
        size = "all" if self._all_in_groups else len(self.group_names)
        log(INFO, "\t└──> Averaged within groups: %s arrays", size)

    def state_arrays(self) -> dict[str, NDArray[Any]]:
        """Return what the strategy carries from round to round, for a checkpoint."""
        state = super().state_arrays()
        groups = {
            "clients": client_numbers(self.groups),
            "groups": np.array(list(self.groups.values()), dtype=np.int64),
        }
        state |= as_part("groups", groups)
        models = {g: {name: view(a) for name, a in own.items()} for g, own in self.models.items()}
        state |= as_numbered_parts("model", models)
        state |= as_part("assignments", assignment_arrays(self.assignments))
        return state | as_part("queries", {"bytes": np.array(self.query_bytes, dtype=np.int64)})

    def load_state_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over what :meth:`state_arrays` returned."""
        super().load_state_arrays(arrays)
        if not (groups := part_of(arrays, "groups")):
            return
        pairs = zip(groups["clients"].tolist(), groups["groups"].tolist(), strict=True)
        self.groups = dict(pairs)
        models = numbered_parts(arrays, "model")
        self.models = {group: to_record(own) for group, own in models.items()}
        self.assignments = assignments_of(part_of(arrays, "assignments"))
        self.query_bytes = part_of(arrays, "queries")["bytes"].tolist()

    def prepare(self, current: Round) -> None:
        """Assign clients to groups where they need it.

        Raises
        ------
        ArgumentError
            If there is no array of a name among ``group_names``.
        """
        if current.phase == "train":
            if self._all_in_groups:
                self.group_names = frozenset(current.sent)
            if unknown := sorted(self.group_names - current.sent.keys()):
                raise ArgumentError("group_names", unknown, f"among {list(current.sent)}")
            self.arrange(current)
        else:
            self.assign(current, self.unassigned(current.nodes))

    def arrange(self, current: Round) -> None:
        """Assign clients to groups before a round of training; here those that are new."""
        self.assign(current, self.unassigned(current.nodes))

    def unassigned(self, nodes: Iterable[int]) -> list[int]:
        """Return those nodes whose clients have not been assigned, by their clients' numbers."""
        assert self.round.grid is not None
        nodes = list(nodes)
        self.registry.identify(self.round.grid, nodes)
        found = [node for node in nodes if self.registry.client_of(node) not in self.groups]
        return sorted(found, key=self.registry.order)

    def assign(self, current: Round, nodes: Sequence[int]) -> None:
        """Assign clients to groups before a phase; here those that declare a group.

        Parameters
        ----------
        current : Round
            The phase that is to be played.
        nodes : sequence of int
            Of the clients in no group yet, by their clients' numbers.
        """
        declared = {
            node: group if isinstance(group := answer.get(GROUP), int) and group >= 0 else NO_GROUP
            for node, answer in self.ask_properties(nodes, GROUP).items()
        }
        if declared and all(group == NO_GROUP for group in declared.values()):
            words = "No client declares a group (node config group=0, 1, ...); this is FedAvg"
            log(WARNING, words)
        for node, group in declared.items():
            reason = "declared by the client" if group != NO_GROUP else "the client has no group"
            self.assign_client(current.number, self.registry.client_of(node), group, np.nan, reason)

    def assign_by_losses(self, current: Round, nodes: Sequence[int]) -> dict[int, float]:
        """Assign clients to the group whose model has the lowest loss on their training examples.

        Of equal losses the first group counts; a client without a finite one is in none. Unseen
        clients that may use no example are not asked.

        Returns
        -------
        dict of int to float
            Client -> that loss.
        """
        if not nodes or current.config.get(ADAPTATION_EXAMPLES) == 0:
            return {}
        lowest: dict[int, float] = {}
        for client, losses in group_losses(self, current, nodes).items():
            group = lowest_of(losses)
            lowest[client] = losses[group]
            known = np.isfinite(lowest[client])
            reason = "the lowest training loss" if known else "no loss is finite"
            group = group if known else NO_GROUP
            self.assign_client(current.number, client, group, lowest[client], reason)
        return lowest

    def assign_client(
        self, server_round: int, client: int, group: int, score: float, reason: str
    ) -> None:
        """Put a client in a group, and note it; nothing is noted where nothing changes."""
        if self.groups.get(client) == group:
            return
        self.groups[client] = group
        self.assignments.append(Assignment(server_round, client, group, float(score), reason))

    def forget_momentum(self, group: int) -> None:
        """Forget the server's momentum of a group whose arrays are not what they were."""
        own = f"group-{group}/"
        self._velocity = {k: v for k, v in self._velocity.items() if not k.startswith(own)}

    def arrays_of(self, group: int, arrays: ArrayRecord) -> ArrayRecord:
        """Return what a group is sent: its own arrays where it has some, else the mean."""
        model = self.models.get(group)
        return arrays if model is None else ArrayRecord({**arrays, **model})

    def arrays_for(self, node: int, current: Round) -> ArrayRecord:
        """Return the arrays of the node's group."""
        group = self.groups.get(self.registry.client_of(node), NO_GROUP)
        return current.once(group, lambda: self.arrays_of(group, current.sent))

    def aggregate_arrays(self, replies: list[Reply]) -> ArrayRecord:
        """Return the means over everybody, and keep those of each group for its members."""
        overall, means, weights = self._group_means(replies)
        sent = self.round.sent
        shared = self.step(overall, sent)
        stepped: dict[int, ArrayRecord] = {}
        for group, inside in means.items():
            before = self.models.get(group, sent)
            stepped[group] = self.step(inside, before, f"group-{group}/")
        everybody = _mean_of_records(list(stepped.values()), weights)
        self.models |= {g: record for g, record in stepped.items() if g != NO_GROUP and record}
        return ArrayRecord({**shared, **everybody})

    def _group_means(self, replies: Sequence[Reply]) -> tuple[Means, dict[int, Means], list[float]]:
        """Return means over everybody, those of each group, and the groups' weights."""
        names = list(replies[0].spec) if replies else []
        members: dict[int, list[Reply]] = {}
        for reply in sorted(replies, key=lambda reply: self.groups.get(reply.client, NO_GROUP)):
            members.setdefault(self.groups.get(reply.client, NO_GROUP), []).append(reply)
        grouped = [name for name in names if name in self.group_names]
        privacy = self.round.privacy
        inside: dict[int, Means] = {}
        for group, own in members.items():
            means = self.means(own, grouped)
            if privacy and group != NO_GROUP:  # its wrapper sees only what is over all
                means = {name: privacy.noisy(mean, len(own)) for name, mean in means.items()}
            inside[group] = means
        overall = self.means(replies, [name for name in names if name not in self.group_names])
        weights = [sum(self.weights(own)) for own in members.values()]
        return overall, inside, weights

    def report_fields(self, client: int) -> dict[str, float]:
        """Return the client's group."""
        return {GROUP: self.groups.get(client, NO_GROUP)}


def _mean_of_records(records: Sequence[ArrayRecord], weights: Sequence[float]) -> ArrayRecord:
    """Return the weighted mean of records of the same arrays."""
    if len(records) == 1:
        return records[0]
    return ArrayRecord(
        {
            name: encode(weighted_mean([view(record[name]) for record in records], weights))
            for name in (records[0] if records else ())
        }
    )
