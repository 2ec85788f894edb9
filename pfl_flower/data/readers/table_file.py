"""The file of a table, CSV or Parquet, as a pandas frame."""

import csv
import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pfl_flower.data.errors import DataError
from pfl_flower.data.readers.table_columns import check_unique_names

SUFFIXES = (".csv", ".csv.gz", ".parquet", ".pq")


def frame_of(file: Path, client_column: str) -> Any:
    """Return a table as a pandas frame.

    Parameters
    ----------
    file : Path
        The file.
    client_column : str
        The column of clients, whose numbers must be written alike.

    Raises
    ------
    DataError
        If the file cannot be read, or two of its columns have one name.
    """
    import pandas as pd  # half a second to import, so only where needed

    name = file.name.lower()
    if not name.endswith(SUFFIXES):
        raise DataError(
            f"the name of table {file} must end in {', '.join(SUFFIXES)}", choices=SUFFIXES
        )
    try:
        if name.endswith((".parquet", ".pq")):
            frame = pd.read_parquet(file)
            check_unique_names([str(column) for column in frame.columns], file)
            # A column without any value has no type; of a CSV file pandas makes numbers of it.
            empty = [n for n, column in frame.items() if len(frame) and column.isna().all()]
            return frame.astype(dict.fromkeys(empty, np.float64))
        check_unique_names(_header(file), file)
        # low_memory would let pandas guess the type of a column chunk by chunk
        frame = pd.read_csv(file, low_memory=False)
        if client_column in frame.columns and frame[client_column].dtype.kind == "i":
            words = pd.read_csv(file, usecols=[client_column], dtype=str)[client_column]
            _check_spellings(words.str.strip().unique(), file, client_column)
        return frame
    except DataError:
        raise
    except (ValueError, OSError, EOFError, ImportError, csv.Error) as error:
        raise DataError(f"table {file} cannot be read: {error}", value=str(error)) from error


def _header(file: Path) -> list[str]:
    """Return the names of columns as a CSV file has them."""
    compressed = file.name.lower().endswith(".gz")
    with (gzip.open if compressed else open)(file, "rt", newline="", encoding="utf-8-sig") as text:
        return next((row for row in csv.reader(text) if row), [])


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
