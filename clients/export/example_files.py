"""Files of examples for prediction: ``.npy``, ``.npz`` and ``.csv``."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from clients.data.table_cells import category_of, days_since_1970, one_hot
from clients.export.table_form import TableForm

_TRUTH = {"true": 1.0, "false": 0.0}


class ExampleFileError(ValueError):
    """A file of examples that cannot be read, or whose examples do not fit the model.

    Parameters
    ----------
    message : str
        What is wrong and what would be right.
    path : Path
        The file.
    row : int, optional
        The example that is wrong, from 1; 0 for the line of column names.
    columns : sequence of str, optional
        The columns that are wrong.
    value, expected : optional
        What was found, and what was expected.

    Attributes
    ----------
    path, row, columns, value, expected
        The same; None (columns: empty) if they do not apply.
    """

    def __init__(
        self,
        message: str,
        *,
        path: Path,
        row: int | None = None,
        columns: Sequence[str] = (),
        value: Any = None,
        expected: Any = None,
    ) -> None:
        super().__init__(message)
        self.path = path
        self.row = row
        self.columns = tuple(columns)
        self.value = value
        self.expected = expected


@dataclass(frozen=True)
class ExampleFile:
    """Content of a file of examples.

    Attributes
    ----------
    inputs : ndarray
        Examples ``(N, *shape)`` float32; float64 of a model that was trained on a table, whose
        features are yet to be standardised.
    others : sequence of mapping of str to str, default ()
        For each row of a table with column names: the values in columns that are not features
        (patient numbers, dates); empty for other files.
    """

    inputs: NDArray[np.floating]
    others: Sequence[Mapping[str, str]] = ()


def read_examples(
    path: Path,
    shape: Sequence[int],
    form: TableForm = TableForm(),
    allow_missing: bool = False,
    names: Sequence[str] = (),
) -> ExampleFile:
    """Read examples from ``.npy``, the array ``x`` of ``.npz``, or ``.csv`` with column names.

    Parameters
    ----------
    path : Path
        The file. Pixels of type uint8 are scaled to [0, 1].
    shape : sequence of int
        Shape of one example.
    form : TableForm, optional
        The model's features, if it was trained on a table. A ``.csv`` may have their columns in any
        order, and further columns.
    allow_missing : bool, default False
        Whether values may be missing (NaN, an empty cell).
    names : sequence of str, default ()
        Names of several inputs of one shape. A ``.npz`` may have an array ``(N, length)`` of each
        name; shorter rows than the model's are padded with 0.

    Raises
    ------
    ExampleFileError
        If the file cannot be read, lacks a column, has another shape, or has an infinite value,
        or a missing one that is not allowed.
    """
    others: Sequence[Mapping[str, str]] = ()
    try:
        if path.suffix.lower() == ".csv":
            values, others = _table(path, form)
        else:
            values = _array(path, names, shape)
    except ExampleFileError:
        raise
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, csv.Error) as error:
        raise ExampleFileError(f"{path} cannot be read: {error}", path=path) from error
    if values.dtype.kind not in "biuf":
        words = f"{path} has values of type {values.dtype}; examples consist of numbers"
        raise ExampleFileError(words, path=path, value=str(values.dtype), expected="numbers")
    if pixels := values.dtype == np.uint8 and values.ndim > 2 and not (form.columns or names):
        values = values[:, None] if values.ndim == 3 else values  # grey pictures, as in training
    if (found := tuple(values.shape[1:])) != tuple(shape):
        words = f"the examples in {path} have shape {found}; the model takes {tuple(shape)}"
        raise ExampleFileError(words, path=path, value=found, expected=tuple(shape))
    with np.errstate(over="ignore"):  # infinite values are refused below
        single = values.astype(np.float32) / np.float32(255 if pixels else 1)
    numbers = values.astype(np.float64) if form.columns else single
    finite = np.isfinite(single) | (allow_missing & np.isnan(single))
    if not finite.all():
        row = 1 + int(np.argwhere(~finite)[0, 0])
        words = f"example {row} in {path} has a missing or infinite value, which the model cannot "
        words += "fill in"
        value = float(numbers[~finite][0])
        raise ExampleFileError(words, path=path, row=row, value=value, expected="finite numbers")
    return ExampleFile(numbers, others)


def _array(path: Path, names: Sequence[str], shape: Sequence[int]) -> NDArray[Any]:
    found = np.load(path, allow_pickle=False)  # a pickle is a program
    if isinstance(found, np.ndarray):
        return found
    with found:
        values: NDArray[Any]
        if names and "x" not in found:
            values = _stacked(path, found, names, shape[-1])
        else:
            values = found["x"]
    return values


def _stacked(
    path: Path, arrays: Mapping[str, NDArray[Any]], names: Sequence[str], length: int
) -> NDArray[Any]:
    """Return inputs by name, in the model's order, as ``(N, names, length)``."""
    own = sorted(arrays)
    found = {name: arrays[name] for name in names if name in arrays}
    shapes = {each.shape for each in found.values()}
    if own != sorted(names) or len(shapes) != 1 or len(next(iter(shapes))) != 2:
        words = f"{path} has the arrays {own} of shapes {sorted(shapes)}; the model takes "
        words += f"{', '.join(names)}, each (examples, length)"
        raise ExampleFileError(words, path=path, value=own, expected=tuple(names))
    values = np.stack([found[name] for name in names], axis=1)
    beyond = max(0, length - values.shape[2])
    return np.pad(values, ((0, 0), (0, 0), (0, beyond)))


