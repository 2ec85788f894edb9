"""Averaging that knows how well each client sees: weights from examples and quality, bounded."""

import math
from collections.abc import Iterable, Mapping, Sequence
from logging import INFO, WARNING
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from flwr.common.logger import log
from numpy.typing import ArrayLike, NDArray

from strategies.arrays import view
from strategies.errors import ArgumentError
from strategies.partial_averaging import PartialAveraging
from strategies.protocol import EFFECTIVE_EXAMPLES, MISSING_RATE, RELIABILITY
from strategies.replies import Reply

__all__ = ["QualityWeighted"]

Floats = NDArray[np.float64]

TIMES_EQUAL = 3.0
"""By default no client has more than so many times the share that all would have if
they counted alike."""

WEIGHT_SHARE = "weight-share"
"""Metric in a report: the client's share of the mean."""

_ROUNDING = 1e-9


def reported_quality(metrics: Mapping[str, Any], examples: float) -> tuple[float, float]:
    """Return what a client reports of its data: (quality, effective examples).

    Its quality is ``(1 - missing rate) * reliability``; what it does not report counts as perfect.
    Its effective examples are those it reports, else ``examples * quality``.

    Parameters
    ----------
    metrics : mapping of str to object
        Of its reply.
    examples : float
        Its number of examples.

    Raises
    ------
    ArgumentError
        If a share is not in 0 to 1, or the effective examples are not in 0 to ``examples``.
    """
    missing = _reported(metrics, MISSING_RATE, 0.0, 1.0)
    reliability = _reported(metrics, RELIABILITY, 1.0, 1.0)
    quality = (1.0 - missing) * reliability
    return quality, _reported(metrics, EFFECTIVE_EXAMPLES, examples * quality, examples)


def _reported(metrics: Mapping[str, Any], name: str, otherwise: float, most: float) -> float:
    value = metrics.get(name, otherwise)
    above = most * (1.0 + _ROUNDING)
    if isinstance(value, int | float) and math.isfinite(value) and 0.0 <= value <= above:
        return min(float(value), most)
    raise ArgumentError(name, value, f"a number from 0 to {most:g}")


def bounded(weights: ArrayLike, largest: float) -> Floats:
    """Return shares in proportion to weights, none of them above a bound.

    What is above the bound goes to the others in proportion to their weights, until nobody is
    above it. Shares of clients below the bound keep their proportions, and a weight of zero stays
    zero.

    Parameters
    ----------
    weights : array_like
        ``(N,)``, finite and not negative, at least one above zero.
    largest : float
        The bound; where it is below ``1 / N``, N the number of weights above zero, all of these
        have the same share.

    Returns
    -------
    ndarray
        ``(N,)`` float64, of sum 1.

    Raises
    ------
    ArgumentError
        If the weights or the bound are none.
    """
    values = np.asarray(weights, dtype=np.float64)
    if not (np.isfinite(values).all() and (values >= 0).all() and values.any()):
        raise ArgumentError("weights", values.tolist(), "finite and at least 0, one above 0")
    if not largest > 0:
        raise ArgumentError("largest", largest, "above 0")
    bound = max(largest, 1.0 / np.count_nonzero(values))
    shares = _proportions(values)
    full = np.zeros(len(values), dtype=bool)
    while (above := (shares > bound * (1.0 + _ROUNDING)) & ~full).any():
        full |= above
        left = max(0.0, 1.0 - bound * np.count_nonzero(full))
        shares[full] = bound
        shares[~full] = left * _proportions(values[~full])
    shares /= shares.sum()
    return shares


def _proportions(values: Floats) -> Floats:
    """Return values of sum 1 in the same proportions; nothing where all are zero."""
    if not values.any():
        return np.zeros_like(values)
    scaled = values / values.max()  # first, so that not even absurd weights overflow
    found: Floats = scaled / scaled.sum()
    return found


def update_length(views: Mapping[str, NDArray[Any]], sent: Mapping[str, NDArray[Any]]) -> float:
    """Return how far a client went from what it was sent: the Euclidean norm over all arrays.

    Integer and boolean arrays, which have no mean, do not count.

    Parameters
    ----------
    views, sent : mapping of str to ndarray
        Arrays of the same shapes by name; those of ``views`` that were not sent do not count.
    """
    with np.errstate(over="ignore"):  # beyond all bounds is too long, too
        squares = [
            float(np.sum((values.astype(np.float64) - sent[name]) ** 2))
            for name, values in views.items()
            if name in sent and np.issubdtype(values.dtype, np.inexact)
        ]
    return float(np.sqrt(sum(squares)))


def clip_factors(lengths: ArrayLike, clip: float) -> Floats:
    """Return what updates are multiplied by so that none is longer than ``clip`` medians.

    ``min(1, clip * median / length)``; exactly 1 for whoever is within (Sun et al. 2019,
    arXiv:1911.07963, with the median for the bound).

    Parameters
    ----------
    lengths : array_like
        ``(N,)`` of the updates.
    clip : float
        Above zero.

    Returns
    -------
    ndarray
        ``(N,)`` float64, in 0 to 1.
    """
    values = np.asarray(lengths, dtype=np.float64)
    bound = clip * np.median(values)
    factors: Floats = np.ones(len(values))
    np.divide(bound, values, out=factors, where=values > bound)
    return factors


