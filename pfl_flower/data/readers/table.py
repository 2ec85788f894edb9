"""Own data from a table: a CSV or Parquet file with a column that names the client of each row."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from clients.natural_order import in_natural_order
from pfl_flower.data.client_records import OwnRequest, RawClient, checked, client_index
from pfl_flower.data.errors import DataError, error_context
from pfl_flower.data.readers.array_checks import check_few_classes, unnamed_columns

SUFFIXES = (".csv", ".csv.gz", ".parquet", ".pq")


@dataclass(frozen=True)
class _Rows:
    """A table: its clients in order, the index ``(N,)`` of each row's client, and its features."""

    clients: Sequence[Any]
    owner: np.ndarray
    inputs: np.ndarray
    targets: np.ndarray
    columns: tuple[str, ...]


class TableData:
    """A CSV or Parquet file: a client column, a label column, and all others numeric features.

    Features are sorted by name, so the order of columns in the tables of two devices may differ.
    Client number i is the i-th value of the client column, sorted (words in natural order); a
    single client belongs to any number. Features are float64, also where the file has uint8.

    Parameters
    ----------
    request : OwnRequest
        ``location`` is the file; ``client_column`` and ``label_column`` are required.
    """

    def __init__(self, request: OwnRequest) -> None:
        self.file = Path(request.location).expanduser()
        self.client_column, self.label_column = request.client_column, request.label_column
        self.task, self.allow_missing = request.task, request.allow_missing
        self.whole = request.whole

    def count(self) -> int:
        """Return the number of clients in the table; see :class:`OwnData`."""
        return len(self._rows().clients)

    def names(self) -> list[str]:
        """Return the values of the client column, in order; see :class:`OwnData`."""
        return [str(client) for client in self._rows().clients]

    def load(self, partition_id: int, num_partitions: int) -> RawClient:
        """Return a client's rows, not split; see :class:`OwnData`."""
        rows = self._rows()
        with error_context(path=str(self.file)):
            index = client_index(partition_id, rows.clients, f"table {self.file}")
        mine = rows.owner == index
        return RawClient((rows.inputs[mine], rows.targets[mine]), columns=rows.columns)

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
                self.client_column,
                self.label_column,
                self.task,
                self.allow_missing,
                self.whole,
            )


@lru_cache(maxsize=2)
def _read(
    file: Path,
    _mtime: int,
    _size: int,
    client_column: str,
    label_column: str,
    task: str,
    allow_missing: bool,
    whole: str,
) -> _Rows:
    """Read a table once per process, again if the file has changed (time in ns, size in bytes)."""
    frame = _frame(file, client_column)
    if whole and client_column not in frame.columns:
        frame = frame.assign(**{client_column: whole})
    _check_columns(frame, file, client_column, label_column)
    clients, owner = _owners(_values(frame[client_column], file))
    features = sorted(
        (column for column in frame.columns if column not in (client_column, label_column)), key=str
    )
    arrays = {
        "x_train": frame[features].to_numpy(dtype=np.float64, na_value=np.nan),
        "y_train": _values(frame[label_column], file),
    }
    train = checked(arrays, str(file), columns=features, allow_missing=allow_missing).train
    check_few_classes(train[1], task, f"column {label_column!r} of table {file}")
    return _Rows(clients, owner, *train, tuple(map(str, features)))


def _owners(values: np.ndarray) -> tuple[list[Any], np.ndarray]:
    """Return the clients in order, and the index ``(N,)`` of each row's client."""
    found, owner = np.unique(values, return_inverse=True)
    clients = in_natural_order(found.tolist())
    places = {client: place for place, client in enumerate(clients)}
    return clients, np.array([places[client] for client in found.tolist()], dtype=int)[owner]


def _check_spellings(words: Sequence[str], file: Path, column: str) -> None:
    """Refuse numbers of clients that are written differently, as 7 and 007."""
    written: dict[int, list[str]] = {}
    for word in words:
        written.setdefault(int(word), []).append(word)
    if alike := next((found for found in written.values() if len(found) > 1), None):
        raise DataError(
            f"column {column!r} of table {file} has the numbers {', '.join(alike)}, which are one; "
            f"write them alike if they are one client, and else as words (c{alike[0]})",
            key="client-column",
            value=alike,
        )


def _frame(file: Path, client_column: str) -> Any:
    import pandas as pd  # half a second to import, so only where needed

    name = file.name.lower()
    if not name.endswith(SUFFIXES):
        raise DataError(
            f"the name of table {file} must end in {', '.join(SUFFIXES)}", choices=SUFFIXES
        )
    try:
        if name.endswith((".parquet", ".pq")):
            frame = pd.read_parquet(file)
            # A column without any value has no type; of a CSV file pandas makes numbers of it.
            empty = [n for n, column in frame.items() if len(frame) and column.isna().all()]
            return frame.astype(dict.fromkeys(empty, np.float64))
        # low_memory would let pandas guess the type of a column chunk by chunk
        frame = pd.read_csv(file, low_memory=False)
        if client_column in frame.columns and frame[client_column].dtype.kind == "i":
            words = pd.read_csv(file, usecols=[client_column], dtype=str)[client_column]
            _check_spellings(words.str.strip().unique(), file, client_column)
        return frame
    except DataError:
        raise
    except (ValueError, OSError, EOFError, ImportError) as error:
        raise DataError(f"table {file} cannot be read: {error}", value=str(error)) from error


def _check_columns(frame: Any, file: Path, client_column: str, label_column: str) -> None:
    """Refuse a table whose columns are not a client, a label (both complete) and numbers."""
    from pandas.api.types import is_complex_dtype, is_numeric_dtype

    there = ", ".join(str(column) for column in frame.columns)
    wanted = {"client-column": client_column, "label-column": label_column}
    for setting, column in wanted.items():
        if column not in frame.columns:
            raise DataError(
                f"table {file} has no column {column!r}, which {setting} names; its columns are: "
                f"{there}",
                key=setting,
                value=column,
                choices=map(str, frame.columns),
            )
    if client_column == label_column:
        raise DataError(
            f"column {client_column!r} of table {file} cannot be client and label",
            key="label-column",
            value=label_column,
        )
    features = frame.drop(columns=[client_column, label_column])
    if unnamed := unnamed_columns(features.columns):
        raise DataError(
            f"table {file} has columns without a name ({', '.join(unnamed)}), such as the index "
            f"that pandas writes; write it without (index=False), or name them",
            key=", ".join(unnamed),
        )
    words = [
        str(column)
        for column, dtype in features.dtypes.items()
        if not is_numeric_dtype(dtype) or is_complex_dtype(dtype)
    ]
    if words:
        raise DataError(
            f"table {file} has features that are not numbers: {', '.join(words)}; leave these "
            f"columns out, or make numbers of them (e.g. with pandas.get_dummies)",
            key=", ".join(words),
        )
    for column in wanted.values():
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
