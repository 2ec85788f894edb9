"""Split of a client's own data: by time, by groups, and with each class in train and test."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pfl_flower.data.client_records import RawClient
from pfl_flower.data.errors import DataError
from pfl_flower.data.partition.splits import Rows, split
from pfl_flower.data.settings import DataSettings

Parts = tuple[Rows, Rows, Rows]


def split_own(settings: DataSettings, client: int, raw: RawClient) -> Parts:
    """Return the rows of train, validation and test, of what the data do not split themselves.

    Rows of one group are in one part. With ``split="time"`` the latest rows (or groups, by their
    latest row) test, and those before them validate. Otherwise they are drawn: groups class by
    class (that of a group is its rarest), and single rows so that train, and test if it is cut
    here, has an example of each class that has one for it.

    Parameters
    ----------
    settings : DataSettings
        Its fractions are those of rows, or of groups.
    client : int
        Number of the client.
    raw : RawClient
        Its training examples are split; a test or validation part that is there stays as it is.

    Raises
    ------
    DataError
        If there is only one group, and it would have to train and to test.
    """
    labels, groups, times = raw.train[1], raw.table.groups, raw.table.times
    if raw.validation is not None:
        settings = replace(settings, validation_fraction=0.0)
    count = len(labels)
    has_test = raw.test is not None
    classes = labels if _are_classes(settings, labels) else None
    units = np.arange(count) if groups is None else np.unique(groups, return_inverse=True)[1]
    number = len(np.unique(units))
    if number < 2 and not has_test:
        raise DataError(
            f"client {client} of {settings.dataset!r} has rows of one group only; it needs one to "
            f"train and one to test on",
            key="group-column",
            value=number,
            client=client,
        )
    given = np.zeros(number, dtype=bool) if has_test else None
    if settings.split == "time" and times is not None:
        parts = _by_time(settings, times, units, has_test)
    elif groups is not None:
        own = None if classes is None else rarest_of_groups(classes, units)
        drawn = replace(settings, stratify=own is not None)
        parts = split(drawn, client, number, given, labels=own)
    else:
        parts = split(settings, client, count, given, labels=labels)
        return parts if classes is None else with_every_class(parts, classes, has_test)
    return parts if groups is None else _rows_of(parts, units)


def _are_classes(settings: DataSettings, labels: NDArray[Any]) -> bool:
    return labels.ndim == 1 and settings.task != "regression" and labels.dtype.kind != "f"


def _by_time(
    settings: DataSettings, times: NDArray[np.float64], units: Rows, has_test: bool
) -> Parts:
    """Return the units of each part, the latest first; equal times are in the order of the rows."""
    latest = np.full(len(np.unique(units)), -np.inf)
    np.maximum.at(latest, units, times)
    order = np.argsort(latest, kind="stable")[::-1].astype(np.int64)
    count = len(order)
    size = 0 if has_test else min(max(1, round(settings.test_fraction * count)), count - 1)
    test, rest = order[:size], order[size:]
    size = max(0, min(round(settings.validation_fraction * count), len(rest) - 1))
    return rest[size:], rest[:size], test


def _rows_of(parts: Parts, units: Rows) -> Parts:
    """Return the rows of units, in the order of the units."""
    order = np.argsort(units, kind="stable")
    ends = np.cumsum(np.bincount(units))
    rows = np.split(order, ends[:-1])
    train, validation, test = (
        np.concatenate([rows[unit] for unit in part]) if len(part) else np.zeros(0, np.int64)
        for part in parts
    )
    return train, validation, test


def rarest_of_groups(classes: NDArray[Any], groups: Rows) -> NDArray[Any]:
    """Return of each group that class of its rows which fewest groups have.

    Parameters
    ----------
    classes : ndarray
        ``(N,)`` class of each row.
    groups : ndarray
        ``(N,)`` number of its group, from 0, without gaps.

    Returns
    -------
    ndarray
        ``(G,)``; of classes that are as rare the first in order.
    """
    names, numbers = np.unique(classes, return_inverse=True)
    held = np.zeros((len(np.unique(groups)), len(names)), dtype=bool)
    held[groups, numbers] = True
    rarity = np.where(held, held.sum(axis=0), len(held) + 1)
    found: NDArray[Any] = names[rarity.argmin(axis=1)]
    return found


def with_every_class(parts: Parts, classes: NDArray[Any], has_test: bool = False) -> Parts:
    """Return parts in which train, and test, has each class that has an example for it.

    A class without an example in train gets its first one elsewhere, and a class of two examples or
    more without one in test gets one of train or validation. In its place the part gives back an
    example of the class of which it has most, so that sizes stay.

    Parameters
    ----------
    parts : tuple of ndarray
        Numbers of the rows of train, validation and test.
    classes : ndarray
        ``(N,)`` class of each row.
    has_test : bool, default False
        Whether test examples are elsewhere, so that ``parts`` have none.
    """
    found = [part.tolist() for part in parts]
    for label in np.unique(classes):
        for target in (0,) if has_test else (0, 2):
            _give(found, classes, label, target)
    train, validation, test = (np.array(part, dtype=np.int64) for part in found)
    return train, validation, test


def _give(parts: list[list[int]], classes: NDArray[Any], label: Any, target: int) -> None:
    """Let a part have an example of a class, if another one can spare it."""
    if any(classes[row] == label for row in parts[target]):
        return
    for source in (2, 1, 0) if target == 0 else (1, 0):
        own = [row for row in parts[source] if classes[row] == label]
        if len(own) > (1 if (source, target) == (0, 2) else 0):
            break
    else:
        return
    names, counts = np.unique(classes[parts[target]], return_counts=True)
    commonest = names[counts.argmax()]
    if counts.max() < 2:  # it would lose a class for another
        return
    back = next(row for row in reversed(parts[target]) if classes[row] == commonest)
    place, other = parts[source].index(own[0]), parts[target].index(back)
    parts[source][place], parts[target][other] = back, own[0]
