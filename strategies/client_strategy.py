"""What all strategies here share: sampling by client, checked replies, a report of every client."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from logging import WARNING
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid

from strategies.arrays import num_bytes
from strategies.client_registry import ask_properties
from strategies.client_reports import ClientReport, reports_of
from strategies.privacy import refuse_local_noise, restore
from strategies.protocol import PARTITION_ID, SERVER_ROUND
from strategies.replies import Reply, of_clients, records_of
from strategies.reply_validation import good_ones, take_apart, validate
from strategies.round_messages import RoundMessages
from strategies.rounds import Round

__all__ = ["ClientStrategy"]


class ClientStrategy(RoundMessages):
    """Play rounds with clients that have numbers of their own, whatever is made of their replies.

    Beyond Flower's ``FedAvg``, whose arguments it takes, it

    - judges every reply by one rule (:mod:`strategies.reply_validation`) and drops a bad one with
      a logged reason and the node's id; the round goes on with the others;
    - samples clients and orders their replies by the seed and the clients' own numbers (metric and
      property ``"partition-id"``), never by node ids or by which reply came first, so the same
      seed gives the same bits on every engine;
    - keeps a :class:`ClientReport` of every client, phase and round in ``reports``.

    A subclass says how arrays are aggregated (:meth:`aggregate_arrays`) and overrides what else it
    does otherwise:

    ======================================= ==================================================
    :meth:`prepare`                         ask or assign clients before a phase's messages
    :meth:`arrays_for`                      what a node is sent, if that is not alike for all
    :meth:`check_reply`                     what no client's data can give
    :meth:`reply_sizes`                     by what a reply may be an outlier
    :meth:`valid`                           the arrays, where noise could make them invalid
    :attr:`refuses_privacy`                 why no privacy wrapper can be used, if that is so
    :meth:`aggregate_arrays`                the new shared arrays, from the checked replies
    :meth:`report_fields`                   what is reported of a client beside its metrics
    :meth:`first_arrays`                    what clients are sent first
    :meth:`outcome`                         what it has to show beside its arrays
    :meth:`client_arrays`                   arrays of each client's own, for a safeguard
    :meth:`state_arrays`, \
    :meth:`load_state_arrays`                what a checkpoint holds
    :attr:`unseen_state`                    what asking unseen clients leaves as it was
    ======================================= ==================================================

    :meth:`ask` and :meth:`ask_properties` put questions to clients.

    Parameters
    ----------
    fraction_train, fraction_evaluate, min_train_nodes, min_evaluate_nodes, min_available_nodes, \
