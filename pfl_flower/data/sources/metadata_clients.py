"""Generated clients with metadata: the best model of a client depends on its region and device.

The metadata also hold a noisy copy of the device type, and columns that depend on nothing. Every
pair of a region and a device type has as many clients as any other, or one more.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pfl_flower.data.records import ClientMetadata, Examples, Source, SourceRequest
from pfl_flower.data.sources.generated import equal_clients
from strategies.randomness import generator

TRAINING, TEST = 40, 30
"""Number of a client's training and test examples."""


@dataclass(frozen=True)
class World:
    """Which kinds of clients exist, and which other columns their metadata have.

    Attributes
    ----------
    regions : int, default 3
        Number of regions.
    devices : int, default 2
        Number of device types, at most 3.
    irrelevant : int, default 3
        Number of metadata columns that are normal and depend on nothing.
    missing : float, default 0.0
        Probability that an entry of the metadata is missing.
    """

    regions: int = 3
    devices: int = 2
    irrelevant: int = 3
    missing: float = 0.0


EASY = World()
HARD = World(regions=4, devices=3, irrelevant=6, missing=0.1)

Load = Callable[[SourceRequest], Examples]


def kinds(world: World, request: SourceRequest) -> list[tuple[int, int]]:
    """Return (region, device) of every client, in random order.

    Parameters
    ----------
    world : World
        The kinds.
    request : SourceRequest
        Its seed decides the order.
    """
    pairs = [(r, d) for d in range(world.devices) for r in range(world.regions)]
    every = [pairs[client % len(pairs)] for client in range(request.num_clients)]
    order = generator(request.seed, "described kinds").permutation(len(every))
    return [every[place] for place in order]


def metadata_of(world: World) -> Callable[[SourceRequest], Sequence[ClientMetadata]]:
    """Return the function that draws every client's metadata.

    Columns are ``region`` and ``device`` (words), ``battery`` (the number of the device type plus
    standard normal noise) and ``irrelevant-0``, ... (normal, of deviation 0.3).

    Parameters
    ----------
    world : World
        The kinds of clients.
    """

    def draw_all(request: SourceRequest) -> Sequence[ClientMetadata]:
        return [
            _draw(world, generator(request.seed, "description", client), region, device)
            for client, (region, device) in enumerate(kinds(world, request))
        ]

    return draw_all


def _draw(world: World, draw: np.random.Generator, region: int, device: int) -> ClientMetadata:
    found: dict[str, float | str | None] = {
        "region": f"region-{region}",
        "device": f"device-{device}",
        "battery": device + float(draw.normal(0, 1)),
    }
    for number in range(world.irrelevant):
        found[f"irrelevant-{number}"] = float(draw.normal(0, 0.3))
    lost = draw.random(len(found)) < world.missing
    return {name: None if gone else v for (name, v), gone in zip(found.items(), lost, strict=True)}


def digits(world: World) -> Load:
    """Return the loader of digits whose region permutes the classes and whose device the pixels.

    Each region has one permutation of the ten classes. Device 0 leaves an image as it is, device 1
    inverts it, device 2 mirrors it. Clients draw their examples independently of one another, so
    two clients may share images; no client's test images are among any client's training images.

    Parameters
    ----------
    world : World
        The kinds of clients.

    Returns
    -------
    callable
        SourceRequest -> Examples with inputs ``(N, 1, 8, 8)`` float32 in 0 to 1 and targets
        ``(N,)`` int64.
    """

    def load(request: SourceRequest) -> Examples:
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
        images = (pixels.reshape(-1, 1, 8, 8) / 16.0).astype(np.float32)
        draw = generator(request.seed, "described digits")
        names = [draw.permutation(10) for _ in range(world.regions)]
        order = draw.permutation(len(labels))
        pools = order[: len(order) * 3 // 4], order[len(order) * 3 // 4 :]
        inputs, targets = [], []
        for region, device in kinds(world, request):
            for pool, count in zip(pools, (TRAINING, TEST), strict=True):
                rows = draw.choice(pool, count, replace=False)
                inputs.append(_photograph(images[rows], device))
                targets.append(names[region][labels[rows]])
        return equal_clients(inputs, targets, TRAINING, TEST)

    return load


def _photograph(images: np.ndarray, device: int) -> np.ndarray:
    """Return images ``(N, 1, 8, 8)`` as a device type takes them."""
    return (images, 1.0 - images, images[..., ::-1])[device]


NUM_FEATURES, NOISE = 8, 0.5


def regression(world: World) -> Load:
    """Return the loader of linear functions that depend on region and device.

    ``y = x^T (mean + region + device + client) + noise``: ``x`` is standard normal, and the vectors
    in parentheses are normal with deviations 0.5, 1, 0.5 and 0.1. The noise has deviation 0.5.

    Parameters
    ----------
    world : World
        The kinds of clients.

    Returns
    -------
    callable
        SourceRequest -> Examples with inputs ``(N, 8)`` and targets ``(N,)``, float32.
    """

    def load(request: SourceRequest) -> Examples:
        draw = generator(request.seed, "described regression")
        mean = draw.normal(0, 0.5, NUM_FEATURES)
        by_region = draw.normal(0, 1, (world.regions, NUM_FEATURES))
        by_device = draw.normal(0, 0.5, (world.devices, NUM_FEATURES))
        inputs, targets = [], []
        for region, device in kinds(world, request):
            own = mean + by_region[region] + by_device[device] + draw.normal(0, 0.1, NUM_FEATURES)
            features = draw.normal(size=(TRAINING + TEST, NUM_FEATURES))
            inputs.append(features)
            targets.append(features @ own + draw.normal(0, NOISE, len(features)))
        return equal_clients(inputs, targets, TRAINING, TEST)

    return load


def source(
    load: Callable[[World], Load], world: World, shape: tuple[int, ...], num_classes: int
) -> Source:
    """Return the registry entry of a data set with metadata.

    Parameters
    ----------
    load : callable
        :func:`digits` or :func:`regression`.
    world : World
        The kinds of clients.
    shape : tuple of int
        Shape of one example.
    num_classes : int
        Number of classes; 0 for regression.
    """
    return Source(
        load(world),
        shape,
        num_classes,
        generated=True,
        heterogeneity="none",
        metadata=metadata_of(world),
    )
