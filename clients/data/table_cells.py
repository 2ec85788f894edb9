"""Cells of a table that are no numbers: categories (one-hot) and dates (days since 1970).

Training reads tables with pandas, and prediction with the standard library alone; what a cell means
is decided here, for both.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

OTHER, MISSING = "other", "missing"
"""The category of what is no category of the federation's, and that of a cell without a value."""

NO_VALUE = frozenset(
    (
        *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND"),
        *("1.#QNAN", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
    )
)
"""Texts that mean no value in a CSV file: those of :func:`pandas.read_csv`."""

Categories = tuple[tuple[str, tuple[str, ...]], ...]
"""Columns of categories, in their order, each with its categories (without ``other`` and
``missing``)."""

_WHOLE = 1e15
"""Whole numbers below this are the same as text and as a float."""


def category_of(text: str) -> str:
    """Return the category that a cell names; ``missing`` where it has no value.

    Blanks around it do not count. Of a number it is the number: 7, 07 and 7.0 are one category, as
    pandas writes 7.0 in a column in which another value is missing.

    Parameters
    ----------
    text : str
        The cell.
    """
    word = text.strip()
    if word in NO_VALUE:
        return MISSING
    if word.lower() in ("true", "false"):
        return word.capitalize()
    try:
        number = float(word)
    except ValueError:
        return word
    if "_" in word or not abs(number) < _WHOLE:  # Python alone takes 1_000 for a number
        return word
    return str(int(number)) if number.is_integer() else str(number)


def days_since_1970(text: str) -> float | None:
    """Return an ISO 8601 date, or date and time, as days since 1970-01-01; None if it is none.

    A time without a zone is taken as UTC.

    Parameters
    ----------
    text : str
        The cell, such as ``2026-03-01`` or ``2026-03-01 12:00``.
    """
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    found = found if found.tzinfo else found.replace(tzinfo=UTC)
    return (found - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() / 86400


def one_hot(values: Sequence[str], categories: Sequence[str]) -> NDArray[np.float64]:
    """Return a column of categories as columns of 0 and 1.

    Parameters
    ----------
    values : sequence of str
        ``(N,)`` categories of :func:`category_of`.
    categories : sequence of str
        ``(K,)`` those of the federation.

    Returns
    -------
    ndarray
        ``(N, K + 2)``: a column for each category, one for ``other`` and one for ``missing``. Each
        row has a single 1.
    """
    places = {name: place for place, name in enumerate((*categories, OTHER, MISSING))}
    found = [places.get(value, len(categories)) for value in values]
    rows: NDArray[np.float64] = np.eye(len(places))[np.array(found, dtype=int)]
    return rows


def one_hot_names(column: str, categories: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the columns of :func:`one_hot`, such as ``ward=A``.

    Parameters
    ----------
    column : str
        Name of the column.
    categories : sequence of str
        Those of the federation.
    """
    return tuple(f"{column}={name}" for name in (*categories, OTHER, MISSING))


def width(categories: Categories) -> int:
    """Return how many columns of 0 and 1 there are for some columns of categories.

    Parameters
    ----------
    categories : tuple
        Columns with their categories.
    """
    return sum(len(names) + 2 for _, names in categories)
