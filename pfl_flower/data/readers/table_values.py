"""The features of a table as numbers: dates become days, categories numbers of words."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.data.table_cells import MISSING, Categories, category_of, days_since_1970
from clients.logs import info_once
from pfl_flower.data.errors import DataError
from pfl_flower.data.readers.array_checks import unnamed_columns
from pfl_flower.data.readers.table_columns import ALL, TableColumns

Floats = NDArray[np.float64]

ALMOST_UNIQUE, FEWEST_FOR_UNIQUE = 0.95, 20
"""A whole number or a word with more values than this share of so many rows is as likely an id."""


@dataclass(frozen=True)
class Features:
    """The features of all rows of a table.

    Attributes
    ----------
    values : ndarray
        ``(N, d)``; NaN where a number or a date is missing. Categories come last, as their place
        among the words of their column.
    columns : tuple of str
        Their names.
    dates, unique : tuple of str
        See :class:`~pfl_flower.data.readers.table_columns.TableDetails`.
    categories : tuple
        The columns of categories with their words.
    texts : mapping of int to str, default {}
        Client that has text in a column of numbers, so that it cannot be used -> the column.
    """

    values: Floats
    columns: tuple[str, ...]
    dates: tuple[str, ...]
    unique: tuple[str, ...]
    categories: Categories
    texts: Mapping[int, str] = field(default_factory=dict)


def features_of(
    frame: Any, columns: TableColumns, file: Path, clients: Sequence[object], owner: NDArray[Any]
) -> Features:
    """Return the features of a table.

    Parameters
    ----------
    frame : DataFrame
        The table.
    columns : TableColumns
        Which column is what.
    file : Path
        Its file, for messages.
    clients : sequence
        Names of the clients.
    owner : ndarray
        ``(N,)`` number of each row's client.

    Raises
    ------
    DataError
        If features have no name, or are text and no categories. No cell is in its words: a message
        to the server may quote it.
    """
    names = columns.features_of([str(column) for column in frame.columns])
    _check_names(names, file)
    numbers: dict[str, Floats] = {}
    words: dict[str, list[str]] = {}
    dates: list[str] = []
    texts: dict[str, set[int]] = {}
    for name in names:
        values = frame[name]
        if name in columns.categories:
            words[name] = _categories(values)
        elif _is_number(values.dtype):
            numbers[name] = values.to_numpy(dtype=np.float64, na_value=np.nan)
        elif (days := dates_of(values)) is not None:
            numbers[name] = days
            dates.append(name)
        elif columns.categories == (ALL,):
            words[name] = _categories(values)
        else:
            numbers[name], is_text = _mixed(values)
            texts |= {name: set(owner[is_text].tolist())} if is_text.any() else {}
    refused = _refused(texts, file, clients)
    if dates:
        info_once(f"Table {file} has dates, which become days since 1970: {', '.join(dates)}")
    categories, codes = _coded(words)
    return Features(
        np.column_stack([*numbers.values(), *codes, np.zeros((len(frame), 0))]),
        (*numbers, *words),
        tuple(dates),
        tuple(name for name in names if _is_almost_unique(frame[name], name in words)),
        categories,
        refused,
    )


def dates_of(values: Any) -> Floats | None:
    """Return a column of dates as days since 1970-01-01, ``(N,)``; None if it has others.

    Parameters
    ----------
    values : Series
        The column: a type of dates, or texts or dates of which each is ISO 8601 or missing.
    """
    import pandas as pd

    if isinstance(values.dtype, pd.DatetimeTZDtype):
        values = values.dt.tz_convert(None)
    if values.dtype.kind == "M":
        days: Floats = ((values - pd.Timestamp(0)) / pd.Timedelta(days=1)).to_numpy(dtype=float)
        return days
    if values.dtype.kind == "m":  # a duration is no date, though its words may look like one
        return None
    known = {value: days_since_1970(str(value)) for value in values.dropna().unique()}
    if not known or None in known.values():
        return None
    return np.array([known.get(value, np.nan) for value in values.tolist()], dtype=np.float64)


def numbers_of(values: Any, setting: str, file: Path) -> Floats:
    """Return a complete column of numbers or dates, ``(N,)``.

    Parameters
    ----------
    values : Series
        The column.
    setting : str
        The run key that names it.
    file : Path
        The table, for error messages.

    Raises
    ------
    DataError
        If a value is missing or is neither.
    """
    number = _is_number(values.dtype)
    found = values.to_numpy(dtype=np.float64, na_value=np.nan) if number else dates_of(values)
    if found is None or not np.isfinite(found).all():
        missing = int(values.isna().sum())
        raise DataError(
            f"column {values.name!r} of table {file} is {setting}, and must have a number or a "
            f"date such as 2026-03-01 in every row; {missing} rows have no value",
            key=setting,
            value=str(values.name),
        )
    return found


def _check_names(names: Sequence[str], file: Path) -> None:
    if unnamed := unnamed_columns(names):
        raise DataError(
            f"table {file} has columns without a name ({', '.join(unnamed)}), such as the index "
            f"that pandas writes; write it without (index=False), or name them",
            key=", ".join(unnamed),
        )


def _is_number(dtype: Any) -> bool:
    from pandas.api.types import is_complex_dtype, is_numeric_dtype

    return bool(is_numeric_dtype(dtype) and not is_complex_dtype(dtype))


def _categories(values: Any) -> list[str]:
    """Return the category of each row; those that a table has several times are made once."""
    missing = values.isna().tolist()
    cells = values.tolist()
    known = {cell: category_of(str(cell)) for cell in set(values.dropna().tolist())}
    return [MISSING if none else known[c] for c, none in zip(cells, missing, strict=True)]


def _coded(words: Mapping[str, Sequence[str]]) -> tuple[Categories, list[Floats]]:
    """Return the words of each column, in order, and the place of each row's."""
    found = {
        name: np.unique(np.array(values, dtype=str), return_inverse=True)
        for name, values in words.items()
    }
    categories = tuple((name, tuple(known.tolist())) for name, (known, _) in found.items())
    return categories, [places.astype(np.float64) for _, places in found.values()]


