"""Where examples come from: scikit-learn's data sets, torchvision's, wearables', generated ones."""

import gzip
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pfl_flower.data.records import Examples, Source, SourceRequest
from pfl_flower.data.schema import DataError
from pfl_flower.data.settings import default_cache
from pfl_flower.data.sources import described_clients as described
from pfl_flower.data.sources.diabetes_sites import NUM_FEATURES as DIABETES_SITES_FEATURES
from pfl_flower.data.sources.diabetes_sites import diabetes_sites
from pfl_flower.data.sources.heart_disease import NUM_FEATURES as HEART_FEATURES
from pfl_flower.data.sources.heart_disease import heart_disease
from pfl_flower.data.sources.hospitals import NUM_FEATURES as HOSPITALS_FEATURES
from pfl_flower.data.sources.hospitals import hospitals
from pfl_flower.data.sources.planetoid_and_twitch import TWITCH_FEATURES, planetoid, twitch
from pfl_flower.data.sources.planted import NUM_FEATURES as MIXED_EFFECTS_FEATURES
from pfl_flower.data.sources.planted import planted
from pfl_flower.data.sources.smartwatch import NUM_ACTIVITIES, NUM_FEATURES, NUM_PHASES, smartwatch
from pfl_flower.data.sources.social import SocialWorld, social
from pfl_flower.data.sources.wearables import NUM_FEATURES as WEARABLES_FEATURES
from pfl_flower.data.sources.wearables import wearables
from pfl_flower.data.sources.wisdm import wisdm
from strategies.randomness import generator


def _digits(_: SourceRequest) -> Examples:
    from sklearn.datasets import load_digits  # a second to import, so only where needed

    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels.reshape(-1, 1, 8, 8) / 16.0).float()
    return Examples(images, torch.from_numpy(labels).long())


def _breast_cancer(_: SourceRequest) -> Examples:
    from sklearn.datasets import load_breast_cancer

    features, labels = load_breast_cancer(return_X_y=True)
    return Examples(torch.from_numpy(features).float(), torch.from_numpy(labels).long())


def _diabetes(_: SourceRequest) -> Examples:
    from sklearn.datasets import load_diabetes

    features, progression = load_diabetes(return_X_y=True, scaled=False)
    return Examples(torch.from_numpy(features).float(), torch.from_numpy(progression).float())


GALLERY_CHANNELS = 3


