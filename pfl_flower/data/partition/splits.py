"""Train, validation and test split of one client, and quantity skew."""

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
) -> tuple[Rows, Rows, Rows]:
    """Return the rows (numbers below ``count``) of train, validation and test, each shuffled.

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
    """
    order = generator(settings.seed, "split", *_names(client, phase)).permutation(count)
    if is_test is None:
        size = min(max(1, round(settings.test_fraction * count)), count - 1)
        test, rest = order[:size], order[size:]
    else:
        test, rest = order[is_test[order]], order[~is_test[order]]
    size = max(0, min(round(settings.validation_fraction * count), len(rest) - 1))
    return rest[size:], rest[:size], test


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
