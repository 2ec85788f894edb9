"""What one method did on a federation."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import ArrayRecord
from numpy.typing import NDArray

from strategies import ClientReport, Grouping

if TYPE_CHECKING:
    from pfl_flower.config.run_config import RunConfig
    from strategies.hypernetwork.metadata_encoder import Metadata
    from strategies.hypernetwork.network import Hypernetwork


def select(
    reports: Sequence[ClientReport], metric: str, server_round: int, phase: str = "evaluate"
) -> dict[int, float]:
    """Return client -> a metric of a phase of a round, in the order of the clients' numbers.

    Without clients whose reply was dropped.
    """
    found = {
        report.client: float(report.metrics[metric])
        for report in reports
        if (report.phase, report.round) == (phase, server_round) and not report.dropped
    }
    return dict(sorted(found.items()))


def by_round(reports: Iterable[ClientReport]) -> dict[int, list[ClientReport]]:
    """Return round -> its reports, in the order of the rounds; each report is looked at once."""
    found: dict[int, list[ClientReport]] = {}
    for report in reports:
        found.setdefault(report.round, []).append(report)
    return dict(sorted(found.items()))


@dataclass(frozen=True)
class MethodRun:
    """What one method did on a federation.

    Attributes
    ----------
    config : RunConfig
        The config of this method.
    reports : list of ClientReport
        What every client did in every phase and round.
    arrays : ArrayRecord
        The final shared arrays.
    seconds : float
        Wall-clock seconds of all rounds.
    parameters : mapping of str to int
        Number of values (buffers included) that are ``shared`` and ``personal``.
    unseen : mapping of int to list of ClientReport, default {}
        Number of local examples (-1: all) -> what unseen clients reported.
    label : str, default ""
        Name, where it is not the method's.
    left_out : tuple of str, default ()
        In words, which clients could not take part and why.
    outcome : mapping of str to object, default {}
        What the strategy shows beside its arrays, by name
        (:meth:`strategies.PartialAveraging.outcome`).
    client_arrays : mapping of int to ArrayRecord, default {}
        Client -> arrays of its own that it is sent, where a safeguard has to choose.
    query_bytes : tuple of int and int, default (0, 0)
        Payload bytes of queries beside training, down and up, of all clients together.
    thresholds : sequence of ClientReport, default ()
        What clients' decision thresholds are worth, under every rule, where there are any.
    schema_bytes : int, default 0
        Bytes of the data schema, sent to the nodes that did not have it, of all together.
    base : str, default ""
        Fingerprint of the network's frozen base
        (:func:`pfl_flower.frozen_base.network_fingerprint`).
    names : mapping of int to str, default {}
        The client's number -> its own name in the run's data, where it has one.
    base_bytes : int, default 0
        Payload bytes of a frozen base that was sent to the nodes that did not have it, of all
        together. Where a run was resumed, those since then.
    given_base : mapping of str to ndarray, default {}
        The frozen base, where the file of first arrays gave it.
    """

    config: "RunConfig"
    reports: list[ClientReport]
    arrays: ArrayRecord
    seconds: float
    parameters: Mapping[str, int]
    unseen: Mapping[int, list[ClientReport]] = field(default_factory=dict)
    label: str = ""
    left_out: tuple[str, ...] = ()
    outcome: Mapping[str, Any] = field(default_factory=dict)
    client_arrays: Mapping[int, ArrayRecord] = field(default_factory=dict)
    query_bytes: tuple[int, int] = (0, 0)
    thresholds: Sequence[ClientReport] = ()
    schema_bytes: int = 0
    base: str = ""
    names: Mapping[int, str] = field(default_factory=dict)
    base_bytes: int = 0
    given_base: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.label or self.config.method

    @property
    def grouping(self) -> Grouping | None:
        """Who is in which group, of a method with groups."""
        return self.outcome.get("grouping")

    @property
    def hypernetwork(self) -> "Hypernetwork | None":
        """What writes the models, of a method that has one."""
        return self.outcome.get("hypernetwork")

    @property
    def metadata(self) -> "Mapping[int, Metadata]":
        """Client that was trained -> what it reported of itself, if it was asked."""
        found: Mapping[int, Metadata] = self.outcome.get("metadata", {})
        return found

    @property
    def score(self) -> str:
        """Name of the score that models are compared by."""
        return self.config.client_task.score

    @property
    def num_clients(self) -> int:
        """Number of clients that were asked for anything."""
        return len({report.client for report in self.reports})

    @property
    def edges(self) -> tuple[int, int] | None:
        """How many connections of a graph the cut into clients kept and dropped; None without."""
        schema = self.config.known_schema
        return None if schema is None else schema.edges

    @property
    def last_round(self) -> int:
        """The last round with an evaluation."""
        return max((r.round for r in self.reports if r.phase == "evaluate"), default=0)

    def by_client(
        self, metric: str | None = None, server_round: int | None = None
    ) -> dict[int, float]:
        """Return client -> a metric of the evaluation of a round.

        Parameters
        ----------
        metric : str, optional
            The task's score by default.
        server_round : int, optional
            The last by default.

        Returns
        -------
        dict of int to float
            In the order of the clients' numbers, without those whose evaluation failed.
        """
        wanted = self.last_round if server_round is None else server_round
        return select(self.reports, metric or self.score, wanted)

    def values(self, metric: str | None = None, server_round: int | None = None) -> np.ndarray:
        """Return the values of :meth:`by_client`."""
        return np.array(list(self.by_client(metric, server_round).values()))
