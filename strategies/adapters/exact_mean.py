"""The mean of products of low-rank adapters (LoRA), which is not the product of their means."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strategies.arrays import weighted_mean
from strategies.partial_averaging import PartialAveraging
from strategies.replies import Reply

__all__ = ["LowRankAveraging", "mean_of_products"]

Floats = NDArray[np.float64]

_MOST_CONDITION = 100.0
"""Largest condition number with which the mean of the halves A is kept as far as it can be."""

_ZERO = 1e-10
"""Singular values below this part of the largest one are rounding: halves are of single precision,
and what is below 1e-7 of the largest is not in them."""


class LowRankAveraging(PartialAveraging):
    """Averaging that can give low-rank adapters the mean of their products.

    Parameters
    ----------
    args, kwargs
        As in :class:`PartialAveraging`.
    exact_mean : bool, default False
        Whether the halves of an adapter are averaged by :func:`mean_of_products` instead of each
        for itself.
    pairs : mapping of str to str
        Name of the half A -> name of the half B, of the adapters of which both are averaged.
    """

    def __init__(
        self,
        *args: Any,
        exact_mean: bool = False,
        pairs: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.pairs = dict(pairs or {}) if exact_mean else {}
        if exact_mean:
            self.refuses_privacy = "the exact mean of products is no mean of what clients send"

    def means(self, replies: Sequence[Reply], names: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Return the means of some arrays; of the halves of adapters, those of their products."""
        wanted, weights = list(names), self.weights(replies)
        found: dict[str, NDArray[Any]] = {}
        for first, second in self.pairs.items():
            if first in wanted and second in wanted:
                a, b = ([reply.views[name] for reply in replies] for name in (first, second))
                found[first], found[second] = mean_of_products(a, b, weights)
        plain = super().means(replies, [name for name in wanted if name not in found])
        return {name: found[name] if name in found else plain[name] for name in wanted}


def mean_of_products(
    a: Sequence[NDArray[Any]], b: Sequence[NDArray[Any]], weights: Sequence[float]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return halves A and B whose product ``B A`` is the weighted mean of products, or nearest.

    The mean of N products of rank r has a rank of up to N r, so of more than r it is the nearest
    matrix of rank r in the Frobenius norm: its largest singular values (Eckart & Young 1936). The
    products are never built: with ``[w_1 B_1, ..., w_N B_N] = Q_1 R_1`` and the like of all A, the
    singular value decomposition is that of a matrix of N r by N r at most.

    A product has many pairs of halves. Taken is the A that is nearest to the mean of all A among
    those whose rows are in the row space of the product; so where all clients have the same A, or
    the same B, the result is that of plain averaging, bit for bit. Where that A is nearly singular,
    or the rank is less, it is ``A = S^1/2 V^T`` and ``B = U S^1/2``, and what the rank leaves over
    has the mean of all A, times 0.

    Parameters
    ----------
    a : sequence of ndarray
        One half A for each client, ``(r, inputs, ...)``; further axes, as of a convolution, count
        as inputs.
    b : sequence of ndarray
        One half B for each client, ``(outputs, r, ...)``, whose further axes are of length 1.
    weights : sequence of float
        One positive finite weight for each client.

    Returns
    -------
    tuple of ndarray
        A and B, of the shapes and types of the clients'.

    Notes
    -----
    Bai et al. 2024 (FlexLoRA, arXiv:2402.11505), section 3, with another choice of the halves.
    """
    plain = weighted_mean(a, weights), weighted_mean(b, weights)
    if _all_equal(a) or _all_equal(b):
        return plain
    rank = len(a[0])
    u, s, vt = _svd_of_mean(a, b, weights)
    kept = min(rank, int((s > _ZERO * s[0]).sum())) if s[0] else 0
    if not kept:
        return plain
    u, s, vt = u[:, :kept], s[:kept], vt[:kept]
    mean = plain[0].reshape(rank, -1).astype(np.float64)
    turned = mean @ vt.T
    if kept == rank and np.linalg.cond(turned) <= _MOST_CONDITION:
        first, second = turned @ vt, np.linalg.solve(turned.T, (u * s).T).T
    else:
        root = np.sqrt(s)
        first = np.concatenate([root[:, None] * vt, mean[kept:]])
        second = np.concatenate([u * root, np.zeros((len(u), rank - kept))], axis=1)
    return (
        first.reshape(a[0].shape).astype(a[0].dtype),
        second.reshape(b[0].shape).astype(b[0].dtype),
    )


def _svd_of_mean(
    a: Sequence[NDArray[Any]], b: Sequence[NDArray[Any]], weights: Sequence[float]
) -> tuple[Floats, Floats, Floats]:
    """Return the singular value decomposition of ``sum_i w_i B_i A_i / sum_i w_i``."""
    top = max(weights)  # first, so that not even absurd weights overflow
    shares = np.array([weight / top for weight in weights])
    shares /= shares.sum()
    left = np.concatenate(
        [
            share * each.reshape(len(each), -1).astype(np.float64)
            for share, each in zip(shares, b, strict=True)
        ],
        axis=1,
    )
    right = np.concatenate([each.reshape(len(each), -1).astype(np.float64) for each in a])
    q1, r1 = np.linalg.qr(left)
    q2, r2 = np.linalg.qr(right.T)
    u, s, vt = np.linalg.svd(r1 @ r2.T, full_matrices=False)
    return q1 @ u, s, vt @ q2.T


def _all_equal(arrays: Sequence[NDArray[Any]]) -> bool:
    return all(np.array_equal(each, arrays[0]) for each in arrays[1:])
