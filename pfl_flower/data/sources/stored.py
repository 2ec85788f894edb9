"""What data sets that lie in the data folder share: how they are read, and what is said if not."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clients.logs import info_once
from pfl_flower.data.errors import DataError
from pfl_flower.data.records import SourceRequest
from pfl_flower.data.settings import default_cache


def data_folder(request: SourceRequest) -> Path:
    """Return the folder that data sets lie in, the cache if the user named none; log it once.

    What a node reads is not always what its user thinks: the SuperLink that ``flwr run`` leaves in
    the background keeps the environment variables of its first run.

    Parameters
    ----------
    request : SourceRequest
        The arguments of the data set's loader.
    """
    found = request.data_dir or default_cache()
    info_once(f"Data folder: {found} (run key data-dir names another)")
    return found


def not_found(dataset: str, path: Path, what: str) -> DataError:
    """Return the error of a missing file.

    Parameters
    ----------
    dataset : str
        Name of the data set.
    path : Path
        The file that is missing.
    what : str
        What to put where, to be read after "put".
    """
    return DataError(
        f"{dataset} was not found: there is no {path}. Put {what}, or name another data folder "
        f"with the run key data-dir",
        key="dataset",
        value=dataset,
        path=str(path),
    )


def read_arrays(path: Path, names: Sequence[str], dataset: str, what: str) -> list[np.ndarray]:
    """Return arrays of a ``.npz`` file.

    Parameters
    ----------
    path : Path
        The file.
    names : sequence of str
        Names of the arrays.
    dataset, what : str
        See :func:`not_found`.

    Raises
    ------
    DataError
        If the file is missing or damaged, or lacks one of the arrays.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return [arrays[name] for name in names]
    except FileNotFoundError as error:
        raise not_found(dataset, path, what) from error
    except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
        wanted = ", ".join(names)
        raise DataError(
            f"{path} does not hold the arrays {wanted} of {dataset} ({error})",
            key=wanted,
            path=str(path),
        ) from error
