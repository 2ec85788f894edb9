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
    is_finite,
    linear_coefficients,
    numbered_parts,
    to_record,
    view,
)
from strategies.averaging import PartialAveraging
from strategies.hierarchical.mixed_effects import NOISE_FLOOR, Floats, Moments, Prior, stack
from strategies.hierarchical.mixed_effects_em import (
    STRUCTURES,
    Contribution,
    centre,
    fit,
    spread,
)
from strategies.protocol import PROTOCOL
from strategies.replies import Reply, drop_outliers
from strategies.rounds import Round

__all__ = ["HierarchicalLinear"]

MEAN, COVARIANCE, UNCERTAINTY, NOISE = NAMES = ("mean", "covariance", "uncertainty", "noise")
"""Names of the arrays that travel, the same and of the same shapes both ways: ``(d,)``, ``(d, d)``,
``(d, d)`` and ``(2,)``, float64. Down it is the prior."""

PROTOCOLS = ("iterative", "one-shot")
"""What clients tell: their terms of the sums of every step, or their moments once."""

START_VARIANCE = 1.0
"""Of a coefficient, where nothing is known yet: large for standardised features and targets."""

_ROUNDING = 1e-6
"""How far a matrix may be from symmetric and positive semidefinite, beside its largest entry."""

Arrays = Mapping[str, NDArray[Any]]


def first_prior(mean: Floats) -> Prior:
    """Return the prior before anybody told anything: clients that differ a lot around ``mean``.

    Parameters
    ----------
    mean : ``(d,)``
    """
    size = len(mean)
    covariance = START_VARIANCE * np.eye(size)
    return Prior(mean, covariance, np.zeros((size, size)), 1.0, NOISE_FLOOR)


def prior_arrays(prior: Prior) -> dict[str, NDArray[Any]]:
    """Return the prior as the arrays that are sent to clients."""
    noise = np.array([prior.noise, prior.noise_floor])
    values = (prior.mean, prior.covariance, prior.uncertainty, noise)
    return dict(zip(NAMES, values, strict=True))


def prior_of(arrays: Arrays) -> Prior:
    """Return the prior in the arrays that were sent to clients.

    Raises
    ------
    ValueError
        If shapes do not fit each other, values are not finite, or the noise is not above zero.
    """
    mean, covariance, uncertainty, noise = (
        np.asarray(arrays[name], dtype=np.float64) for name in NAMES
    )
    size = len(mean)
    expected = ((size,), (size, size), (size, size), (2,))
    shapes = (mean.shape, covariance.shape, uncertainty.shape, noise.shape)
    if shapes != expected:
        raise ValueError(f"a prior has arrays of shapes {expected}, these have {shapes}")
    if not all(is_finite(values) for values in (mean, covariance, uncertainty, noise)):
        raise ValueError("a prior needs finite values")
    if not noise.min() > 0:
        raise ValueError(f"a prior needs noise above zero, got {noise.tolist()}")
    return Prior(mean, covariance, uncertainty, float(noise[0]), float(noise[1]))


def contribution_arrays(own: Contribution) -> dict[str, NDArray[Any]]:
    """Return what a client sends in the iterative protocol."""
    values = (own.score, own.spread, own.information, own.noise)
    return dict(zip(NAMES, values, strict=True))


def contribution_of(arrays: Arrays) -> Contribution:
    """Return the contribution in a client's arrays, or in the mean of several clients'."""
    return Contribution(*(arrays[name] for name in NAMES))


def moments_arrays(own: Moments) -> dict[str, NDArray[Any]]:
    """Return what a client sends in the one-shot protocol."""
    noise = np.array([own.square, own.examples], dtype=np.float64)
    values = (own.cross, own.gram, np.zeros_like(own.gram), noise)
    return dict(zip(NAMES, values, strict=True))


def moments_of(arrays: Arrays) -> Moments:
    """Return the moments in a client's arrays."""
    square, examples = (np.asarray(value) for value in arrays[NOISE])
    return Moments(arrays[COVARIANCE], arrays[MEAN], square, examples)


