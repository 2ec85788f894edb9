"""Files of personal state: safetensors with a checksum, written atomically, mode 0600.

A file is written to a temporary name, flushed to the disk and renamed, so a reader finds the old
state or the new one, never a mixture. A file that is damaged, or that another method or model
wrote, is neither read nor overwritten.
"""

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from glob import escape
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from strategies.array_file import array_bytes
from strategies.arrays import Spec, difference

FORMAT = "1"
BASE = "base"
"""Entry of the metadata: the fingerprint of the frozen base; absent where nothing is frozen."""
_STALE = 3600.0  # seconds after which a temporary file of a killed process is removed
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL
_UNFINISHED = ".unfinished"  # so that no other program's hidden file is mistaken for one


class PersonalStateError(RuntimeError):
    """A personal file that cannot be used, or a state that cannot be written.

    Parameters
    ----------
    message : str
        What is wrong and what to do.
    path : Path, optional
        The file or directory.
    key : str, optional
        The entry of the file's metadata that is wrong, such as ``method`` or ``fingerprint``.
    value, expected : optional
        What the entry is, and what it should be.

    Attributes
    ----------
    path, key, value, expected
        The same; None if they do not apply.
    """

    def __init__(
        self,
        message: str,
        *,
        path: Path | None = None,
        key: str | None = None,
        value: str | None = None,
        expected: str | None = None,
    ) -> None:
        super().__init__(message)
        self.path = path
        self.key = key
        self.value = value
        self.expected = expected


class CorruptStateError(PersonalStateError):
    """A personal file that is damaged."""


class ForeignStateError(PersonalStateError):
    """A personal file that another app, method, client or model wrote."""


@dataclass(frozen=True)
class Snapshot:
    """Personal state of a client after a round.

    Attributes
    ----------
    round : int
        The round in which it was saved.
    arrays : mapping of str to Tensor
        ``<part>/<state-dict name>`` -> CPU tensor. The part ``personal`` holds the personal entries
        of the model. A method stores other tensors under parts of its own, such as
        ``fine-tuned/head.bias``.
    run : str, default ""
        The run in which it was saved; empty if that is not known.
    """

    round: int
    arrays: Mapping[str, Tensor]
    run: str = ""

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Return the arrays under ``prefix/``, without the prefix."""
        start = prefix + "/"
        return {n[len(start) :]: t for n, t in self.arrays.items() if n.startswith(start)}


def fingerprint(spec: Spec) -> str:
    """Return a SHA-256 digest of names, shapes and dtypes, which identifies a model."""
    return sha256(json.dumps(sorted(spec.items())).encode()).hexdigest()


def previous_of(path: Path) -> Path:
    """Return the path of the state before the last round."""
    return path.with_name(path.name + ".previous")


def keep_previous(path: Path) -> None:
    """Link the file to the path of the previous state; it keeps its own name all the time.

    Raises
    ------
    PersonalStateError
        If the disk refuses.
    """
    temporary = path.with_name(f".{path.name}.link")
    try:
        temporary.unlink(missing_ok=True)
        try:
            os.link(path, temporary)
        except OSError:  # a file system without hard links
            with os.fdopen(os.open(temporary, _CREATE, 0o600), "wb") as copy:
                copy.write(path.read_bytes())
                copy.flush()
                os.fsync(copy.fileno())
        os.replace(temporary, previous_of(path))
    except OSError as error:
        words = f"{path} could not be kept as the previous state: {error}"
        raise PersonalStateError(words, path=path) from error


def write_file(path: Path, snapshot: Snapshot, identity: Mapping[str, str]) -> None:
    """Write a personal file atomically, with mode 0600.

    Raises
    ------
    PersonalStateError
        If the disk refuses. An existing file is intact.
    """
    metadata = {**identity, "round": str(snapshot.round), "run": snapshot.run}
    arrays = {n: t.numpy() for n, t in snapshot.arrays.items()}
    metadata["checksum"] = _checksum(metadata, arrays)
    write_bytes(path, array_bytes(arrays, metadata))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically and durably, with mode 0600.

    Raises
    ------
    PersonalStateError
        If the disk refuses. An existing file is intact.
    """
    temporary = ""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_stale(path)
        descriptor, temporary = tempfile.mkstemp(_UNFINISHED, f".{path.name}.", path.parent)
        with os.fdopen(descriptor, "wb") as stream:  # mkstemp's mode is 0600
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        _sync_directory(path.parent)
    except OSError as error:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise PersonalStateError(
            f"{path} could not be written: {error}; an existing file is intact", path=path
        ) from error


