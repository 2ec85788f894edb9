"""Clusters found by the clients' gradients at a common start, one model a cluster."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from logging import INFO, WARNING
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from flwr.common.logger import log
from numpy.typing import NDArray

from strategies.arrays import as_part, part_of, to_record, view
from strategies.clustered.assignments import NO_GROUP, Grouping
from strategies.clustered.gradient_signatures import Signature, check_gradient
from strategies.clustered.gradient_similarity import (
    attenuation,
    cosine_similarities,
    nearest,
    noise_examples,
)
from strategies.clustered.group_averaging import GroupAveraging
from strategies.clustered.group_losses import group_losses, lowest_of
from strategies.clustered.similarity_clustering import (
    ClusteringRules,
    assign_to_clusters,
    find_clusters,
)
from strategies.errors import ArgumentError
from strategies.protocol import (
    ADAPTATION_EXAMPLES,
    GRADIENT,
    GRADIENT_QUERY,
    GRADIENT_RELIABILITY,
    PROJECTION_SEED,
    PROJECTION_SIZE,
    SERVER_ROUND,
)
from strategies.randomness import named_seed
from strategies.rounds import Round

__all__ = ["GradientClusters"]


class GradientClusters(GroupAveraging):
    """Find clusters of clients by their first gradients; train one model a cluster.

    One-shot clustering (after Sattler et al. 2021, arXiv:1910.01991, and Ghosh et al. 2020,
    arXiv:2006.04088): at a common start every client's gradient points to its own optimum, so
    similar clients are found before training begins. Clients have to answer the query
    ``query.gradient``, as :class:`clients.ClusteredClient` does.

    Before round 1 every connected client reports its gradient at the arrays of the start. Clusters
    are found among the clients with many examples. Each of the others joins the cluster that it
    agrees with most, and needs only half of the agreement for it, since a gradient of few examples
    is noisy. A client that was not connected, or failed, is asked when it is seen next, at the same
    start. A client that agrees with no cluster becomes a cluster of its own. With
    ``smallest_cluster`` above 1 it gets the mean over everybody instead, until enough such clients
    agree with each other and become a new cluster.

    Parameters
    ----------
    rules : ClusteringRules
        How clusters are found.
    projection_size : int, default 8192
        Length of the random projection of gradients that is sent; 0 for all of it.
    revise_every : int, default 0
        Every so many rounds (0: never) each client reports the loss of each cluster's model on its
        validation examples. It moves to the best cluster if the loss there is below ``margin``
        times the loss in its own.
    margin : float in (0, 1], default 0.8
        See ``revise_every``.
    others
        As in :class:`GroupAveraging`.

    Raises
    ------
    ArgumentError
        If an argument is out of range; in round 1, if there are fewer clients than clusters.
    """

    finds_groups = True
    unseen_state = (*GroupAveraging.unseen_state, "signatures")

    def __init__(
        self,
        *args: Any,
        rules: ClusteringRules = ClusteringRules(),
        projection_size: int = 8192,
        revise_every: int = 0,
        margin: float = 0.8,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        for name, value in (("projection_size", projection_size), ("revise_every", revise_every)):
            if value < 0:
                raise ArgumentError(name, value, "at least 0")
        if not 0.0 < margin <= 1.0:
            raise ArgumentError("margin", margin, "above 0 and at most 1")
        self.rules = rules
        self.projection_size = projection_size
        self.revise_every = revise_every
        self.margin = margin
        self.start_arrays: ArrayRecord | None = None
        """The common start, kept for clients that come later."""
        self.signatures: dict[int, Signature] = {}

    def summary(self) -> None:
        """Log what this strategy averages and how."""
        super().summary()
        log(INFO, "\t└──> Clusters by gradients: %s", self.rules)

    @property
    def grouping(self) -> Grouping:
        """Who is in which group, and how it came to that."""
        clients = sorted(self.signatures)
        if not clients:
            return super().grouping
        found = [self.signatures[client] for client in clients]
        return replace(
            super().grouping,
            clients=clients,
            similarity=cosine_similarities([s.values for s in found]),
            examples=[s.examples for s in found],
        )

    def state_arrays(self) -> dict[str, NDArray[Any]]:
        """Return what the strategy carries from round to round, for a checkpoint."""
        start = {name: view(array) for name, array in (self.start_arrays or {}).items()}
        values = {str(client): s.values for client, s in self.signatures.items()}
        about = {
            "clients": np.array(list(self.signatures), dtype=np.uint64),
            "examples": np.array([s.examples for s in self.signatures.values()], dtype=np.int64),
            "reliability": np.array([s.reliability for s in self.signatures.values()], np.float64),
        }
        return (
            super().state_arrays()
            | as_part("start", start)
            | as_part("signature", values)
            | as_part("signatures", about)
        )

    def load_state_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over what :meth:`state_arrays` returned."""
        super().load_state_arrays(arrays)
        if start := part_of(arrays, "start"):
            self.start_arrays = to_record(start)
        values = part_of(arrays, "signature")
        about = {name: array.tolist() for name, array in part_of(arrays, "signatures").items()}
        columns = (about.get(name, ()) for name in ("clients", "examples", "reliability"))
        for client, examples, reliability in zip(*columns, strict=True):
            self.signatures[client] = Signature(values[str(client)], examples, reliability)

    # ------------------------------------------------------------------ placing clients

    def arrange(self, current: Round) -> None:
        """Assign all clients that are there and have not reported gradients, and revise."""
        assert current.grid is not None
        self.assign(current, self.unassigned(current.grid.get_node_ids()))
        last = current.number - 1
        if self.revise_every and last and last % self.revise_every == 0 and self.models:
            self._revise(current)

    def assign(self, current: Round, nodes: Sequence[int]) -> None:
        """Ask the nodes for their gradients, and find clusters for them."""
        if self.start_arrays is None:
            self.start_arrays = ArrayRecord(dict(current.sent))
        new = self._signatures(current, nodes)
        self.signatures |= new
        if not new:
            return
        if len(self.signatures) < self.rules.clusters:
            assert current.grid is not None
            there = len(list(current.grid.get_node_ids()))
            if there < self.rules.clusters:
                wanted = f"at most {there}, as there are no more clients, or 0 to be found"
                raise ArgumentError("clusters", self.rules.clusters, wanted)
            log(WARNING, "Only %d gradients are known; others are awaited", len(self.signatures))
            return
        self._found(current.number)

    def _signatures(self, current: Round, nodes: Sequence[int]) -> dict[int, Signature]:
        if not nodes or current.config.get(ADAPTATION_EXAMPLES) == 0:
            return {}
        asked = {
            SERVER_ROUND: current.number,
            PROJECTION_SIZE: self.projection_size,
            PROJECTION_SEED: named_seed(self.seed, "projection"),
        }
        assert self.start_arrays is not None
        content = RecordDict(
            {
                self.arrayrecord_key: self.start_arrays,
                self.configrecord_key: ConfigRecord({**current.config, **asked}),
            }
        )
        log(INFO, "Asking %d nodes for their gradients at the start", len(nodes))
        found: dict[int, Signature] = {}
        known = {len(signature.values) for signature in self.signatures.values()}
        check = partial(check_gradient, lengths=known)
        replies = self.ask(
            nodes, content, GRADIENT_QUERY, "gradient", with_arrays=True, check=check
        )
        lengths = Counter(reply.views[GRADIENT].size for reply in replies)
        usual = max(lengths, key=lambda n: (lengths[n], n), default=0)
        for reply in replies:
            values = reply.views[GRADIENT]
            if len(values) != usual:
                words = "Node %d reports no gradient: %d values, others reported %d"
                log(WARNING, words, reply.node_id, len(values), usual)
                continue
            reported = reply.metrics.get(GRADIENT_RELIABILITY)
            reliability = float(reported) if isinstance(reported, float | int) else np.nan
            found[reply.client] = Signature(np.array(values), int(reply.weight), reliability)
        return found

    def _found(self, server_round: int) -> None:
        """Put every client that reported a gradient and has no cluster into one."""
        clients = sorted(self.signatures)
        known = [self.signatures[client] for client in clients]
        examples = [s.examples for s in known]
        similarity = cosine_similarities([s.values for s in known])
        noise = noise_examples(examples, [s.reliability for s in known])
        attenuations = attenuation(examples, noise)
        before = np.array([self.groups.get(c, NO_GROUP) for c in clients], dtype=np.int64)
        first = bool((before == NO_GROUP).all())
        if first:
            labels = find_clusters(similarity, attenuations, examples, self.rules)
        else:
            # a number is never used again, lest a new cluster inherits a model
            free = 1 + max(p.group for p in self.assignments)
            labels = assign_to_clusters(
                similarity, attenuations, examples, before, self.rules, free
            )
        for place, client in enumerate(clients):
            group = int(labels[place])
            reason = f"{'found' if first else 'joined'} by its gradient"
            reason = self._none if group == NO_GROUP else reason
            score = _score(similarity, attenuations, place, labels)
            self.assign_client(server_round, client, group, score, reason)
        found = sorted(set(labels.tolist()) - {NO_GROUP})
        log(INFO, "Clusters: %s", ", ".join(f"{g} of {(labels == g).sum()} clients" for g in found))

    @property
    def _none(self) -> str:
        """Why a client is in no cluster."""
        least = self.rules.smallest_cluster
        return "agrees with no cluster" + (f" of {least} clients or more" if least > 1 else "")

    def _revise(self, current: Round) -> None:
        """Move clients whose validation loss is clearly lower under another cluster's model."""
        assert current.grid is not None
        nodes = sorted(current.grid.get_node_ids(), key=self.registry.order)
        found = group_losses(self, current, nodes, "validation")
        for client, losses in found.items():
            group = self.groups.get(client, NO_GROUP)
            if group not in losses:
                continue  # it is like no cluster
            if losses[best := lowest_of(losses)] < self.margin * losses[group]:
                self.assign_client(
                    current.number, client, best, losses[best], "a lower validation loss"
                )


def _score(
    similarity: NDArray[Any], attenuations: NDArray[Any], place: int, labels: NDArray[Any]
) -> float:
    """Return how well a client agrees with its own cluster; the nearest one where it has none."""
    own = labels[place]
    if own != NO_GROUP:
        labels = np.where(labels == own, labels, NO_GROUP)
    return nearest(similarity, attenuations, place, labels)[1]
