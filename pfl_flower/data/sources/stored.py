"""What data sets that lie in the data folder share: how they are read, and what is said if not."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pfl_flower.data.errors import DataError


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
        f"with data-dir or $PFL_DATA_DIR",
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
