"""Data loaders: batches, in-memory loaders, counting examples, batches for batch norm."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from clients.data.inputs import Inputs, clone, concatenated, mapped, num_examples, trimmed
from strategies.errors import ArgumentError

__all__ = ["in_memory_loader"]

Batch = Sequence[Any] | Mapping[str, Tensor]
"""Inputs (:data:`~clients.data.inputs.Inputs`) and targets; the first dimension of each tensor is
the example. Or a mapping of both, as data sets of Hugging Face give it, with targets ``labels``."""

LABELS = "labels"
"""Name of the targets in a batch that is a mapping, as transformers calls them."""

Loader = Iterable[Batch]


def parted(batch: Batch) -> tuple[Inputs, Tensor]:
    """Return the inputs and the targets of a batch.

    Raises
    ------
    ArgumentError
        If there is anything else in it, such as weights or numbers of examples: the last of three
        need not be the targets, and what is not used must not be there. Or if a mapping has no
        ``labels``, or there is not one target for each input.
    """
    if isinstance(batch, Mapping):
        if LABELS not in batch or len(batch) < 2:
            raise ArgumentError("batch", sorted(batch), f"inputs by name, and {LABELS!r}")
        inputs: Inputs = {name: each for name, each in batch.items() if name != LABELS}
        targets: Tensor = batch[LABELS]
    else:
        if len(batch) != 2:
            wanted = "2: inputs and targets. Several inputs are one mapping, or one tuple"
            raise ArgumentError("batch", f"{len(batch)} parts", wanted)
        inputs, targets = batch
    if not isinstance(inputs, Tensor) and num_examples(inputs) != len(targets):
        raise ArgumentError("targets", len(targets), f"{num_examples(inputs)}, as there are inputs")
    return inputs, targets


def gathered(batches: Iterable[Batch]) -> tuple[Inputs, Tensor]:
    """Return the inputs and the targets of all examples of some batches, at least one."""
    parts = [parted(batch) for batch in batches]
    return concatenated([inputs for inputs, _ in parts]), torch.cat([y for _, y in parts])


def copied(batch: Batch) -> Batch:
    """Return copies of a batch's tensors, for one that networks see several times.

    A network may write in its inputs (``x /= 255``); what it sees next would be what it wrote.
    """
    inputs, targets = parted(batch)
    return clone(inputs), targets.clone()


def merge_lone_examples(batches: Loader) -> Iterator[Batch]:
    """Yield the batches, with batches of one example merged into a neighbour.

    Batch norm cannot train on one example.
    """
    held: Batch | None = None
    for batch in batches:
        if held is not None and 1 in (len(parted(held)[1]), len(parted(batch)[1])):
            yield gathered([held, batch])
            held = None
            continue
        if held is not None:
            yield held
        held = batch
    if held is not None:
        yield held


def batches_for_batch_norm(loader: Loader) -> Iterator[Batch]:
    """Yield an epoch's batches, none so small that batch norm would train on noise.

    An :func:`in_memory_loader` shares a small last batch evenly with the one before
    (:meth:`InMemoryLoader.batches`). Of any other loader, which its user made, batches of one are
    merged with a neighbour, and all others are as they come.
    """
    if isinstance(loader, InMemoryLoader):
        loader = loader.batches(evenly=True)
    return merge_lone_examples(loader)


Rows = Callable[[Tensor], Tensor]


def _rows(tensor: Tensor, start: int, end: int) -> Tensor:
    return tensor[start:end].clone(memory_format=torch.contiguous_format)


def _at(tensor: Tensor, places: Tensor) -> Tensor:
    return tensor[places]


class InMemoryLoader:
    """Batches of tensors that are in memory, fetched whole; see :func:`in_memory_loader`.

    A ``DataLoader`` over them takes longer to set up than a small client's step, and every message
    makes new ones. This draws what a ``DataLoader`` draws from torch's global generator, in the
    same order.

    Attributes
    ----------
    inputs : Inputs
        Of all examples: a tensor, or several by name or in order.
    targets : Tensor
        Of all examples.
    used : int
        Number of examples of an epoch.
    """

    def __init__(
        self, inputs: Inputs, targets: Tensor, batch_size: int, shuffle: bool, drop_last: bool
    ) -> None:
        self.inputs, self.targets = inputs, targets
        self.batch_size, self.shuffle = batch_size, shuffle
        count = targets.shape[0]  # len() of a tensor takes three times as long
        full = count - count % batch_size
        self.used = full if drop_last and full else count

    def __iter__(self) -> Iterator[Batch]:
        return self.batches()

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
        inputs, targets = self.inputs, self.targets
        order = torch.randperm(len(targets)) if self.shuffle else None
        torch.empty((), dtype=torch.int64).random_()  # the seed of a DataLoader's workers
        ends = self._ends(evenly)
        for start, end in zip([0, *ends], ends, strict=False):
            if order is None:  # rows one after the other in memory, as an index would have them
                rows: Rows = partial(_rows, start=start, end=end)
            else:
                rows = partial(_at, places=order[start:end])
            yield trimmed(mapped(rows, inputs)), rows(targets)

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

    def __len__(self) -> int:
        return math.ceil(self.used / self.batch_size)


def in_memory_loader(
    inputs: Inputs,
    targets: Tensor,
    batch_size: int,
    shuffle: bool = False,
    drop_last: bool = False,
) -> InMemoryLoader:
    """Return batches of tensors, fetched whole.

    Much faster than collating single examples, and an empty data set is fine. The order comes
    from torch's global generator, which :class:`clients.PersonalClient` seeds for every round.

    Parameters
    ----------
    inputs : Tensor, or mapping or tuple of Tensor
        Of shape ``(N, ...)`` each. Of a mapping with an ``attention_mask`` the columns that are
        padding in all examples of a batch are left out of it.
    targets : Tensor
        Of shape ``(N, ...)``.
    batch_size : int
        Examples a batch, at least 1.
    shuffle : bool, default False
        Whether every epoch has an order of its own.
    drop_last : bool, default False
        Whether a last batch that is not full is left out, unless it is the only one.

    Raises
    ------
    ArgumentError
        If ``batch_size`` is below 1, or there is not one target for each input.
    """
    if batch_size < 1:
        raise ArgumentError("batch_size", batch_size, "at least 1")
    if (count := num_examples(inputs)) != targets.shape[0]:
        raise ArgumentError("targets", targets.shape[0], f"{count}, as there are inputs")
    return InMemoryLoader(inputs, targets, batch_size, shuffle, drop_last)


def labels_of(loader: Loader) -> Tensor:
    """Return the targets of all examples of a loader, flat, in no particular order.

    For an :func:`in_memory_loader` they include the examples that ``drop_last`` leaves out. Any
    other loader is iterated once.
    """
    if isinstance(loader, InMemoryLoader):
        parts = [loader.targets]
    else:
        parts = [parted(batch)[1] for batch in loader]
    return torch.cat([torch.zeros(0, dtype=torch.int64), *(part.flatten().cpu() for part in parts)])


def count_examples(loader: Loader) -> int:
    """Return the number of examples in an epoch of a loader.

    Loaders of this module and ordinary ``DataLoader`` objects know it; any other loader is iterated
    once.

    Raises
    ------
    ArgumentError
        If the loader is an iterator, which an epoch would exhaust.
    """
    if isinstance(loader, InMemoryLoader):
        return loader.used
    sampler = getattr(loader, "sampler", None)
    if (
        isinstance(loader, DataLoader)
        and loader.batch_size
        and isinstance(sampler, Sized)
        and not isinstance(loader.dataset, IterableDataset)
    ):
        count = len(sampler)
        return count - count % loader.batch_size if loader.drop_last else count
    if iter(loader) is loader:
        kind = type(loader).__name__
        raise ArgumentError("loader", kind, "iterable again and again, unlike an iterator")
    return sum(len(parted(batch)[1]) for batch in loader)
