"""Heterogeneity: concept shift and feature shift between clients, as functions of one client."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from pfl_flower.data.errors import DataError
from strategies.randomness import generator

Transform = Callable[[Tensor, Tensor, int, int, int], tuple[Tensor, Tensor]]
"""(float inputs, targets, number of classes, cluster, seed) -> the client's inputs and targets."""


def _taste(
    inputs: Tensor, targets: Tensor, num_classes: int, client: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Permute the labels of a client (concept shift)."""
    _needs_classes("taste", targets)
    names = generator(seed, "taste", client).permutation(num_classes)
    return inputs, torch.from_numpy(names)[targets]


def _swap(
    inputs: Tensor, targets: Tensor, num_classes: int, client: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Swap two labels of a client (mild concept shift)."""
    _needs_classes("swap", targets)
    names = torch.arange(num_classes)
    two = torch.from_numpy(generator(seed, "swap", client).permutation(num_classes)[:2])
    names[two] = two.flip(0)
    return inputs, names[targets]


def _needs_classes(name: str, targets: Tensor) -> None:
    if targets.is_floating_point():
        raise DataError(
            f"heterogeneity {name!r} needs classes; a regression can use 'offset'",
            key="heterogeneity",
            value=name,
            choices=("offset", "none"),
        )


def _lighting(
    inputs: Tensor, targets: Tensor, num_classes: int, client: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Change the lighting of a client's images: blur, gain, offset; odd clients are inverted.

    Pixel ``x`` in [0, 1] becomes ``gain * x + offset`` with gain uniform in [0.1, 3] and offset
    uniform in [-1, 1]; the blur's standard deviation is uniform in [0.1, 0.5] pixels.
    """
    from torchvision.transforms.v2 import functional as F

    if inputs.ndim != 4:
        raise DataError(
            f"heterogeneity 'lighting' needs images, but an example has shape "
            f"{tuple(inputs.shape[1:])}",
            key="heterogeneity",
            value="lighting",
        )
    draw = generator(seed, "lighting", client)
    gain, offset, sigma = draw.uniform(0.1, 3.0), draw.uniform(-1.0, 1.0), draw.uniform(0.1, 0.5)
    images = F.gaussian_blur(inputs, kernel_size=[3, 3], sigma=[sigma, sigma])
    if client % 2:
        images = F.invert(images)
    channels = inputs.shape[1]
    # normalize computes (x - mean) / std
    images = F.normalize(images, mean=[-offset / gain] * channels, std=[1 / gain] * channels)
    return images, targets


def _interest(
    inputs: Tensor, targets: Tensor, num_classes: int, client: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Take one of the K labels of every example: the label number ``client modulo K``."""
    if targets.ndim != 2:
        raise DataError(
            "heterogeneity 'interest' needs examples with several labels, as 'gallery' has",
            key="heterogeneity",
            value="interest",
        )
    return inputs, targets[:, client % targets.shape[1]]


def _offset(
    inputs: Tensor, targets: Tensor, num_classes: int, client: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Add a constant to a client's targets, uniform in -2 to 2, in deviations of the target."""
    if not targets.is_floating_point():
        raise DataError(
            "heterogeneity 'offset' needs numbers as targets; a classification can use 'taste'",
            key="heterogeneity",
            value="offset",
            choices=("taste", "swap", "none"),
        )
    return inputs, targets + generator(seed, "offset", client).uniform(-2.0, 2.0)


HETEROGENEITIES: Mapping[str, Transform] = {
    "taste": _taste,
    "swap": _swap,
    "lighting": _lighting,
    "interest": _interest,
    "offset": _offset,
}
"""Name -> transform. A new one is one row."""


OF_INPUTS = frozenset({"lighting"})
"""Those that change inputs; the others change targets only."""


def draw_clusters(sizes: str, num_clients: int, seed: int) -> list[int]:
    """Draw the cluster of every client, in random order.

    Parameters
    ----------
    sizes : str
        Comma-separated sizes of the clusters; empty: every client is a cluster.
    num_clients : int
        Number of clients.
    seed : int
        Decides the assignment.

    Raises
    ------
    DataError
        If the sizes do not add up to the number of clients.
    """
    counts = [int(word) for word in sizes.split(",") if word.strip()]
    if not counts:
        return list(range(num_clients))
    if sum(counts) != num_clients:
        raise DataError(
            f"cluster-sizes {sizes!r} sum to {sum(counts)}, but there are {num_clients} clients",
            key="cluster-sizes",
            value=sizes,
        )
    clusters = np.repeat(np.arange(len(counts)), counts)
    return [int(cluster) for cluster in generator(seed, "tribes").permutation(clusters)]


def parse_heterogeneity(text: str) -> tuple[str, ...]:
    """Return the names in a comma-separated list, without ``"none"`` and empty names.

    Parameters
    ----------
    text : str
        The run key ``heterogeneity``.
    """
    return tuple(word.strip() for word in text.split(",") if word.strip() not in ("", "none"))
