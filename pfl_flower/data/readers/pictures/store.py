"""Decoded pictures of a client: kept in a memory-mapped file, so that each is decoded once.

Reading 32 x 32 pixels from it takes a fiftieth of the time of decoding their JPEG. Where the disk
has no room for it, pictures are decoded whenever a batch needs them.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from clients.logs import info_once
from pfl_flower.data.errors import DataError
from pfl_flower.data.readers.pictures.decoding import (
    Header,
    UnreadablePictureError,
    decode,
    read_header,
)
from pfl_flower.data.settings import default_cache
from pfl_flower.utils.files import write_bytes

VERSION = 1
"""Of what is in the cache."""

MANY = 2000
"""So many pictures take seconds to decode, which is logged."""

ROOM = 2
"""A file in the cache leaves at least as much of the disk free as it takes."""


@dataclass(frozen=True)
class PictureRequest:
    """How pictures are to be decoded; see :class:`pfl_flower.data.settings.DataSettings`.

    Attributes
    ----------
    size : int
        Height and width; 0 as they are.
    channels : int
        1, 3, or 0: grey if all are.
    """

    size: int
    channels: int


class Pictures(Dataset[tuple[Tensor, str]]):
    """The pictures of a client, with their labels; each is read when it is asked for.

    Parameters
    ----------
    files : sequence of Path
        Their files.
    targets : sequence of str
        Their labels.
    shape : tuple of int
        ``(channels, height, width)``.
    failures : mapping
        Index -> why it cannot be decoded.
    decoded : Path, optional
        A file of the cache with the pixels of all, ``(N, channels, height, width)`` uint8.
    """

    def __init__(
        self,
        files: Sequence[Path],
        targets: Sequence[str],
        shape: tuple[int, ...],
        failures: Mapping[int, str],
        decoded: Path | None = None,
    ) -> None:
        self.files, self.targets, self.shape = files, targets, shape
        self.failures, self.decoded = failures, decoded
        self._pixels: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int) -> tuple[Tensor, str]:
        """Return a picture ``(channels, height, width)`` uint8, and its label."""
        return torch.from_numpy(self._read(place)), self.targets[place]

    def _read(self, place: int) -> NDArray[np.uint8]:
        if self.decoded is None:
            channels, height, width = self.shape
            return decode(self.files[place], channels, (height, width))
        if self._pixels is None:
            self._pixels = np.load(self.decoded, mmap_mode="r")
        return np.array(self._pixels[place])

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs, which maps the file itself."""
        return {**self.__dict__, "_pixels": None}


def open_pictures(
    files: Sequence[Path], targets: Sequence[str], asked: PictureRequest, where: str
) -> Pictures:
    """Return the pictures of a client, decoded once a machine.

    The cache is ``$XDG_CACHE_HOME/pfl-flower/pictures``, readable by its owner only. A file there
    belongs to names, sizes and times of the pictures' files.

    Parameters
    ----------
    files, targets : sequence of Path and sequence of str
        The pictures and their labels, at least one.
    asked : PictureRequest
        How they are to be decoded.
    where : str
        Folder and client, for messages.

    Raises
    ------
    DataError
        If none can be decoded, or they differ in size and no size is asked for.
    """
    folder = default_cache() / "pictures"
    key = _digest(files, asked)
    about, decoded = folder / f"{key}.json", folder / f"{key}.npy"
    known = _known(about)
    if known is None or (known["kept"] and not decoded.is_file()):
        known = _decode_all(files, asked, where, folder, decoded)
        with suppress(OSError):
            write_bytes(about, json.dumps(known).encode(), 0o600)
    failures = {int(place): str(why) for place, why in known["failures"].items()}
    shape = tuple(known["shape"])
    return Pictures(files, targets, shape, failures, decoded if decoded.is_file() else None)