def read_file(path: Path, identity: Mapping[str, str], expected: Spec) -> Snapshot:
    """Read and check a personal file.

    Parameters
    ----------
    path : Path
        The file.
    identity : mapping of str to str
        Metadata that the file must have: format, app, method, client, purpose, fingerprint, base.
    expected : Spec
        The model of the fingerprint, to describe how a foreign file differs.

    Raises
    ------
    CorruptStateError
        If the file is truncated, or a byte of it changed.
    ForeignStateError
        If the file has other metadata.
    """
    there = " and ".join(str(each) for each in (path, previous_of(path)) if each.exists())
    way_out = (
        f"It was not changed. Move it away to start again, or set another personal directory "
        f"(personal-dir of the node config or of the run config) to keep it: {there or path}"
    )
    metadata, arrays = read_checked(path, "personal file", way_out)
    for key, value in identity.items():
        if (found := metadata.get(key)) == value:
            continue
        if key == "fingerprint":
            words = _model_difference(expected, arrays)
            reason = f"belongs to another model, or to other settings of the method: {words}"
        elif key == BASE:
            reason = f"was trained on another frozen base, of the fingerprint {found}, not {value}"
        else:
            reason = f"belongs to {key} {found!r}, not {value!r}"
        words = f"the personal file {reason}. {way_out}"
        raise ForeignStateError(words, path=path, key=key, value=found, expected=value)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return Snapshot(int(metadata["round"]), tensors, metadata.get("run", ""))


def read_checked(
    path: Path, kind: str, way_out: str
) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Read and check a file of :func:`write_file`; return its metadata and its arrays.

    Parameters
    ----------
    path : Path
        The file.
    kind : str
        Kind of file, for error messages.
    way_out : str
        What to do about it, for error messages.

    Raises
    ------
    PersonalStateError
        If the file cannot be read.
    CorruptStateError
        If it is truncated, or a byte of it changed.
    ForeignStateError
        If another app wrote it.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        words = f"the {kind} cannot be read ({error}). {way_out}"
        raise PersonalStateError(words, path=path) from error
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CorruptStateError(
            f"the {kind} is damaged ({error}); restore it from a backup. {way_out}", path=path
        ) from error
    for key in ("format", "app"):
        if key not in metadata:
            words = f"the file is not a {kind} of pfl-flower. {way_out}"
            raise ForeignStateError(words, path=path, key=key)
    if metadata.pop("checksum", "") != _checksum(metadata, arrays):
        words = "is damaged (its checksum does not match); restore it from a backup"
        raise CorruptStateError(f"the {kind} {words}. {way_out}", path=path, key="checksum")
    return metadata, arrays


def _model_difference(expected: Spec, arrays: Mapping[str, np.ndarray]) -> str:
    found = {name: (array.shape, str(array.dtype)) for name, array in arrays.items()}
    parts = {name.partition("/")[0] for name in found}
    wanted = {name: spec for name, spec in expected.items() if name.partition("/")[0] in parts}
    return difference(wanted, found) or "its arrays fit, but the rest of the model differs"


def _checksum(metadata: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> str:
    digest = sha256(json.dumps(sorted(metadata.items())).encode())
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _remove_stale(path: Path) -> None:
    """Remove temporary files that a killed process left behind."""
    for leftover in path.parent.glob(f".{escape(path.name)}.*{_UNFINISHED}"):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > _STALE:
                leftover.unlink()


def _sync_directory(directory: Path) -> None:
    """Make the rename itself durable, if the platform supports it."""
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError:
        return
    try:
        with contextlib.suppress(OSError):  # some network file systems cannot
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
