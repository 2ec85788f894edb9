"""Which pictures are whose: folders of clients, splits and classes, or a table of paths."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from clients.natural_order import in_natural_order, natural_order
from pfl_flower.data.client_records import OwnRequest
from pfl_flower.data.errors import DataError

SPLIT_NAMES: Mapping[str, str] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Name of a folder, or value of a column, in lower case -> the split."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
"""Endings of pictures, in any case."""

LAYOUTS = "<client>/<split>/<class>/<picture> or <client>/<class>/<picture>"


@dataclass
class Listed:
    """A client's pictures.

    Attributes
    ----------
    splits : dict
        Split (``train``, ``val``, ``test``) -> its pictures, each a file and its label.
    classes : set of str
        Classes that have a folder, with pictures or without.
    """

    splits: dict[str, list[tuple[Path, str]]] = field(default_factory=dict)
    classes: set[str] = field(default_factory=set)


class Layout(Protocol):
    """Where the pictures of every client are."""

    def clients(self) -> Sequence[str]:
        """Return the names of the clients, in natural order."""

    def listed(self, client: str) -> Listed:
        """Return the pictures of a client."""


class Folders:
    """A folder of clients: ``<client>/<split>/<class>/<picture>``, or without splits.

    Parameters
    ----------
    root : Path
        The folder.
    whole : str
        Name of the client whose pictures all are; empty if clients have folders.

    Raises
    ------
    DataError
        If there is no such folder, or none of a client in it.
    """

    def __init__(self, root: Path, whole: str) -> None:
        if not root.is_dir():
            raise DataError(
                f"there is no folder {root.absolute()}; name one with {LAYOUTS}",
                path=str(root.absolute()),
            )
        self.root = root
        folders = _folders(root)
        has_pictures = any(map(_files, folders))
        self.of_one = bool(whole) and (_has_splits(root) or has_pictures)
        # a picture beside the classes of a client is said of that client, later
        has_classes = has_pictures and not any(map(_folders, folders))
        if not folders or (not whole and (_has_splits(root) or has_classes)):
            raise DataError(
                f"folder {root.absolute()} has no folders of clients, in which those of classes "
                f"are; put pictures into {LAYOUTS}; on a device that has its own, give its node a "
                f"name",
                key="dataset",
                value=str(root),
                path=str(root.absolute()),
                choices=LAYOUTS.split(" or "),
            )
        self.names = [whole] if self.of_one else [folder.name for folder in folders]

    def clients(self) -> Sequence[str]:
        """See :class:`Layout`."""
        return self.names

    def listed(self, client: str) -> Listed:
        """See :class:`Layout`; raises a DataError for pictures without a class."""
        folder = self.root if self.of_one else self.root / client
        found = Listed()
        for split, part in _splits(folder).items():
            pictures = found.splits.setdefault(split, [])
            if lone := [file.name for file in _files(part)]:
                raise DataError(
                    f"folder {part} has pictures outside of a folder of a class: "
                    f"{', '.join(lone[:3])}; put each into {LAYOUTS}",
                    key="label",
                    value=lone,
                    path=str(part),
                )
            for of_class in _folders(part):
                found.classes.add(of_class.name)
                pictures += [(file, of_class.name) for file in _below(of_class)]
        return found


def _folders(folder: Path) -> list[Path]:
    """Return the folders in a folder, without hidden ones, in natural order."""
    with os.scandir(folder) as entries:
        found = [folder / e.name for e in entries if e.is_dir() and not e.name.startswith(".")]
    return sorted(found, key=lambda each: natural_order(each.name))


def _files(folder: Path) -> list[Path]:
    """Return the pictures in a folder, in the order of their names."""
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if _is_picture(e.name) and e.is_file()]
    return [folder / name for name in sorted(names)]


def _below(folder: Path) -> Iterator[Path]:
    """Yield the pictures in a folder and in the folders in it."""
    yield from _files(folder)
    for inner in _folders(folder):
        yield from _below(inner)


def _is_picture(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _splits(folder: Path) -> dict[str, Path]:
    """Return a client's folders of splits; its whole folder as ``train`` where it has classes.

    A class may be called train, too: then there are pictures in it, and no folders.

    Raises
    ------
    DataError
        If something stands beside the splits, one is there twice, or there is none to train on.
    """
    found: dict[str, Path] = {}
    odd = []
    for each in (folders := _folders(folder)):
        name = SPLIT_NAMES.get(each.name.lower())
        if name is None or name in found:
            odd.append(each.name)
        else:
            found[name] = each
    if not any(map(_folders, found.values())):
        return {"train": folder}
    if odd or "train" not in found:
        problem = f"beside its splits {', '.join(odd)}" if odd else "no split to train on"
        raise DataError(
            f"folder {folder} has {problem}; there may be one of each of train, val and test, and "
            f"nothing else",
            key="split",
            value=odd or [each.name for each in folders],
            path=str(folder),
            choices=SPLIT_NAMES,
        )
    return found


def _has_splits(root: Path) -> bool:
    """Return whether a folder is one client's, with splits; clients may be called as splits are."""
    folders = _folders(root)
    names = [SPLIT_NAMES.get(each.name.lower()) for each in folders]
    return "train" in names and None not in names and not any(map(_files, folders))


