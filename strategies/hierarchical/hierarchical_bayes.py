"""A Gaussian prior over a part of the clients' models, learned from the clients themselves.

Every client has a value ``theta_i`` of that part, and holds that ``theta_i ~ N(mu, diag(v))``.
Empirical Bayes (Efron & Morris 1973; expectation maximization: Dempster, Laird & Rubin 1977): a
client returns the mean and the variance of its posterior, and the prior takes their moments. The
server needs sums over clients only.
"""

from collections.abc import Collection, Iterable, Sequence
from logging import INFO
from math import isfinite
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from flwr.common.logger import log
from numpy.typing import NDArray

from strategies.arrays import encode, view, weighted_mean
from strategies.errors import ArgumentError
from strategies.partial_averaging import PartialAveraging
from strategies.protocol import PRIOR_VARIANCE
from strategies.replies import Reply

__all__ = ["HierarchicalBayes"]

SMALLEST_VARIANCE = 1e-12
"""A variance that would be smaller is this: then all clients have one value, to rounding."""

ROUNDING = 1e-3
"""Relative, of a square in single precision, with much to spare."""


def moment_matching(
    before: NDArray[Any], mean: NDArray[Any], second_moment: NDArray[Any]
) -> NDArray[np.float64]:
    """Return the prior variance that fits the clients' posteriors (the M-step).

    ``mean_i(V_i + (theta_i - mean)^2)``, from what clients can send without knowing the new mean:
    ``mean_i(V_i + (theta_i - before)^2) - (mean - before)^2``.

    Parameters
    ----------
    before : ndarray
        The prior mean that clients received.
    mean : ndarray
        The mean of their posterior means ``theta_i``, the new prior mean.
    second_moment : ndarray
        The mean of ``V_i + (theta_i - before)^2``.

    Returns
    -------
    ndarray
        Of the shape of all three, >= 0 (rounding could make it negative).
    """
    shift = mean.astype(np.float64) - before
    variance: NDArray[np.float64] = np.maximum(second_moment - np.square(shift), 0.0)
    return variance


def pooled_variance(variance: NDArray[Any], count: int, weight: float) -> NDArray[np.float64]:
    """Return variances drawn towards their mean, as if ``weight`` clients had shown that mean.

    ``(N v_j + k mean(v)) / (N + k)``, at least :data:`SMALLEST_VARIANCE`: the variance of a few
    clients is a poor estimate for each parameter by itself.

    Parameters
    ----------
    variance : ndarray
        Of the parameters of one tensor, any shape.
    count : int
        ``N >= 1``, the clients behind it.
    weight : float
        ``k >= 0``; 0 leaves every parameter its own, infinity makes all equal.
    """
    if not variance.size:
        return variance.astype(np.float64)
    mean = variance.mean(dtype=np.float64)
    pooled = mean + count / (count + weight) * (variance - mean)
    floored: NDArray[np.float64] = np.maximum(pooled, SMALLEST_VARIANCE)
    return floored


def positive_variance(variance: NDArray[Any], otherwise: float) -> NDArray[Any]:
    """Return variances above zero, for those that noise has made negative.

    Where the noise is larger than a variance, the mean over the tensor tells more of it: that is
    what a variance of zero or below becomes; ``otherwise`` if that mean is not above zero either.

    Parameters
    ----------
    variance : ndarray
        Of the parameters of one tensor, any shape.
    otherwise : float
        Above zero.

    Returns
    -------
    ndarray
        Of the same shape and dtype.
    """
    mean = variance.mean(dtype=np.float64) if variance.size else 0.0
    fill = mean if mean > SMALLEST_VARIANCE else otherwise
    return np.where(variance > 0, variance, np.asarray(fill, dtype=variance.dtype))


