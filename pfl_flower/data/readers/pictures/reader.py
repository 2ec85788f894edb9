"""PictureData: pictures in files, each client's in a folder of its own or named by a table."""

from functools import cached_property
from pathlib import Path

import numpy as np

from clients.logs import warn_once
from pfl_flower.data.client_records import OwnRequest, RawClient, RawSplit, client_index
from pfl_flower.data.errors import DataError, error_context
from pfl_flower.data.lazy_inputs import LazyInputs
from pfl_flower.data.readers.pictures.layouts import LAYOUTS, Folders, Layout, Listed, PathTable
from pfl_flower.data.readers.pictures.store import PictureRequest, Pictures, open_pictures

NAMED = 5
"""So many pictures that cannot be decoded are named in a warning."""


class PictureData:
    """Pictures in files: ``<client>/<split>/<class>/<picture>``, without splits, or a table.

    Labels are names of classes. Client number i is the i-th folder, or value of the client column,
    in natural order; a single client belongs to any number. Only a client's own files are read,
    and of these what a batch needs.

    Parameters
    ----------
    request : OwnRequest
        ``location`` is the folder, or a CSV table with the columns ``path_column`` (``path``),
        ``label_column``, ``client_column`` and perhaps ``split_column`` (``split``).
    """

    def __init__(self, request: OwnRequest) -> None:
        self.request = request
        self.location = Path(request.location).expanduser()
        self.asked = PictureRequest(request.image_size, request.image_channels)

    def count(self) -> int:
        """Return the number of clients; see :class:`OwnData`."""
        return len(self._layout.clients())

    def names(self) -> list[str]:
        """Return the names of the clients; see :class:`OwnData`."""
        return list(self._layout.clients())

    def load(self, partition_id: int, num_partitions: int) -> RawClient:
        """Return a client's pictures, split as their folders or the table say; see `OwnData`."""
        with error_context(client=partition_id, path=str(self.location)):
            names = self._layout.clients()
            name = names[client_index(partition_id, names, f"{self.location}")]
            where = f"client {name!r} of {self.location}"
            return self._client(self._layout.listed(name), where)

    @cached_property
    def _layout(self) -> Layout:
        if self.location.is_file():
            return PathTable(self.location, self.request)
        return Folders(self.location, self.request.whole)

    def _client(self, listed: Listed, where: str) -> RawClient:
        for split in ("train", "test"):
            if split in (*listed.splits, "train") and not listed.splits.get(split):
                raise DataError(
                    f"{where} has no {split} picture; it needs {LAYOUTS}", key=split, value=0
                )
        order = [(file, label, s) for s, own in listed.splits.items() for file, label in own]
        files, labels, splits = (list(column) for column in zip(*order, strict=True))
        pictures = open_pictures(files, labels, self.asked, where)
        _name_failures(pictures, where)
        targets = self._targets(labels)
        parts: dict[str, RawSplit] = {}
        usable = np.array([place not in pictures.failures for place in range(len(files))])
        for split in listed.splits:
            places = np.flatnonzero(usable & (np.array(splits) == split))
            if not len(places) and split != "val":
                raise DataError(f"{where}: no {split} picture can be decoded", key=split, value=0)
            parts[split] = (_inputs(pictures, places), targets[places])
        return RawClient(
            parts["train"],
            parts.get("val"),
            parts.get("test"),
            classes=() if targets.dtype.kind == "f" else tuple(sorted(listed.classes)),
            stratify=targets.dtype.kind != "f",
            left_out=len(pictures.failures),
        )

    def _targets(self, labels: list[str]) -> np.ndarray:
        """Return labels as words; as numbers where the task is a regression."""
        if self.request.task != "regression":
            return np.array(labels, dtype=np.str_)
        try:
            return np.array(labels, dtype=np.float64)
        except ValueError as error:
            raise DataError(
                f"task 'regression' needs numbers, but a label is a word: {error}",
                key="task",
                value="regression",
                choices=("auto", "classification"),
            ) from error


def _inputs(pictures: Pictures, places: np.ndarray) -> LazyInputs:
    return LazyInputs(pictures, places, pictures.shape, np.dtype(np.uint8), "bytes")


def _name_failures(pictures: Pictures, where: str) -> None:
    if not pictures.failures:
        return
    some = sorted(pictures.failures.items())[:NAMED]
    named = "; ".join(f"{pictures.files[place]} ({why})" for place, why in some)
    more = len(pictures.failures) - len(some)
    warn_once(
        f"{where}: {len(pictures.failures)} of {len(pictures)} pictures cannot be decoded and are "
        f"left out: {named}" + (f" and {more} more" if more else "")
    )
