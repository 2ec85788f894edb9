"""OWN, the table of readers of own data; readers of a folder of ``.npz`` and of a function."""

import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clients.natural_order import natural_order
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
from pfl_flower.data.errors import DataError, error_context
from pfl_flower.data.readers.datasets import checked_datasets, parts_of_datasets
from pfl_flower.data.readers.graph import checked_graph, parts_of_graph
from pfl_flower.data.readers.huggingface import HubData
from pfl_flower.data.readers.pictures.reader import PictureData
from pfl_flower.data.readers.table import TableData
from pfl_flower.utils.imports import ResolveError, resolve, takes

CONVERTER = "python -m pfl_flower.data.readers.pfllib SOURCE TARGET"


class FolderData:
    """A folder with one file per client: ``<client>.npz``.

    Each file has the arrays ``x_train`` and ``y_train``, optionally ``x_test`` and ``y_test``,
    ``x_val`` and ``y_val``, and one that declares how exact inputs are
    (:mod:`pfl_flower.data.degradation.declared_errors`). Client number i is the i-th file in the
    natural order of names (2 before 10); a single file belongs to any client number. Nothing is
    unpickled.

    Parameters
    ----------
    request : OwnRequest
        ``location`` is the folder.
    """

    def __init__(self, request: OwnRequest) -> None:
        self.folder = Path(request.location).expanduser()
        self.allow_missing = request.allow_missing

    def count(self) -> int:
        """Return the number of files; see :class:`OwnData`."""
        return len(client_files(self.folder))

    def names(self) -> list[str]:
        """Return the names of the files; see :class:`OwnData`."""
        return [file.stem for file in client_files(self.folder)]

    def load(self, partition_id: int, num_partitions: int) -> RawClient:
        """Return a client's examples, split as its file says; see :class:`OwnData`."""
        files = client_files(self.folder)
        with error_context(path=str(self.folder)):
            names = [file.name for file in files]
            file = files[client_index(partition_id, names, f"folder {self.folder}")]
        with error_context(client=partition_id, path=str(file)):
            return checked(_read_npz(file), str(file), allow_missing=self.allow_missing)


def client_files(folder: Path) -> list[Path]:
    """Return the ``.npz`` files of a folder, without hidden ones, in the natural order of names.

    Parameters
    ----------
    folder : Path
        The folder.

    Raises
    ------
    DataError
        If there is no such folder, or no such file in it.
    """
    if not folder.is_dir():
        raise DataError(
            f"there is no folder {folder.absolute()}; name one with a file of every client, "
            f"<client>.npz",
            path=str(folder.absolute()),
        )
    files = [f for f in folder.glob("*.npz") if f.is_file() and not f.name.startswith(".")]
    if not files:
        is_pfllib = (folder / "train").is_dir() and (folder / "test").is_dir()
        hint = f"it looks like one of PFLlib's: convert it with {CONVERTER}"
        raise DataError(
            f"folder {folder.absolute()} has no .npz file; "
            + (hint if is_pfllib else "it needs one of every client, <client>.npz"),
            path=str(folder.absolute()),
            choices=(CONVERTER,) if is_pfllib else (),
        )
    return sorted(files, key=lambda file: natural_order(file.stem))


