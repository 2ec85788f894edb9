"""Loader of a torch map-style ``Dataset``, whose examples are read when a batch needs them."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from clients.data.datasets import DatasetError, is_map_style, labels_of_dataset, read_example
from clients.data.indexed_loader import (
    Augment,
    Batch,
    IndexedLoader,
    Places,
    batch_seed,
    drawing,
)
from clients.data.loaders import Loader, parted
from strategies.errors import ArgumentError

__all__ = ["dataset_loader"]

Collate = Callable[[list[Any]], Any]
"""Examples, each ``(input, target)`` -> a batch."""

Data = Loader | Dataset[Any]
"""What a client takes: batches, or a map-style data set."""

BATCH_SIZE = 32
"""Examples a batch of a data set that comes without a loader."""


class _Failure:
    """What went wrong with a batch; it reaches this process whatever the error's class is."""

    def __init__(self, words: str, place: int | None = None) -> None:
        self.words, self.place = words, place


class _Batches(Dataset[Any]):
    """Whole batches, by the seed and the indices of each; read here or in a worker process."""

    def __init__(self, dataset: Any, collate: Collate, augment: Augment | None) -> None:
        self.dataset, self.collate, self.augment = dataset, collate, augment

    def __getitem__(self, job: tuple[int, Sequence[int]]) -> Batch | _Failure:
        seed, places = job
        with drawing(seed):
            try:
                rows = [read_example(self.dataset, place) for place in places]
            except DatasetError as error:
                return _Failure(str(error), error.place)
            try:
                return self._made(rows)
            except Exception as error:  # of a user's collate function
                return _Failure(
                    f"examples {list(places)} of {type(self.dataset).__name__} make no batch "
                    f"({type(error).__name__}: {error}); transforms must give tensors of one "
                    f"shape, or a collate function must put them together"
                )

    def _made(self, rows: list[Any]) -> Batch:
        batch = cast(Batch, self.collate(rows))
        if self.augment is None:
            return batch
        inputs, targets = parted(batch)
        return self.augment(inputs), targets


def _as_it_is(batch: Any) -> Any:
    return batch


class DatasetLoader(IndexedLoader):
    """Batches of a map-style data set; see :func:`dataset_loader`."""

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        shuffle: bool,
        drop_last: bool,
        collate: Collate | None = None,
        num_workers: int = 0,
        augment: Augment | None = None,
    ) -> None:
        super().__init__(len(dataset), batch_size, shuffle, drop_last, augment)
        self.dataset, self.collate = dataset, collate or default_collate
        self.num_workers = num_workers

    @cached_property
    def targets(self) -> Tensor:  # type: ignore[override]
        """The targets of all examples."""
        return torch.from_numpy(labels_of_dataset(self.dataset))

    def _read(self, parts: Sequence[Places], drawn: Tensor) -> Iterator[Batch]:
        batches = _Batches(self.dataset, self.collate, self.augment)
        jobs = [
            (batch_seed(drawn, number), _indices(part, self.count))
            for number, part in enumerate(parts)
        ]
        found: Any = map(batches.__getitem__, jobs)
        if self.num_workers and len(jobs) > 1:
            found = DataLoader(
                batches,
                batch_size=None,  # each is a batch already
                sampler=cast(Any, jobs),
                num_workers=min(self.num_workers, len(jobs)),
                collate_fn=_as_it_is,
                generator=torch.Generator(),  # so that it draws nothing from the global one
            )
        for batch in found:
            if isinstance(batch, _Failure):
                raise DatasetError(batch.words, batch.place)
            yield batch


def _indices(part: Places, count: int) -> list[int]:
    return list(range(count)[part]) if isinstance(part, slice) else part.tolist()


def dataset_loader(
    dataset: Any,
    batch_size: int = BATCH_SIZE,
    shuffle: bool = False,
    drop_last: bool = False,
    collate: Collate | None = None,
    num_workers: int = 0,
    augment: Augment | None = None,
) -> DatasetLoader:
    """Return batches of a torch map-style ``Dataset``, read when they are needed.

    The order comes from torch's global generator, which :class:`clients.PersonalClient` seeds for
    every round. What transforms draw (from torch, NumPy or Python's ``random``) comes from a
    generator of each batch, so the numbers are the same with any number of workers.

    Parameters
    ----------
    dataset : Dataset
        An example is ``(input, target)``. Its targets are its attribute ``targets`` or ``labels``
        where it has one; else every example is read once where a method asks for them.
    batch_size : int, default 32
        Examples a batch, at least 1.
    shuffle : bool, default False
        Whether every epoch has an order of its own.
    drop_last : bool, default False
        Whether a last batch that is not full is left out, unless it is the only one.
    collate : callable, optional
        Makes a batch of a list of examples; torch's ``default_collate`` by default.
    num_workers : int, default 0
        Processes that read batches ahead; 0 reads them in this one.
    augment : callable, optional
        Changes the inputs of a batch at random: tensor -> tensor of the same shape.

    Raises
    ------
    ArgumentError
        If it is no map-style data set, or ``batch_size`` is below 1.
    DatasetError
        While it is iterated: if an example cannot be read, or examples make no batch.
    """
    if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        kind = type(dataset).__name__
        raise ArgumentError("dataset", kind, "a map-style Dataset, with __getitem__ and __len__")
    return DatasetLoader(dataset, batch_size, shuffle, drop_last, collate, num_workers, augment)


def as_loader(data: Any, shuffle: bool = False) -> Any:
    """Return a loader as it is, and a map-style data set in batches of :data:`BATCH_SIZE`."""
    return dataset_loader(data, shuffle=shuffle) if is_map_style(data) else data