weighted_by_key, arrayrecord_key, configrecord_key, train_metrics_aggr_fn, \
evaluate_metrics_aggr_fn
        As in :class:`flwr.serverapp.strategy.FedAvg`. The default aggregation of metrics is
        :func:`mean_metrics`.
    seed : int, default 0
        Seed of client sampling.
    query_timeout : float, default 3600
        Seconds that clients have to answer what is asked beside training.

    Raises
    ------
    ArgumentError
        If a fraction is out of range.
    """

    def evaluate_nodes(
        self,
        grid: Grid,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        nodes: list[int],
        timeout: float,
    ) -> list[ClientReport]:
        """Ask certain clients to evaluate, outside of the rounds, and return their reports.

        They leave no trace: what they report of themselves is not kept.

        Parameters
        ----------
        grid, arrays, config, timeout
            As in :meth:`start`.
        server_round : int
            Sent to the clients.
        nodes : list of int
            Ids of the nodes to ask.
        """
        before = {name: copy(getattr(self, name)) for name in self.unseen_state}
        reported = len(self.reports)
        try:
            current = Round(server_round, "evaluate", arrays, config, grid, list(nodes))
            self.round = current
            self.prepare(current)
            current.nodes.sort(key=self.registry.order)
            replies = grid.send_and_receive(self.messages(current), timeout=timeout)
            self._report(*self._judged(replies))
            return self.reports[reported:]
        finally:
            del self.reports[reported:]
            for name, value in before.items():
                setattr(self, name, value)

    def ask(
        self,
        nodes: Sequence[int],
        content: RecordDict,
        message_type: str,
        what: str,
        with_arrays: bool = False,
        check: Callable[[Reply], None] | None = None,
    ) -> list[Reply]:
        """Ask some nodes the same; return the good replies, by their clients' numbers.

        The others are logged with the reason, and may be asked again.

        Parameters
        ----------
        nodes : sequence of int
            Whom to ask.
        content, message_type : RecordDict and str
            Of the question.
        what : str
            What is asked for, in words.
        with_arrays : bool, default False
            Whether the answer must hold arrays.
        check : callable, optional
            Raises a ``ValueError`` for an answer that cannot be used.
        """
        if not nodes or self.round.grid is None:
            return []
        messages = self._construct_messages(content, list(nodes), message_type)
        answers = list(self.round.grid.send_and_receive(messages, timeout=self.query_timeout))
        self.query_bytes[0] += len(nodes) * payload(content)
        self.query_bytes[1] += sum(payload(r.content) for r in answers if r.has_content())
        answers, _ = of_clients(answers)
        replies = [take_apart(answer, self.weighted_by_key, with_arrays) for answer in answers]
        validate(replies, known=self.clients, asked=set(nodes), check=check)
        replies = self.registry.take_in_replies(replies)
        for reply in replies:
            if reply.dropped:
                log(WARNING, "Node %d reports no %s: %s", reply.node_id, what, reply.dropped)
        return good_ones(replies)

    def ask_properties(self, nodes: Sequence[int], *names: str) -> dict[int, Mapping[str, Any]]:
        """Ask nodes for properties beside their clients' numbers, which are noted.

        Returns
        -------
        dict of int to mapping of str to object
            Node -> answer, of those that gave one, ordered by their clients' numbers.
        """
        assert self.round.grid is not None
        answers = ask_properties(
            self.round.grid,
            nodes,
            ",".join((PARTITION_ID, *names)),
            config={**self.round.config, SERVER_ROUND: self.round.number},
            timeout=self.query_timeout,
            config_key=self.configrecord_key,
        )
        self.registry.take_in(answers)
        return {node: answers[node] for node in sorted(answers, key=self.registry.order)}

    # ------------------------------------------------------------------ the way up

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the means of the arrays and metrics of all good replies.

        Bad replies are dropped with a logged reason. Without a single good one both are None
        and the run goes on with the arrays it has.
        """
        self.round.number, self.round.phase = server_round + self.rounds_before, "train"
        judged, reasons = self._judged(replies)
        # Who has failed counts as unchanged, so that the noise of a wrapper fits the mean; where
        # all have there is nothing to be made of.
        any_trained = not all(reply.unused for reply in judged)
        means = self.aggregate_arrays(good_ones(judged) if any_trained else [])
        good = [reply for reply in judged if not reply.unused]
        self._report(judged, reasons)
        if not good:
            return None, None
        # What no client shares stays as it was sent.
        arrays = ArrayRecord({**self.round.sent, **means})
        metrics = self.train_metrics_aggr_fn([r.content for r in good], self.weighted_by_key)
        return arrays, metrics

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return the means of the metrics of all good replies."""
        self.round.number, self.round.phase = server_round + self.rounds_before, "evaluate"
        judged, reasons = self._judged(replies)
        self._report(judged, reasons)
        good = [reply.content for reply in good_ones(judged)]
        return self.evaluate_metrics_aggr_fn(good, self.weighted_by_key) if good else None

    def _judged(self, messages: Iterable[Message]) -> tuple[list[Reply], dict[str, str]]:
        """Return the replies of the phase at hand, judged, in the order of their clients' numbers.

        For messages without a reply there is their id -> why, where that is known.
        """
        answers, reasons = of_clients(messages)
        trains = self.round.phase == "train"
        replies = [take_apart(answer, self.weighted_by_key, trains) for answer in answers]
        if trains:
            refuse_local_noise(replies, self.refuses_privacy)
            restore(replies, self.round.sent_to, self.round.sent, self.round.changes)
        validate(
            replies,
            known=self.clients,
            asked={metadata.dst_node_id for metadata in self.round.asked},
            sent=self.round.arrays,
            check=self.check_reply if trains else None,
            sizes=self.reply_sizes if trains else None,
        )
        return self.registry.take_in_replies(replies), reasons

    def _report(self, replies: Sequence[Reply], reasons: Mapping[str, str]) -> None:
        """Note what is reported of the phase at hand."""
        known = self.registry.client_of, self.report_fields
        self.reports += reports_of(self.round, replies, reasons, *known)
        self.round.asked = []


def payload(content: RecordDict) -> int:
    """Return the payload bytes of the arrays in a message's content."""
    return sum(map(num_bytes, records_of(content, ArrayRecord)))
