"""One phase of one round: who is asked, what each is sent, and what was sent."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Metadata
from flwr.serverapp import Grid

from strategies.privacy import Privacy
from strategies.protocol import ARRAYS, CHANGES, PRIVACY
from strategies.replies import Phase

__all__ = ["Round"]


@dataclass
class Round:
    """What a strategy's hooks get to know of the phase of a round at hand.

    Attributes
    ----------
    number : int
        Counted from 1, over the whole run, whether it was resumed or not.
    phase : str
        ``"train"`` or ``"evaluate"``.
    arrays : ArrayRecord or None
        The shared arrays before the round; None where a strategy is handed replies without having
        sent anything.
    config : ConfigRecord
        Of every message of the phase.
    grid : Grid or None
        To ask clients; None likewise.
    nodes : list of int
        Ids of the nodes that are asked, ordered by their clients' numbers.
    bytes_down : dict
        Node -> payload bytes that it is sent.
    asked : list of Metadata
        Of the messages, which have their ids only once they are sent.
    privacy : Privacy or None
        The settings of the privacy wrapper that is around the strategy; None if there is none.
    changes : bool
        Whether clients answer with changes from what they were sent, for its sake.
    sent_to : dict
        Under a wrapper: node -> what it was sent in training.
    """

    number: int = 0
    phase: Phase = "train"
    arrays: ArrayRecord | None = None
    config: ConfigRecord = field(default_factory=ConfigRecord)
    grid: Grid | None = None
    nodes: list[int] = field(default_factory=list)
    bytes_down: dict[int, int] = field(default_factory=dict)
    asked: list[Metadata] = field(default_factory=list)
    privacy: Privacy | None = None
    changes: bool = False
    sent_to: dict[int, ArrayRecord] = field(default_factory=dict)
    _made: dict[Hashable, Any] = field(default_factory=dict)
    _empty: ArrayRecord = field(default_factory=ArrayRecord)

    @property
    def sent(self) -> ArrayRecord:
        """The shared arrays before the round; empty where they are not known."""
        return self._empty if self.arrays is None else self.arrays

    def protect(self, sent: dict[int, ArrayRecord]) -> None:
        """Prepare for the privacy wrapper, if there is one: how clients are to answer.

        Parameters
        ----------
        sent : dict of int to ArrayRecord
            Node -> what it is sent.
        """
        self.config.pop(PRIVACY, None)
        if self.privacy and self.phase == "train":
            self.sent_to = sent
            distinct = {id(arrays): arrays for arrays in sent.values()}
            self.changes = self.privacy.clip_around(distinct.values())
            self.config[PRIVACY] = CHANGES if self.changes else ARRAYS

    def once(self, key: Hashable, make: Callable[[], ArrayRecord]) -> ArrayRecord:
        """Return what ``make`` returns, made once a round for all clients that it is for."""
        if key not in self._made:
            self._made[key] = make()
        found: ArrayRecord = self._made[key]
        return found
