"""Files of examples that a model is to predict for."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray


class ExampleFileError(ValueError):
    """A file of examples that cannot be read, or whose examples are not what a model takes."""


@dataclass(frozen=True)
class ExampleFile:
    """What a file holds.

    Attributes
    ----------
    inputs : ndarray
        ``(N, *shape)`` float32.
    others : sequence of mapping of str to str, default ()
        Of a table whose columns a model knows by name, the columns that it does not take (numbers
        of patients, dates), for each row; empty elsewhere.
    """

    inputs: NDArray[np.float32]
    others: Sequence[Mapping[str, str]] = ()


def read_examples(path: Path, shape: Sequence[int], columns: Sequence[str] = ()) -> ExampleFile:
    """Read examples: ``.npy``, the array ``x`` of an ``.npz``, or a ``.csv`` with a line of names.

    Parameters
    ----------
    path : Path
        The file; uint8 pixels become 0 to 1.
    shape : sequence of int
        Of one example.
    columns : sequence of str, default ()
        Names of the features that the model takes, in its order, where it was trained on a table; a
        ``.csv`` may have them in any order, and others beside them.

    Raises
    ------
    ExampleFileError
        If it cannot be read, lacks a column, has another shape, or a value is missing or not
        finite.
    """
    others: Sequence[Mapping[str, str]] = ()
    try:
        if path.suffix.lower() == ".csv":
            values, others = _table(path, columns)
        else:
            values = _array(path)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, csv.Error) as error:
        raise ExampleFileError(f"{path} cannot be read: {error}") from error
    if values.dtype.kind not in "biuf":
        raise ExampleFileError(f"{path} holds {values.dtype}; examples are made of numbers")
    if tuple(values.shape[1:]) != tuple(shape):
        raise ExampleFileError(
            f"examples in {path} have shape {tuple(values.shape[1:])}; the model takes "
            f"{tuple(shape)}"
        )
    pixels = values.dtype == np.uint8 and not columns
    with np.errstate(over="ignore"):  # what becomes infinite is refused below
        numbers = values.astype(np.float32) / np.float32(255 if pixels else 1)
    if not np.isfinite(numbers).all():
        raise ExampleFileError(f"{path} lacks values; fill them in, a model cannot")
    return ExampleFile(numbers, others)


def _array(path: Path) -> NDArray[Any]:
    found = np.load(path, allow_pickle=False)  # a pickle is a program
    if isinstance(found, np.ndarray):
        return found
    with found:
        values: NDArray[Any] = found["x"]
    return values


def _table(path: Path, columns: Sequence[str]) -> tuple[NDArray[Any], list[dict[str, str]]]:
    """Return the numbers of a table, and of each row what else it has."""
    with path.open(newline="", encoding="utf-8-sig") as stream:
        lines = [*csv.reader(stream)]
    while lines and not lines[0]:
        lines.pop(0)
    while lines and not lines[-1]:
        lines.pop()
    names, *rows = lines or [[]]
    # A blank line is nothing, except in a table of one column: there it has no value.
    rows = [row or [""] for row in rows if row or len(names) == 1]
    places = _places(names, columns)
    numbers = np.empty((len(rows), len(places)))
    for line, row in enumerate(rows):
        if len(row) != len(names):
            raise ValueError(f"row {line + 1} has {len(row)} values for {len(names)} columns")
        numbers[line] = [_number(row[place], line, names[place]) for place in places]
    rest = [place for place in range(len(names)) if place not in places]
    # Programs of tables write columns that have neither names nor values.
    rest = [place for place in rest if names[place] or any(row[place] for row in rows)]
    _refuse_twice([names[place] for place in rest])
    others = [{names[place]: row[place] for place in rest} for row in rows] if rest else []
    return numbers, others


def _places(names: Sequence[str], columns: Sequence[str]) -> list[int]:
    """Return where the columns are: named as written, or but for spaces around the name."""
    places = [_place(names, name) for name in columns]
    missing = [name for name, place in zip(columns, places, strict=True) if place is None]
    if (missing or not columns) and any(map(_is_number, names)):
        raise ValueError("its first line must name the columns, and holds numbers")
    if missing:
        raise ValueError(f"it lacks the columns {missing}; the model takes {[*columns]}")
    found = [place for place in places if place is not None]
    if len(set(found)) < len(found):
        raise ValueError(f"one of its columns would stand for two of {[*columns]}")
    return found if columns else [*range(len(names))]


def _place(names: Sequence[str], name: str) -> int | None:
    if name in names:
        _refuse_twice([each for each in names if each == name])
        return names.index(name)
    bare = [each.strip() for each in names]
    return bare.index(name.strip()) if bare.count(name.strip()) == 1 else None


def _refuse_twice(names: Sequence[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"it has the columns {twice} more than once")


def _number(text: str, line: int, column: str) -> float:
    if not text.strip():
        return math.nan
    if not _is_number(text):
        raise ValueError(f"row {line + 1} has {text!r} in column {column!r}, which is no number")
    return float(text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
