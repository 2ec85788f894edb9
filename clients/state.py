"""Where personal parameters live between rounds, runs and restarts.

Between the rounds of a run they are in Flower's ``context.state``. With a personal directory
they are also in one safetensors file per client, which survives killed processes, restarted
SuperNodes and later runs. The file is written to a temporary name, flushed to the disk and
renamed, so a reader finds the old state or the new one, never a mixture; its mode is 0600. A
file that is damaged, or that another method or model wrote, is neither read nor overwritten.
"""

import contextlib
import json
import os
import re
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from logging import WARNING
from pathlib import Path
from typing import cast

import numpy as np
import torch
from flwr.app import ConfigRecord, RecordDict
from flwr.common.logger import log
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize
from torch import Tensor

from strategies.arrays import Spec, difference, to_record, view

FORMAT = "1"
_STALE = 3600.0  # seconds after which a temporary file of a killed process is removed


class PersonalStateError(RuntimeError):
    """A personal file that cannot be used, or a state that cannot be written."""


class CorruptStateError(PersonalStateError):
    """A personal file that is damaged."""


class ForeignStateError(PersonalStateError):
    """A personal file that another app, method, client or model wrote."""


@dataclass(frozen=True)
class Snapshot:
    """What a client keeps.

    Attributes
    ----------
    round : the round it was kept in
    arrays : ``<part>/<state-dict name>`` -> CPU tensor. The part ``personal`` holds the personal
        entries of the model; a method keeps what else it needs under a word of its own, such as
        ``fine-tuned/head.bias``
    """

    round: int
    arrays: Mapping[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Return the arrays under ``prefix/``, without the prefix."""
        start = prefix + "/"
        return {n[len(start) :]: t for n, t in self.arrays.items() if n.startswith(start)}


def tensor_spec(tensors: Mapping[str, Tensor]) -> Spec:
    """Return name -> (shape, dtype), with dtypes named as NumPy does."""
    return {
        name: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for name, tensor in tensors.items()
    }


def fingerprint(spec: Spec) -> str:
    """Return a SHA-256 over names, shapes and dtypes: the same for the same model only."""
    return sha256(json.dumps(sorted(spec.items())).encode()).hexdigest()


@dataclass
class PersonalState:
    """The personal state of one client under one method.

    Parameters
    ----------
    records : ``context.state`` of the node, or any ``RecordDict`` that outlives the round
    method : name of the method; states of different methods never mix
    client : the client's name, of its file: letters, digits, ``.``, ``_`` and ``-``; required
        with a directory, and never the same for two clients
    directory : the node's personal directory; None keeps the state in ``records`` only
    purpose : what the state was made on, in words (data set, split, seed, ...); a file made on
        something else is foreign, because its parameters have seen other examples
    """

    records: RecordDict = field(default_factory=RecordDict)
    method: str = "personal"
    client: str = ""
    directory: Path | None = None
    purpose: str = ""

    def __post_init__(self) -> None:
        if self.directory is None and not self.client:
            return
        if not re.fullmatch(r"[A-Za-z0-9._-]*[A-Za-z0-9_-]", self.client):
            raise ValueError(f"{self.client!r} is no file name: use letters, digits, '.', '_', '-'")

    @property
    def path(self) -> Path | None:
        """The client's file."""
        if self.directory is None:
            return None
        return self.directory / f"{self.client}.safetensors"

    def load(self, expected: Spec) -> Snapshot | None:
        """Return what was kept last, or None if nothing was.

        Parameters
        ----------
        expected : every entry of the model at hand, as ``<scope>/<name>``, and what else is
            kept, as ``<part>/<name>``

        Raises
        ------
        CorruptStateError, ForeignStateError
            If the file cannot be used; the message names it and the way out.
        """
        if self._key in self.records.array_records:
            # Copies, because the training loop writes into what it is given.
            arrays = {
                name: torch.from_numpy(np.array(view(array)))
                for name, array in self.records.array_records[self._key].items()
            }
            about = self.records.config_records[self._key + ".about"]
            return Snapshot(cast(int, about["round"]), arrays)
        path = self.path
        if path is None or not path.exists():
            return None
        snapshot = read_file(path, self._identity(expected), expected)
        log(
            WARNING,
            "%s goes on with its personal parameters of round %d from %s; they fit shared arrays "
            "of that time, so start the server from those too",
            *(self.client, snapshot.round, path),
        )
        return snapshot

    def save(self, snapshot: Snapshot, expected: Spec) -> None:
        """Keep ``snapshot``: on the disk first, then for the next round.

        Raises
        ------
        CorruptStateError, ForeignStateError
            If a file that is not this client's own stands in the way.
        PersonalStateError
            If it cannot be written; the state before is intact.
        """
        path = self.path
        if path is not None:
            identity = self._identity(expected)
            if path.exists():
                read_file(path, identity, expected)
            write_file(path, snapshot, identity)
        numpys = {name: tensor.numpy() for name, tensor in snapshot.arrays.items()}
        self.records[self._key] = to_record(numpys)
        self.records[self._key + ".about"] = ConfigRecord({"round": snapshot.round})

    @property
    def _key(self) -> str:
        return f"personal.{self.method}"

    def _identity(self, expected: Spec) -> dict[str, str]:
        return {
            "format": FORMAT,
            "app": "pfl-flower",
            "method": self.method,
            "client": self.client,
            "purpose": self.purpose,
            "fingerprint": fingerprint(expected),
        }


def write_file(path: Path, snapshot: Snapshot, identity: Mapping[str, str]) -> None:
    """Write a personal file atomically, with mode 0600.

    Raises
    ------
    PersonalStateError
        If the disk refuses; a file that was there before is intact.
    """
    metadata = {**identity, "round": str(snapshot.round)}
    arrays = {n: np.asarray(t.numpy(), order="C") for n, t in snapshot.arrays.items()}
    metadata["checksum"] = _checksum(metadata, arrays)
    temporary = ""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_stale(path)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "wb") as stream:  # mkstemp's mode is 0600
            stream.write(serialize(arrays, metadata=metadata))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        _sync_directory(path.parent)
    except OSError as error:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise PersonalStateError(
            f"the personal state could not be written to {path}: {error}; the state before is "
            "intact"
        ) from error


