"""Converter of PFLlib's folders to a folder of ``<client>.npz``, which needs no unpickling.

``python -m pfl_flower.data.readers.pfllib SOURCE TARGET``
"""

import argparse
import os
import pickle
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pfl_flower.data.client_records import checked
from pfl_flower.data.errors import DataError, error_context
from pfl_flower.data.readers.registry import client_files

WARNING = (
    "warning: this unpickles the files in SOURCE. It refuses everything but arrays and dicts, "
    "but a pickle is a program: convert only files from a source that you trust."
)


def _encode(text: str, encoding: str) -> bytes:
    """Stand in for ``codecs.encode``, with which pickles before protocol 3 spell bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in encoding {encoding!r}")
    return text.encode("latin1")


def _builtins() -> dict[tuple[str, str], Callable[..., Any]]:
    """Return, by module and name in a pickle, all that arrays and dicts of arrays need.

    Arrays give the functions, because numpy keeps them in private modules: ``numpy.core`` before
    version 2 and ``numpy._core`` since. Files may come from either version.
    """
    allowed: dict[tuple[str, str], Callable[..., Any]] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _encode,
    }
    for core in ("numpy.core", "numpy._core"):
        allowed[f"{core}.multiarray", "_reconstruct"] = _function(np.empty(0), 2)
        allowed[f"{core}.multiarray", "scalar"] = _function(np.float64(0), 2)
        allowed[f"{core}.numeric", "_frombuffer"] = _function(np.empty(1), 5)
    return allowed


def _function(value: Any, protocol: int) -> Callable[..., Any]:
    """Return the function that a pickle of ``value`` calls."""
    function: Callable[..., Any] = value.__reduce_ex__(protocol)[0]
    return function


class RestrictedUnpickler(pickle.Unpickler):
    """Unpickler of arrays, and dicts and lists of them, which refuses to import anything else."""

    _allowed = _builtins()

    def find_class(self, module: str, name: str) -> Any:
        """Return the function or class that a pickle asks for, if it is allowed.

        Parameters
        ----------
        module, name : str
            What the pickle names.

        Raises
        ------
        pickle.UnpicklingError
            If it is not allowed.
        """
        if (module, name) not in self._allowed:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which arrays and dicts do not need: refused"
            )
        return self._allowed[module, name]


def read_pickled(file: Path) -> dict[str, Any]:
    """Return the dict with ``x`` and ``y`` that PFLlib pickles into a ``.npz`` file.

    Parameters
    ----------
    file : Path
        The file.

    Raises
    ------
    DataError
        If the file is damaged, holds something else, or asks for more than arrays and dicts.
    """
    try:
        with zipfile.ZipFile(file) as archive, archive.open("data.npy") as stream:
            content = _unpickle(stream)
    except Exception as error:  # damaged pickles raise anything: see the documentation of pickle
        raise DataError(
            f"{file} cannot be read as a file of PFLlib ({type(error).__name__}: {error}); it must "
            f"be an .npz file with a pickled dict of arrays x and y under the key data",
            key="data",
            value=str(error),
            path=str(file),
        ) from error
    if not (isinstance(content, Mapping) and {"x", "y"} <= set(content)):
        raise DataError(
            f"{file} holds a {type(content).__name__} under the key data; it must be a dict with x "
            f"and y, as in PFLlib's files",
            key="data",
            value=content,
            path=str(file),
        )
    return dict(content)


def _unpickle(stream: Any) -> Any:
    """Return the Python object in a ``.npy`` stream: a 0-dimensional array of objects."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        _, _, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        _, _, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"version {version} of the .npy format")
    if dtype.kind != "O":
        raise ValueError(f"data is an array of {dtype}")
    array = RestrictedUnpickler(stream).load()
    return array.item()


def convert(source: Path, target: Path) -> int:
    """Convert a data set of PFLlib; return the number of clients.

    Parameters
    ----------
    source : Path
        Folder with ``train/<i>.npz`` and ``test/<i>.npz``, which is only read.
    target : Path
        Folder to make, with ``<i>.npz``; after an error nothing is left of it.

    Raises
    ------
    DataError
        If a client's file is missing, damaged or holds other objects than data, or ``target`` is
        not empty.
    """
    files = {split: client_files(source / split) for split in ("train", "test")}
    names = {split: {file.name for file in found} for split, found in files.items()}
    lonely = sorted(names["train"] ^ names["test"])
    if lonely:
        raise DataError(
            f"{source} has these clients in only one of train and test: {', '.join(lonely[:5])}; "
            f"each client needs both",
            key="train, test",
            value=lonely,
            path=str(source),
        )
    target = target.absolute()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise DataError(
            f"{target} exists already; name a folder that is new or empty",
            key="target",
            value=target,
            path=str(target),
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        for file in files["train"]:
            _convert_client(source, file.name, temporary)
        temporary.chmod(0o755)
        if target.exists():
            target.rmdir()
        os.replace(temporary, target)
    except BaseException:
        shutil.rmtree(temporary)
        raise
    return len(files["train"])


def _convert_client(source: Path, name: str, target: Path) -> None:
    arrays: dict[str, Any] = {}
    for split in ("train", "test"):
        content = read_pickled(source / split / name)
        arrays |= {f"x_{split}": content["x"], f"y_{split}": content["y"]}
    with error_context(client=name, path=str(source)):
        client = checked(arrays, f"{source}, client {name}", required=("train", "test"))
    assert client.test is not None
    (x_train, y_train), (x_test, y_test) = client.train, client.test
    np.savez_compressed(
        target / name, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command line; by default that of the process.
    """
    parser = argparse.ArgumentParser(
        prog="python -m pfl_flower.data.readers.pfllib",
        description="Convert a data set of PFLlib into a folder of <client>.npz.",
        epilog=WARNING,
    )
    parser.add_argument("source", type=Path, help="folder with train/<i>.npz and test/<i>.npz")
    parser.add_argument("target", type=Path, help="folder to make, new or empty")
    options = parser.parse_args(arguments)
    print(WARNING, file=sys.stderr)
    try:
        count = convert(options.source.expanduser(), options.target.expanduser())
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{count} clients in {options.target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
