"""Declared measurement errors of own data: error variances, replicates or reliability."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.data.data_quality import check_reliability, noise_of_replicates
from pfl_flower.data.errors import DataError
from pfl_flower.data.moments import KnownValues
from pfl_flower.data.readers.array_checks import as_array
from strategies.errors import ArgumentError

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class DeclaredErrors:
    """What a user declares about the errors of own measurements.

    Attributes
    ----------
    kind : str
        One of :data:`DECLARED`: ``noise``, error variances; ``replicates``, several measurements
        of the same subjects; or ``reliability``, the variance of the true values divided by that
        of the measurements, above 0 and at most 1.
    values : ndarray
        ``(d,)`` float64; of replicates ``(R, N, d)``, R measurements of each of N subjects.
    """

    kind: str
    values: Floats

    def noise(self, training: np.ndarray) -> Floats:
        """Return the error variance of every feature, ``(d,)`` float64.

        For pixels (uint8) the declared values refer to 0..255, and the result to pixels in 0 to 1,
        as a model gets them.

        Parameters
        ----------
        training : ndarray
            ``(N, ...)``, the training inputs only, of d numbers each; NaN where one is missing. A
            reliability becomes a variance by their variances.

        Raises
        ------
        ValueError
            If a value is impossible, such as a negative variance.
        """
        found = _VARIANCE[self.kind](self.values, training)
        return found / 255.0**2 if training.dtype == np.uint8 else found


def declared_errors(
    arrays: Mapping[str, Any], training: np.ndarray, where: str
) -> DeclaredErrors | None:
    """Return the declared measurement errors, after every check; None if there are none.

    Parameters
    ----------
    arrays : mapping
        Arrays of a client, with at most one of :data:`DECLARED`.
    training : ndarray
        Training inputs ``(N, ...)``, of d numbers each.
    where : str
        File and client, for error messages.

    Raises
    ------
    DataError
        If several are declared, or one has a wrong shape or impossible values.
    """
    declared = [name for name in DECLARED if arrays.get(name) is not None]
    if not declared:
        return None
    if len(declared) > 1:
        raise DataError(
            f"{where} declares {' and '.join(declared)}, which mean the same; keep one",
            key=", ".join(declared),
            choices=DECLARED,
        )
    name, size = declared[0], int(np.prod(training.shape[1:]))
    array = as_array(arrays[name], name, where)
    try:
        values = np.asarray(array, dtype=np.float64)
        if values.shape[-1:] != (size,) or values.ndim != (3 if name == "replicates" else 1):
            wanted = f"(2 or more, N, {size})" if name == "replicates" else f"({size},)"
            raise ArgumentError("its shape", values.shape, wanted)
        found = DeclaredErrors(name, values)
        found.noise(training)
        return found
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{where}: {name}: {error}", key=name, value=getattr(error, "value", array)
        ) from error


def _of_replicates(replicates: Floats, training: np.ndarray) -> Floats:
    return noise_of_replicates(replicates)


def _checked(noise: Floats, training: np.ndarray) -> Floats:
    odd = noise[~(np.isfinite(noise) & (noise >= 0))]
    if odd.size:
        raise ArgumentError("an error variance", float(odd[0]), "finite and not negative")
    return noise


def _by_reliability(reliability: Floats, training: np.ndarray) -> Floats:
    """Return the part of the variance of measurements that is due to errors."""
    check_reliability(reliability)
    if not reliability.all():
        raise ArgumentError(
            "a reliability",
            0.0,
            "above 0 (0 means pure noise: leave the feature out) and at most 1",
        )
    rows = training.reshape(len(training), -1).astype(np.float64)
    noise: Floats = (1.0 - reliability) * KnownValues.of(rows).variances
    return noise


_VARIANCE: Mapping[str, Callable[[Floats, np.ndarray], Floats]] = {
    "noise": _checked,
    "replicates": _of_replicates,
    "reliability": _by_reliability,
}
"""Name of what is declared -> (its values, training inputs) -> the error variances."""

DECLARED = tuple(_VARIANCE)
"""Names of the arrays, one of which may declare how exact the inputs are."""