def read_file(path: Path, identity: Mapping[str, str], expected: Spec) -> Snapshot:
    """Read and check a personal file.

    Parameters
    ----------
    path : the file
    identity : metadata it must state: format, app, method, client, purpose, fingerprint
    expected : what the fingerprint is of, to say in words how a foreign file differs

    Raises
    ------
    CorruptStateError
        If the file is truncated, or a byte of it changed.
    ForeignStateError
        If somebody else wrote it.
    """
    way_out = (
        f"It was left as it is. Move it away to start afresh, or set another personal directory "
        f"(node config 'personal-dir' or $PFL_PERSONAL_DIR) to keep it: {path}"
    )
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise PersonalStateError(
            f"the personal file cannot be read ({error}). {way_out}"
        ) from error
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CorruptStateError(
            f"the personal file is damaged ({error}); restore it from a backup. {way_out}"
        ) from error
    for key in ("format", "app"):
        if key not in metadata:
            raise ForeignStateError(f"the file is no personal file of pfl-flower. {way_out}")
    if metadata.pop("checksum", "") != _checksum(metadata, arrays):
        raise CorruptStateError(
            f"the personal file is damaged (its checksum does not match); restore it from a "
            f"backup. {way_out}"
        )
    for key, value in identity.items():
        if metadata.get(key) == value:
            continue
        if key == "fingerprint":
            reason = f"was kept for another model: {_model_difference(expected, arrays)}"
        else:
            reason = f"belongs to {key} {metadata.get(key)!r}, not {value!r}"
        raise ForeignStateError(f"the personal file {reason}. {way_out}")
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return Snapshot(int(metadata["round"]), tensors)


def _model_difference(expected: Spec, arrays: Mapping[str, np.ndarray]) -> str:
    found = {name: (array.shape, str(array.dtype)) for name, array in arrays.items()}
    parts = {name.partition("/")[0] for name in found}
    wanted = {name: spec for name, spec in expected.items() if name.partition("/")[0] in parts}
    return difference(wanted, found) or "what it holds fits, but the rest of the model differs"


def _checksum(metadata: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> str:
    digest = sha256(json.dumps(sorted(metadata.items())).encode())
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _remove_stale(path: Path) -> None:
    """Remove temporary files that a killed process left behind."""
    for leftover in path.parent.glob(f".{path.name}.*"):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > _STALE:
                leftover.unlink()


def _sync_directory(directory: Path) -> None:
    """Make the rename itself durable, where the platform can."""
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError:
        return
    try:
        with contextlib.suppress(OSError):  # some network file systems cannot
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
