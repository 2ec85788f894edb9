"""Devices that degrade measurements: errors and missing values.

Clients differ in the quality of their measurements, not in the distribution of the true values. A
device takes all measurements of its client, for training and for testing. All numbers are in the
unit that the model gets, which is a deviation where features are standardised.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pfl_flower.data.degradation.imputation import FILLING, IMPUTATIONS
from pfl_flower.data.degradation.missingness import MISSINGNESS
from pfl_flower.data.errors import DataError
from pfl_flower.data.moments import KnownValues
from pfl_flower.data.settings import DataSettings
from pfl_flower.utils.text import split_words
from strategies.randomness import generator

Floats = NDArray[np.float64]

PARTS = ("train", "validation", "test")
"""The splits of a client, each with independent random numbers."""


@dataclass(frozen=True)
class Device:
    """How a client's device degrades its measurements.

    Attributes
    ----------
    tier : int, default 0
        Number of its tier, from 0.
    missing : float, default 0.0
        Expected share of values that are missing, 0 to 1.
    missingness : str, default "random"
        Missing-data mechanism, a key of
        :data:`~pfl_flower.data.degradation.missingness.MISSINGNESS`.
    noise : float, default 0.0
        Deviation of the measurement error.
    corrupted : bool, default False
        Whether all measurements are pure noise, which the client declares as perfect.
    """

    tier: int = 0
    missing: float = 0.0
    missingness: str = "random"
    noise: float = 0.0
    corrupted: bool = False

    @property
    def perfect(self) -> bool:
        """Whether the device changes nothing."""
        return not (self.missing or self.noise or self.corrupted)


PER_TIER = ("missing", "noise")
"""Settings that are one number, or one per tier."""


def tier_values(settings: DataSettings) -> dict[str, list[float]]:
    """Return each of :data:`PER_TIER` as a list with one number per tier.

    Parameters
    ----------
    settings : DataSettings
        The run keys that decide the data.

    Raises
    ------
    DataError
        If a key has several numbers, but not one per tier.
    """
    declared = {name: _numbers(getattr(settings, name)) for name in PER_TIER}
    sizes = split_words(settings.tiers)
    count = len(sizes) or max(len(numbers) for numbers in declared.values())
    for name, numbers in declared.items():
        if len(numbers) not in (1, count):
            of = f"tiers={settings.tiers!r} names" if sizes else "another key has numbers for"
            raise DataError(
                f"{name} has {len(numbers)} numbers, but {of} {count} tiers; set one number, or "
                f"one per tier",
                key=name,
                value=getattr(settings, name),
            )
    return {name: n * count if len(n) == 1 else n for name, n in declared.items()}


def check_devices(settings: DataSettings) -> None:
    """Check that the settings of devices do not contradict one another.

    Parameters
    ----------
    settings : DataSettings
        The run keys that decide the data.

    Raises
    ------
    DataError
        If :func:`tier_values` does, or values are missing without an imputation.
    """
    missing = max(tier_values(settings)["missing"])
    if missing and not IMPUTATIONS[settings.imputation].allows_missing:
        raise DataError(
            f"missing is {settings.missing!r}, but imputation {settings.imputation!r} fills in no "
            f"values; set imputation to one of {', '.join(FILLING)}",
            key="imputation",
            value=settings.imputation,
            choices=FILLING,
        )


def simulated_devices(settings: DataSettings) -> list[str]:
    """Return the run keys by which devices change measurements; empty if they are perfect."""
    changing = [name for name, values in tier_values(settings).items() if any(values)]
    return changing + (["corrupted-clients"] if settings.corrupted_clients else [])


def _numbers(text: str) -> list[float]:
    return [float(word) for word in split_words(text)] or [0.0]


def draw_devices(settings: DataSettings, num_clients: int) -> list[Device]:
    """Draw every client's device: its tier, and whether the client is corrupted.

    Without sizes, tiers have equal sizes (up to one client).

    Parameters
    ----------
    settings : DataSettings
        The run keys that decide the data.
    num_clients : int
        Number of clients.

    Raises
    ------
    DataError
        If the sizes of tiers do not sum to the number of clients, or there are more corrupted
        clients than clients.
    """
    values = tier_values(settings)
    count = len(values["noise"])
    sizes = [int(word) for word in split_words(settings.tiers)]
    sizes = sizes or [len(part) for part in np.array_split(np.arange(num_clients), count)]
    if sum(sizes) != num_clients:
        raise DataError(
            f"the tiers {settings.tiers!r} sum to {sum(sizes)}, but there are {num_clients} "
            f"clients",
            key="tiers",
            value=settings.tiers,
        )
    if settings.corrupted_clients > num_clients:
        raise DataError(
            f"corrupted-clients is {settings.corrupted_clients}, but there are only "
            f"{num_clients} clients",
            key="corrupted-clients",
            value=settings.corrupted_clients,
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
    """Return the measurements that a device takes of the true values.

    It adds errors, then loses values. For a corrupted client all values are replaced by normal ones
    with the mean and deviation of its training values.

    Parameters
    ----------
    device : Device
        The client's device.
    parts : sequence of ndarray
        The splits :data:`PARTS`, each ``(N, d)``, with at least one training example.
    seed, client : int
        Seed of the run and number of the client, which decide the random numbers.

    Returns
    -------
    tuple of ndarray
        The same shapes, with NaN where a value is missing.

    Raises
    ------
    DataError
        If the missingness cannot reach the share of missing values.
    """
    seen = list(parts)
    if device.corrupted:
        return tuple(
            _pure_noise(part, parts[0], generator(seed, "device", client, name, "noise"))
            for part, name in zip(parts, PARTS, strict=True)
        )
    if device.noise:
        draws = [generator(seed, "device", client, name, "noise") for name in PARTS]
        seen = [add_noise(part, device.noise, d) for part, d in zip(seen, draws, strict=True)]
    if device.missing:
        reference, chances = seen[0], MISSINGNESS[device.missingness]
        for place, name in enumerate(PARTS):
            draw = generator(seed, "device", client, name, "missing")
            lost = draw.random(seen[place].shape) < chances(seen[place], reference, device.missing)
            seen[place] = np.where(lost, np.nan, seen[place])
    return tuple(seen)


def add_noise(values: Floats, deviation: float | Floats, draw: np.random.Generator) -> Floats:
    """Return values with independent normal errors of mean zero.

    Parameters
    ----------
    values : ndarray
        ``(N, d)``.
    deviation : float or ndarray
        Deviation of the errors, one or ``(d,)``.
    draw : Generator
        The random numbers.
    """
    noisy: Floats = values + deviation * draw.normal(size=values.shape)
    return noisy


def _pure_noise(values: Floats, like: Floats, draw: np.random.Generator) -> Floats:
    known = KnownValues.of(like)
    return add_noise(np.broadcast_to(known.means, values.shape), np.sqrt(known.variances), draw)
