"""Devices that see badly: errors of readings, clipped and stuck sensors, values that are missing.

Clients differ here in how well they see the world, not in the world they see. A device takes all
of its client's readings, those to train on and those to be tested on. Everything is in the unit
that the model sees, which is a deviation where features are standardised.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pfl_flower.data.degradation.imputation import FILLING, IMPUTATIONS
from pfl_flower.data.moments import KnownValues
from pfl_flower.data.schema import DataError
from pfl_flower.data.settings import DataSettings
from pfl_flower.utils.text import split_words
from strategies.randomness import generator

Floats = NDArray[np.float64]

PARTS = ("train", "validation", "test")
"""The parts of a client's examples, each with random draws of its own."""


@dataclass(frozen=True)
class Device:
    """What a client sees the world with.

    Attributes
    ----------
    tier : number of its tier, from 0
    missing : expected share of values that are missing, 0 to 1
    missingness : which ones: a key of :data:`MISSINGNESS`
    noise : deviation of the error of a reading
    stuck : share of the features that are stuck at one value, 0 to 1
    clipped : readings beyond plus or minus this are clipped; 0 for no limit
    corrupted : whether its readings are nothing but noise, of which it states that they are perfect
    """

    tier: int = 0
    missing: float = 0.0
    missingness: str = "random"
    noise: float = 0.0
    stuck: float = 0.0
    clipped: float = 0.0
    corrupted: bool = False

    @property
    def perfect(self) -> bool:
        """Whether it changes nothing."""
        return not (self.missing or self.noise or self.stuck or self.clipped or self.corrupted)


PER_TIER = ("missing", "noise", "stuck", "clipped")
"""Settings that are one number, or one a tier."""


def tier_values(settings: DataSettings) -> dict[str, list[float]]:
    """Return each of :data:`PER_TIER` as numbers, as many as there are tiers.

    Raises
    ------
    DataError
        If numbers of several tiers are stated, and there are more or fewer tiers.
    """
    stated = {name: _numbers(getattr(settings, name)) for name in PER_TIER}
    sizes = split_words(settings.tiers)
    count = len(sizes) or max(len(numbers) for numbers in stated.values())
    for name, numbers in stated.items():
        if len(numbers) not in (1, count):
            of = f"tiers={settings.tiers!r} names" if sizes else "another key has numbers for"
            raise DataError(
                f"{name} has {len(numbers)} numbers, but {of} {count} tiers; give one number, or "
                f"one a tier"
            )
    return {name: n * count if len(n) == 1 else n for name, n in stated.items()}


def check_devices(settings: DataSettings) -> None:
    """Refuse settings of devices that contradict one another.

    Raises
    ------
    DataError
        If :func:`tier_values` does, or values are missing that nothing takes the place of.
    """
    missing = max(tier_values(settings)["missing"])
    if missing and not IMPUTATIONS[settings.imputation].allows_missing:
        raise DataError(
            f"missing is {settings.missing!r}, and imputation {settings.imputation!r} puts nothing "
            f"in the place of missing values; set imputation to one of {', '.join(FILLING)}"
        )


def _numbers(text: str) -> list[float]:
    return [float(word) for word in split_words(text)] or [0.0]


def plant_devices(settings: DataSettings, num_clients: int) -> list[Device]:
    """Return every client's device. Which clients are in which tier, and which lie, is drawn.

    Without sizes, tiers are as even as can be.

    Raises
    ------
    DataError
        If the tiers do not add up to the number of clients, or there are more corrupted_clients
        than clients.
    """
    values = tier_values(settings)
    count = len(values["noise"])
    sizes = [int(word) for word in split_words(settings.tiers)]
    sizes = sizes or [len(part) for part in np.array_split(np.arange(num_clients), count)]
    if sum(sizes) != num_clients:
        raise DataError(
            f"tiers {settings.tiers!r} are of {sum(sizes)} clients, but there are {num_clients}"
        )
    if settings.corrupted_clients > num_clients:
        raise DataError(
            f"corrupted-clients is {settings.corrupted_clients}, but there are only "
            f"{num_clients} clients"
        )
    order = np.repeat(np.arange(count), sizes)
    tiers = generator(settings.seed, "tiers").permutation(order)
    corrupted_clients = set(
        generator(settings.seed, "liars").permutation(num_clients)[: settings.corrupted_clients]
    )
    return [
        Device(
            int(tier),
            missingness=settings.missingness,
            corrupted=client in corrupted_clients,
            **{name: numbers[tier] for name, numbers in values.items()},
        )
        for client, tier in enumerate(tiers)
    ]


