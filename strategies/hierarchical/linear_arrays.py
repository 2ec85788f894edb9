"""The prior and what clients report of a linear model, as arrays that travel."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strategies.arrays import is_finite
from strategies.hierarchical.mixed_effects import Floats, Moments, Prior
from strategies.hierarchical.mixed_effects_em import Contribution

MEAN, COVARIANCE, UNCERTAINTY, NOISE = NAMES = ("mean", "covariance", "uncertainty", "noise")
"""Names of the arrays that travel, the same and of the same shapes both ways: ``(d,)``, ``(d, d)``,
``(d, d)`` and ``(2,)``, float64. Down it is the prior."""

PROTOCOLS = ("iterative", "one-shot")
"""What clients tell: their terms of the sums of every step, or their moments once."""

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


def _semidefinite(values: Floats) -> bool:
    """Return whether a matrix is symmetric with no eigenvalue below zero, but for rounding."""
    slack = _ROUNDING * float(np.abs(values).max())
    if np.abs(values - values.T).max() > slack:
        return False
    return bool(np.linalg.eigvalsh(values)[0] >= -slack)


def _joint(own: Moments) -> Floats:
    """Return the moments of inputs and target together, ``(d + 1, d + 1)``."""
    return np.block([[own.gram, own.cross[:, None]], [own.cross[None], own.square[None, None]]])
