"""File of a client's whole personalized model, for export, inspection and prediction.

The personal state has only the personal entries, and belongs to one method on one device. A client
with a personal directory also saves the whole model of its last evaluation, in a file like that of
the personal state: written atomically, with a checksum, mode 0600.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from clients.state.state_file import (
    ForeignStateError,
    PersonalStateError,
    Snapshot,
    read_checked,
    write_file,
)

MODEL_FORMAT = "model-1"
SUFFIX = ".model.safetensors"
"""File name suffix after the client's name."""

THRESHOLDS = "threshold"
"""Part of the file with decision thresholds, one per class."""

_MODEL = "model"
_IDENTITY = {"format": MODEL_FORMAT, "app": "pfl-flower"}


@dataclass(frozen=True)
class PersonalizedModel:
    """A client's whole model.

    Attributes
    ----------
    entries : mapping of str to Tensor
        State dict of the model.
    round : int
        The round after which it was saved.
    about : mapping of str to str
        Model card: ``client``, ``method``, and how to build and use the network; see
        :mod:`clients.export.model_card`.
    thresholds : mapping of str to Tensor
        The client's decision thresholds, one per class; empty if it has none.
    """

    entries: Mapping[str, Tensor]
    round: int
    about: Mapping[str, str]
    thresholds: Mapping[str, Tensor]


def write_model(path: Path, model: PersonalizedModel) -> None:
    """Write a model file atomically, with mode 0600.

    Raises
    ------
    PersonalStateError
        If the disk refuses. An existing file is intact.
    """
    parts = {_MODEL: model.entries, THRESHOLDS: model.thresholds}
    arrays = {f"{part}/{n}": t for part, tensors in parts.items() for n, t in tensors.items()}
    write_file(path, Snapshot(model.round, arrays), {**model.about, **_IDENTITY})


def read_model(path: Path) -> PersonalizedModel:
    """Read and check a model file.

    Raises
    ------
    PersonalStateError
        If the file does not exist, is damaged, or is not a model file.
    """
    about, arrays = read_checked(
        path, "model file", f"Name another file, or export the model again: {path}"
    )
    if about["format"] != MODEL_FORMAT:
        raise ForeignStateError(
            f"{path} has the format {about['format']!r}, not {MODEL_FORMAT!r}; files of whole "
            f"models end in {SUFFIX}",
            path=path,
            key="format",
            value=about["format"],
            expected=MODEL_FORMAT,
        )
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    snapshot = Snapshot(int(about["round"]), tensors)
    return PersonalizedModel(
        snapshot.part(_MODEL), snapshot.round, about, snapshot.part(THRESHOLDS)
    )


def model_files(directory: Path) -> dict[str, Path]:
    """Return client -> model file, for all model files in a personal directory.

    Raises
    ------
    PersonalStateError
        If the directory does not exist.
    """
    if not directory.is_dir():
        raise PersonalStateError(f"there is no directory {directory}", path=directory)
    found = sorted(directory.glob(f"*{SUFFIX}"))
    return {path.name.removesuffix(SUFFIX): path for path in found}