def take_measurements(
    device: Device, parts: Sequence[Floats], seed: int, client: int
) -> tuple[Floats, ...]:
    """Return what a device reads of the parts of its client's examples.

    First comes the error, then the limits, then what is stuck, then what is missing. The values of
    a corrupted client's are all replaced by normal ones of the mean and deviation of its training
    values.

    Parameters
    ----------
    device : see there
    parts : of :data:`PARTS`, each ``(N, d)``; training examples there must be
    seed, client : what is drawn belongs to

    Returns
    -------
    arrays of the same shapes, with NaN where a value is missing

    Raises
    ------
    DataError
        If so much cannot be missing in the way that is asked for.
    """
    seen = list(parts)
    if device.corrupted:
        return tuple(
            _nothing_but_noise(part, parts[0], generator(seed, "device", client, name, "noise"))
            for part, name in zip(parts, PARTS, strict=True)
        )
    if device.noise:
        draws = [generator(seed, "device", client, name, "noise") for name in PARTS]
        seen = [add_noise(part, device.noise, d) for part, d in zip(seen, draws, strict=True)]
    if device.clipped:
        seen = [np.clip(part, -device.clipped, device.clipped) for part in seen]
    if device.stuck:
        own = generator(seed, "device", client, "stuck")
        stuck = draw_stuck(seen[0], device.stuck, own)
        seen = [np.where(np.isnan(stuck), part, stuck) for part in seen]
    if device.missing:
        reference, chances = seen[0], MISSINGNESS[device.missingness]
        for place, name in enumerate(PARTS):
            draw = generator(seed, "device", client, name, "missing")
            lost = draw.random(seen[place].shape) < chances(seen[place], reference, device.missing)
            seen[place] = np.where(lost, np.nan, seen[place])
    return tuple(seen)


def add_noise(values: Floats, deviation: float | Floats, draw: np.random.Generator) -> Floats:
    """Return values with independent normal errors of mean zero."""
    noisy: Floats = values + deviation * draw.normal(size=values.shape)
    return noisy


def _nothing_but_noise(values: Floats, like: Floats, draw: np.random.Generator) -> Floats:
    known = KnownValues.of(like)
    return add_noise(np.broadcast_to(known.means, values.shape), np.sqrt(known.variances), draw)


def draw_stuck(training: Floats, share: float, draw: np.random.Generator) -> Floats:
    """Return where each feature is stuck, ``(d,)``: NaN for those that are not.

    It is the nearest whole number of features to their share. Each is stuck at the reading of one
    of the training examples, at 0 where that is missing.

    Parameters
    ----------
    training : ``(N, d)``, N at least 1
    share : of the features, 0 to 1
    draw : what is drawn from
    """
    size = training.shape[1]
    places = draw.permutation(size)[: round(share * size)]
    at = np.full(size, np.nan)
    at[places] = np.nan_to_num(training[draw.integers(len(training), size=len(places)), places])
    return at


# ---------------------------------------------------------------------- what is missing


def ranks(values: Floats, reference: Floats) -> Floats:
    """Return the share of the reference that is below a value, counting half of what equals it.

    Each column by itself; their mean over the reference is 1/2, ties or not. A missing value has
    1/2.

    Parameters
    ----------
    values : ``(N, d)``
    reference : ``(M, d)``; missing values are left out
    """
    found = np.full(values.shape, 0.5)
    for column in range(values.shape[1]):
        known = np.sort(reference[:, column][np.isfinite(reference[:, column])])
        there = np.isfinite(values[:, column])
        if len(known):
            sides = (np.searchsorted(known, values[there, column], s) for s in ("left", "right"))
            found[there, column] = sum(sides) / (2 * len(known))
    return found


def increasing(rank: Floats, rate: float) -> Floats:
    """Return chances that increase with a rank of mean 1/2, and have the mean ``rate``.

    ``2 rate rank`` up to a rate of a half, and its mirror image above.
    """
    if rate <= 0.5:
        return 2 * rate * rank
    chances: Floats = 1 - 2 * (1 - rate) * (1 - rank)
    return chances


def check_share(missingness: str, rate: float, size: int) -> None:
    """Refuse a share that cannot be missing because the first feature never is.

    Raises
    ------
    DataError
        If it is more than all other features.
    """
    if missingness == "observed" and rate * size > size - 1:
        raise DataError(
            f"missingness 'observed' never misses the first feature, so of {size} features at most "
            f"the share {1 - 1 / size:g} can be missing, not {rate:g}; use less, or 'random'"
        )


Chances = Callable[[Floats, Floats, float], Floats]
"""(values ``(N, d)``, training values ``(M, d)``, share) -> the chance of each to be missing.

Over the training values the mean of the chances is the share."""


def _at_random(values: Floats, reference: Floats, rate: float) -> Floats:
    """All have the same chance (missing completely at random)."""
    return np.full(values.shape, rate)


def _by_observed(values: Floats, reference: Floats, rate: float) -> Floats:
    """The chance grows with the first feature, which is always observed (missing at random)."""
    size = values.shape[1]
    check_share("observed", rate, size)
    rest = rate * size / max(size - 1, 1)
    chances = np.repeat(increasing(ranks(values[:, :1], reference[:, :1]), rest), size, axis=1)
    chances[:, 0] = 0.0
    return chances


def _by_value(values: Floats, reference: Floats, rate: float) -> Floats:
    """The chance grows with the value that is missing (missing not at random)."""
    return increasing(ranks(values, reference), rate)


MISSINGNESS: Mapping[str, Chances] = {
    "random": _at_random,
    "observed": _by_observed,
    "value": _by_value,
}
"""What decides which values are missing -> their chances. A new one is one row."""
