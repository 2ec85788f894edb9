"""Own data from a table: a CSV or Parquet file with a column that names the client of each row."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pfl_flower.data.client_records import OwnRequest, RawClient, checked, client_index
from pfl_flower.data.errors import DataError, error_context

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
    Client number i is the i-th of the sorted values of the client column; a single client belongs
    to any number. Features are float32, also where the file has uint8.

    Parameters
    ----------
    request : OwnRequest
        ``location`` is the file; ``client_column`` and ``label_column`` are required.
    """

    def __init__(self, request: OwnRequest) -> None:
        self.file = Path(request.location).expanduser()
        self.client_column, self.label_column = request.client_column, request.label_column
        self.allow_missing = request.allow_missing

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
                self.allow_missing,
            )


@lru_cache(maxsize=2)
def _read(
    file: Path, _mtime: int, _size: int, client_column: str, label_column: str, allow_missing: bool
) -> _Rows:
    """Read a table once per process, again if the file has changed (time in ns, size in bytes)."""
    frame = _frame(file)
    _check_columns(frame, file, client_column, label_column)
    clients, owner = np.unique(_values(frame[client_column], file), return_inverse=True)
    features = sorted(
        (column for column in frame.columns if column not in (client_column, label_column)), key=str
    )
    arrays = {
        "x_train": frame[features].to_numpy(dtype=np.float32, na_value=np.nan),
        "y_train": _values(frame[label_column], file),
    }
    train = checked(arrays, str(file), columns=features, allow_missing=allow_missing).train
    return _Rows(clients.tolist(), owner, *train, tuple(map(str, features)))


def _frame(file: Path) -> Any:
    import pandas as pd  # half a second to import, so only where needed

    name = file.name.lower()
    if not name.endswith(SUFFIXES):
        raise DataError(
            f"the name of table {file} must end in {', '.join(SUFFIXES)}", choices=SUFFIXES
        )
    try:
        if name.endswith((".parquet", ".pq")):
            return pd.read_parquet(file)
        # low_memory would let pandas guess the type of a column chunk by chunk
        return pd.read_csv(file, low_memory=False)
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
    unnamed = [c for c in features.columns if str(c).startswith("Unnamed: ")]
    if unnamed:
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
