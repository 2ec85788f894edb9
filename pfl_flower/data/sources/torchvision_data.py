"""torchvision's image data sets: MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100."""

import gzip
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pfl_flower.data.errors import DataError
from pfl_flower.data.records import Examples, SourceRequest
from pfl_flower.data.settings import default_cache
from pfl_flower.data.sources.stored import data_folder


def torchvision_data(name: str) -> Callable[[SourceRequest], Examples]:
    """Return the loader of a torchvision data set: its training and its test images together.

    Parameters
    ----------
    name : str
        Name of the class in ``torchvision.datasets``, such as ``"CIFAR10"``.

    Returns
    -------
    callable
        SourceRequest -> Examples with inputs ``(N, C, H, W)`` uint8 and targets ``(N,)`` int64.
        It raises a DataError where the files are missing or damaged.
    """

    def load(request: SourceRequest) -> Examples:
        from torchvision import datasets

        root = data_folder(request)
        make = getattr(datasets, name)
        try:
            splits = [_open(make, name, root, train, request.download) for train in (True, False)]
        except (RuntimeError, OSError, EOFError, zlib.error) as error:
            raise DataError(
                f"{name} was not found in {root} ({error}). Put the files where torchvision keeps "
                f"them under that folder, name another folder with the run key data-dir, "
                f"or let it be downloaded with --run-config 'download=true'",
                key="dataset",
                value=name,
                path=str(root),
            ) from error
        pixels = torch.cat([torch.as_tensor(np.asarray(split.data)) for split in splits])
        images = pixels.unsqueeze(1) if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
        labels = torch.cat([torch.as_tensor(split.targets) for split in splits])
        return Examples(images.contiguous(), labels.long())

    return load


def _open(make: Callable[..., Any], name: str, root: Path, train: bool, download: bool) -> Any:
    """Open a torchvision data set; where files are still packed, an unpacked copy is made first.

    The copy is in the cache, since the data folder may be read-only, under a name that changes
    with the files it is made of.
    """
    raw = root / name / "raw"
    packed = sorted(raw.glob("*-ubyte.gz"))
    if packed and not all(file.with_suffix("").exists() for file in packed):
        about = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in packed]
        root = default_cache() / blake2b(repr(about).encode(), digest_size=8).hexdigest()
        unpacked = root / name / "raw"
        unpacked.mkdir(parents=True, exist_ok=True)
        for file in (*packed, *raw.glob("*-ubyte")):
            unpack(file, unpacked / file.name.removesuffix(".gz"))
    return make(root, train=train, download=download)


def unpack(packed: Path, target: Path) -> None:
    """Unpack (or copy) a file atomically: of many processes at once, none sees half a file.

    Parameters
    ----------
    packed : Path
        A file; it is unpacked if its name ends in ``.gz``.
    target : Path
        The file to write. Nothing happens where it exists.
    """
    if target.exists():
        return
    descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        read = gzip.open if packed.suffix == ".gz" else open
        with read(packed, "rb") as source, os.fdopen(descriptor, "wb") as stream:
            shutil.copyfileobj(source, stream)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
