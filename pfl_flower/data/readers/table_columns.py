"""Which column of a table is what: client, label, split, group, time, categories, features."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.data.table_cells import Categories
from pfl_flower.data.errors import DataError

ALL = "all"
"""In place of the names of columns of categories: every column of text."""


@dataclass(frozen=True)
class TableColumns:
    """The columns that run keys name; empty where they name none.

    Attributes
    ----------
    client, label : str, default ""
        Who has a row, and its target.
    split : str, default ""
        Whether a row trains, validates or tests.
    group : str, default ""
        Whose rows stay together, such as a patient's.
    time : str, default ""
        When a row was made.
    drop : tuple of str, default ()
        Columns that are no features.
    features : tuple of str, default ()
        Columns that are features, categories among them; () for all that are nothing else.
    categories : tuple of str, default ()
        Features that become columns of 0 and 1; ``("all",)`` for every column of text.
    """

    client: str = ""
    label: str = ""
    split: str = ""
    group: str = ""
    time: str = ""
    drop: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()

    @property
    def roles(self) -> dict[str, str]:
        """Run key -> the one column that it names, of those that are set."""
        found = {f"{item.name}-column": getattr(self, item.name) for item in fields(self)[:5]}
        return {key: column for key, column in found.items() if column}

    @property
    def named_categories(self) -> tuple[str, ...]:
        """Columns of categories that are named one by one."""
        return () if self.categories == (ALL,) else self.categories

    @property
    def named(self) -> list[tuple[str, str]]:
        """(run key, column) of every column that is named."""
        several = {"drop-columns": self.drop, "feature-columns": self.features}
        several |= {"categories": self.named_categories}
        lists = [(key, column) for key, columns in several.items() for column in columns]
        return [*self.roles.items(), *lists]

    def features_of(self, columns: Sequence[str]) -> list[str]:
        """Return the features among the columns of a table, sorted by name.

        A column of a role is no feature. The time is one where ``features`` names it.

        Parameters
        ----------
        columns : sequence of str
            All columns of the table.
        """
        roles = {column for key, column in self.roles.items() if key != "time-column"}
        others = {*roles, *self.drop, *(() if self.time in self.features else (self.time,))}
        wanted = set(self.features or columns) - others
        return sorted(column for column in columns if column in wanted)


def check_named(frame: Any, file: Path, columns: TableColumns) -> None:
    """Refuse a table that lacks a column that a run key names, or in which one is two things.

    Parameters
    ----------
    frame : DataFrame
        The table.
    file : Path
        Its file, for error messages.
    columns : TableColumns
        What is named.

    Raises
    ------
    DataError
        With the run key, and the columns that there are.
    """
    there = ", ".join(str(column) for column in frame.columns)
    for key, column in [("label-column", columns.label), *columns.named]:
        if column not in frame.columns:
            raise DataError(
                f"table {file} has no column {column!r}, which {key} names; its columns are: "
                f"{there}",
                key=key,
                value=column,
                choices=map(str, frame.columns),
            )
    taken: dict[str, str] = {}
    for key, column in columns.roles.items():
        if column in taken and {key, taken[column]} != {"client-column", "group-column"}:
            raise DataError(
                f"column {column!r} of table {file} cannot be {taken[column]} and {key}",
                key=key,
                value=column,
            )
        taken.setdefault(column, key)
    taken.pop(columns.time if columns.time in columns.features else "", None)
    taken |= dict.fromkeys(columns.drop, "drop-columns")
    if columns.features:
        beside = set(columns.named_categories).difference(columns.features)
        taken |= dict.fromkeys(beside, "none of feature-columns")
    for column in (*columns.features, *columns.named_categories):
        if column in taken:
            raise DataError(
                f"column {column!r} of table {file} cannot be a feature and {taken[column]}",
                key="feature-columns" if column in columns.features else "categories",
                value=column,
            )


def check_unique_names(names: Sequence[str], file: Path) -> None:
    """Refuse two columns of one name: pandas would call the second ``name.1``.

    Parameters
    ----------
    names : sequence of str
        Names as the file has them.
    file : Path
        The file, for error messages.

    Raises
    ------
    DataError
        With the names that are there more than once.
    """
    twice = [name for name, count in Counter(names).items() if count > 1 and name]
    if twice:
        raise DataError(
            f"table {file} has several columns of one name ({', '.join(twice)}); name them apart",
            key=", ".join(twice),
            value=twice,
        )


@dataclass(frozen=True)
class TableDetails:
    """What is known of a client's rows of a table, beside features and targets.

    Attributes
    ----------
    dates : tuple of str, default ()
        Features that were dates.
    categories : tuple, default ()
        The last features, each with the words that its numbers stand for, by their place: those of
        the file, which do not leave the device.
    unique : tuple of str, default ()
        Columns that have another value in almost every row, as an id has.
    groups : ndarray, optional
        ``(N,)`` number of the group of each training row.
    times : ndarray, optional
        ``(N,)`` time of each training row.
    """

    dates: tuple[str, ...] = ()
    categories: Categories = ()
    unique: tuple[str, ...] = ()
    groups: NDArray[np.int64] | None = None
    times: NDArray[np.float64] | None = None

    def of_rows(self, rows: NDArray[Any]) -> "TableDetails":
        """Return the details of some training rows.

        Parameters
        ----------
        rows : ndarray
            Their numbers, or ``(N,)`` whether they are meant.
        """
        groups, times = (None if v is None else v[rows] for v in (self.groups, self.times))
        return replace(self, groups=groups, times=times)
