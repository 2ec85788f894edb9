"""torch map-style ``Dataset``: what it says of its targets, how it is read, and its errors."""

from collections.abc import Iterable, Iterator, Sized
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset

from clients.data.indexed_loader import Batch, drawing
from strategies.errors import ArgumentError

__all__ = ["DatasetError"]

_MOST_READ = 100
"""At most so many examples are read to see whether targets are what a data set declares."""


class DatasetError(RuntimeError):
    """A data set, or a user's loader, raised while it was read.

    Parameters
    ----------
    message : str
        What was read, and what was raised.
    place : int, optional
        Index of the example; None where it is not known.
    client : int, optional
        Number of the client whose data they are.

    Attributes
    ----------
    place, client
        The same.
    """

    def __init__(self, message: str, place: int | None = None, client: int | None = None) -> None:
        super().__init__(message)
        self.place, self.client = place, client

    def of(self, client: int) -> "DatasetError":
        """Return the same error, which names a client."""
        return DatasetError(f"client {client}: {self}", self.place, client)


def is_map_style(data: object) -> bool:
    """Return whether something is a ``Dataset`` whose examples have an index."""
    return isinstance(data, Dataset) and not isinstance(data, IterableDataset)


def known_labels(dataset: Any) -> Any:
    """Return the targets that a data set knows without reading its examples; None otherwise.

    They are its attribute ``targets`` or ``labels``, or those of the data sets that a ``Subset`` or
    a ``ConcatDataset`` is made of. They count if there is one for each example, and the first
    example of each target, and the last example, have what they say: a ``target_transform`` may
    change any of them.

    Parameters
    ----------
    dataset : Dataset
        Map-style.

    Returns
    -------
    array-like or None
        ``(N,)``.
    """
    found = _declared(dataset)
    if found is None or len(found) != len(dataset) or not len(found):
        return None
    values = [_scalar(value) for value in found]
    first = {value: place for place, value in reversed([*enumerate(values)])}
    places = {*[*first.values()][-_MOST_READ:], len(values) - 1}
    same = all(_scalar(read_example(dataset, place)[1]) == values[place] for place in places)
    return found if same else None


def _declared(dataset: Any) -> Any:
    if isinstance(dataset, Subset):
        whole = _declared(dataset.dataset)
        return None if whole is None else [whole[place] for place in dataset.indices]
    if isinstance(dataset, ConcatDataset):
        parts = [_declared(part) for part in dataset.datasets]
        return None if any(p is None for p in parts) else [y for part in parts for y in part]
    if isinstance(dataset, TensorDataset):
        return dataset.tensors[-1]
    for name in ("targets", "labels"):
        found = getattr(dataset, name, None)
        if isinstance(found, Sized) and hasattr(found, "__getitem__"):
            return found
    return None


def _scalar(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor | np.generic | np.ndarray) else value


def labels_of_dataset(dataset: Any) -> NDArray[Any]:
    """Return the targets of a data set; where it does not know them, every example is read.

    Parameters
    ----------
    dataset : Dataset
        Map-style; an example is ``(input, target)``.

    Returns
    -------
    ndarray
        ``(N,)``.

    Raises
    ------
    DatasetError
        If an example cannot be read.
    """
    with drawing(0):  # transforms may draw, and nobody else's numbers are to change
        known = known_labels(dataset)
        if known is None:
            known = [read_example(dataset, place)[1] for place in range(len(dataset))]
    return np.asarray([_scalar(value) for value in known])


def read_example(dataset: Any, place: int) -> Any:
    """Return an example of a data set.

    Raises
    ------
    DatasetError
        If it cannot be read.
    """
    try:
        return dataset[place]
    except Exception as error:  # a user's code can raise anything
        raise DatasetError(_unread(dataset, place, error), place) from error


def _unread(dataset: Any, place: int, error: Exception) -> str:
    name, count = type(dataset).__name__, len(dataset)
    words = f"example {place} of {name} cannot be read ({type(error).__name__}: {error})"
    if isinstance(error, IndexError | KeyError):
        words += f"; its length says that there are {count}: correct __len__"
    return words


def reading(loader: Iterable[Batch]) -> Iterator[Batch]:
    """Yield a loader's batches; what the loader itself raises becomes a :class:`DatasetError`."""
    number = 0
    try:
        for batch in loader:
            yield batch
            number += 1
    except (DatasetError, ArgumentError):
        raise
    except Exception as error:  # a user's code can raise anything
        raise DatasetError(
            f"the loader {type(loader).__name__} raised {type(error).__name__} after {number} "
            f"batches: {error}"
        ) from error
