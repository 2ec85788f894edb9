"""The file of a client's whole personalized model: to take out, to look at, to predict with.

Beside the personal state, which holds only what is personal and fits one method on one device, a
client with a personal directory keeps the model that it was last evaluated with, whole. It is
written as the personal state is: atomically, with a checksum, mode 0600.
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
"""What follows a client's name."""

THRESHOLDS = "threshold"
"""Part of a file that holds decision thresholds, one a class."""

_MODEL = "model"
_IDENTITY = {"format": MODEL_FORMAT, "app": "pfl-flower"}


@dataclass(frozen=True)
class PersonalizedModel:
    """A client's whole model.

    Attributes
    ----------
    entries : mapping of str to Tensor
        The state dict.
    round : int
        The round after which it was so.
    about : mapping of str to str
        In words whose it is (``client``, ``method``), and how to build and to use its network.
    thresholds : mapping of str to Tensor
        Decision thresholds of the client's own, one a class; empty where it has none.
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
        If the disk refuses; a file that was there before is intact.
    """
    parts = {_MODEL: model.entries, THRESHOLDS: model.thresholds}
    arrays = {f"{part}/{n}": t for part, tensors in parts.items() for n, t in tensors.items()}
    write_file(path, Snapshot(model.round, arrays), {**model.about, **_IDENTITY})


def read_model(path: Path) -> PersonalizedModel:
    """Read and check a model file.

    Raises
    ------
    PersonalStateError
        If there is no such file, it is damaged, or something else.
    """
    about, arrays = read_checked(
        path, "model file", f"Name another one, or take it out again: {path}"
    )
    if about["format"] != MODEL_FORMAT:
        raise ForeignStateError(
            f"{path} is a file of format {about['format']!r}, not {MODEL_FORMAT!r}; the file of a "
            f"whole model ends in {SUFFIX}"
        )
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    snapshot = Snapshot(int(about["round"]), tensors)
    return PersonalizedModel(
        snapshot.part(_MODEL), snapshot.round, about, snapshot.part(THRESHOLDS)
    )


def model_files(directory: Path) -> dict[str, Path]:
    """Return client -> model file, of all that are in a personal directory.

    Raises
    ------
    PersonalStateError
        If there is no such directory.
    """
    if not directory.is_dir():
        raise PersonalStateError(f"there is no directory {directory}")
    found = sorted(directory.glob(f"*{SUFFIX}"))
    return {path.name.removesuffix(SUFFIX): path for path in found}
