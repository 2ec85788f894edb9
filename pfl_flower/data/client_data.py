"""ClientData, the splits of one client, and which of them it has in each round of a stream.

Habits change: a wearer begins to train for a marathon and moves differently. Such data come as a
stream of phases. A client trains on the current phase only, because earlier examples are gone, and
is tested on all phases so far.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from clients.data.data_quality import DataQuality
from clients.data.preprocessing import Preprocessing
from clients.graphs.graph import Graph
from pfl_flower.data.schema import Split
from strategies.randomness import generator


@dataclass(frozen=True)
class ClientData:
    """One client's examples; inputs are float32, targets int64 classes or float32 numbers.

    Inputs of pictures in files and of data sets are
    :class:`~pfl_flower.data.lazy_inputs.LazyInputs`, which are read batch by batch.

    Attributes
    ----------
    train, validation, test : tuple of Tensor
        (inputs, targets); of a stream those of all phases, one phase after another.
    phases : tuple of ClientData, default ()
        The splits of each phase; () where data are no stream.
    starts : tuple of float, default ()
        Fraction of the run's rounds after which each phase begins, ascending from 0.0; () where
        data are no stream, or the client has all phases from the start.
    graph : Graph, optional
        The graph whose nodes, or pairs of nodes, are the examples. Inputs are then their int64
        numbers, ``(N,)`` or ``(N, 2)``.
    quality : DataQuality, optional
        Quality of the measurements; None where it is not known (graphs, streams).
    draws : int, default 1
        Number of imputations of every example. Training examples come one imputation after
        another, ``(draws N, d)``, the others as ``(N, draws, d)``.
    fit_preprocessing : callable, optional
        Returns :attr:`preprocessing`; None where nothing is done to measurements.
    """

    train: Split
    validation: Split
    test: Split
    phases: "tuple[ClientData, ...]" = ()
    starts: tuple[float, ...] = ()
    graph: Graph | None = None
    quality: DataQuality | None = None
    draws: int = 1
    fit_preprocessing: Callable[[], Preprocessing] | None = None

    @cached_property
    def preprocessing(self) -> Preprocessing | None:
        """What was done to the measurements, as a model file has it; made when asked for."""
        return None if self.fit_preprocessing is None else self.fit_preprocessing()

    @property
    def num_examples(self) -> int:
        """Number of training examples; several imputations of an example count once."""
        return int(self.train[1].shape[0]) // self.draws

    def phase_at(self, server_round: int, num_rounds: int) -> int:
        """Return the number of the current phase; 0 where data are no stream.

        Parameters
        ----------
        server_round : int
            Number of the round, from 1. Round 0 has the first phase; rounds after the last one
            have the last phase.
        num_rounds : int
            Number of rounds of the run. With few rounds some phases have no round.
        """
        begun = sum(server_round > start * num_rounds for start in self.starts)
        return max(0, begun - 1)

    def at(self, server_round: int, num_rounds: int) -> "ClientData":
        """Return the client's data in a round.

        Training and validation examples are those of the current phase. Test examples are those of
        all phases so far, which are the ``phases`` of the result. It is the same object for the
        same phase, and ``self`` where data are no stream.

        Parameters
        ----------
        server_round, num_rounds : int
            See :meth:`phase_at`.
        """
        if not self.starts:
            return self
        return self._so_far[self.phase_at(server_round, num_rounds)]

    @cached_property
    def _so_far(self) -> "tuple[ClientData, ...]":
        """The client's data in each phase; all tensors are views."""
        made, met = [], 0
        inputs, targets = self.test
        for number, phase in enumerate(self.phases):
            met += len(phase.test[1])
            test = (inputs[:met], targets[:met])
            so_far = self.phases[: number + 1]
            made.append(ClientData(phase.train, phase.validation, test, so_far))
        return tuple(made)


def phase_starts(seed: int, client: int, num_phases: int) -> tuple[float, ...]:
    """Return the fraction of the rounds after which each phase of a client begins.

    The first begins at 0. Of P phases, phase k > 0 begins at a fraction that is uniform in
    (k - 1/4) / P to (k + 1/4) / P, drawn for each client. So a phase lasts between a half and three
    halves of its equal share (the first and the last: three to five quarters).

    Parameters
    ----------
    seed : int
        Seed of the run.
    client : int
        Number of the client.
    num_phases : int
        Number of phases.
    """
    shifts = generator(seed, "phases", client).uniform(-0.25, 0.25, size=num_phases - 1)
    return (0.0, *((k + float(shift)) / num_phases for k, shift in enumerate(shifts, start=1)))