def _table(path: Path, form: TableForm) -> tuple[NDArray[Any], list[dict[str, str]]]:
    """Return the features of a table, and the other columns of each row."""
    with path.open(newline="", encoding="utf-8-sig") as stream:
        lines = [*csv.reader(stream)]
    while lines and not lines[0]:
        lines.pop(0)
    while lines and not lines[-1]:
        lines.pop()
    names, *rows = lines or [[]]
    # Blank lines are ignored, except in a table of one column, where they are missing values.
    rows = [row or [""] for row in rows if row or len(names) == 1]
    places = _places(path, names, form.in_tables)
    count = len(places) - len(form.categories)
    numbers = np.empty((len(rows), count))
    for line, row in enumerate(rows):
        if len(row) != len(names):
            raise ExampleFileError(
                f"row {line + 1} of {path} has {len(row)} values for {len(names)} columns",
                path=path,
                row=line + 1,
                value=len(row),
                expected=len(names),
            )
        numbers[line] = [
            _number(path, line + 1, names[place], row[place], names[place].strip() in form.dates)
            for place in places[:count]
        ]
    words = [
        one_hot([category_of(row[place]) for row in rows], categories)
        for place, (_, categories) in zip(places[count:], form.categories, strict=True)
    ]
    rest = [place for place in range(len(names)) if place not in places]
    # Spreadsheets write columns that have neither names nor values.
    rest = [place for place in rest if names[place] or any(row[place] for row in rows)]
    _check_unique(path, [names[place] for place in rest])
    others = [{names[place]: row[place] for place in rest} for row in rows] if rest else []
    return np.column_stack([numbers, *words]), others


def _places(path: Path, names: Sequence[str], columns: Sequence[str]) -> list[int]:
    """Return the indices of the columns; spaces around a name are ignored if it is not found."""
    places = [_place(path, names, name) for name in columns]
    missing = [name for name, place in zip(columns, places, strict=True) if place is None]
    if (missing or not columns) and (numbers := [name for name in names if _is_number(name)]):
        words = f"the first line of {path} has the numbers {numbers} instead of column names"
        raise ExampleFileError(words, path=path, row=0, value=numbers, expected=[*columns])
    if missing:
        words = f"{path} lacks the columns {missing}; the model takes {[*columns]}"
        raise ExampleFileError(words, path=path, columns=missing, expected=[*columns])
    found = [place for place in places if place is not None]
    if len(set(found)) < len(found):
        twice = sorted({names[place] for place in found if found.count(place) > 1})
        words = f"the columns {twice} of {path} match several of {[*columns]}"
        raise ExampleFileError(words, path=path, columns=twice, expected=[*columns])
    return found if columns else [*range(len(names))]


def _place(path: Path, names: Sequence[str], name: str) -> int | None:
    if name in names:
        _check_unique(path, [each for each in names if each == name])
        return names.index(name)
    bare = [each.strip() for each in names]
    return bare.index(name.strip()) if bare.count(name.strip()) == 1 else None


def _check_unique(path: Path, names: Sequence[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        words = f"{path} has the columns {twice} more than once"
        raise ExampleFileError(words, path=path, columns=twice)


def _number(path: Path, row: int, column: str, text: str, is_date: bool) -> float:
    """Return a cell as a number: 1 or 0 for True or False, as in training; NaN for an empty one.

    A date is days since 1970.
    """
    if not text.strip():
        return math.nan
    if is_date and (days := days_since_1970(text)) is not None:
        return days
    if (truth := _TRUTH.get(text.strip().lower())) is not None:
        return truth
    if not _is_number(text):
        kind = "a date, such as 2026-03-01" if is_date else "a number"
        words = f"row {row} of {path} has {text!r} in column {column!r}, which is not {kind}"
        raise ExampleFileError(words, path=path, row=row, columns=[column], value=text)
    return float(text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
