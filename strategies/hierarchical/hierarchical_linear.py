"""The server of linear models with a common Gaussian prior: it learns the prior."""

from collections.abc import Mapping, Sequence
from logging import INFO
from typing import Any, Literal

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord
from flwr.common.logger import log
from numpy.typing import NDArray

from strategies.arrays import (
    as_numbered_parts,
    linear_coefficients,
    numbered_parts,
    to_record,
    view,
)
from strategies.errors import ArgumentError
from strategies.hierarchical.linear_arrays import (
    COVARIANCE,
    MEAN,
    NAMES,
    NOISE,
    PROTOCOLS,
    UNCERTAINTY,
    Arrays,
    check_declared,
    contribution_of,
    moments_arrays,
    moments_of,
    prior_arrays,
    prior_of,
)
from strategies.hierarchical.mixed_effects import NOISE_FLOOR, Floats, Moments, Prior, stack
from strategies.hierarchical.mixed_effects_em import (
    STRUCTURES,
    centre,
    fit,
    spread,
)
from strategies.partial_averaging import PartialAveraging
from strategies.protocol import PROTOCOL
from strategies.replies import Reply
from strategies.reply_comparison import Sizes
from strategies.rounds import Round

__all__ = ["HierarchicalLinear"]


START_VARIANCE = 1.0
"""Of a coefficient, where nothing is known yet: large for standardised features and targets."""


def first_prior(mean: Floats) -> Prior:
    """Return the prior before any client has reported: clients that differ a lot around ``mean``.

    Parameters
    ----------
    mean : ndarray
        ``(d,)``.
    """
    size = len(mean)
    covariance = START_VARIANCE * np.eye(size)
    return Prior(mean, covariance, np.zeros((size, size)), 1.0, NOISE_FLOOR)


