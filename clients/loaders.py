"""Data loaders: batches, in-memory loaders, counting examples, merging batches of one."""

import math
from collections.abc import Iterable, Iterator, Sequence, Sized

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

__all__ = ["in_memory_loader"]
from strategies.errors import ArgumentError

Batch = Sequence[Tensor]
"""Inputs first, targets last; the first dimension of each is the example."""

Loader = Iterable[Batch]


def merge_lone_examples(batches: Loader) -> Iterator[Batch]:
    """Yield the batches, with batches of one example merged into a neighbour.

    Batch norm cannot train on one example.
    """
    held: Batch | None = None
    for batch in batches:
        if held is not None and 1 in (len(held[0]), len(batch[0])):
            yield tuple(torch.cat(pair) for pair in zip(held, batch, strict=True))
            held = None
            continue
        if held is not None:
            yield held
        held = batch
    if held is not None:
        yield held


class InMemoryLoader:
    """Batches of tensors that are in memory, fetched whole; see :func:`in_memory_loader`.

    A ``DataLoader`` over them takes longer to set up than a small client's step, and every message
    makes new ones. This draws what a ``DataLoader`` draws from torch's global generator, in the
    same order.

    Attributes
    ----------
    dataset : TensorDataset
        Of inputs and targets.
    used : int
        Number of examples of an epoch.
    """

    def __init__(
        self, inputs: Tensor, targets: Tensor, batch_size: int, shuffle: bool, drop_last: bool
    ) -> None:
        self.dataset = TensorDataset(inputs, targets)
        self.batch_size, self.shuffle = batch_size, shuffle
        full = len(inputs) - len(inputs) % batch_size
        self.used = full if drop_last and full else len(inputs)

    def __iter__(self) -> Iterator[Batch]:
        inputs, targets = self.dataset.tensors
        order = torch.randperm(len(inputs)) if self.shuffle else None
        torch.empty((), dtype=torch.int64).random_()  # the seed of a DataLoader's workers
        for start in range(0, self.used, self.batch_size):
            end = min(start + self.batch_size, self.used)
            if order is None:  # rows one after the other in memory, as an index would have them
                yield (
                    inputs[start:end].clone(memory_format=torch.contiguous_format),
                    targets[start:end].clone(memory_format=torch.contiguous_format),
                )
            else:
                yield inputs[order[start:end]], targets[order[start:end]]

    def __len__(self) -> int:
        return math.ceil(self.used / self.batch_size)


def in_memory_loader(
    inputs: Tensor,
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
    inputs, targets : Tensor
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
        If ``batch_size`` is below 1.
    """
    if batch_size < 1:
        raise ArgumentError("batch_size", batch_size, "at least 1")
    return InMemoryLoader(inputs, targets, batch_size, shuffle, drop_last)


def labels_of(loader: Loader) -> Tensor:
    """Return the targets of all examples of a loader, flat, in no particular order.

    For an :func:`in_memory_loader` they include the examples that ``drop_last`` leaves out. Any
    other loader is iterated once.
    """
    if isinstance(loader, InMemoryLoader):
        parts = [loader.dataset.tensors[-1]]
    else:
        parts = [batch[-1] for batch in loader]
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
    return sum(len(batch[-1]) for batch in loader)