class PathTable:
    """A CSV table with a row a picture: its path, label, client, and perhaps split.

    Paths are relative to the folder of the table.

    Parameters
    ----------
    file : Path
        The table.
    request : OwnRequest
        Names of its columns.
    """

    def __init__(self, file: Path, request: OwnRequest) -> None:
        self.file, self.request = file, request

    def _rows(self) -> Mapping[str, Sequence[tuple[str, str, str]]]:
        about, asked = self.file.stat(), self.request
        columns = asked.path_column, asked.label_column, asked.client_column, asked.split_column
        return _table(self.file, about.st_mtime_ns, about.st_size, columns, asked.whole)

    def clients(self) -> Sequence[str]:
        """See :class:`Layout`."""
        return list(self._rows())

    def listed(self, client: str) -> Listed:
        """See :class:`Layout`."""
        found = Listed(splits={"train": []})
        for path, label, split in self._rows()[client]:
            found.splits.setdefault(split, []).append((self.file.parent / path, label))
            found.classes.add(label)
        return found


@lru_cache(maxsize=2)
def _table(
    file: Path, _mtime: int, _size: int, columns: tuple[str, str, str, str], whole: str
) -> Mapping[str, Sequence[tuple[str, str, str]]]:
    """Return client -> (path, label, split) of its rows; read again if the file has changed."""
    import pandas as pd  # half a second to import, so only where needed

    try:
        frame = pd.read_csv(file, dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:
        raise DataError(f"table {file} cannot be read: {error}", value=str(error)) from error
    path, label, client, split = columns
    if whole and client not in frame.columns:
        frame = frame.assign(**{client: whole})
    wanted = {"path-column": path or "path", "label-column": label, "client-column": client}
    if split or "split" in frame.columns:
        wanted["split-column"] = split or "split"
    _check_columns(frame, file, wanted)
    found: dict[str, list[tuple[str, str, str]]] = {}
    columns_of_rows = [frame[wanted[name]] for name in ("client-column", "path-column")]
    splits = frame[wanted["split-column"]] if "split-column" in wanted else ["train"] * len(frame)
    for whose, where, what, part in zip(
        *columns_of_rows, frame[wanted["label-column"]], splits, strict=True
    ):
        found.setdefault(whose, []).append((where, what, SPLIT_NAMES[part.strip().lower()]))
    return {name: found[name] for name in in_natural_order(list(found))}


def _check_columns(frame: Any, file: Path, wanted: Mapping[str, str]) -> None:
    """Refuse a table that lacks a column or a value, or has a split of an unknown name."""
    for key, column in wanted.items():
        if column not in frame.columns:
            raise DataError(
                f"table {file} has no column {column!r}, which {key} names; its columns are: "
                f"{', '.join(map(str, frame.columns))}",
                key=key,
                value=column,
                choices=map(str, frame.columns),
            )
        if missing := int((frame[column].str.strip() == "").sum()):
            raise DataError(
                f"table {file} has no value in column {column!r} of {missing} rows; fill them in "
                f"or leave these rows out",
                key=column,
                value=missing,
            )
    if "split-column" not in wanted:
        return
    column = wanted["split-column"]
    if odd := sorted(set(frame[column].str.strip().str.lower()) - SPLIT_NAMES.keys()):
        raise DataError(
            f"column {column!r} of table {file} has {', '.join(map(repr, odd))}; a split is one of "
            f"{', '.join(SPLIT_NAMES)}",
            key="split-column",
            value=odd,
            choices=SPLIT_NAMES,
        )
