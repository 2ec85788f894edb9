"""The server of linear models whose inputs are read with errors: it solves corrected equations."""

from collections.abc import Mapping, Sequence
from logging import INFO, WARNING
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from flwr.common.logger import log
from numpy.typing import NDArray

from strategies.arrays import (
    as_numbered_parts,
    is_finite,
    linear_coefficients,
    numbered_parts,
    to_record,
)
from strategies.errors import ArgumentError
from strategies.hierarchical.mixed_effects import Floats
from strategies.measurement_error.corrected_moments import (
    LEAST_RELIABILITY,
    ErrorMoments,
    check_moments,
    coefficients,
    pooled_errors,
)
from strategies.partial_averaging import PartialAveraging
from strategies.replies import Reply
from strategies.reply_comparison import Sizes

__all__ = ["ErrorsInVariables"]

COEFFICIENTS, GRAM, ERRORS = NAMES = ("coefficients", "gram", "errors")
"""Names of the arrays that travel, the same and of the same shapes both ways: ``(K, d + 1)``,
``(d + 1, d + 1)`` and ``(d,)``, float64, for K outputs and d features. Down, the first holds the
model's coefficients, the intercept of each output last, and the others are zero. Up, it holds the
sums of products of targets and inputs."""

Arrays = Mapping[str, NDArray[Any]]


def moments_arrays(own: ErrorMoments) -> dict[str, NDArray[Any]]:
    """Return what a client sends."""
    return dict(zip(NAMES, (own.cross, own.gram, own.errors), strict=True))


def moments_of(arrays: Arrays) -> ErrorMoments:
    """Return the moments in a client's arrays, as copies, which outlive the message."""
    return ErrorMoments(*(np.array(arrays[name], dtype=np.float64) for name in NAMES))


def model_arrays(values: Floats) -> dict[str, NDArray[Any]]:
    """Return coefficients ``(K, d + 1)`` as what is sent to clients."""
    size = values.shape[1]
    return dict(zip(NAMES, (values, np.zeros((size, size)), np.zeros(size - 1)), strict=True))


class ErrorsInVariables(PartialAveraging):
    """Fit a linear model to what devices would have read without errors, from clients' moments.

    Clients report their moments and the variance of their errors; the server adds them up and
    solves the corrected equations. One round is enough: the moments of each client are kept, and
    later rounds give the same unless clients are new. Where the corrected matrix is not positive
    definite its eigenvalues are clipped (:func:`corrected_inverse`), with a logged warning.

    What leaves a device is not harmless: moments hold the sums of products of the client's
    features and targets, and with one example that example. Of what clients state only what cannot
    be is refused, and what is far beyond that of most
    (:func:`strategies.reply_comparison.drop_outliers`): a client that lies within that counts.

    Parameters
    ----------
    args, kwargs
        As in :class:`PartialAveraging`; examples count alike whatever ``weighting`` is.

    Raises
    ------
    ArgumentError
        If there is server momentum, which is for averaged parameters.
    """

    refuses_privacy = "clients send sums over their examples instead of parameters"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "weighting": "examples"})
        if self.server_momentum:
            wanted = "0: solved equations are no mean of parameters"
            raise ArgumentError("server_momentum", self.server_momentum, wanted)
        self.moments: dict[int, ErrorMoments] = {}
        """Client -> its moments, of those that have reported them."""

    def summary(self) -> None:
        """Log how the model is found."""
        super().summary()
        log(INFO, "\t└──> Normal equations, corrected for measurement errors")

    def first_arrays(self, arrays: ArrayRecord) -> ArrayRecord:
        """Return the first coefficients: those of the linear model that the arrays are.

        Raises
        ------
        ArgumentError
            If they are no linear model's.
        """
        return to_record(model_arrays(linear_coefficients(arrays)))

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

    def check_reply(self, reply: Reply) -> None:
        """Refuse moments that no client's data can give."""
        if missing := [name for name in NAMES if name not in reply.views]:
            raise ArgumentError("arrays", list(reply.views), f"{list(NAMES)}; missing {missing}")
        check_moments(moments_of(reply.views), reply.weight)

    def reply_sizes(self, replies: Sequence[Reply]) -> Sizes:
        """Return how large the moments for an example are that clients report."""
        return _sizes(replies)

    def aggregate_arrays(self, replies: list[Reply]) -> ArrayRecord:
        """Return the solution; marks all replies dropped if there is no finite one."""
        sent = self.round.sent
        new = {reply.client: moments_of(reply.views) for reply in replies}
        if not new:
            return sent
        known = self.moments | new
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # reported below
                found, lowest = coefficients(pooled_errors([known[c] for c in sorted(known)]))
        except np.linalg.LinAlgError:
            found, lowest = np.array(np.nan), 0.0
        if not is_finite(found):
            for reply in replies:
                reply.dropped = "no finite model can be made of the reports"
            return sent
        self.moments = known
        if lowest < LEAST_RELIABILITY:
            log(
                WARNING,
                "Round %d: the errors that clients state leave a direction of their inputs a "
                "reliability of %.3g; it is held to be %g. Are the declared errors too large, or "
                "the examples too few?",
                *(self.round.number, lowest, LEAST_RELIABILITY),
            )
        return to_record(model_arrays(found))


def _sizes(replies: Sequence[Reply]) -> dict[str, list[float]]:
    """Return how large the moments for an example are that clients report."""
    known = [moments_of(reply.views) for reply in replies]
    with np.errstate(over="ignore"):
        return {
            COEFFICIENTS: [float(np.linalg.norm(own.cross)) / own.examples for own in known],
            GRAM: [float(np.trace(own.gram)) / own.examples for own in known],
            ERRORS: [float(np.trace(own.gram) + own.errors.sum()) / own.examples for own in known],
        }
