"""Weighted averaging of whatever arrays the clients share."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from logging import INFO
from typing import Any, Literal

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.common.logger import log
from numpy.typing import NDArray

from strategies.arrays import as_part, encode, part_of, view, weighted_mean
from strategies.client_strategy import ClientStrategy
from strategies.errors import ArgumentError
from strategies.replies import Reply

__all__ = ["PartialAveraging"]


class PartialAveraging(ClientStrategy):
    """Average whatever arrays the clients share; what they keep, the server never sees.

    FedAvg (McMahan et al. 2017), FedPer (Arivazhagan et al. 2019), FedRep (Collins et al. 2021),
    FedBN (Li et al. 2021) and LG-FedAvg (Liang et al. 2020) are one strategy: they differ in
    which arrays a client sends. Integer arrays stay integers (elementwise maximum), and each array
    is read twice, in place: to check it and to average it.

    A subclass may override, beside what :class:`ClientStrategy` names, :meth:`weights`,
    :meth:`mean` (of one array) and :meth:`means` (of several).

    Parameters
    ----------
    args, kwargs
        As in :class:`ClientStrategy`.
    weighting : str, default "examples"
        ``"examples"`` or ``"uniform"``: weight each client's arrays by its number of examples, or
        all alike.
    server_momentum : float, default 0
        In [0, 1). FedAvgM (Hsu et al. 2019): ``v <- momentum * v + (x - mean)``, ``x <- x - v``.
    parameter_names : collection of str, optional
        The arrays that momentum applies to. Required with momentum: buffers such as a running
        variance must not get it (it can make them negative), and only names distinguish them.

    Raises
    ------
    ArgumentError
        If an argument is out of range, or ``server_momentum`` comes without ``parameter_names``.
    """

    def __init__(
        self,
        *args: Any,
        weighting: Literal["examples", "uniform"] = "examples",
        server_momentum: float = 0.0,
        parameter_names: Collection[str] | None = None,
        **kwargs: Any,
    ) -> None:
        if weighting not in ("examples", "uniform"):
            raise ArgumentError("weighting", weighting, choices=("examples", "uniform"))
        if not 0.0 <= server_momentum < 1.0:
            raise ArgumentError("server_momentum", server_momentum, "in [0, 1)")
        if server_momentum and parameter_names is None:
            wanted = "given with server_momentum, so that buffers are left out"
            raise ArgumentError("parameter_names", None, wanted)
        super().__init__(*args, **kwargs)
        self.weighting = weighting
        self.server_momentum = server_momentum
        self.parameter_names = frozenset(parameter_names or ())
        self._velocity: dict[str, NDArray[Any]] = {}
        self._after_step: dict[str, NDArray[Any]] = {}

    def summary(self) -> None:
        """Log what this strategy averages and how."""
        super().summary()
        log(INFO, "\t└──> Averaging: weighted by %s, seed %d", self.weighting, self.seed)
        if self.server_momentum:
            log(INFO, "\t\t└── Server momentum: %s", self.server_momentum)

    def state_arrays(self) -> dict[str, NDArray[Any]]:
        """Return what the strategy carries from round to round, for a checkpoint."""
        return as_part("velocity", self._velocity)

    def load_state_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over what :meth:`state_arrays` returned."""
        self._velocity = part_of(arrays, "velocity")

    def valid(self, arrays: ArrayRecord) -> ArrayRecord:
        """Return what clients can take; momentum becomes that of the steps with the noise on them.

        Otherwise it would carry updates without noise into the rounds to come.
        """
        arrays = super().valid(arrays)
        for name, stepped in self._after_step.items():
            if name in arrays:
                self._velocity[name] = self._velocity[name] - (view(arrays[name]) - stepped)
        self._after_step = {}
        return arrays

    def aggregate_arrays(self, replies: list[Reply]) -> ArrayRecord:
        """Return the mean of the replies' arrays."""
        names = replies[0].spec if replies else ()
        return self.step(self.means(replies, names), self.round.sent)

    def means(self, replies: Sequence[Reply], names: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Return the means of some arrays."""
        return {name: self.mean(name, replies) for name in names}

    def weights(self, replies: Sequence[Reply]) -> list[float]:
        """Return what each reply's arrays count for in their mean; above zero, of any sum."""
        return [r.weight if self.weighting == "examples" else 1.0 for r in replies]

    def mean(self, name: str, replies: Sequence[Reply]) -> NDArray[Any]:
        """Return the weighted mean of an array."""
        return weighted_mean([reply.views[name] for reply in replies], self.weights(replies))

    def step(
        self, means: dict[str, NDArray[Any]], sent: Mapping[str, Array], whose: str = ""
    ) -> ArrayRecord:
        """Return the arrays after the server's step from what was ``sent`` to the ``means``.

        The means are used up. ``whose`` momentum it is distinguishes groups.
        """
        arrays = ArrayRecord()
        for name in list(means):
            mean = means.pop(name)  # so that no more than one array is there twice
            if self.server_momentum and name in self.parameter_names and name in sent:
                mean = self._with_momentum(whose + name, view(sent[name]), mean)
                if self.round.privacy and not whose:
                    self._after_step[name] = mean
            arrays[name] = encode(mean)
        return arrays

    def _with_momentum(self, key: str, before: NDArray[Any], mean: NDArray[Any]) -> NDArray[Any]:
        step = np.asarray(before - mean)  # of 0 dimensions NumPy makes a scalar
        if key in self._velocity:
            step += self.server_momentum * self._velocity[key]
        self._velocity[key] = step
        after: NDArray[Any] = before - step
        return after