def _digest(files: Sequence[Path], asked: PictureRequest) -> str:
    found = []
    for file in files:
        try:
            about = file.stat()
            found.append((str(file.absolute()), about.st_size, about.st_mtime_ns))
        except OSError:
            found.append((str(file.absolute()), -1, -1))
    text = repr((VERSION, asked.size, asked.channels, found))
    return blake2b(text.encode(), digest_size=16).hexdigest()


def _known(about: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(about.read_text())
    except (OSError, ValueError):
        return None
    return found


def _decode_all(
    files: Sequence[Path], asked: PictureRequest, where: str, folder: Path, decoded: Path
) -> dict[str, Any]:
    """Decode all pictures, one after the other, into a file; return their shape and failures."""
    headers, failures = _headers(files)
    shape = _common_shape(headers, failures, files, asked, where)
    if len(files) >= MANY:
        info_once(f"{where}: {len(files)} pictures are decoded, once")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        needed = len(files) * int(np.prod(shape))
        if shutil.disk_usage(folder).free < ROOM * needed:
            raise OSError("no room")
        _write(decoded, files, shape, failures)
        kept = True
    except OSError as error:
        info_once(
            f"{where}: no room for decoded pictures in {folder} ({error}); pictures are decoded "
            f"whenever a batch needs them, which is slower"
        )
        kept = False
        for place in set(range(len(files))) - failures.keys():
            _decoded(files[place], shape, place, failures)
    if len(failures) == len(files):
        raise _none(where, files, failures)
    return {"shape": shape, "failures": failures, "kept": kept}


def _headers(files: Sequence[Path]) -> tuple[list[Header], dict[int, str]]:
    headers, failures = [], {}
    for place, file in enumerate(files):
        try:
            headers.append(read_header(file))
        except UnreadablePictureError as error:
            failures[place] = str(error)
    return headers, failures


def _common_shape(
    headers: Sequence[Header],
    failures: Mapping[int, str],
    files: Sequence[Path],
    asked: PictureRequest,
    where: str,
) -> tuple[int, int, int]:
    if not headers:
        raise _none(where, files, failures)
    sizes = sorted({header.size for header in headers})
    if not asked.size and len(sizes) > 1:
        some = ", ".join(f"{height} x {width}" for height, width in sizes[:3])
        more = f" and {len(sizes) - 3} more" if len(sizes) > 3 else ""
        raise DataError(
            f"{where}: pictures differ in size (height x width: {some}{more}); set image-size, to "
            f"which all are made",
            key="image-size",
            value=sizes,
        )
    height, width = (asked.size, asked.size) if asked.size else sizes[0]
    grey = all(header.grey for header in headers)
    return asked.channels or (1 if grey else 3), height, width


def _none(where: str, files: Sequence[Path], failures: Mapping[int, str]) -> DataError:
    place = min(failures)
    return DataError(
        f"{where}: none of {len(files)} pictures can be decoded; the first is {files[place]} "
        f"({failures[place]})",
        key="pictures",
        value=len(files),
        path=str(files[place]),
    )


def _write(
    target: Path, files: Sequence[Path], shape: tuple[int, ...], failures: dict[int, str]
) -> None:
    """Write the pixels of all pictures atomically; those of failures are 0.

    They are written, not mapped: a full disk is then an error, and no signal that kills.
    """
    descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            header = {"descr": "|u1", "fortran_order": False, "shape": (len(files), *shape)}
            np.lib.format.write_array_header_1_0(stream, header)
            for place, file in enumerate(files):
                pixels = None if place in failures else _decoded(file, shape, place, failures)
                stream.write((np.zeros(shape, np.uint8) if pixels is None else pixels).tobytes())
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def _decoded(
    file: Path, shape: tuple[int, ...], place: int, failures: dict[int, str]
) -> NDArray[np.uint8] | None:
    """Return a picture's pixels; None, with the reason among the failures, if it has none."""
    channels, height, width = shape
    try:
        return decode(file, channels, (height, width))
    except UnreadablePictureError as error:
        failures[place] = str(error)
        return None
