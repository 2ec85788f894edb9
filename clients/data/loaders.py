"""Data loaders: batches, in-memory loaders, counting examples, batches for batch norm."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from clients.data.datasets import reading
from clients.data.indexed_loader import (
    Augment,
    Batch,
    IndexedLoader,
    Places,
    batch_seed,
    drawing,
)
from clients.data.inputs import Inputs, clone, concatenated, mapped, num_examples, trimmed
from strategies.errors import ArgumentError

__all__ = ["in_memory_loader"]

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

    An :func:`in_memory_loader` or a :func:`dataset_loader` shares a small last batch evenly with
    the one before (:meth:`IndexedLoader.batches`). Of any other loader, which its user made,
    batches of one are merged with a neighbour, and all others are as they come.
    """
    if isinstance(loader, IndexedLoader):
        loader = loader.batches(evenly=True)
    return merge_lone_examples(loader)


Rows = Callable[[Tensor], Tensor]


def _rows(tensor: Tensor, start: int, end: int) -> Tensor:
    return tensor[start:end].clone(memory_format=torch.contiguous_format)


def _at(tensor: Tensor, places: Tensor) -> Tensor:
    return tensor[places]


class InMemoryLoader(IndexedLoader):
    """Batches of tensors that are in memory, fetched whole; see :func:`in_memory_loader`.

    A ``DataLoader`` over them takes longer to set up than a small client's step, and every message
    makes new ones.

    Attributes
    ----------
    inputs : Inputs
        Of all examples: a tensor, or several by name or in order.
    """

    def __init__(
        self,
        inputs: Inputs,
        targets: Tensor,
        batch_size: int,
        shuffle: bool,
        drop_last: bool,
        augment: Augment | None = None,
    ) -> None:
        # len() of a tensor takes three times as long
        super().__init__(targets.shape[0], batch_size, shuffle, drop_last, augment)
        self.inputs, self.targets = inputs, targets

    def _read(self, parts: Sequence[Places], drawn: Tensor) -> Iterator[Batch]:
        inputs, targets = self.inputs, self.targets
        for number, part in enumerate(parts):
            if isinstance(part, slice):  # rows one after the other in memory, as an index has them
                rows: Rows = partial(_rows, start=part.start, end=part.stop)
            else:
                rows = partial(_at, places=part)
            found = trimmed(mapped(rows, inputs))
            if self.augment is not None:
                with drawing(batch_seed(drawn, number)):
                    found = self.augment(found)
            yield found, rows(targets)


def in_memory_loader(
    inputs: Inputs,
    targets: Tensor,
    batch_size: int,
    shuffle: bool = False,
    drop_last: bool = False,
    augment: Augment | None = None,
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
    augment : callable, optional
        Changes the inputs of a batch at random: tensor -> tensor of the same shape.

    Raises
    ------
    ArgumentError
        If ``batch_size`` is below 1, or there is not one target for each input.
    """
    if (count := num_examples(inputs)) != targets.shape[0]:
        raise ArgumentError("targets", targets.shape[0], f"{count}, as there are inputs")
    return InMemoryLoader(inputs, targets, batch_size, shuffle, drop_last, augment)


def labels_of(loader: Loader) -> Tensor:
    """Return the targets of all examples of a loader, flat, in no particular order.

    For loaders of this package they include the examples that ``drop_last`` leaves out. Any
    other loader is iterated once.
    """
    if isinstance(loader, IndexedLoader):
        parts = [loader.targets]
    else:
        parts = [parted(batch)[1] for batch in reading(loader)]
    return torch.cat([torch.zeros(0, dtype=torch.int64), *(part.flatten().cpu() for part in parts)])


def count_examples(loader: Loader) -> int:
    """Return the number of examples in an epoch of a loader.

    Loaders of this package and ordinary ``DataLoader`` objects know it; any other is iterated once.

    Raises
    ------
    ArgumentError
        If the loader is an iterator, which an epoch would exhaust.
    """
    if isinstance(loader, IndexedLoader):
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
    return sum(len(parted(batch)[1]) for batch in reading(loader))
