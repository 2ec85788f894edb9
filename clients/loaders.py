"""Data loaders: batches, in-memory loaders, counting examples, merging batches of one."""

import math
from collections.abc import Iterable, Iterator, Sequence, Sized

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Sampler, TensorDataset

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


class _BatchIndices(Sampler[Tensor]):
    """Indices of whole batches, so that in-memory tensors are indexed once per batch."""

    def __init__(self, length: int, batch_size: int, shuffle: bool, drop_last: bool) -> None:
        self.length, self.batch_size, self.shuffle = length, batch_size, shuffle
        full = length - length % batch_size
        self.used = full if drop_last and full else length

    def __iter__(self) -> Iterator[Tensor]:
        order = torch.randperm(self.length) if self.shuffle else torch.arange(self.length)
        return iter(torch.split(order[: self.used], self.batch_size) if self.length else ())

    def __len__(self) -> int:
        return math.ceil(self.used / self.batch_size)


def in_memory_loader(
    inputs: Tensor,
    targets: Tensor,
    batch_size: int,
    shuffle: bool = False,
    drop_last: bool = False,
) -> DataLoader[Batch]:
    """Return a torch ``DataLoader`` over tensors that fetches whole batches at once.

    It is much faster than collating single examples, and the data set may be empty. The order comes
    from torch's global generator, which :class:`clients.PersonalClient` seeds for every round.

    Parameters
    ----------
    inputs, targets : Tensor
        Tensors ``(N, ...)``.
    batch_size : int
        Number of examples per batch.
    shuffle : bool, default False
        Shuffle the examples in every epoch.
    drop_last : bool, default False
        Leave out the last batch if it is not full, unless it is the only one.

    Raises
    ------
    ArgumentError
        If ``batch_size`` is below 1.
    """
    if batch_size < 1:
        raise ArgumentError("batch_size", batch_size, "at least 1")
    indices = _BatchIndices(len(inputs), batch_size, shuffle, drop_last)
    return DataLoader(TensorDataset(inputs, targets), batch_size=None, sampler=indices)


def labels_of(loader: Loader) -> Tensor:
    """Return the targets of all examples of a loader, flat, in no particular order.

    For an :func:`in_memory_loader` they include the examples that ``drop_last`` leaves out. Any
    other loader is iterated once.
    """
    if isinstance(loader, DataLoader) and isinstance(loader.sampler, _BatchIndices):
        parts = [loader.dataset.tensors[-1]]  # type: ignore[attr-defined]
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
    sampler = getattr(loader, "sampler", None)
    if isinstance(sampler, _BatchIndices):
        return sampler.used
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