class HierarchicalLinear(PartialAveraging):
    """Learn the Gaussian prior of clients' linear models by (restricted) maximum likelihood.

    Clients report their terms of the sums that :mod:`strategies.hierarchical.mixed_effects_em` is
    made of; every second round is a *centre* and every other one a *spread*. The server needs
    nothing but their means, all clients weighing the same, so secure aggregation could hide the
    terms. Or, where the protocol is one-shot, each client reports its moments once, all steps
    are made here, and no client is asked again.

    What leaves a device is not harmless: moments hold the sums of products of the client's
    features and targets, and with one example that example.

    Parameters
    ----------
    args, kwargs
        As in :class:`PartialAveraging`; clients weigh the same whatever ``weighting`` is.
    protocol : {"iterative", "one-shot"}, default "iterative"
        One of :data:`PROTOCOLS`; the client must use the same.
    covariance : str, default "full"
        ``"full"``, ``"diagonal"`` or ``"isotropic"``.
    restricted : bool, default True
        False for plain maximum likelihood, which takes the prior's mean for known.

    Raises
    ------
    ArgumentError
        If an argument is unknown, or there is server momentum, which is for averaged parameters.
    """

    refuses_privacy = "clients send sums over their examples instead of parameters"

    def __init__(
        self,
        *args: Any,
        protocol: Literal["iterative", "one-shot"] = "iterative",
        covariance: str = "full",
        restricted: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **{**kwargs, "weighting": "uniform"})
        if protocol not in PROTOCOLS:
            raise ArgumentError("protocol", protocol, choices=PROTOCOLS)
        if covariance not in STRUCTURES:
            raise ArgumentError("covariance", covariance, choices=STRUCTURES)
        if self.server_momentum:
            wanted = "0: a prior is no mean of parameters"
            raise ArgumentError("server_momentum", self.server_momentum, wanted)
        self.protocol, self.covariance, self.restricted = protocol, covariance, restricted
        self.moments: dict[int, Moments] = {}
        """Client -> its moments, of those that have reported them."""

    def summary(self) -> None:
        """Log how the prior is learnt."""
        super().summary()
        log(INFO, "\t└──> Gaussian prior: %s, covariance %s", self.protocol, self.covariance)

    def first_arrays(self, arrays: ArrayRecord) -> ArrayRecord:
        """Return the first prior; its mean is the linear model that the arrays are.

        Raises
        ------
        ArgumentError
            If they are no linear model's.
        """
        return to_record(prior_arrays(first_prior(linear_coefficients(arrays).ravel())))

    # ------------------------------------------------------------------ checkpoints

    def state_arrays(self) -> dict[str, NDArray[Any]]:
        """Return what the strategy carries from round to round, for a checkpoint."""
        moments = {client: moments_arrays(own) for client, own in self.moments.items()}
        return super().state_arrays() | as_numbered_parts("moments", moments)

    def load_state_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over what :meth:`state_arrays` returned."""
        super().load_state_arrays(arrays)
        self.moments = {
            client: moments_of(part) for client, part in numbered_parts(arrays, "moments").items()
        }

    # ------------------------------------------------------------------ a round

    def prepare(self, current: Round) -> None:
        """Send the protocol; whoever has sent its moments is not asked again."""
        if current.phase == "train":
            client_of = self.registry.client_of
            current.nodes = [n for n in current.nodes if client_of(n) not in self.moments]
            current.config = ConfigRecord({**current.config, PROTOCOL: self.protocol})

    def check_reply(self, reply: Reply) -> None:
        """Refuse arrays that no client's data can give."""
        check_declared(reply.views, reply.weight, self.protocol)

    def reply_sizes(self, replies: Sequence[Reply]) -> Sizes:
        """Return the squares for an example in replies: norms, traces, and sums of squares."""
        return _sizes(replies)

    def aggregate_arrays(self, replies: list[Reply]) -> ArrayRecord:
        """Return the prior after a step; marks all replies dropped if there is no such prior."""
        sent = self.round.sent
        if not replies:
            return sent
        try:
            prior = (self._fitted if self.protocol == "one-shot" else self._stepped)(replies)
        except np.linalg.LinAlgError as error:
            for reply in replies:
                reply.dropped = f"no prior can be made of the reports: {error}"
            return sent
        return to_record(prior_arrays(prior))

    def _fitted(self, replies: list[Reply]) -> Prior:
        """Return the prior that fits the moments of all clients that have reported them."""
        new = {reply.client: moments_of(_copies(reply.views)) for reply in replies}
        known = self.moments | new
        everybody = stack([known[client] for client in sorted(known)])
        prior = fit(everybody, self.covariance, self.restricted)
        self.moments = known
        return prior

    def _stepped(self, replies: list[Reply]) -> Prior:
        """Return the prior after this round's step: a centre in round 1, then a spread, ..."""
        mean = contribution_of({name: self.mean(name, replies) for name in NAMES})
        prior = prior_of({name: view(array) for name, array in self.round.sent.items()})
        if self.round.number % 2:
            return centre(prior, mean, len(replies), self.restricted)
        return spread(prior, mean, self.covariance)


def _sizes(replies: Sequence[Reply]) -> dict[str, NDArray[Any]]:
    """Return the squares for an example in replies: norms, traces, and sums of squares."""
    sizes = {
        name: [_size(reply.views[name]) for reply in replies]
        for name in (MEAN, COVARIANCE, UNCERTAINTY)
    }
    sizes[NOISE] = [float(reply.views[NOISE][0]) for reply in replies]
    weights = np.array([max(reply.weight, 1.0) for reply in replies])
    return {name: np.array(values) / weights for name, values in sizes.items()}


def _size(values: NDArray[Any]) -> float:
    """Return the squared norm of a vector, or the trace of a matrix."""
    with np.errstate(over="ignore"):
        return float(values @ values if values.ndim == 1 else np.trace(values))


def _copies(arrays: Arrays) -> dict[str, NDArray[Any]]:
    """Return copies, which outlive the message that the arrays are views of."""
    return {name: values.copy() for name, values in arrays.items()}
