"""What came of the runs in which something broke: run by run, and all together."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from clients.state.state_file import PersonalStateError
from tests.fault_injection.federation import NODES
from tests.fault_injection.journal import losses
from tests.fault_injection.kinds import Kind
from tests.fault_injection.trial import Trial


@dataclass
class Verdict:
    """What came of one run.

    Attributes
    ----------
    number : of the run, from 0
    kind : name of the kind of fault
    victim, round : the node that it hit, and when
    hit : in words, what shows that it did; empty of one that did not
    missed : in words, why it did not; who missed a round is not judged then
    completed : whether the run has come to its last round
    lost, torn : in words, every personal state that was lost, or is torn; best none
    odd : in words, what else should not be; best nothing
    trained : node -> the rounds in which its training counted
    seconds : it took
    """

    number: int
    kind: str
    victim: int
    round: int
    hit: str = ""
    missed: str = ""
    completed: bool = False
    lost: list[str] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)
    trained: dict[int, list[int]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Whether a run with this fault went as it should."""
        return self.completed and not (self.lost or self.torn or self.odd)


def judge(trial: Trial, kind: Kind, verdict: Verdict) -> None:
    """Look at the disks, the journals and the results after a run."""
    verdict.torn += [f"right after the fault: {words}" for words in trial.torn]
    verdict.lost += lost_by_fault(trial, kind)
    for node in range(NODES):
        torn = trial.federation.torn(node)
        verdict.torn += torn
        verdict.lost += lost_of(trial, node) if not torn else []
    if not verdict.completed:
        return
    verdict.trained = {node: trial.trained(node) for node in range(NODES)}
    if verdict.hit:
        verdict.odd += absences(
            verdict.trained, trial.victim, trial.settings["num-server-rounds"], kind.misses
        )


def lost_by_fault(trial: Trial, kind: Kind) -> list[str]:
    """Return what is wrong with the state that was on the victim's disk right after the fault."""
    if not kind.finds or trial.torn:
        return []
    wanted = trial.wanted.get(kind.finds)
    if trial.found == wanted:
        return []
    return [f"right after the fault: {trial.found} in place of {wanted}"]


def lost_of(trial: Trial, node: int) -> list[str]:
    """Return every state of a node that was kept, ever, and then not found."""
    try:
        found = losses(trial.federation.journal(node), trial.federation.state_of(node))
    except PersonalStateError as error:
        return [f"node {node}: {error}"]
    return [f"node {node}, {words}" for words in found]


def absences(
    trained: Mapping[int, Sequence[int]], victim: int, rounds: int, misses: bool
) -> list[str]:
    """Return, in words, who missed a round and should not have.

    Parameters
    ----------
    trained : node -> the rounds in which its training counted
    victim : the node that the fault hit; it must be back in the last round
    rounds : of the run
    misses : whether the victim may miss any
    """
    every = set(range(1, rounds + 1))
    found = []
    for node, own in sorted(trained.items()):
        needed = {rounds} if node == victim and misses else every
        if missing := sorted(needed - set(own)):
            found.append(f"node {node} did not train in rounds {missing}")
    return found


@dataclass(frozen=True)
class Tally:
    """What came of all runs.

    Attributes
    ----------
    verdicts : one a run
    """

    verdicts: Sequence[Verdict]

    @property
    def injected(self) -> list[Verdict]:
        """The runs whose fault hit."""
        return [verdict for verdict in self.verdicts if verdict.hit]

    @property
    def good(self) -> bool:
        """Whether nothing was lost or torn and every run went on."""
        return all(verdict.good for verdict in self.verdicts)

    def to_json(self) -> dict[str, Any]:
        """Return everything, in words and numbers."""
        injected = self.injected
        return {
            "injected": len(injected),
            "injected_by_kind": dict(Counter(verdict.kind for verdict in injected)),
            "missed": len(self.verdicts) - len(injected),
            "completed": sum(verdict.completed for verdict in injected),
            "lost": sum(len(verdict.lost) for verdict in self.verdicts),
            "torn": sum(len(verdict.torn) for verdict in self.verdicts),
            "odd": sum(len(verdict.odd) for verdict in self.verdicts),
            "good": self.good,
            "runs": [asdict(verdict) for verdict in self.verdicts],
        }


def new_losses(verdicts: Sequence[Verdict]) -> None:
    """Leave out of the last verdict what an earlier one has reported: journals go on over runs."""
    reported = {words for verdict in verdicts[:-1] for words in verdict.lost}
    verdicts[-1].lost = [words for words in verdicts[-1].lost if words not in reported]
