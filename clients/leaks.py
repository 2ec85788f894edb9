"""A look for personal values in what leaves a device, in whatever shape they do."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import RecordDict
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from strategies.arrays import view

ENOUGH = 8
"""Number of runs of neighbouring values, or of whole numbers, in common that are no chance."""

Values = NDArray[Any]
Runs = NDArray[np.uint64]


def leaving(content: RecordDict) -> Iterator[tuple[str, Values]]:
    """Yield (name, values) of all numbers in a message.

    Those of arrays; those of lists and bytes among metrics and configs, whole numbers also as the
    bytes that they are made of; and all single numbers together, which may be an array taken apart.
    """
    single: list[float] = []
    for arrays in content.array_records.values():
        for name, array in arrays.items():
            values = view(array)
            parts = [values.real, values.imag] if values.dtype.kind == "c" else [values]
            for part in parts:
                yield f"array {name!r}", part
                if part.dtype.kind == "f" and part.size == 1:
                    single.append(float(part.reshape(())))
            if values.dtype.kind in "biu":
                yield from _of_bytes(f"the bytes of array {name!r}", values.tobytes(), 1)
    records: list[Mapping[str, Any]] = [
        *content.metric_records.values(),
        *content.config_records.values(),
    ]
    for name, value in (item for record in records for item in record.items()):
        every = value if isinstance(value, list) else [value]
        numbers = [number for number in every if isinstance(number, int | float)]
        if isinstance(value, list):
            yield f"the list {name!r}", np.array(numbers, dtype=np.float64)
        if len(every) == 1:
            single += [number for number in numbers if isinstance(number, float)]
        content_of = b"".join(part for part in every if isinstance(part, bytes))
        yield from _of_bytes(f"the bytes of {name!r}", content_of)
    yield "the numbers", np.array(single, dtype=np.float64)


def _of_bytes(name: str, content: bytes, begins: int = 8) -> Iterator[tuple[str, Values]]:
    """Yield (name, values) of what bytes may be, beginning at one of so many first places."""
    for kind in (np.float16, np.float32, np.float64):
        size = np.dtype(kind).itemsize
        for begin in range(min(size, begins, len(content) - size + 1)):
            count = (len(content) - begin) // size
            yield name, np.frombuffer(content, kind, count, begin)


class LeakSearch:
    """Find values of a client's own in others, in whatever shape and type they are.

    Values are compared in a row, as single precision (as half, where what leaves is). A leak is

    - an own array of the same values, in any shape;
    - a short one that is in a longer one as a whole;
    - a part of one: at least :data:`ENOUGH` runs of neighbours (two values; four in half precision)
      along any axis of the array, or all there are.

    What the server has just sent is no secret. Whole numbers (zeros, counters) and repetitions are
    equal by chance, so arrays of nothing else count only if they are equal throughout, and have
    :data:`ENOUGH` values. A single value is never told from others.

    Parameters
    ----------
    own : name -> values that are not to leave
    known : arrays that the server has sent
    half : whether what leaves is of half precision
    """

    def __init__(
        self, own: Mapping[str, Values], known: Sequence[Values], half: bool = False
    ) -> None:
        self._kind = np.float16 if half else np.float32
        self._known = [self._row(values) for values in known]
        numbers = {name: values for name, values in own.items() if values.dtype.kind in "biuf"}
        secrets = {name: values for name, values in numbers.items() if _tells(self._row(values))}
        self._own = {name: self._row(values) for name, values in secrets.items()}
        told = _ordered(np.concatenate([np.zeros(0, np.uint64), *map(_runs, self._known)]))
        runs = [np.zeros(0, np.uint64)]
        self._short: dict[str, Values] = {}
        for name, values in secrets.items():
            along = [np.moveaxis(values, axis, -1) for axis in range(values.ndim)]
            fresh = _ordered(np.concatenate([_runs(self._row(each)) for each in along]))
            runs.append(fresh[~_among(fresh, told)])
            if len(runs[-1]) and len(self._own[name]) <= 2 * ENOUGH:
                self._short[name] = self._own[name]
        every = np.concatenate(runs)
        order = np.argsort(every)
        self._runs = every[order]
        self._whose = np.repeat(np.arange(-1, len(secrets)), [len(each) for each in runs])[order]

    def secret_in(self, values: Values) -> str | None:
        """Return the name of the own array that values hold something of; None if of none."""
        row = self._row(values)
        if any(np.array_equal(row, known) for known in self._known):
            return None
        content = row.tobytes() if self._short else b""
        for name, own in self._own.items():
            if np.array_equal(own, row) or (name in self._short and own.tobytes() in content):
                return name
        runs = _ordered(_runs(row))
        found = runs[_among(runs, self._runs)]
        if not len(found) or len(found) < min(ENOUGH, len(runs)):
            return None
        whose = int(self._whose[np.searchsorted(self._runs, found[0])])
        return list(self._own)[whose]

    def _row(self, values: Values) -> Values:
        with np.errstate(over="ignore", invalid="ignore"):  # what is lost so tells nothing
            return np.ascontiguousarray(values).reshape(-1).astype(self._kind, copy=False)


def _tells(row: Values) -> bool:
    """Whether no other array is equal to this one by chance."""
    row = row[np.isfinite(row)]
    varies = row.size and (row != row[0]).any()
    return bool(varies and (row.size >= ENOUGH or (row != np.round(row)).any()))


def _runs(row: Values) -> Runs:
    """Return every run of neighbours that is no chance, as 64 bits each."""
    length = 8 // row.itemsize
    if len(row) < length:
        return np.zeros(0, np.uint64)
    with np.errstate(invalid="ignore"):  # bytes may be a NaN of a rare kind
        telling = np.isfinite(row) & (row != np.round(row))
    telling = sliding_window_view(telling, length).all(axis=1)
    windows = sliding_window_view(row, length)
    telling &= (windows[:, 1:] != windows[:, :1]).any(axis=1)
    return np.ascontiguousarray(windows[telling]).view(np.uint64).reshape(-1)


def _ordered(runs: Runs) -> Runs:
    """Return runs in order, each once; ``np.unique`` takes minutes for millions of such numbers."""
    ordered = np.sort(runs)
    once: Runs = ordered[np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)]]
    return once


def _among(values: Runs, ordered: Runs) -> NDArray[np.bool_]:
    """Return which values are among others, which are in order."""
    if not len(ordered):
        return np.zeros(len(values), bool)
    places = np.searchsorted(ordered, values)
    found: NDArray[np.bool_] = ordered[np.minimum(places, len(ordered) - 1)] == values
    return found