def _mixed(values: Any) -> tuple[Floats, NDArray[np.bool_]]:
    """Return a column of objects as numbers, and in which rows it has text (0 there)."""
    import pandas as pd

    try:
        numbers = pd.to_numeric(values.astype(object), errors="coerce")
        found = numbers.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError):  # lists, and complex numbers
        found = np.full(len(values), np.nan)
    is_text: NDArray[np.bool_] = np.isnan(found) & values.notna().to_numpy()
    return np.where(is_text, 0.0, found), is_text


def _refused(
    texts: Mapping[str, set[int]], file: Path, clients: Sequence[object]
) -> dict[int, str]:
    """Return the clients that have text where the others have numbers, and the column.

    Raises
    ------
    DataError
        If in a column half of the clients or more have text.
    """
    words = [name for name, having in texts.items() if 2 * len(having) >= len(clients)]
    if not words:
        return {client: name for name, having in texts.items() for client in sorted(having)}
    some = [_names(texts[name], clients) for name in words]
    pairs = zip(words, some, strict=True)
    partly = [f"{name} (text of {who})" if who else name for name, who in pairs]
    raise DataError(
        f"table {file} has features that are not numbers: {', '.join(partly)}; leave these "
        f"columns out (drop-columns), or make columns of 0 and 1 of them (categories). Dates are "
        f"written as 2026-03-01",
        key=", ".join(words),
        client=next(filter(None, some), None),
        choices=("drop-columns", "categories"),
    )


def _names(having: Iterable[int], clients: Sequence[object]) -> str:
    """Return the names of the clients that have text; empty if all have."""
    found = sorted(having)
    return "" if len(found) == len(clients) else ", ".join(str(clients[place]) for place in found)


def _is_almost_unique(values: Any, is_category: bool) -> bool:
    from pandas.api.types import is_integer_dtype

    if len(values) < FEWEST_FOR_UNIQUE or not (is_category or is_integer_dtype(values.dtype)):
        return False
    return bool(values.nunique() > ALMOST_UNIQUE * len(values))
