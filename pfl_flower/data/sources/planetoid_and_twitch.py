"""Planetoid citation graphs (Cora, CiteSeer) and the Twitch social networks.

Cora and CiteSeer come in the files ``ind.*`` of Yang, Cohen and Salakhutdinov 2016
(arXiv:1603.08861), Twitch from Rozemberczki, Allen and Sarkar 2021 (arXiv:1909.13021).
"""

import tempfile
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pfl_flower.data.errors import DataError
from pfl_flower.data.records import Examples, SourceRequest
from pfl_flower.data.settings import default_cache
from pfl_flower.data.sources.stored import data_folder, read_arrays
from pfl_flower.data.subgraph import both_ways, connections
from pfl_flower.utils.pickle_imports import check_pickle

PARTS = ("x", "tx", "allx", "y", "ty", "ally", "graph", "test.index")
"""Endings of the files of a Planetoid data set, after ``ind.<name>.``."""

LANGUAGES = ("DE", "EN", "ES", "FR", "PT", "RU", "TW")
TWITCH_FEATURES = 3170


def planetoid(name: str) -> Callable[[SourceRequest], Examples]:
    """Return the loader of a Planetoid data set, which PyG reads.

    The raw files are in ``planetoid/<name>/raw`` in the data folder, where nothing is written
    (PyG's ``Planetoid`` would keep a processed copy there). PyG unpickles them, after
    :func:`~pfl_flower.utils.pickle_imports.check_pickle` has found nothing but arrays in them.

    Parameters
    ----------
    name : str
        Name of the data set in PyG, e.g. ``"Cora"``.

    Returns
    -------
    callable
        SourceRequest -> Examples with inputs ``(N, F)``, targets ``(N,)`` int64 and edges. It
        raises a DataError where the files are missing or damaged, or the download fails.
    """

    def load(request: SourceRequest) -> Examples:
        with warnings.catch_warnings():  # PyG scripts functions, which torch calls deprecated
            warnings.simplefilter("ignore", FutureWarning)
            from torch_geometric.io import read_planetoid_data  # seconds to import

        folder = _planetoid_folder(name, request)
        try:
            for part in PARTS[:-1]:  # the last one is text
                check_pickle(folder / f"ind.{name.lower()}.{part}")
            data = read_planetoid_data(str(folder), name.lower())
        except Exception as error:  # a damaged pickle can raise anything
            raise DataError(
                f"{folder} does not hold Planetoid's files of {name} ({error}); put the original "
                f"files there again",
                key="dataset",
                value=name,
                path=str(folder),
            ) from error
        edges = both_ways(connections(data.edge_index, len(data.x)))
        return Examples(_as_bytes(data.x), data.y, edges=edges)

    return load


def _planetoid_folder(name: str, request: SourceRequest) -> Path:
    """Return where all raw files are: in the data folder, else in the cache."""
    root = data_folder(request) / "planetoid"
    folders = [base / name / "raw" for base in (root, default_cache() / "planetoid")]
    files = [f"ind.{name.lower()}.{part}" for part in PARTS]
    for folder in folders:
        if all((folder / file).is_file() for file in files):
            return folder
    if not request.download:
        missing = next(file for file in files if not (folders[0] / file).is_file())
        raise DataError(
            f"{name} was not found in {root} (there is no {folders[0] / missing}). Put the files "
            f"where PyG's Planetoid keeps them under that folder, name another folder with "
            f"the run key data-dir, or let it be downloaded with --run-config 'download=true'",
            key="dataset",
            value=name,
            path=str(folders[0] / missing),
        )
    _download(name, folders[1])
    return folders[1]


def _download(name: str, folder: Path) -> None:
    """Let PyG download raw files: of many processes at once, none sees half of them."""
    from torch_geometric.datasets import Planetoid

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        try:
            with redirect_stderr(StringIO()):  # PyG reports its progress
                Planetoid(temporary, name)
        except Exception as error:  # PyG does not list what a download can raise
            raise DataError(
                f"{name} could not be downloaded ({error}); put the files into {folder}",
                key="download",
                value=True,
                path=str(folder),
            ) from error
        try:
            (Path(temporary) / name / "raw").rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise


def _as_bytes(features: Tensor) -> Tensor:
    """Return features as uint8 (a quarter of the memory) where that loses nothing."""
    small = features.to(torch.uint8)
    return small if torch.equal(small.to(features.dtype), features) else features


def twitch(request: SourceRequest) -> Examples:
    """Return the friendship graphs of Twitch streamers; a client is a language, in order of name.

    Features are the games and habits of a streamer, multi-hot; class 1 is a channel with mature
    content. With fewer clients than languages only the first are read. The files have the layout
    of PyG's ``Twitch``, but their features are the original 3170, which all languages share,
    instead of an embedding of 128 (PyG has no embedding of TW).

    Parameters
    ----------
    request : SourceRequest
        Its folder holds ``twitch``; its number of clients says how many languages are read.

    Returns
    -------
    examples : Examples
        Inputs ``(N, 3170)`` uint8, targets ``(N,)`` int64, and edges.

    Raises
    ------
    DataError
        If a file is missing, or its arrays have other shapes, types or values.
    """
    root = data_folder(request) / "twitch"
    files = [root / name / "raw" / f"{name}.npz" for name in LANGUAGES[: request.num_clients]]
    small = [_links(file) for file in files]
    sizes = [len(targets) for targets, _ in small]
    starts = np.cumsum([0, *sizes]).tolist()
    # One language after another, because a concatenation would hold all features twice.
    features = np.empty((starts[-1], TWITCH_FEATURES), dtype=np.uint8)
    for file, start, end in zip(files, starts[:-1], starts[1:], strict=True):
        features[start:end] = _features(file, end - start)
    pairs = zip(small, starts[:-1], strict=True)
    edges = [links.T.astype(np.int64) + start for (_, links), start in pairs]
    ends = torch.from_numpy(np.concatenate(edges, axis=1))
    return Examples(
        torch.from_numpy(features),
        torch.from_numpy(np.concatenate([targets for targets, _ in small]).astype(np.int64)),
        np.repeat(np.arange(len(files)), sizes),
        edges=both_ways(connections(ends, len(features))),
    )


def _features(file: Path, count: int) -> np.ndarray:
    (features,) = _read(file, ("features",))
    if features.shape != (count, TWITCH_FEATURES) or features.dtype != np.uint8:
        raise DataError(
            f"{file}: features are {features.dtype} {features.shape}; they must be uint8 "
            f"{(count, TWITCH_FEATURES)}, the original ones of all languages",
            key="features",
            value=features.shape,
            path=str(file),
        )
    return features


def _read(file: Path, names: tuple[str, ...]) -> list[np.ndarray]:
    """Return arrays of the file of a language."""
    what = (
        "the languages' files (DE/raw/DE.npz and so on, with arrays features, target and edges) "
        "into the folder twitch of the data folder"
    )
    return read_arrays(file, names, "twitch", what)


def _links(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the targets ``(N,)`` and edges ``(E, 2)`` of a language."""
    targets, edges = _read(file, ("target", "edges"))
    right = targets.ndim == 1 and edges.ndim == 2 and edges.shape[1] == 2
    if not right or edges.min(initial=0) < 0 or edges.max(initial=0) >= len(targets):
        raise DataError(
            f"{file}: target has shape {targets.shape} and edges {edges.shape}; they must be "
            f"(N,) and (E, 2), of nodes 0 to N - 1",
            key="edges",
            value=edges.shape,
            path=str(file),
        )
    return targets, edges
