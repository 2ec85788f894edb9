"""File of a client's whole personalized model, for export, inspection and prediction.

The personal state has only the personal entries, and belongs to one method on one device. A client
with a personal directory also saves the whole model of its last evaluation, in a file like that of
the personal state: written atomically, with a checksum, mode 0600.

What is frozen is the same in every client's model and at every evaluation. In a personal directory
it is in a file of its own, named by its fingerprint and written once; an exported model has it in.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from clients.natural_order import in_natural_order
from clients.state.state_file import (
    BASE,
    ForeignStateError,
    PersonalStateError,
    Snapshot,
    read_checked,
    write_file,
)

MODEL_FORMAT = "model-2"
_APART = "model-3"
"""Format of a model whose frozen base is in a file beside it."""

_MIXED = {False: "model-4", True: "model-5"}
"""Formats of a model with a second adapter, without and with a base that is in a file beside it: an
earlier version, which would predict without the adapter, does not read them."""

_READABLE = ("model-1", MODEL_FORMAT, _APART, *_MIXED.values())
"""The first format has neither draws nor preprocessing."""

SUFFIX = ".model.safetensors"
"""File name suffix after the client's name."""

_BASE_FORMAT = "base-1"
BASE_SUFFIX = ".base.safetensors"
"""File name suffix after the fingerprint of a frozen base."""

THRESHOLDS = "threshold"
"""Part of the file with decision thresholds, one per class."""

_MODEL, _DRAWS, _PREPROCESSING, _ADAPTER = "model", "draws", "preprocessing", "adapter"
_APP = {"app": "pfl-flower"}


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
    draws : mapping of str to Tensor, default {}
        Parameter -> ``(S, ...)``, S draws of it: predictions are averaged over them. Empty if the
        parameters in ``entries`` predict.
    preprocessing : mapping of str to Tensor, default {}
        What is done to an example before the network gets it
        (:class:`clients.data.preprocessing.Preprocessing`); empty for nothing.
    adapter : mapping of str to Tensor, default {}
        What is mixed into the adapters in ``entries``, example for example
        (:meth:`clients.adapters.mixed_adapters.MixedAdapters.tensors`); empty for nothing.
    """

    entries: Mapping[str, Tensor]
    round: int
    about: Mapping[str, str]
    thresholds: Mapping[str, Tensor]
    draws: Mapping[str, Tensor] = field(default_factory=dict)
    preprocessing: Mapping[str, Tensor] = field(default_factory=dict)
    adapter: Mapping[str, Tensor] = field(default_factory=dict)


def write_model(path: Path, model: PersonalizedModel, apart: bool = False) -> None:
    """Write a model file atomically, with mode 0600.

    Parameters
    ----------
    path : Path
        The file.
    model : PersonalizedModel
        What to write.
    apart : bool, default False
        Whether its frozen base is not among its entries, but in a file of :func:`write_base`.

    Raises
    ------
    PersonalStateError
        If the disk refuses. An existing file is intact.
    """
    parts = {
        _MODEL: model.entries,
        THRESHOLDS: model.thresholds,
        _DRAWS: model.draws,
        _PREPROCESSING: model.preprocessing,
        _ADAPTER: model.adapter,
    }
    arrays = {f"{part}/{n}": t for part, tensors in parts.items() for n, t in tensors.items()}
    plain = _APART if apart else MODEL_FORMAT
    identity = {**_APP, "format": _MIXED[apart] if model.adapter else plain}
    write_file(path, Snapshot(model.round, arrays), {**model.about, **identity})


def write_base(directory: Path, fingerprint: str, base: Mapping[str, Tensor]) -> None:
    """Write a frozen base, named by its fingerprint, unless the directory has it intact.

    Raises
    ------
    PersonalStateError
        If the disk refuses.
    """
    path = directory / f"{fingerprint}{BASE_SUFFIX}"
    if not _has_base(path, fingerprint):
        identity = {**_APP, "format": _BASE_FORMAT, BASE: fingerprint}
        write_file(path, Snapshot(0, {f"{_MODEL}/{n}": t for n, t in base.items()}), identity)


def _has_base(place: Path, fingerprint: str) -> bool:
    try:
        found = place.stat()
        _check_base(place, fingerprint, found.st_ino, found.st_mtime_ns, found.st_size)
    except (OSError, PersonalStateError):
        return False
    return True


@lru_cache(maxsize=64)
def _check_base(place: Path, fingerprint: str, *_version: int) -> None:
    """Raise unless a base file is intact; each version of it is read once, not at every save."""
    read_base(place, fingerprint, "It is written again")


def read_base(place: Path, fingerprint: str, way_out: str) -> Mapping[str, Tensor]:
    """Return a frozen base from its file.

    Raises
    ------
    PersonalStateError
        If it is not there, is damaged, or is another one; it names the way out.
    """
    about, arrays = read_checked(place, "base file", way_out)
    for key, wanted in (("format", _BASE_FORMAT), (BASE, fingerprint)):
        if (found := about.get(key)) != wanted:
            words = f"{place} has the {key} {found!r}, not {wanted!r}. {way_out}"
            raise ForeignStateError(words, path=place, key=key, value=found, expected=wanted)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return Snapshot(0, tensors).part(_MODEL)


def _base_of(path: Path, fingerprint: str) -> Mapping[str, Tensor]:
    """Return the frozen base of a model file, from the directory that it is in."""
    way_out = f"It is the frozen base of {path}; restore it, or let the client be evaluated again"
    return read_base(path.parent / f"{fingerprint}{BASE_SUFFIX}", fingerprint, way_out)


def read_model(path: Path) -> PersonalizedModel:
    """Read and check a model file, with the frozen base beside it where that is a file of its own.

    Raises
    ------
    PersonalStateError
        If the file does not exist, is damaged, or is not a model file.
    """
    about, arrays = read_checked(
        path, "model file", f"Name another file, or export the model again: {path}"
    )
    if about["format"] not in _READABLE:
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
    base = _base_of(path, about[BASE]) if about["format"] in (_APART, _MIXED[True]) else {}
    return PersonalizedModel(
        {**base, **snapshot.part(_MODEL)},
        snapshot.round,
        about,
        snapshot.part(THRESHOLDS),
        snapshot.part(_DRAWS),
        snapshot.part(_PREPROCESSING),
        snapshot.part(_ADAPTER),
    )


def read_about(path: Path) -> dict[str, str]:
    """Return the model card of a file without reading its arrays, and unchecked.

    Parameters
    ----------
    path : Path
        The file. Of one that cannot be read the card is empty.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError):
        return {}


def model_files(directory: Path) -> dict[str, Path]:
    """Return client -> model file, for all model files in a personal directory, in natural order.

    Raises
    ------
    PersonalStateError
        If the directory does not exist.
    """
    if not directory.is_dir():
        raise PersonalStateError(f"there is no directory {directory}", path=directory)
    found = {path.name.removesuffix(SUFFIX): path for path in directory.glob(f"*{SUFFIX}")}
    return {client: found[client] for client in in_natural_order(found)}
