"""Train, validation and test split of one client, and quantity skew."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pfl_flower.data.settings import DataSettings
from strategies.randomness import generator

Rows = NDArray[np.int64]


def split(
    settings: DataSettings,
    client: int,
    count: int,
    is_test: NDArray[np.bool_] | None = None,
    phase: int | None = None,
    labels: NDArray[Any] | None = None,
) -> tuple[Rows, Rows, Rows]:
    """Return the rows (numbers below ``count``) of train, validation and test, each shuffled.

    With ``stratify`` the fractions are those of every class. A class of two examples or more has
    one in train and one in test, and one of three or more has one in validation (if there is any).

    Parameters
    ----------
    settings : DataSettings
        Its fractions refer to all ``count`` examples; its seed decides the order.
    client : int
        Number of the client.
    count : int
        Number of the client's examples, at least 2.
    is_test : ndarray, optional
        ``(count,)`` whether each example is a test example. By default test examples are drawn, at
        least one and never all.
    phase : int, optional
        Phase of a stream; the split of each phase is drawn independently.
    labels : ndarray, optional
        ``(count,)`` class of each example, for ``stratify``; of another shape without effect.
    """
    order = generator(settings.seed, "split", *_names(client, phase)).permutation(count)
    if settings.stratify and labels is not None and labels.ndim == 1:
        parts = _by_class(settings, order, labels, is_test)
        if len(parts[2]):  # there is none if every class has one example
            return parts
    if is_test is None:
        size = min(max(1, round(settings.test_fraction * count)), count - 1)
        test, rest = order[:size], order[size:]
    else:
        test, rest = order[is_test[order]], order[~is_test[order]]
    size = max(0, min(round(settings.validation_fraction * count), len(rest) - 1))
    return rest[size:], rest[:size], test


def _by_class(
    settings: DataSettings,
    order: Rows,
    labels: NDArray[Any],
    is_test: NDArray[np.bool_] | None,
) -> tuple[Rows, Rows, Rows]:
    """Return the rows of train, validation and test in ``order``, where each class is split."""
    part = np.zeros(len(order), dtype=int)
    for label in np.unique(labels):
        rows = order[labels[order] == label]
        count = len(rows)
        if is_test is None:
            size = min(max(1, round(settings.test_fraction * count)), count - 1)
            test, rest = rows[:size], rows[size:]
        else:
            test, rest = rows[is_test[rows]], rows[~is_test[rows]]
        share = settings.validation_fraction
        size = max(0, min(max(bool(share), round(share * count)), len(rest) - 1))
        part[test], part[rest[:size]] = 2, 1
    return order[part[order] == 0], order[part[order] == 1], order[part[order] == 2]


def quantity_limit(settings: DataSettings, client: int, phase: int | None = None) -> int | None:
    """Draw the largest number of a client's training examples, log-uniformly; None for all.

    Parameters
    ----------
    settings : DataSettings
        Its ``min_examples``, ``max_examples`` and seed.
    client : int
        Number of the client.
    phase : int, optional
        Phase of a stream; each phase has its own limit.
    """
    low, high = settings.min_examples, settings.max_examples
    if not high:
        return None
    draw = generator(settings.seed, "quantity", *_names(client, phase))
    return round(float(np.exp(draw.uniform(np.log(max(low, 1)), np.log(high)))))


def _names(client: int, phase: int | None) -> tuple[int, ...]:
    return (client,) if phase is None else (client, phase)
