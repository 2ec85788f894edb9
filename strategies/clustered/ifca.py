"""Several models; every client trains the one that fits its examples best."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from logging import INFO, WARNING
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from flwr.common.logger import log
from numpy.typing import NDArray

from strategies.arrays import as_part, encode, part_of, view
from strategies.clustered.assignments import NO_GROUP
from strategies.clustered.group_averaging import GroupAveraging
from strategies.errors import ArgumentError
from strategies.randomness import generator
from strategies.rounds import Round

__all__ = ["IFCA"]

SPREAD = 0.1
"""Standard deviation of the noise on a perturbed copy, relative to that of an array's entries."""

_MOST_REINITIALISED = 3
"""How often a model that nobody picks is reinitialised; then it is given up."""


class IFCA(GroupAveraging):
    """The Iterative Federated Clustering Algorithm (Ghosh et al. 2020, arXiv:2006.04088).

    Every round the clients that take part are asked for the loss of every model on their training
    examples, and train the one with the lowest (of equals the first). Clients have to answer the
    query ``query.losses``, as :class:`clients.ClusteredClient` does. A client that is
    evaluated before it has trained is asked then.

    The models start differently. As in the authors' code (github.com/jichan3751/ifca) each is
    another draw of the network's own initialisation (``starts``), in which pretrained values are
    the same. Where there is none, or nothing in it differs, they are perturbed copies: normal noise
    on every parameter array, of :data:`SPREAD` times the standard deviation of its entries. A model
    that nobody picks has collapsed. It is reinitialised: it becomes a copy
    of the model of the client with the highest loss, which trains it alone in that round; clients
    that are like it follow.

    Parameters
    ----------
    clusters : int, default 3
        Number of models.
    restart : int, default 0
        Number of a start: in another one the models are drawn in another way. The outcome depends
        on it, so try a few and keep the one with the lowest training loss.
    starts : callable, optional
        (number of a start, number of a model) -> name -> first values of its parameters.
    others
        As in :class:`GroupAveraging`; ``parameter_names`` are needed with several models.

    Raises
    ------
    ArgumentError
        If an argument is out of range; in round 1, if fewer clients take part than there are
        models.
    """

    finds_groups = True

    def __init__(
        self,
        *args: Any,
        clusters: int = 3,
        restart: int = 0,
        starts: Callable[[int, int], Mapping[str, NDArray[Any]]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if clusters < 1:
            raise ArgumentError("clusters", clusters, "at least 1")
        if clusters > 1 and not self.parameter_names:
            wanted = "given for several models, so that no buffer is drawn anew"
            raise ArgumentError("parameter_names", [], wanted)
        self.clusters = clusters
        self.restart = restart
        self.starts = starts
        self._reinitialised = dict.fromkeys(range(clusters), 0)

    def summary(self) -> None:
        """Log what this strategy averages and how."""
        super().summary()
        log(INFO, "\t└──> %d models, restart %d", self.clusters, self.restart)

    def state_arrays(self) -> dict[str, NDArray[Any]]:
        """Return what the strategy carries from round to round, for a checkpoint."""
        counts = np.array(list(self._reinitialised.values()), dtype=np.int64)
        return super().state_arrays() | as_part("ifca", {"reinitialised": counts})

    def load_state_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over what :meth:`state_arrays` returned."""
        super().load_state_arrays(arrays)
        if (counts := part_of(arrays, "ifca").get("reinitialised")) is not None:
            self._reinitialised = dict(enumerate(counts.tolist()))

    def arrange(self, current: Round) -> None:
        """Let everybody in the round choose anew; reinitialise what has collapsed."""
        assert current.grid is not None
        self.registry.identify(current.grid, current.nodes)
        taking_part = len(current.nodes)
        if not self.models:
            if taking_part < self.clusters:
                wanted = f"at most {taking_part}: no more clients take part in the first round"
                raise ArgumentError("clusters", self.clusters, wanted)
            self.models = {g: self._start(g, current.sent) for g in range(self.clusters)}
        lowest = self.assign_by_losses(current, current.nodes)
        if taking_part >= self.clusters:  # otherwise that nobody picks a model is no news
            self._replant(current.number, lowest)

    def assign(self, current: Round, nodes: Sequence[int]) -> None:
        """Ask the nodes for their losses, and put each in the group of the lowest."""
        self.assign_by_losses(current, nodes)

    def _start(self, group: int, arrays: ArrayRecord) -> ArrayRecord:
        """Return the first arrays of a group; the first group of the first start has the start."""
        record = ArrayRecord({n: array for n, array in arrays.items() if n in self.group_names})
        if not (group or self.restart):
            return record
        own = {name: view(record[name]) for name in record if name in self.parameter_names}
        drawn = {} if self.starts is None else self.starts(self.restart, group)
        if not any(name in drawn and (drawn[name] != own[name]).any() for name in own):
            drawn = {name: self._perturbed(name, group, values) for name, values in own.items()}
        return ArrayRecord({**record, **{n: encode(drawn[n]) for n in own if n in drawn}})

    def _perturbed(self, name: str, group: int, values: NDArray[Any]) -> NDArray[Any]:
        if not np.issubdtype(values.dtype, np.inexact):
            return values
        draw = generator(self.seed, "ifca", self.restart, group, name)
        noise = draw.normal(scale=SPREAD * float(values.std(dtype=np.float64)), size=values.shape)
        return np.asarray(values + noise, dtype=values.dtype)

    def _replant(self, server_round: int, lowest: dict[int, float]) -> None:
        """Give a model that nobody picks to the client with the highest loss."""
        for group in sorted(self.models.keys() - set(self.groups.values())):
            counts = Counter(g for g in self.groups.values() if g != NO_GROUP)
            crowd = [c for c in lowest if counts[self.groups[c]] > 1]
            worst = max(crowd, key=lambda c: (lowest[c], -c), default=None)
            if worst is None or self._reinitialised[group] >= _MOST_REINITIALISED:
                continue
            self._reinitialised[group] += 1
            log(
                WARNING,
                "Round %d: nobody picks model %d; client %d, which fits its model worst, takes it",
                *(server_round, group, worst),
            )
            self.models[group] = self.models[self.groups[worst]]
            self.forget_momentum(group)
            self.assign_client(
                server_round, worst, group, lowest[worst], "a model that nobody picked"
            )
