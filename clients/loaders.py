"""Batches: what a loader yields, in-memory loaders, and examples that are alone."""

import math
from collections.abc import Iterable, Iterator, Sequence, Sized

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Sampler, TensorDataset

Batch = Sequence[Tensor]
"""Inputs first, targets last; the first dimension of each is the example."""

Loader = Iterable[Batch]


def merge_lone_examples(batches: Loader) -> Iterator[Batch]:
    """Yield the batches, a batch of one joined with its neighbour where it has one."""
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
    """Indices of whole batches, so that in-memory tensors are indexed once a batch."""

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

    Much faster than collating single examples, and an empty data set is fine. The order comes
    from torch's global generator, which :class:`clients.PersonalClient` seeds for every round.

    Parameters
    ----------
    inputs, targets : Tensor
        ``(N, ...)``.
    batch_size : int
        Examples a batch.
    shuffle : bool, default False
        Whether every epoch has an order of its own.
    drop_last : bool, default False
        Leave out a last batch that is not full, unless it is the only one.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    indices = _BatchIndices(len(inputs), batch_size, shuffle, drop_last)
    return DataLoader(TensorDataset(inputs, targets), batch_size=None, sampler=indices)


def labels_of(loader: Loader) -> Tensor:
    """Return the targets of all examples of a loader, flat, in no particular order.

    Those that ``drop_last`` leaves out of an epoch of :func:`in_memory_loader` are there, too; any
    other loader is iterated once.
    """
    if isinstance(loader, DataLoader) and isinstance(loader.sampler, _BatchIndices):
        parts = [loader.dataset.tensors[-1]]  # type: ignore[attr-defined]
    else:
        parts = [batch[-1] for batch in loader]
    return torch.cat([torch.zeros(0, dtype=torch.int64), *(part.flatten().cpu() for part in parts)])


def count_examples(loader: Loader) -> int:
    """Return the number of examples that an epoch of a loader trains on.

    Known at once for loaders of this module and for an ordinary ``DataLoader``; any other is
    iterated once.

    Raises
    ------
    ValueError
        If it is an iterator, which an epoch would use up.
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
        raise ValueError("a loader must be iterable again and again; this is an iterator")
    return sum(len(batch[-1]) for batch in loader)
