"""A user's own data, which come split by client: a folder, a table, a data set or a function."""

import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pfl_flower.data.client_records import (
    SPLITS,
    OwnData,
    OwnRequest,
    RawClient,
    RawSplit,
    checked,
    client_index,
)
from pfl_flower.data.degradation.declared_errors import DECLARED
from pfl_flower.data.readers.graph import checked_graph, parts_of_graph
from pfl_flower.data.readers.huggingface import HubData
from pfl_flower.data.readers.table import TableData
from pfl_flower.data.schema import DataError
from pfl_flower.utils.imports import ResolveError, resolve

CONVERTER = "python -m pfl_flower.data.readers.pfllib SOURCE TARGET"


class FolderData:
    """A folder with a file of every client: ``<client>.npz``.

    Each has the arrays ``x_train``, ``y_train``, ``x_test`` and ``y_test``, maybe also ``x_val``
    and ``y_val``, and one that states how exact inputs are
    (:mod:`pfl_flower.data.degradation.declared_errors`). Client number i is the i-th file in the
    natural order of names (2 before 10), but the only file of a folder is the client whatever its
    number. Nothing is unpickled.

    Parameters
    ----------
    request : ``location`` is the folder
    """

    def __init__(self, request: OwnRequest) -> None:
        self.folder = Path(request.location).expanduser()
        self.may_lack = request.may_lack

    def count(self) -> int:
        """Return the number of files; see :class:`OwnData`."""
        return len(client_files(self.folder))

    def names(self) -> list[str]:
        """Return the names of the files; see :class:`OwnData`."""
        return [file.stem for file in client_files(self.folder)]

    def load(self, partition_id: int, num_partitions: int) -> RawClient:
        """Return a client's examples, split as its file says; see :class:`OwnData`."""
        files = client_files(self.folder)
        index = client_index(partition_id, [file.name for file in files], f"folder {self.folder}")
        file = files[index]
        return checked(_read_npz(file), str(file), (), ("train", "test"), self.may_lack)


def client_files(folder: Path) -> list[Path]:
    """Return the ``.npz`` files of a folder in the natural order of their names, hidden ones not.

    Raises
    ------
    DataError
        If there is no such folder, or no such file in it.
    """
    if not folder.is_dir():
        raise DataError(
            f"there is no folder {folder.absolute()}; name one with a file of every client, "
            f"<client>.npz"
        )
    files = [f for f in folder.glob("*.npz") if f.is_file() and not f.name.startswith(".")]
    if not files:
        is_pfllib = (folder / "train").is_dir() and (folder / "test").is_dir()
        way_out = f"it looks like one of PFLlib's: convert it with {CONVERTER}"
        raise DataError(
            f"folder {folder.absolute()} has no .npz file; "
            + (way_out if is_pfllib else "it has to have one of every client, <client>.npz")
        )
    return sorted(files, key=_natural_order)


def _natural_order(file: Path) -> tuple[list[str | int], str]:
    """Return a sort key by which 2 comes before 10, and 02 before 2 (never equal)."""
    words = re.split(r"(\d+)", file.stem)
    return [int(word) if word.isdecimal() else word for word in words], file.name


def _read_npz(file: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a client's file that have the names of splits, or state noise."""
    names = {f"{axis}_{split}" for axis in "xy" for split in SPLITS} | set(DECLARED)
    try:
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it is a single array")
        with archive:
            if "data" in archive.files and not names & set(archive.files):
                raise DataError(f"{file} looks like one of PFLlib's: convert it with {CONVERTER}")
            # arrays of other names are not read, but kept for the error messages
            return {n: archive[n] if n in names else np.empty(0) for n in archive.files}
    except DataError:
        raise
    except ValueError as error:
        if "Object arrays" in str(error):
            raise DataError(
                f"{file} holds Python objects, which would have to be unpickled (that can run "
                f"code); save arrays of numbers or strings (array.astype), or, if it is PFLlib's, "
                f"convert its folder with {CONVERTER}"
            ) from error
        raise _damaged(file, error) from error
    except (OSError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> DataError:
    return DataError(
        f"{file} cannot be read ({error}): it is damaged, cut short or no .npz file; write it "
        f"again with numpy.savez(file, x_train=..., y_train=..., x_test=..., y_test=...)"
    )


class FunctionData:
    """A user's own function: ``load(partition_id, num_partitions)``.

    It returns a mapping with ``x_train`` and ``y_train``, and maybe ``x_val``, ``y_val``,
    ``x_test`` and ``y_test``: numpy arrays or tensors; and maybe one that states how exact inputs
    are (:mod:`pfl_flower.data.degradation.declared_errors`). Or it returns a graph: PyG's ``Data``,
    or a mapping with its names (see :mod:`pfl_flower.data.readers.graph`).

    Parameters
    ----------
    request : ``location`` is ``module:function``
    """

    def __init__(self, request: OwnRequest) -> None:
        self.name = request.location
        self.task = request.task
        self.may_lack = request.may_lack

    def count(self) -> None:
        """Return None: the function makes as many clients as one asks for."""

    def names(self) -> list[str]:
        """Return nothing: the clients of a function have numbers only."""
        return []

    def load(self, partition_id: int, num_partitions: int) -> RawClient:
        """Return what the function returns for a client; see :class:`OwnData`."""
        try:
            function = resolve(self.name)
        except ResolveError as error:
            raise DataError(str(error)) from error
        call = f"{self.name}({partition_id}, {num_partitions})"
        try:
            arrays: Any = function(partition_id, num_partitions)
        except Exception as error:  # a user's code can raise anything
            raise DataError(f"{call} failed with {type(error).__name__}: {error}") from error
        if (parts := parts_of_graph(arrays)) is not None:
            return checked_graph(parts, call, self.task)
        if not isinstance(arrays, Mapping):
            raise DataError(
                f"{call} returned a {type(arrays).__name__}; it has to return a mapping with the "
                f"arrays x_train and y_train, and maybe x_val, y_val, x_test and y_test; or a "
                f"graph: PyG's Data, or a mapping with x, edge_index and y"
            )
        return checked(arrays, call, may_lack=self.may_lack)


OWN: Mapping[str, Callable[[OwnRequest], OwnData]] = {
    "folder": FolderData,
    "table": TableData,
    "huggingface": HubData,
    "function": FunctionData,
}
"""Kind of a user's own data -> its reader. A new one is one row."""

__all__ = ["OWN", "OwnData", "OwnRequest", "RawClient", "RawSplit", "checked"]
