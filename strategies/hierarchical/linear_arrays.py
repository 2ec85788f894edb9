"""The prior and what clients report of a linear model, as arrays that travel."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strategies.arrays import is_finite
from strategies.errors import ArgumentError
from strategies.hierarchical.mixed_effects import Floats, Moments, Prior
from strategies.hierarchical.mixed_effects_em import Contribution

MEAN, COVARIANCE, UNCERTAINTY, NOISE = NAMES = ("mean", "covariance", "uncertainty", "noise")
"""Names of the arrays that travel, the same and of the same shapes both ways: ``(d,)``, ``(d, d)``,
``(d, d)`` and ``(2,)``, float64. Down it is the prior."""

PROTOCOLS = ("iterative", "one-shot")
"""What clients report: their terms of the sums of every step, or their moments once."""

_ROUNDING = 1e-6
"""How far a matrix may be from symmetric and positive semidefinite, beside its largest entry."""

Arrays = Mapping[str, NDArray[Any]]


def prior_arrays(prior: Prior) -> dict[str, NDArray[Any]]:
    """Return the prior as the arrays that are sent to clients."""
    noise = np.array([prior.noise, prior.noise_floor])
    values = (prior.mean, prior.covariance, prior.uncertainty, noise)
    return dict(zip(NAMES, values, strict=True))


def prior_of(arrays: Arrays) -> Prior:
    """Return the prior in the arrays that were sent to clients.

    Raises
    ------
    ArgumentError
        If shapes do not fit each other, values are not finite, or the noise is not above zero.
    """
    mean, covariance, uncertainty, noise = (
        np.asarray(arrays[name], dtype=np.float64) for name in NAMES
    )
    size = len(mean)
    expected = ((size,), (size, size), (size, size), (2,))
    shapes = (mean.shape, covariance.shape, uncertainty.shape, noise.shape)
    if shapes != expected:
        raise ArgumentError("shapes of the prior", shapes, f"{expected}, those of its mean")
    _check_finite(dict(zip(NAMES, (mean, covariance, uncertainty, noise), strict=True)))
    if not noise.min() > 0:
        raise ArgumentError(NOISE, noise.tolist(), "above 0")
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


def check_declared(arrays: Arrays, examples: float, protocol: str = "iterative") -> None:
    """Refuse arrays that cannot come from a client's data.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        Of its reply, in the shapes of a prior.
    examples : float
        Its number of examples, as it says beside them.
    protocol : str, default "iterative"
        One of :data:`PROTOCOLS`.

    Raises
    ------
    ArgumentError
        If an array is missing or not finite, the number of examples is not that which the client
        reports beside it, or a sum of squares is negative or a matrix of them not positive
        semidefinite.
    """
    if missing := [name for name in NAMES if name not in arrays]:
        raise ArgumentError("arrays", list(arrays), f"{list(NAMES)}; missing {missing}")
    _check_finite({name: arrays[name] for name in NAMES})
    square, count = (float(value) for value in arrays[NOISE])
    if not 1 <= count <= examples or count != round(count):
        raise ArgumentError("examples", count, f"an integer from 1 to {examples:g}")
    if square < 0:
        raise ArgumentError("square", square, "at least 0")
    matrices = {name: arrays[name] for name in (COVARIANCE, UNCERTAINTY)}
    if protocol == "one-shot":
        own = moments_of(arrays)
        matrices = {"moments": _joint(own)}
        if not np.isclose(own.gram[-1, -1], count):
            ones = float(own.gram[-1, -1])
            raise ArgumentError("gram[-1, -1]", ones, f"{count:g}, the number of examples")
    for name, values in matrices.items():
        slack = _ROUNDING * float(np.abs(values).max())
        if not (least := _least_eigenvalue(values, slack)) >= -slack:
            wanted = "at least 0, of a symmetric matrix"
            raise ArgumentError(f"least eigenvalue of {name}", least, wanted)


def _check_finite(arrays: Arrays) -> None:
    for name, values in arrays.items():
        if not is_finite(values):
            raise ArgumentError(name, float(values[~np.isfinite(values)][0]), "finite")


def _least_eigenvalue(values: Floats, slack: float) -> float:
    """Return the least eigenvalue of a matrix; NaN if it is not symmetric, but for ``slack``."""
    uneven = np.abs(values - values.T).max() > slack
    return math.nan if uneven else float(np.linalg.eigvalsh(values)[0])


def _joint(own: Moments) -> Floats:
    """Return the moments of inputs and target together, ``(d + 1, d + 1)``."""
    return np.block([[own.gram, own.cross[:, None]], [own.cross[None], own.square[None, None]]])
