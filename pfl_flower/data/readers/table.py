"""Own data from a table: a CSV or Parquet file with a column that names the client of each row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from clients.natural_order import in_natural_order
from pfl_flower.data.client_records import OwnRequest, RawClient, checked, client_index
from pfl_flower.data.errors import DataError, error_context
from pfl_flower.data.readers.array_checks import check_few_classes
from pfl_flower.data.readers.table_columns import (
    TableColumns,
    TableDetails,
    check_named,
)
from pfl_flower.data.readers.table_file import SUFFIXES, frame_of
from pfl_flower.data.readers.table_values import Features, features_of, numbers_of

Parts = tuple[np.ndarray, np.ndarray | None, np.ndarray | None]
"""Numbers of the rows of train, validation and test; None where they are yet to be cut."""


SPLIT_WORDS: Mapping[str, str] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What a cell of ``split-column`` may be, in any case -> the part that it means."""


@dataclass(frozen=True)
class _Rows:
    """A table: its clients in order, the index ``(N,)`` of each row's client, and its features.

    ``part`` is ``(N,)`` the part of each row, where a column says so.
    """

    clients: Sequence[Any]
    owner: np.ndarray
    inputs: np.ndarray
    targets: np.ndarray
    features: Features
    part: np.ndarray | None
    details: TableDetails


class TableData:
    """A CSV or Parquet file: a client column, a label column, and all others features.

    Features are numbers, dates (which become days) and, where ``categories`` names them, texts.
    They are sorted by name, categories last, so the order of columns in the tables of two devices
    may differ. Client number i is the i-th value of the client column, sorted (words in natural
    order); a single client belongs to any number. Features are float64, also where the file has
    uint8.

    Parameters
    ----------
    request : OwnRequest
        ``location`` is the file; ``client_column`` and ``label_column`` are required.
    """

    def __init__(self, request: OwnRequest) -> None:
        self.file = Path(request.location).expanduser()
        self.columns = replace(
            request.columns, client=request.client_column, label=request.label_column
        )
        self.task, self.allow_missing = request.task, request.allow_missing
        self.whole = request.whole

    def count(self) -> int:
        """Return the number of clients in the table; see :class:`OwnData`."""
        return len(self._rows().clients)

    def names(self) -> list[str]:
        """Return the values of the client column, in order; see :class:`OwnData`."""
        return [str(client) for client in self._rows().clients]

    def load(self, partition_id: int, num_partitions: int) -> RawClient:
        """Return a client's rows, split where a column says how; see :class:`OwnData`."""
        rows = self._rows()
        with error_context(path=str(self.file)):
            index = client_index(partition_id, rows.clients, f"table {self.file}")
            if column := rows.features.texts.get(index):
                raise _text_of_one(self.file, column, rows.clients[index])
            mine = np.flatnonzero(rows.owner == index)
            parts: Parts = (mine, None, None)
            if rows.part is not None:
                parts = self._parts(rows, mine, str(rows.clients[index]))
        train, validation, test = (
            None if part is None else (rows.inputs[part], rows.targets[part]) for part in parts
        )
        assert train is not None
        details = rows.details.of_rows(parts[0])
        return RawClient(train, validation, test, columns=rows.features.columns, table=details)

    def _parts(self, rows: _Rows, mine: np.ndarray, client: str) -> Parts:
        """Return a client's rows of train, validation and test, as a column has them.

        Where no client has a row of validation, it is yet to be cut from the training rows.
        """
        assert rows.part is not None
        own = {name: mine[rows.part[mine] == name] for name in ("train", "validation", "test")}
        where = f"column {self.columns.split!r} of table {self.file}"
        if lacking := [name for name in ("train", "test") if not len(own[name])]:
            raise DataError(
                f"{where} has no row to {lacking[0]} of client {client}; it needs one of both",
                key="split-column",
                value=lacking,
                client=client,
            )
        groups = rows.details.groups
        if groups is not None:
            each = [np.unique(groups[part]) for part in own.values()]
            if torn := int((np.unique(np.concatenate(each), return_counts=True)[1] > 1).sum()):
                raise DataError(
                    f"{where} has {torn} groups of client {client} in several parts, so it is "
                    f"tested on what it trains on; without split-column groups stay together",
                    key="split-column",
                    value=torn,
                    client=client,
                )
        validated = bool((rows.part == "validation").any())
        return own["train"], own["validation"] if validated else None, own["test"]

    def _rows(self) -> _Rows:
        try:
            about = self.file.stat()
        except OSError as error:
            raise DataError(
                f"there is no table {self.file.absolute()} ({error.strerror}); name a file that "
                f"ends in {', '.join(SUFFIXES)}",
                path=str(self.file.absolute()),
                choices=SUFFIXES,
            ) from error
        with error_context(path=str(self.file)):
            return _read(
                self.file.resolve(),
                about.st_mtime_ns,
                about.st_size,
                self.columns,
                self.task,
                self.allow_missing,
                self.whole,
            )


