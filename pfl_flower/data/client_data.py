"""A client's splits; and what of them it has in which round, where they are a stream of phases.

Habits change: a wearer begins to train for a marathon, moves differently, and what was learnt
before is of no use, or of use again later. Such data come in phases. A client trains on the phase
at hand only, whose earlier examples are gone, and is tested on everything it has met so far.
"""

from dataclasses import dataclass
from functools import cached_property

from clients.graphs.graph import Graph
from clients.measurement_error.data_quality import DataQuality
from pfl_flower.data.schema import Split
from strategies.randomness import generator


@dataclass(frozen=True)
class ClientData:
    """One client's own examples; inputs are float32, targets int64 classes or float32 numbers.

    Attributes
    ----------
    train, validation, test : (inputs, targets); of a stream, its phases' one after another
    phases : the splits of each phase; () where data are no stream
    starts : fraction of the run's rounds after which each phase begins, ascending from 0.0; ()
        where data are no stream, or all phases are there from the start
    graph : what the examples are nodes of, or pairs of nodes; inputs are then their int64 numbers,
        ``(N,)`` or ``(N, 2)``
    quality : how well the client sees; None where that is not known (graphs, streams)
    draws : how often every example is there, filled in by different draws of what is missing: the
        training examples one draw after another, the others as ``(N, draws, d)``
    """

    train: Split
    validation: Split
    test: Split
    phases: "tuple[ClientData, ...]" = ()
    starts: tuple[float, ...] = ()
    graph: Graph | None = None
    quality: DataQuality | None = None
    draws: int = 1

    @property
    def num_examples(self) -> int:
        """The number of training examples, each counted once however often it is there."""
        return len(self.train[1]) // self.draws

    def phase_at(self, server_round: int, num_rounds: int) -> int:
        """Return the number of the phase at hand in a round; 0 where nothing ever changes.

        Parameters
        ----------
        server_round : from 1; in round 0, before the first, the first phase is at hand, and after
            the last round the last phase
        num_rounds : of the run. With few of them a phase may be over before any round has it
        """
        begun = sum(server_round > start * num_rounds for start in self.starts)
        return max(0, begun - 1)

    def at(self, server_round: int, num_rounds: int) -> "ClientData":
        """Return what the client has in a round, see :meth:`phase_at`.

        Its training and validation examples are those of the phase at hand, its test examples
        those of all phases so far, which are its ``phases``. The same object for the same phase;
        itself where nothing ever changes.
        """
        if not self.starts:
            return self
        return self._so_far[self.phase_at(server_round, num_rounds)]

    @cached_property
    def _so_far(self) -> "tuple[ClientData, ...]":
        """What the client has in each phase; all of it is views, so nothing is copied."""
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

    The first begins at 0. Wearers change at times of their own: of P phases, phase k > 0 begins at
    a fraction uniform in (k - 1/4) / P to (k + 1/4) / P, so that each lasts between a half and
    three halves of its equal share (the first and the last: three to five quarters).
    """
    shifts = generator(seed, "phases", client).uniform(-0.25, 0.25, size=num_phases - 1)
    return (0.0, *((k + float(shift)) / num_phases for k, shift in enumerate(shifts, start=1)))