def _read_npz(file: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a client's file: those of splits and of declared errors."""
    names = {f"{axis}_{split}" for axis in "xy" for split in SPLITS} | set(DECLARED)
    try:
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it is a single array")
        with archive:
            if "data" in archive.files and not names & set(archive.files):
                raise DataError(
                    f"{file} looks like one of PFLlib's: convert it with {CONVERTER}",
                    key="data",
                    path=str(file),
                    choices=(CONVERTER,),
                )
            # arrays of other names are not read; error messages list their names
            return {n: archive[n] if n in names else np.empty(0) for n in archive.files}
    except DataError:
        raise
    except ValueError as error:
        if "Object arrays" in str(error):
            raise DataError(
                f"{file} holds Python objects, which would have to be unpickled (that can run "
                f"code); save arrays of numbers or strings (array.astype), or, if it is PFLlib's, "
                f"convert its folder with {CONVERTER}",
                key="dtype",
                value="object",
                path=str(file),
                choices=(CONVERTER,),
            ) from error
        raise _damaged(file, error) from error
    except (OSError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> DataError:
    return DataError(
        f"{file} cannot be read ({error}): it is damaged, truncated or no .npz file; write it "
        f"again with numpy.savez(file, x_train=..., y_train=..., x_test=..., y_test=...)",
        value=str(error),
        path=str(file),
    )


class FunctionData:
    """A user's function ``load(partition_id, num_partitions)``, which returns a client's data.

    One that draws its data may have a third argument, ``seed``: it gets the run's. It returns a
    mapping with ``x_train`` and ``y_train``, and optionally ``x_val``, ``y_val``, ``x_test`` and
    ``y_test``: numpy arrays or tensors; and optionally one that declares how exact inputs are
    (:mod:`pfl_flower.data.degradation.declared_errors`). Or it returns torch map-style data sets
    (see :mod:`pfl_flower.data.readers.datasets`): a mapping with ``train``, and optionally
    ``validation``, ``test`` and ``collate``, or one that is to be split. Or a graph: PyG's
    ``Data``, or a mapping with its names (see :mod:`pfl_flower.data.readers.graph`).

    Parameters
    ----------
    request : OwnRequest
        ``location`` is ``module:function``.
    """

    def __init__(self, request: OwnRequest) -> None:
        self.name = request.location
        self.task = request.task
        self.seed = request.seed
        self.allow_missing = request.allow_missing

    def count(self) -> None:
        """Return None: the function accepts any number of clients; see :class:`OwnData`."""

    def names(self) -> list[str]:
        """Return an empty list: the clients have no names; see :class:`OwnData`."""
        return []

    def load(self, partition_id: int, num_partitions: int) -> RawClient:
        """Return what the function returns for a client; see :class:`OwnData`."""
        try:
            function = resolve(self.name)
        except ResolveError as error:
            raise DataError(str(error), key="dataset", value=self.name) from error
        call = f"{self.name}({partition_id}, {num_partitions})"
        drawn = {"seed": self.seed} if takes(function, "seed") else {}
        try:
            arrays: Any = function(partition_id, num_partitions, **drawn)
        except Exception as error:  # a user's code can raise anything
            raise DataError(
                f"{call} failed with {type(error).__name__}: {error}",
                key="dataset",
                value=self.name,
                client=partition_id,
            ) from error
        with error_context(client=partition_id):
            return self._checked(arrays, call)

    def _checked(self, arrays: Any, call: str) -> RawClient:
        if (parts := parts_of_graph(arrays)) is not None:
            return checked_graph(parts, call, self.task)
        if (named := parts_of_datasets(arrays)) is not None:
            return checked_datasets(named, call)
        if not isinstance(arrays, Mapping):
            raise DataError(
                f"{call} returned a {type(arrays).__name__}; it must return a mapping with the "
                f"arrays x_train and y_train, and optionally x_val, y_val, x_test and y_test; "
                f"map-style Datasets train, validation and test; or a graph: PyG's Data, or a "
                f"mapping with x, edge_index and y",
                key="dataset",
                value=self.name,
                choices=("mapping", "Dataset", "Data"),
            )
        return checked(arrays, call, allow_missing=self.allow_missing)


OWN: Mapping[str, Callable[[OwnRequest], OwnData]] = {
    "folder": FolderData,
    "images": PictureData,
    "table": TableData,
    "huggingface": HubData,
    "function": FunctionData,
}
"""Kind of own data -> its reader. A new one is one row."""

__all__ = ["OWN", "OwnData", "OwnRequest", "RawClient", "RawSplit", "checked"]
