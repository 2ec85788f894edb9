"""Mean, deviation and worst tenth of a score over clients, and how many of them have it."""

import math
from collections.abc import Sequence

import numpy as np


def worst_tenth(values: Sequence[float] | np.ndarray, higher_is_better: bool = True) -> float:
    """Return the mean of the worst tenth of the values (at least one of them)."""
    ordered = np.sort(np.asarray(values, dtype=float))
    ordered = ordered if higher_is_better else ordered[::-1]
    return float(ordered[: math.ceil(len(ordered) / 10)].mean()) if len(ordered) else math.nan


def spread(values: Sequence[float] | np.ndarray, higher_is_better: bool = True) -> dict[str, float]:
    """Return mean, standard deviation and worst tenth over clients; NaN without clients.

    A client without the metric (NaN, such as a validation accuracy without validation examples)
    is left out.
    """
    found = np.asarray(values, dtype=float)
    found = found[~np.isnan(found)]
    if not len(found):
        return {"mean": math.nan, "std": math.nan, "worst_tenth": math.nan}
    return {
        "mean": float(found.mean()),
        "std": float(found.std()),
        "worst_tenth": worst_tenth(found, higher_is_better),
    }


def known_spread(
    values: Sequence[float] | np.ndarray, higher_is_better: bool = True
) -> dict[str, float]:
    """Return :func:`spread`, and as ``clients`` the number of clients that have the metric."""
    known = int((~np.isnan(np.asarray(values, dtype=float))).sum())
    return {**spread(values, higher_is_better), "clients": known}


def of_clients(values: Sequence[float] | np.ndarray) -> str:
    """Say over how many clients the mean is; nothing if every client has the metric."""
    known = int((~np.isnan(np.asarray(values, dtype=float))).sum())
    return "" if known == len(values) else f" over {known} of {len(values)} clients"
