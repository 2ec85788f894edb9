"""IndexedLoader: batches of examples that are known by their index, in the order of an epoch."""

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strategies.errors import ArgumentError
from strategies.randomness import named_seed

Batch = Sequence[Any] | Mapping[str, Tensor]
"""Inputs (:data:`~clients.data.inputs.Inputs`) and targets; the first dimension of each tensor is
the example. Or a mapping of both, as data sets of Hugging Face give it, with targets ``labels``."""

Places = Tensor | slice
"""Indices of the examples of a batch."""

Augment = Callable[[Tensor], Tensor]
"""Inputs ``(N, ...)`` -> inputs of the same shape, drawn from torch's global generator."""


class IndexedLoader(ABC):
    """Batches of examples in the order of an epoch, which torch's global generator decides.

    It draws what a ``DataLoader`` draws, in the same order. What changes examples at random draws
    from a generator of each batch, so that the numbers do not depend on who reads it.

    Parameters
    ----------
    count : int
        Number of examples.
    batch_size : int
        Examples a batch, at least 1.
    shuffle : bool
        Whether every epoch has an order of its own.
    drop_last : bool
        Whether a last batch that is not full is left out, unless it is the only one.
    augment : callable, optional
        Changes the inputs of a batch at random.

    Attributes
    ----------
    targets : Tensor
        Of all examples.
    used : int
        Number of examples of an epoch.

    Raises
    ------
    ArgumentError
        If ``batch_size`` is below 1.
    """

    targets: Tensor

    def __init__(
        self,
        count: int,
        batch_size: int,
        shuffle: bool,
        drop_last: bool,
        augment: Augment | None = None,
    ) -> None:
        if batch_size < 1:
            raise ArgumentError("batch_size", batch_size, "at least 1")
        self.count, self.batch_size, self.shuffle = count, batch_size, shuffle
        self.augment = augment
        full = count - count % batch_size
        self.used = full if drop_last and full else count

    def __iter__(self) -> Iterator[Batch]:
        return self.batches()

    def __len__(self) -> int:
        return math.ceil(self.used / self.batch_size)

    def batches(self, evenly: bool = False) -> Iterator[Batch]:
        """Yield the batches of an epoch, which has the same order of examples either way.

        Parameters
        ----------
        evenly : bool, default False
            Whether a last batch of less than half the size shares evenly with the one before: 34
            examples in batches of 32 are then batches of 17 and 17 in place of 32 and 2. Batch
            norm needs that, since the statistics of two examples are mostly noise. (One batch of
            34 would have good statistics, too, but is one step less.)
        """
        order = torch.randperm(self.count) if self.shuffle else None
        drawn = torch.empty((), dtype=torch.int64).random_()  # the seed of a DataLoader's workers
        ends = self._ends(evenly)
        parts: list[Places] = [
            slice(start, end) if order is None else order[start:end]
            for start, end in zip([0, *ends], ends, strict=False)
        ]
        yield from self._read(parts, drawn)

    @abstractmethod
    def _read(self, parts: Sequence[Places], drawn: Tensor) -> Iterator[Batch]:
        """Yield the batches of these examples; ``drawn`` seeds what changes them at random."""

    def _ends(self, evenly: bool) -> list[int]:
        """Return how many examples have passed at the end of each batch."""
        ends = [
            min(start + self.batch_size, self.used)
            for start in range(0, self.used, self.batch_size)
        ]
        rest = self.used % self.batch_size
        if evenly and len(ends) > 1 and 0 < 2 * rest < self.batch_size:
            ends[-2] -= (self.batch_size - rest) // 2
        return ends


def batch_seed(drawn: Tensor, number: int) -> int:
    """Return the seed of what is drawn for a batch, by its number in the epoch."""
    return named_seed(int(drawn), "batch", number)


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """Seed the global generators of torch, NumPy and Python, and put them back at exit.

    Transforms of a user's own draw from one of them.
    """
    legacy = np.random.get_state()  # noqa: NPY002 - what transforms draw from
    before = torch.default_generator.get_state(), random.getstate()
    try:
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        random.seed(seed)
        yield
    finally:
        torch.default_generator.set_state(before[0])
        np.random.set_state(legacy)  # noqa: NPY002
        random.setstate(before[1])