def _gallery(request: SourceRequest, train: int = 250, test: int = 100) -> Examples:
    """Pictures of three channels, each holding another digit (class); labelled once per channel.

    The digits of test pictures never occur in training pictures.
    """
    digits = _digits(request)
    draw = generator(request.seed, "gallery")
    order = draw.permutation(len(digits))
    pools = {0: order[: len(order) * 3 // 4], 1: order[len(order) * 3 // 4 :]}
    chosen, folds = [], []
    for fold, count in ((0, train), (1, test)):
        total = request.num_clients * count
        classes = draw.permuted(np.tile(np.arange(10), (total, 1)), axis=1)[:, :GALLERY_CHANNELS]
        chosen.append(_draw_of_class(digits.targets.numpy(), pools[fold], classes, draw))
        folds.append(np.full(total, fold))
    index = torch.from_numpy(np.concatenate(chosen))
    owner = np.concatenate(
        [np.repeat(np.arange(request.num_clients), count) for count in (train, test)]
    )
    return Examples(
        digits.inputs[index].squeeze(2), digits.targets[index], owner, np.concatenate(folds)
    )


def _draw_of_class(
    labels: np.ndarray, pool: np.ndarray, classes: np.ndarray, draw: np.random.Generator
) -> np.ndarray:
    """Return, for an array of classes, the index of a random example of each from ``pool``."""
    chosen = np.empty_like(classes)
    for label in np.unique(classes):
        wanted = classes == label
        chosen[wanted] = draw.choice(pool[labels[pool] == label], size=wanted.sum())
    return chosen


def _torchvision(name: str) -> Callable[[SourceRequest], Examples]:
    def load(request: SourceRequest) -> Examples:
        from torchvision import datasets

        root = request.data_dir or default_cache()
        make = getattr(datasets, name)
        try:
            splits = [_open(make, name, root, train, request.download) for train in (True, False)]
        except (RuntimeError, OSError, EOFError, zlib.error) as error:
            raise DataError(
                f"{name} was not found in {root} ({error}). Put the files where torchvision keeps "
                f"them under that folder, name another folder with data-dir or $PFL_DATA_DIR, or "
                f"let it be downloaded with --run-config 'download=true'"
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
            _unpack(file, unpacked / file.name.removesuffix(".gz"))
    return make(root, train=train, download=download)


def _unpack(packed: Path, target: Path) -> None:
    """Unpack (or copy) a file atomically: of many processes at once, none sees half a file."""
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


def _described(
    load: Callable[[described.World], described.Load],
    world: described.World,
    shape: tuple[int, ...],
    num_classes: int,
) -> Source:
    return Source(
        load(world),
        shape,
        num_classes,
        generated=True,
        heterogeneity="none",
        describe=described.describe(world),
    )


SOURCES: Mapping[str, Source] = {
    "digits": Source(_digits, (1, 8, 8), 10),
    "breast-cancer": Source(_breast_cancer, (30,), 2, standardize=True),
    "hospitals": Source(
        hospitals,
        (HOSPITALS_FEATURES,),
        2,
        standardize=True,
        generated=True,
        heterogeneity="none",
        natural=True,
    ),
    "diabetes": Source(_diabetes, (10,), 0, standardize=True, heterogeneity="offset"),
    "gallery": Source(
        _gallery, (GALLERY_CHANNELS, 8, 8), 10, generated=True, heterogeneity="interest"
    ),
    "smartwatch": Source(
        smartwatch,
        (NUM_FEATURES,),
        NUM_ACTIVITIES,
        standardize=True,
        generated=True,
        heterogeneity="none",
        num_phases=NUM_PHASES,
    ),
    "wisdm": Source(wisdm, (91,), 18, standardize=True, heterogeneity="none", num_phases=3),
    "described-digits": _described(described.digits, described.EASY, (1, 8, 8), 10),
    "described-digits-hard": _described(described.digits, described.HARD, (1, 8, 8), 10),
    "described-regression": _described(
        described.regression, described.EASY, (described.FEATURES,), 0
    ),
    "mnist": Source(_torchvision("MNIST"), (1, 28, 28), 10),
    "fashion-mnist": Source(_torchvision("FashionMNIST"), (1, 28, 28), 10),
    "cifar10": Source(_torchvision("CIFAR10"), (3, 32, 32), 10),
    "cifar100": Source(_torchvision("CIFAR100"), (3, 32, 32), 100),
    "planted": Source(planted, (MIXED_EFFECTS_FEATURES,), 0, generated=True, heterogeneity="none"),
    "diabetes-sites": Source(
        diabetes_sites,
        (DIABETES_SITES_FEATURES,),
        0,
        standardize=True,
        generated=True,
        heterogeneity="none",
    ),
    "wearables": Source(
        wearables,
        (WEARABLES_FEATURES,),
        0,
        generated=True,
        heterogeneity="none",
        natural=True,
    ),
    "heart-disease": Source(
        heart_disease,
        (HEART_FEATURES,),
        2,
        standardize=True,
        heterogeneity="none",
        natural=True,
        imputation="mean",
    ),
    "social": Source(
        social,
        (SocialWorld.features,),
        SocialWorld.classes,
        generated=True,
        heterogeneity="none",
        graph=True,
        natural=True,
    ),
    "cora": Source(planetoid("Cora"), (1433,), 7, heterogeneity="none", graph=True),
    "citeseer": Source(planetoid("CiteSeer"), (3703,), 6, heterogeneity="none", graph=True),
    "twitch": Source(twitch, (TWITCH_FEATURES,), 2, heterogeneity="none", graph=True, natural=True),
}
"""Name of a data set -> its source. A new one is one row."""