class QualityWeighted(PartialAveraging):
    """Average with weights from examples and their quality, robust to a client that lies.

    A client counts by its effective examples, ``w_i = n_i (1 - missing_i) reliability_i``
    (:func:`reported_quality`). In a linear model whose measurements are calibrated that is, up to a
    common factor, the inverse of the variance of its estimate, so that the mean has the smallest
    variance of all weighted means (the fixed-effect weights of meta-analysis, DerSimonian & Laird
    1986, where clients have one model in common). For deep networks it is a heuristic.

    Quality is what clients say themselves, so nobody is trusted beyond a bound: no share is above
    ``largest_share``, and no update is longer than ``update_clip`` times the median one. A client
    of share ``s`` that sends anything moves the mean by at most ``s * update_clip`` times the
    median length. That takes an honest majority: of two clients the median length is their mean,
    which bounds neither, and three times an equal share is a bound only from four clients on.

    A reply is dropped whose report is impossible, such as a reliability above 1 or more effective
    examples than examples. A client that reports nothing counts by its examples.

    Parameters
    ----------
    args, kwargs
        As in :class:`PartialAveraging`.
    largest_share : float, optional
        In (0, 1]; None for :data:`TIMES_EQUAL` times an equal share.
    least_quality : float, default 0.0
        Clients of a lower ``(1 - missing) * reliability`` have no weight, in [0, 1].
    update_clip : float, default 2.0
        How many times the median length an update may have; 0 for any length.

    Raises
    ------
    ArgumentError
        If an argument is out of range.
    """

    def __init__(
        self,
        *args: Any,
        largest_share: float | None = None,
        least_quality: float = 0.0,
        update_clip: float = 2.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **{**kwargs, "weighting": "examples"})
        if largest_share is not None and not 0.0 < largest_share <= 1.0:
            raise ArgumentError("largest_share", largest_share, "in (0, 1]")
        if not 0.0 <= least_quality <= 1.0:
            raise ArgumentError("least_quality", least_quality, "in [0, 1]")
        if not 0.0 <= update_clip < np.inf:
            raise ArgumentError("update_clip", update_clip, "at least 0 and finite")
        self.largest_share = largest_share
        self.least_quality = least_quality
        self.update_clip = update_clip
        self._shares: dict[int, float] = {}

    def summary(self) -> None:
        """Log what bounds there are."""
        super().summary()
        share = self.largest_share
        bound = f"{TIMES_EQUAL:g} / N" if share is None else f"{share:g}"
        words = "examples x quality, shares up to %s, updates up to %g medians, quality from %g"
        log(INFO, f"\t└──> Weights: {words}", bound, self.update_clip, self.least_quality)

    def check_reply(self, reply: Reply) -> None:
        """Refuse a report on the client's data that is impossible."""
        reported_quality(reply.metrics, reply.weight)

    def aggregate_arrays(self, replies: list[Reply]) -> ArrayRecord:
        """Return the mean over clients that count."""
        self._shares = {}
        if not replies:
            return super().aggregate_arrays(replies)
        self._shares = dict(
            zip((r.client for r in replies), self._all_shares(replies).tolist(), strict=True)
        )
        counted = [reply for reply in replies if self._shares[reply.client]]
        if self.update_clip:
            self._clip(counted)
        return super().aggregate_arrays(counted)

    def _all_shares(self, replies: Sequence[Reply]) -> Floats:
        """Return every client's share of the mean; of examples alone where nobody has quality."""
        known = np.array([reported_quality(reply.metrics, reply.weight) for reply in replies])
        weights = np.where(known[:, 0] >= self.least_quality, known[:, 1], 0.0)
        if not weights.any():
            log(
                WARNING,
                "Round %d: no client's data have a quality above 0 and at least %g, so all clients "
                "count by their examples alone",
                *(self.round.number, self.least_quality),
            )
            weights = np.array([reply.weight for reply in replies])
        largest = self.largest_share or TIMES_EQUAL / np.count_nonzero(weights)
        return bounded(weights, largest)

    def weights(self, replies: Sequence[Reply]) -> list[float]:
        """Return the clients' shares of the mean."""
        return [self._shares[reply.client] for reply in replies]

    def _clip(self, replies: Sequence[Reply]) -> None:
        """Shorten updates that are too long; replies within the bound keep their very arrays."""
        sent = {name: view(array) for name, array in self.round.sent.items()}
        if not sent:
            return
        lengths = [update_length(reply.views, sent) for reply in replies]
        if any(lengths) and not np.median(lengths):
            log(
                WARNING,
                "Round %d: most updates have length 0, so none may be longer and the model stays "
                "as it is; update-clip=0 would lift that bound",
                self.round.number,
            )
        factors = clip_factors(lengths, self.update_clip)
        for reply, factor in zip(replies, factors.tolist(), strict=True):
            if factor < 1.0:
                reply.views = {**reply.views, **dict(_shortened(reply.views, sent, factor))}

    def report_fields(self, client: int) -> dict[str, float]:
        """Return the client's share of the mean of this round."""
        share = self._shares.get(client)
        return super().report_fields(client) | ({} if share is None else {WEIGHT_SHARE: share})


def _shortened(
    views: Mapping[str, NDArray[Any]], sent: Mapping[str, NDArray[Any]], factor: float
) -> Iterable[tuple[str, NDArray[Any]]]:
    """Yield the arrays of a shorter update, by name."""
    for name, values in views.items():
        if name in sent and np.issubdtype(values.dtype, np.inexact):
            before = sent[name]
            step = factor * (before.astype(np.float64) - values)
            yield name, (before - step).astype(values.dtype)
