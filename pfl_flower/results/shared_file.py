"""The file of a run's shared arrays, which says what their places stand for."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import safe_open

from pfl_flower.data.schema import DataSchema
from pfl_flower.utils.files import write_bytes
from strategies.array_file import array_bytes

NAME = "shared.safetensors"
BASE_NAME = "base.safetensors"
"""The frozen base, where a file of first arrays gave it, for a later run that starts from here."""

LABELS, COLUMNS, BASE = "labels", "columns", "base"
"""Metadata: the classes in the order of the outputs, the features of a table in that of inputs, the
fingerprint of the frozen base that the arrays were trained on."""


def meaning(schema: DataSchema, base: str) -> dict[str, str]:
    """Return what places in shared arrays stand for, and beside what, as the file says it (JSON).

    Parameters
    ----------
    schema : DataSchema
        Of the run's data.
    base : str
        Fingerprint of the network's frozen base; ``""`` where nothing is frozen.
    """
    said = {LABELS: schema.labels, COLUMNS: schema.columns, BASE: base}
    return {key: json.dumps(value) for key, value in said.items()}


def write_shared(
    folder: Path, arrays: Mapping[str, NDArray[Any]], schema: DataSchema, base: str
) -> None:
    """Write the file into a results folder.

    Parameters
    ----------
    folder, arrays : Path and mapping of str to ndarray
        Where, and what.
    schema : DataSchema
        Of the run's data.
    base : str
        Fingerprint of the network's frozen base; ``""`` where nothing is frozen.
    """
    write_bytes(folder / NAME, array_bytes(arrays, meaning(schema, base)))


def write_base(folder: Path, entries: Mapping[str, NDArray[Any]]) -> None:
    """Write a frozen base into a results folder."""
    write_bytes(folder / BASE_NAME, array_bytes(entries))


def shared_path(path: Path) -> Path:
    """Return the file of a results folder; what is no folder is the file itself."""
    return path / NAME if path.is_dir() else path


def read_shared(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Return the arrays of a file, and its metadata; those of earlier versions have none.

    With a file of a results folder, of whose run the frozen base was given, that is read, too.

    Parameters
    ----------
    path : Path
        The file, or a results folder.

    Raises
    ------
    OSError, SafetensorError
        If it cannot be read.
    """
    path = shared_path(path)
    arrays, about = _read(path)
    base = path.with_name(BASE_NAME)
    return (_read(base)[0] if path.name == NAME and base.exists() else {}) | arrays, about


def _read(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    with safe_open(path, "numpy") as file:
        names = file.keys()
        return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
