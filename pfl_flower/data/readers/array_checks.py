"""Checks of a user's arrays: whether inputs and targets have a shape and a type to learn from."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from pfl_flower.data.errors import DataError

KINDS = {"i": "integers", "u": "integers", "f": "floats", "U": "strings"}
"""Kind of numpy dtype -> what targets of it are."""

MOST_NUMBERED_CLASSES = 20
"""Whole numbers with more values in a table are as likely amounts as classes."""


def as_array(value: Any, name: str, where: str) -> np.ndarray:
    """Return a tensor (sparse ones become dense), list or array as an array.

    Parameters
    ----------
    value : object
        What a user gave.
    name : str
        Name of the array.
    where : str
        File and client, for error messages.

    Raises
    ------
    DataError
        If rows have different shapes.
    """
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().to_dense()
        value = value.float() if value.dtype == torch.bfloat16 else value  # numpy has none
        return value.numpy()  # type: ignore[no-any-return]
    try:
        return np.asarray(value)
    except ValueError as error:
        raise DataError(
            f"{where}: {name} is no array ({error}); all rows need the same shape", key=name
        ) from error


def _check_no_objects(array: np.ndarray, name: str, where: str) -> None:
    if array.dtype.hasobject:
        raise DataError(
            f"{where}: {name} holds Python objects, which would have to be unpickled (that can run "
            f"code); make it an array of numbers, e.g. with astype",
            key=name,
            value=array.dtype,
        )


def checked_inputs(
    value: Any,
    name: str,
    where: str,
    columns: Sequence[str] = (),
    allow_missing: bool = False,
    hint: str = "",
) -> np.ndarray:
    """Return inputs ``(N, ...)`` as finite float32, integers as int64; pictures stay uint8.

    Features with names are float64: they are standardised later, and of a time in seconds since
    1970 float32 tells no two minutes apart.

    Pictures are uint8 of three axes or more: pixels, which are scaled to 0 to 1 later. Grey ones
    ``(N, H, W)`` get the axis of their one channel. Other uint8 are integers as any (codes, ages).
    Booleans, and integers that int64 cannot hold (uint64), become float32.

    Parameters
    ----------
    value : object
        Array, tensor or what numpy makes an array of.
    name : str
        Name of the array.
    where : str
        File and client, for error messages.
    columns : sequence of str, default ()
        Names of the features, if examples are rows of a table.
    allow_missing : bool, default False
        Whether values may be missing (NaN), because an imputation fills them in.
    hint : str, default ""
        What else a user can do about missing values, for the error message.

    Raises
    ------
    DataError
        If it is no such array, or values are missing or infinite.
    """
    array = as_array(value, name, where)
    _check_no_objects(array, name, where)
    if array.dtype.kind not in "biuf":
        raise DataError(
            f"{where}: {name} is of type {array.dtype}; it must be of numbers",
            key=name,
            value=array.dtype,
        )
    if array.ndim < 2 or 0 in array.shape[1:]:
        raise DataError(
            f"{where}: {name} has shape {array.shape}; it must be (examples, features) or "
            f"(examples, channels, height, width), with at least one feature",
            key=name,
            value=array.shape,
        )
    if is_pixels(array):
        array = array[:, None] if array.ndim == 3 else array
    elif array.dtype != bool and np.can_cast(array.dtype, np.int64):
        array = array.astype(np.int64)
    else:
        array = array.astype(np.float64) if len(columns) else _as_single(array)
    known = np.where(np.isnan(array), 0, array) if allow_missing else array
    single = known if known.dtype.kind in "iu" else _as_single(known)  # what is too large is found
    _check_finite(single, name, where, columns, hint)
    return array


def _as_single(array: np.ndarray) -> np.ndarray:
    """Return float32; what is too large becomes infinite."""
    with np.errstate(over="ignore"):
        return array.astype(np.float32, copy=False)


def is_pixels(array: np.ndarray) -> bool:
    """Return whether inputs are pictures with pixels from 0 to 255, by type and shape."""
    return array.dtype == np.uint8 and array.ndim > 2


def _check_finite(
    array: np.ndarray, name: str, where: str, columns: Sequence[str] = (), hint: str = ""
) -> None:
    bad = ~np.isfinite(array)
    if not bad.any():
        return
    rows = np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1))
    what = f"values in {len(rows)} of {len(bad)} examples (the first is {rows[0]})"
    places: Any = rows.tolist()
    if len(columns):
        counts = zip(map(str, columns), bad.sum(axis=0).tolist(), strict=True)
        places = {column: count for column, count in counts if count}
        each = ", ".join(f"{column!r} ({count})" for column, count in places.items())
        what = f"values in these columns (how many): {each}"
    raise DataError(
        f"{where}: {'the table' if len(columns) else name} has missing (NaN), infinite or too "
        f"large {what}; fill them in or leave the examples out{hint}",
        key=name,
        value=places,
    )


def checked_targets(value: Any, name: str, where: str, allow_missing: bool = False) -> np.ndarray:
    """Return targets ``(N,)``, given so or as ``(N, 1)``, as integers, floats or strings.

    Parameters
    ----------
    value : object
        Array, tensor or what numpy makes an array of.
    name : str
        Name of the array.
    where : str
        File and client, for error messages.
    allow_missing : bool, default False
        Whether floats may be NaN.

    Raises
    ------
    DataError
        If it is no such array, or floats are missing or infinite.
    """
    array = as_array(value, name, where)
    if array.dtype == object and all(isinstance(item, str) for item in array.flat):
        array = array.astype(np.str_)  # strings of a table, already in memory
    _check_no_objects(array, name, where)
    if array.dtype.kind == "b":
        array = array.astype(np.int64)
    if array.dtype.kind not in KINDS:
        raise DataError(
            f"{where}: {name} is of type {array.dtype}; targets are integers, floats or strings",
            key=name,
            value=array.dtype,
        )
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        way = "; they are one-hot rows: take argmax(axis=1)" if _is_one_hot(array) else ""
        raise DataError(
            f"{where}: {name} has shape {array.shape}; it must be one-dimensional, one target per "
            f"example (several targets are not supported){way}",
            key=name,
            value=array.shape,
        )
    if array.dtype.kind == "f":
        known = np.where(np.isnan(array), 0, array) if allow_missing else array
        _check_finite(known, name, where)
    return array


def _is_one_hot(array: np.ndarray) -> bool:
    """Return whether every row has a single 1 and else zeros."""
    numbers = array.ndim == 2 and array.dtype.kind in "iuf"
    return numbers and bool(np.isin(array, (0, 1)).all() and (array.sum(axis=1) == 1).all())


def unnamed_columns(names: Iterable[object]) -> list[str]:
    """Return the columns that pandas has made of an index, which are no features.

    The number of a row, say, tells its class where rows are sorted by it.

    Parameters
    ----------
    names : iterable
        Names of the columns.
    """
    return [str(name) for name in names if _UNNAMED.fullmatch(str(name))]


_UNNAMED = re.compile(r"Unnamed: .*|__index_level_\d+__")


def check_few_classes(targets: np.ndarray, task: str, where: str) -> None:
    """Refuse whole numbers of many values in a table, of which nobody said what they are.

    Parameters
    ----------
    targets : ndarray
        ``(N,)`` targets of the table.
    task : str
        The run key ``task``.
    where : str
        Table and column, for the error message.

    Raises
    ------
    DataError
        If there are more than :data:`MOST_NUMBERED_CLASSES` values, and the task is ``"auto"``.
    """
    if task != "auto" or targets.dtype.kind not in "iu":
        return
    if (count := len(np.unique(targets))) > MOST_NUMBERED_CLASSES:
        raise DataError(
            f"{where} holds {count} different whole numbers, from {targets.min()} to "
            f"{targets.max()}: say what they are, amounts with task=regression or classes with "
            f"task=classification",
            key="task",
            value=task,
            choices=("classification", "regression"),
        )
