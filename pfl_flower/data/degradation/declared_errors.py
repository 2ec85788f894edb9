"""What a user states of the errors of his own readings: their variance, replicates, reliability."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.measurement_error.data_quality import check_reliability, noise_of_replicates
from pfl_flower.data.moments import KnownValues
from pfl_flower.data.readers.array_checks import as_array
from pfl_flower.data.schema import DataError

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class StatedErrors:
    """What a user states of the errors of his readings.

    Attributes
    ----------
    kind : one of :data:`DECLARED`: ``noise``, variances; ``replicates``, several readings of the
        same things; or ``reliability``, the share of the variance of readings that is the true
        values', above 0 and at most 1
    values : ``(d,)`` float64; of replicates ``(R, N, d)``, R readings of each of N things
    """

    kind: str
    values: Floats

    def noise(self, training: np.ndarray) -> Floats:
        """Return the variance of the errors of readings, ``(d,)`` float64.

        Pixels (uint8) are stated in 0..255, as they are given; what is returned is of pixels in 0
        to 1, as a model sees them.

        Parameters
        ----------
        training : ``(N, ...)``, the inputs to train on, of d numbers each, and no others: of a
            reliability their variance decides; NaN where one is missing

        Raises
        ------
        ValueError
            If values cannot be.
        """
        found = _VARIANCE[self.kind](self.values, training)
        return found / 255.0**2 if training.dtype == np.uint8 else found


def stated_errors(
    arrays: Mapping[str, Any], training: np.ndarray, where: str
) -> StatedErrors | None:
    """Return what is stated of the errors of readings, after every check; None if nothing is.

    Parameters
    ----------
    arrays : maybe with one of :data:`DECLARED`
    training : ``(N, ...)``, inputs of d numbers each
    where : for error messages

    Raises
    ------
    DataError
        If several are stated, or one has another shape or values that cannot be.
    """
    stated = [name for name in DECLARED if arrays.get(name) is not None]
    if not stated:
        return None
    if len(stated) > 1:
        raise DataError(f"{where} states {' and '.join(stated)}, which say the same; keep one")
    name, size = stated[0], int(np.prod(training.shape[1:]))
    array = as_array(arrays[name], f"{where}: {name}")
    try:
        values = np.asarray(array, dtype=np.float64)
        if values.shape[-1:] != (size,) or values.ndim != (3 if name == "replicates" else 1):
            wanted = f"(2 or more, things, {size})" if name == "replicates" else f"({size},)"
            raise ValueError(f"it has shape {values.shape}; it has to be {wanted}")
        found = StatedErrors(name, values)
        found.noise(training)
        return found
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}: {name}: {error}") from error


def _of_replicates(readings: Floats, training: np.ndarray) -> Floats:
    return noise_of_replicates(readings)


def _checked(noise: Floats, training: np.ndarray) -> Floats:
    odd = noise[~(np.isfinite(noise) & (noise >= 0))]
    if odd.size:
        raise ValueError(f"the variance of an error must be finite and not negative, got {odd[0]}")
    return noise


def _by_reliability(reliability: Floats, training: np.ndarray) -> Floats:
    """Return the share of the variance of the readings that is not the true values'."""
    check_reliability(reliability)
    if not reliability.all():
        raise ValueError(
            "a reliability of 0 says that readings are nothing but noise; it must be above 0 and "
            "at most 1. Leave the feature out"
        )
    rows = training.reshape(len(training), -1).astype(np.float64)
    noise: Floats = (1.0 - reliability) * KnownValues.of(rows).variances
    return noise


_VARIANCE: Mapping[str, Callable[[Floats, np.ndarray], Floats]] = {
    "noise": _checked,
    "replicates": _of_replicates,
    "reliability": _by_reliability,
}
"""What may be stated -> (it, training inputs) -> the variance of the errors."""

DECLARED = tuple(_VARIANCE)
"""Names of the arrays of which one may say how exact readings are."""
