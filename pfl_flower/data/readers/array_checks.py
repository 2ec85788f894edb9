"""Whether what a user gave as inputs and targets are arrays that can be learnt from."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from pfl_flower.data.schema import DataError

KINDS = {"i": "integers", "u": "integers", "f": "floats", "U": "strings"}
"""Kind of numpy dtype -> what targets of it are."""


def as_array(value: Any, where: str) -> np.ndarray:
    """Return what a user gave as an array: a tensor (sparse ones become dense), a list.

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
        raise DataError(f"{where} is no array ({error}); all rows need the same shape") from error


def _check_no_objects(array: np.ndarray, where: str) -> None:
    if array.dtype.hasobject:
        raise DataError(
            f"{where} holds Python objects, which would have to be unpickled (that can run code); "
            f"make it an array of numbers, e.g. with astype"
        )


def checked_inputs(
    value: Any,
    where: str,
    columns: Sequence[str] = (),
    may_lack: bool = False,
    way_out: str = "",
) -> np.ndarray:
    """Return inputs ``(N, ...)`` as finite float32, or as the uint8 they are.

    Parameters
    ----------
    value : array, tensor or what numpy makes an array of
    where : for error messages
    columns : names of the features, if examples are rows of a table
    may_lack : whether values may be missing (NaN), as they may where something takes their place
    way_out : what else can be done where a value is missing that must not be

    Raises
    ------
    DataError
        If it is no such array, or values are missing or infinite.
    """
    array = as_array(value, where)
    _check_no_objects(array, where)
    if array.dtype.kind not in "biuf":
        raise DataError(f"{where} is of type {array.dtype}; it has to be of numbers")
    if array.ndim < 2 or 0 in array.shape[1:]:
        raise DataError(
            f"{where} has shape {array.shape}; it has to be (examples, features) or (examples, "
            f"channels, height, width), of at least one feature"
        )
    if array.dtype != np.uint8:
        with np.errstate(over="ignore"):  # what becomes infinite is refused below
            array = array.astype(np.float32)
    known = np.where(np.isnan(array), 0, array) if may_lack else array
    _check_finite(known, where, columns, way_out)
    return array


def _check_finite(
    array: np.ndarray, where: str, columns: Sequence[str] = (), way_out: str = ""
) -> None:
    bad = ~np.isfinite(array)
    if not bad.any():
        return
    if len(columns):
        counts = zip(columns, bad.sum(axis=0), strict=True)
        each = ", ".join(f"{name!r} ({count})" for name, count in counts if count)
        what = f"values in these columns (how many): {each}"
    else:
        rows = np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1))
        what = f"values in {len(rows)} of {len(bad)} examples (the first is {rows[0]})"
    raise DataError(
        f"{where} has missing (NaN), infinite or too large {what}; fill them in or leave the "
        f"examples out{way_out}"
    )


def checked_targets(value: Any, where: str, may_lack: bool = False) -> np.ndarray:
    """Return targets ``(N,)`` as integers, floats or strings.

    Parameters
    ----------
    value : array, tensor or what numpy makes an array of
    where : for error messages
    may_lack : whether floats may be NaN

    Raises
    ------
    DataError
        If it is no such array, or floats are missing or infinite.
    """
    array = as_array(value, where)
    if array.dtype == object and all(isinstance(item, str) for item in array.flat):
        array = array.astype(np.str_)  # strings of a table, already in memory
    _check_no_objects(array, where)
    if array.dtype.kind == "b":
        array = array.astype(np.int64)
    if array.dtype.kind not in KINDS:
        raise DataError(
            f"{where} is of type {array.dtype}; targets are integers, floats or strings"
        )
    if array.ndim != 1:
        raise DataError(
            f"{where} has shape {array.shape}; it has to be one-dimensional, one target an example "
            f"(of one-hot rows, take argmax)"
        )
    if array.dtype.kind == "f":
        _check_finite(np.where(np.isnan(array), 0, array) if may_lack else array, where)
    return array