class HierarchicalBayes(PartialAveraging):
    """Learn a Gaussian prior over a part of the model; average the rest.

    Clients (:class:`clients.HierarchicalBayesClient`) receive the prior mean under the model's own
    names and the prior variance as ``prior-variance/<name>``. They return their posterior mean
    ``theta_i`` under the model's names, and as ``prior-variance/<name>`` the second moment
    ``V_i + (theta_i - mu)^2`` of their posterior around the mean they received. Then
    ``mu <- mean(theta_i)``, and ``v`` by :func:`moment_matching` and :func:`pooled_variance`.

    Every client counts alike for the prior, which is over clients. What has no prior is averaged
    by ``weighting``. Server momentum leaves the prior alone.

    In a Flower project of your own: ``strategy.start(grid, strategy.first_arrays(arrays), ...)``.

    Parameters
    ----------
    args, kwargs
        As in :class:`PartialAveraging`.
    prior_names : collection of str
        The parameters that have a prior.
    prior_variance : float, default 1.0
        > 0, the first variance of every one. Expectation maximization leaves small variances
        slowly, so start with a large one.
    prior_weight : float, default 10.0
        Pseudo-count >= 0, see :func:`pooled_variance`.

    Raises
    ------
    ArgumentError
        If nothing has a prior, or a number is out of range.
    """

    def __init__(
        self,
        *args: Any,
        prior_names: Collection[str],
        prior_variance: float = 1.0,
        prior_weight: float = 10.0,
        **kwargs: Any,
    ) -> None:
        if not prior_names:
            raise ArgumentError("prior_names", list(prior_names), "of one parameter or more")
        if not (isfinite(prior_variance) and prior_variance > 0):
            raise ArgumentError("prior_variance", prior_variance, "above 0 and finite")
        if not prior_weight >= 0:
            raise ArgumentError("prior_weight", prior_weight, "at least 0")
        super().__init__(*args, **kwargs)
        self.prior_names = tuple(prior_names)
        self.prior_variance = prior_variance
        self.prior_weight = prior_weight
        self.parameter_names -= frozenset(prior_names)
        self._variance_names = frozenset(map(_variance_of, prior_names))

    def summary(self) -> None:
        """Log what this strategy averages, and what has a prior."""
        super().summary()
        log(INFO, "\t└──> Gaussian prior over: %s", ", ".join(self.prior_names))

    def first_arrays(self, arrays: ArrayRecord) -> ArrayRecord:
        """Return the model's shared arrays, and the first variances beside them.

        Variances that are there already, of an earlier run, stay.

        Raises
        ------
        ArgumentError
            If a parameter that is to have a prior is not among the arrays.
        """
        if missing := [name for name in self.prior_names if name not in arrays]:
            raise ArgumentError("prior_names", missing, f"among {list(arrays)}")
        first = ArrayRecord(dict(arrays))
        for name in self.prior_names:
            values = view(arrays[name])
            first.setdefault(
                f"{PRIOR_VARIANCE}/{name}", encode(np.full_like(values, self.prior_variance))
            )
        return self._with_positive_variances(first)

    def valid(self, arrays: ArrayRecord) -> ArrayRecord:
        """Return the arrays with variances above zero, as noise for privacy can make them negative.

        See :func:`positive_variance`.
        """
        return self._with_positive_variances(super().valid(arrays))

    def _with_positive_variances(self, arrays: ArrayRecord) -> ArrayRecord:
        found = {name: view(arrays[name]) for name in arrays if name in self._variance_names}
        repaired = {
            name: encode(positive_variance(values, self.prior_variance))
            for name, values in found.items()
            if (values <= 0).any()
        }
        return ArrayRecord({**arrays, **repaired}) if repaired else arrays

    def check_reply(self, reply: Reply) -> None:
        """Refuse second moments that are less than what a posterior's mean alone makes of them."""
        if reply.has_local_noise:
            return  # any second moment is possible then
        if odd := [name for name in self.prior_names if self._is_impossible(name, reply)]:
            raise ValueError(
                f"second moments of {odd} are below the square of the distance from the prior"
            )

    def _is_impossible(self, name: str, reply: Reply) -> bool:
        """Return whether a second moment is less than what its mean alone makes of it."""
        moment, mean = reply.views.get(_variance_of(name)), reply.views.get(name)
        if moment is None or mean is None or name not in self.round.sent:
            return False
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is dropped anyway
            least = np.square(mean.astype(np.float64) - view(self.round.sent[name]))
        return bool((moment < np.where(np.isfinite(least), (1 - ROUNDING) * least, 0.0)).any())

    def means(self, replies: Sequence[Reply], names: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Return the means, with the new prior variances in the place of the second moments.

        A variance stays as it was sent where clients do not say all that it takes.
        """
        means = super().means(replies, names)
        sent = self.round.sent
        for name in self.prior_names:
            moment = means.pop(_variance_of(name), None)
            if moment is None or name not in means or name not in sent:
                continue
            found = moment_matching(view(sent[name]), means[name], moment)
            pooled = pooled_variance(found, len(replies), self.prior_weight)
            means[_variance_of(name)] = pooled.astype(moment.dtype)
        return means

    def mean(self, name: str, replies: Sequence[Reply]) -> NDArray[Any]:
        """Return the mean of an array; for the prior, clients count alike."""
        if name.removeprefix(f"{PRIOR_VARIANCE}/") not in self.prior_names:
            return super().mean(name, replies)
        return weighted_mean([reply.views[name] for reply in replies], [1.0] * len(replies))


def _variance_of(name: str) -> str:
    return f"{PRIOR_VARIANCE}/{name}"
