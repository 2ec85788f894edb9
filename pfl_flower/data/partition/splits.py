"""Which of a client's examples are for training, validation and testing."""

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
    settings : its fractions are of all ``count`` examples, its seed decides the order
    client : the client's number
    count : number of the client's examples, at least 2
    is_test : ``(count,)`` which examples are for testing, where that is given; drawn otherwise,
        at least one and never all
    phase : which phase of a stream the examples are of; each is split by draws of its own
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
    """Return the largest number of training examples of a client, log-uniform; None for all.

    In a stream it is a number of each phase.
    """
    low, high = settings.min_examples, settings.max_examples
    if not high:
        return None
    draw = generator(settings.seed, "quantity", *_names(client, phase))
    return round(float(np.exp(draw.uniform(np.log(max(low, 1)), np.log(high)))))


def _names(client: int, phase: int | None) -> tuple[int, ...]:
    return (client,) if phase is None else (client, phase)