def _text_of_one(file: Path, column: str, client: object) -> DataError:
    return DataError(
        f"column {column!r} of table {file} has text at client {client}, and numbers at others; "
        f"correct it, leave the column out (drop-columns), or make it one of categories",
        key=column,
        client=str(client),
        choices=("drop-columns", "categories"),
    )


@lru_cache(maxsize=2)
def _read(
    file: Path,
    _mtime: int,
    _size: int,
    columns: TableColumns,
    task: str,
    allow_missing: bool,
    whole: str,
) -> _Rows:
    """Read a table once per process, again if the file has changed (time in ns, size in bytes)."""
    frame = frame_of(file, columns.client)
    if whole and columns.client not in frame.columns:
        frame = frame.assign(**{columns.client: whole})
    check_named(frame, file, columns)
    _check_complete(frame, file, columns)
    clients, owner = _owners(_values(frame[columns.client], file))
    found = features_of(frame, columns, file, clients, owner)
    arrays = {"x_train": found.values, "y_train": _values(frame[columns.label], file)}
    names = found.columns
    train = checked(arrays, str(file), columns=names, allow_missing=allow_missing).train
    check_few_classes(train[1], task, f"column {columns.label!r} of table {file}")
    part = split_of(frame[columns.split], file) if columns.split else None
    return _Rows(clients, owner, *train, found, part, _details(frame, columns, file, found))


def _details(frame: Any, columns: TableColumns, file: Path, found: Features) -> TableDetails:
    groups = times = None
    if columns.group:
        groups = np.unique(_values(frame[columns.group], file), return_inverse=True)[1]
    if columns.time:
        times = numbers_of(frame[columns.time], "time-column", file)
    return TableDetails(found.dates, found.categories, found.unique, groups, times)


def split_of(values: Any, file: Path) -> np.ndarray:
    """Return the part of each row, ``(N,)``: ``train``, ``validation`` or ``test``.

    Parameters
    ----------
    values : Series
        The column that says so, in the words of :data:`SPLIT_WORDS`.
    file : Path
        The table, for error messages.

    Raises
    ------
    DataError
        If a row has another word, or none.
    """
    parts = values.astype(str).str.strip().str.lower().map(SPLIT_WORDS)
    if others := int(parts.isna().sum()):
        raise DataError(
            f"column {values.name!r} of table {file} says of {others} rows neither train, nor "
            f"validation, nor test",
            key="split-column",
            value=others,
            choices=SPLIT_WORDS,
        )
    return np.array(parts.tolist(), dtype=str)


def _owners(values: np.ndarray) -> tuple[list[Any], np.ndarray]:
    """Return the clients in order, and the index ``(N,)`` of each row's client."""
    found, owner = np.unique(values, return_inverse=True)
    clients = in_natural_order(found.tolist())
    places = {client: place for place, client in enumerate(clients)}
    return clients, np.array([places[client] for client in found.tolist()], dtype=int)[owner]


def _check_complete(frame: Any, file: Path, columns: TableColumns) -> None:
    """Refuse a table in which a row has no client, no label or no group."""
    for column in filter(None, (columns.client, columns.label, columns.group)):
        missing = int((frame[column].isna() | frame[column].isin([np.inf, -np.inf])).sum())
        if missing:
            raise DataError(
                f"table {file} has no (finite) value in column {column!r} of {missing} rows (in a "
                f"CSV file NA, None and null mean none); fill them in or leave these rows out",
                key=column,
                value=missing,
            )


def _values(column: Any, file: Path) -> np.ndarray:
    """Return a complete column as an array of numbers, booleans or strings."""
    items = column.tolist()
    values: np.ndarray = np.asarray(items)
    kinds = sorted({type(item).__name__ for item in items})
    if values.dtype.kind not in "biufU" or len(kinds) > 1:
        raise DataError(
            f"column {column.name!r} of table {file} holds values of type {', '.join(kinds)}; it "
            f"must hold integers, or floats, or booleans, or strings",
            key=str(column.name),
            value=kinds,
        )
    return values
