"""A look for personal values in what leaves a device, in whatever shape they do."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import RecordDict
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from strategies.arrays import view

ENOUGH = 8
"""Number of runs of neighbouring values in common that are no chance."""

Values = NDArray[Any]
Runs = NDArray[np.uint64]


def leaving(content: RecordDict) -> Iterator[tuple[str, Values]]:
    """Yield (name, values) of all numbers in a message.

    Those of arrays; those of lists and bytes among metrics and configs; and the single numbers of
    such a record, which may be an array taken apart, together.
    """
    for arrays in content.array_records.values():
        for name, array in arrays.items():
            yield f"array {name!r}", view(array)
    records: list[Mapping[str, Any]] = [
        *content.metric_records.values(),
        *content.config_records.values(),
    ]
    for record in records:
        single = [value for value in record.values() if isinstance(value, float)]
        yield "the numbers", np.array(single, dtype=np.float64)
        for name, value in record.items():
            if isinstance(value, bytes):
                for kind in (np.float32, np.float64):
                    size = len(value) // np.dtype(kind).itemsize * np.dtype(kind).itemsize
                    yield f"the bytes of {name!r}", np.frombuffer(value[:size], kind)
            elif isinstance(value, list) and value and isinstance(value[0], int | float):
                yield f"the list {name!r}", np.array(value, dtype=np.float64)


class LeakSearch:
    """Find values of a client's own in others, in whatever shape and type they are.

    Values are compared in a row, as single precision (as half, where what leaves is). A leak is

    - an own array of the same values, in any shape;
    - a short one that is in a longer one as a whole;
    - a part of one: at least :data:`ENOUGH` runs of neighbours (two values; four in half precision)
      of the array or of its transpose, or all there are.

    What the server has just sent is no secret. Whole numbers (zeros, counters) and repetitions are
    equal by chance, so arrays of nothing else count only if they are equal throughout. A single
    value is never told from others.

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
        secrets = {n: v for n, v in own.items() if v.dtype.kind in "biuf" and _varies(v)}
        self._own = {name: self._row(values) for name, values in secrets.items()}
        told = _ordered(np.concatenate([np.zeros(0, np.uint64), *map(_runs, self._known)]))
        runs = [np.zeros(0, np.uint64)]
        self._short: dict[str, Values] = {}
        for name, values in secrets.items():
            both = [_runs(self._row(values)), _runs(self._row(values.T))]
            fresh = _ordered(np.concatenate(both))
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
        with np.errstate(over="ignore"):  # what half precision cannot hold tells nothing
            return np.ascontiguousarray(values).reshape(-1).astype(self._kind, copy=False)


def _varies(values: Values) -> bool:
    return bool(values.size and (values != values.flat[0]).any())


def _runs(row: Values) -> Runs:
    """Return every run of neighbours that is no chance, as 64 bits each."""
    length = 8 // row.itemsize
    if len(row) < length:
        return np.zeros(0, np.uint64)
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
