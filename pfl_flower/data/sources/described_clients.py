"""Clients, generated, whose best model depends on what they tell of themselves.

Each is in a region and has a type of device; both are told, beside noisy copies and columns that
have nothing to do with anything. There are as many clients of every pair of a region and a type of
device as of any other, or one more.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pfl_flower.data.records import Description, Examples, SourceRequest
from strategies.randomness import generator

TRAIN, TEST = 40, 30
"""Examples of a client."""


@dataclass(frozen=True)
class World:
    """What kinds of clients there are, and what they tell beside it.

    Attributes
    ----------
    regions, devices : number of each; of devices at most 3
    irrelevant : columns of normal numbers that depend on nothing
    missing : share of entries that are missing
    """

    regions: int = 3
    devices: int = 2
    irrelevant: int = 3
    missing: float = 0.0


EASY = World()
HARD = World(regions=4, devices=3, irrelevant=6, missing=0.1)

Load = Callable[[SourceRequest], Examples]


def kinds(world: World, request: SourceRequest) -> list[tuple[int, int]]:
    """Return (region, device) of every client; their numbers tell nothing of it."""
    pairs = [(r, d) for d in range(world.devices) for r in range(world.regions)]
    every = [pairs[client % len(pairs)] for client in range(request.num_clients)]
    order = generator(request.seed, "described kinds").permutation(len(every))
    return [every[place] for place in order]


def describe(world: World) -> Callable[[SourceRequest], Sequence[Description]]:
    """Return what tells of every client its region, device, and columns of little use.

    ``battery`` is a noisy copy of the type of device.
    """

    def descriptions(request: SourceRequest) -> Sequence[Description]:
        return [
            _description(world, generator(request.seed, "description", client), region, device)
            for client, (region, device) in enumerate(kinds(world, request))
        ]

    return descriptions


def _description(
    world: World, draw: np.random.Generator, region: int, device: int
) -> Mapping[str, float | str | None]:
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
    """Return what loads digits: the region names the classes, the device takes the picture.

    Each region has a naming of its own; device 0 takes the picture as it is, 1 inverts it, 2
    mirrors it. A client draws its own examples from all pictures, so two may have some in common;
    pictures to test on are never among those to learn from, of whichever client.
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
            for pool, count in zip(pools, (TRAIN, TEST), strict=True):
                rows = draw.choice(pool, count, replace=False)
                inputs.append(_taken(images[rows], device))
                targets.append(names[region][labels[rows]])
        return _examples(np.concatenate(inputs), np.concatenate(targets), request.num_clients)

    return load


def _taken(images: np.ndarray, device: int) -> np.ndarray:
    """Return pictures ``(N, 1, 8, 8)`` as a type of device takes them."""
    return (images, 1.0 - images, images[..., ::-1])[device]


FEATURES, NOISE = 8, 0.5


def regression(world: World) -> Load:
    """Return what loads linear functions: of standard normal features, with noise.

    ``y = x^T (mean + region + device + own) + noise``, each a vector of normal numbers with
    deviations of 0.5, 1, 0.5 and 0.1; the noise's is 0.5.
    """

    def load(request: SourceRequest) -> Examples:
        draw = generator(request.seed, "described regression")
        mean = draw.normal(0, 0.5, FEATURES)
        by_region = draw.normal(0, 1, (world.regions, FEATURES))
        by_device = draw.normal(0, 0.5, (world.devices, FEATURES))
        inputs, targets = [], []
        for region, device in kinds(world, request):
            own = mean + by_region[region] + by_device[device] + draw.normal(0, 0.1, FEATURES)
            features = draw.normal(size=(TRAIN + TEST, FEATURES))
            inputs.append(features)
            targets.append(features @ own + draw.normal(0, NOISE, len(features)))
        return _examples(
            np.concatenate(inputs).astype(np.float32),
            np.concatenate(targets).astype(np.float32),
            request.num_clients,
        )

    return load


def _examples(inputs: np.ndarray, targets: np.ndarray, num_clients: int) -> Examples:
    return Examples(
        torch.from_numpy(np.ascontiguousarray(inputs)),
        torch.from_numpy(targets),
        owner=np.repeat(np.arange(num_clients), TRAIN + TEST),
        fold=np.tile(np.repeat([0, 1], [TRAIN, TEST]), num_clients),
    )