class HierarchicalLinear(PartialAveraging):
    """Learn the Gaussian prior of clients' linear models by (restricted) maximum likelihood.

    Clients tell their terms of the sums that :mod:`strategies.hierarchical.mixed_effects_em` is
    made of; every second round is a *centre* and every other one a *spread*. The server needs
    nothing but their means, all clients weighing the same, so secure aggregation could hide the
    terms. Or, where the protocol is one-shot, each client tells its moments once, all steps are
    made here, and nobody who has told is asked again.

    What leaves a device is not harmless: moments hold the sums of products of the client's
    features and targets, and with one example that example.

    Parameters
    ----------
    args, kwargs : as in :class:`PartialAveraging`; clients weigh the same whatever ``weighting`` is
    protocol : one of :data:`PROTOCOLS`; the client must use the same
    covariance : ``"full"``, ``"diagonal"`` or ``"isotropic"``
    restricted : False for plain maximum likelihood, which takes the prior's mean for known

    Raises
    ------
    ValueError
        If an argument is unknown, or there is server momentum, which is for averaged parameters.
    """

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
            raise ValueError(f"protocol must be one of {PROTOCOLS}, got {protocol!r}")
        if covariance not in STRUCTURES:
            raise ValueError(f"covariance must be one of {tuple(STRUCTURES)}, got {covariance!r}")
        if self.server_momentum:
            raise ValueError("a prior is no mean of parameters; it has no server momentum")
        self.protocol, self.covariance, self.restricted = protocol, covariance, restricted
        self.moments: dict[int, Moments] = {}
        """Client -> its moments, of those that have told them."""

    def summary(self) -> None:
        """Log how the prior is learnt."""
        super().summary()
        log(INFO, "\t└──> Gaussian prior: %s, covariance %s", self.protocol, self.covariance)

    def first_arrays(self, arrays: ArrayRecord) -> ArrayRecord:
        """Return the first prior; its mean is the linear model that the arrays are.

        Raises
        ------
        ValueError
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

    def aggregate_arrays(self, replies: list[Reply]) -> ArrayRecord:
        """Return the prior after a step; marks replies dropped that no client's data can give."""
        for reply in replies:
            try:
                check_declared(reply.views, reply.weight, self.protocol)
            except ValueError as error:
                reply.dropped = str(error)
        possible = [reply for reply in replies if not reply.dropped]
        drop_outliers(possible, _sizes(possible))
        good = [reply for reply in replies if not reply.dropped]
        sent = self.round.sent
        if not good:
            return sent
        try:
            prior = self._fitted(good) if self.protocol == "one-shot" else self._stepped(good)
        except np.linalg.LinAlgError as error:
            for reply in good:
                reply.dropped = f"no prior can be made of what is told: {error}"
            return sent
        return to_record(prior_arrays(prior))

    def _fitted(self, replies: list[Reply]) -> Prior:
        """Return the prior that fits the moments of everybody who has told them."""
        told = {reply.client: moments_of(_copies(reply.views)) for reply in replies}
        known = self.moments | told
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


def check_declared(arrays: Arrays, examples: float, protocol: str = "iterative") -> None:
    """Refuse arrays that cannot come from a client's data.

    Parameters
    ----------
    arrays : of its reply, in the shapes of a prior
    examples : its number of examples, as it says beside them
    protocol : one of :data:`PROTOCOLS`

    Raises
    ------
    ValueError
        If an array is missing or not finite, the number of examples is not that which the client
        tells beside it, or a sum of squares is negative or a matrix of them not positive
        semidefinite.
    """
    if missing := [name for name in NAMES if name not in arrays]:
        raise ValueError(f"missing {missing}")
    if odd := [name for name in NAMES if not is_finite(arrays[name])]:
        raise ValueError(f"values that are not finite in {odd}")
    square, count = (float(value) for value in arrays[NOISE])
    if not 1 <= count <= examples or count != round(count):
        raise ValueError(
            f"its sums are of {count:g} examples, but it says that it has {examples:g}"
        )
    if square < 0:
        raise ValueError(f"a sum of squares is negative: {square:g}")
    matrices = {name: arrays[name] for name in (COVARIANCE, UNCERTAINTY)}
    if protocol == "one-shot":
        own = moments_of(arrays)
        matrices = {"moments": _joint(own)}
        if not np.isclose(own.gram[-1, -1], count):
            raise ValueError(
                f"its column of ones adds up to {own.gram[-1, -1]:g} instead of {count:g}"
            )
    for name, values in matrices.items():
        if not _semidefinite(values):
            raise ValueError(f"{name!r} is not symmetric and positive semidefinite")


def _sizes(replies: Sequence[Reply]) -> dict[str, NDArray[Any]]:
    """Return the squares for an example that clients tell: norms, traces, and sums of squares."""
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


def _joint(own: Moments) -> Floats:
    """Return the moments of inputs and target together, ``(d + 1, d + 1)``."""
    return np.block([[own.gram, own.cross[:, None]], [own.cross[None], own.square[None, None]]])


def _semidefinite(values: Floats) -> bool:
    """Return whether a matrix is symmetric with no eigenvalue below zero, but for rounding."""
    slack = _ROUNDING * float(np.abs(values).max())
    if np.abs(values - values.T).max() > slack:
        return False
    return bool(np.linalg.eigvalsh(values)[0] >= -slack)


def _copies(arrays: Arrays) -> dict[str, NDArray[Any]]:
    """Return copies, which outlive the message that the arrays are views of."""
    return {name: values.copy() for name, values in arrays.items()}
