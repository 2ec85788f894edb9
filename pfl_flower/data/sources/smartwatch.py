"""Generated smartwatch data: activities of wearers whose habits change (a stream of phases).

An accelerometer and a gyroscope of three axes each are sampled at 20 Hz, in windows of 64 samples.
An activity has a cadence, harmonics, and on every channel an amplitude, a phase and a mean (the
position of the arm). Wearers share them, up to a wearer's pace, strength and orientation of the
watch on the wrist. Habits come in phases, see :data:`HABITS`.
"""

from dataclasses import dataclass

import numpy as np
import torch

from pfl_flower.data.records import Examples, SourceRequest
from strategies.randomness import generator

HABITS = ((0, 1, 2, 3), (2, 3, 4, 5), (4, 5, 6, 7))
"""The activities of each phase: everyday life; training for a marathon; the time after it.

Two activities of each phase continue in the next one, but changed: every wearer does them faster,
stronger and with another position of the arm, by amounts that differ between wearers.
"""

NUM_PHASES = len(HABITS)
NUM_ACTIVITIES = 8
WINDOWS = 31
"""Number of windows of one activity in one phase of one wearer."""

CHANNELS, SAMPLES, RATE = 6, 64, 20.0
BANDS = ((0.3, 1.8), (1.8, 3.6), (3.6, 10.0))
"""Frequency bands in Hz whose energies are features."""

NUM_FEATURES = CHANNELS * (2 + len(BANDS))
HARMONICS = 3
NOISE = 1.5
"""Deviation of the noise of every sample, next to amplitudes of about 1."""


@dataclass(frozen=True)
class Activity:
    """A periodic signal in time t: ``mean + amplitude sum_h harmonic_h sin(h (w t + phase))``.

    Attributes
    ----------
    cadence : float
        Repetitions per second, w / 2 pi.
    amplitude, phase, mean : ndarray
        Of each channel, ``(6,)``.
    harmonics : ndarray
        Shares of the fundamental and its harmonics, ``(3,)``.
    """

    cadence: float
    amplitude: np.ndarray
    phase: np.ndarray
    mean: np.ndarray
    harmonics: np.ndarray


def smartwatch(request: SourceRequest) -> Examples:
    """Draw the windows of all wearers; a wearer's windows depend on its number and the seed only.

    Parameters
    ----------
    request : SourceRequest
        Its seed and its number of clients decide the examples.

    Returns
    -------
    examples : Examples
        Inputs ``(N, 30)`` float32, targets ``(N,)`` int64, and phases.
    """
    draw = generator(request.seed, "smartwatch activities")
    activities = [_activity(draw) for _ in range(NUM_ACTIVITIES)]
    windows = [_wearer(request.seed, wearer, activities) for wearer in range(request.num_clients)]
    each = NUM_PHASES * len(HABITS[0])
    labels = np.tile(np.repeat(np.concatenate(HABITS), WINDOWS), request.num_clients)
    phase = np.repeat(np.arange(NUM_PHASES), len(HABITS[0]) * WINDOWS)
    return Examples(
        torch.from_numpy(features(np.concatenate(windows))),
        torch.from_numpy(labels),
        owner=np.repeat(np.arange(request.num_clients), each * WINDOWS),
        phase=np.tile(phase, request.num_clients),
    )


def _activity(draw: np.random.Generator) -> Activity:
    return Activity(
        cadence=float(np.exp(draw.uniform(np.log(0.7), np.log(2.5)))),
        amplitude=draw.uniform(0.3, 1.2, CHANNELS),
        phase=draw.uniform(0, 2 * np.pi, CHANNELS),
        mean=draw.normal(0, 0.5, CHANNELS),
        harmonics=draw.dirichlet(np.ones(HARMONICS)),
    )


def _changed(activity: Activity, draw: np.random.Generator) -> Activity:
    """Return an activity of a wearer after its habits have changed."""
    return Activity(
        cadence=activity.cadence * draw.uniform(1.3, 1.8),
        amplitude=activity.amplitude * draw.uniform(1.0, 2.5, CHANNELS),
        phase=activity.phase,
        mean=activity.mean + draw.normal(0, 0.8, CHANNELS),
        harmonics=activity.harmonics,
    )


def _wearer(seed: int, wearer: int, activities: list[Activity]) -> np.ndarray:
    """Return the windows of a wearer, ``(N, 6, 64)``, ordered by phase, then by activity."""
    from scipy.spatial.transform import Rotation  # slow to import, so only where needed

    draw = generator(seed, "smartwatch", wearer)
    pace, strength = np.exp(draw.normal(0, 0.1)), np.exp(draw.normal(0, 0.2))
    worn = Rotation.from_rotvec(draw.normal(0, 0.25, 3)).as_matrix()
    own = list(activities)
    windows = []
    for number, habits in enumerate(HABITS):
        for label in habits:
            if number and label in HABITS[number - 1]:
                own[label] = _changed(own[label], draw)
            windows.append(_signals(own[label], pace, strength, draw))
    signals = np.concatenate(windows)
    axes = signals.reshape(len(signals), 2, 3, SAMPLES)  # both sensors turn with the watch
    noise = draw.normal(0, NOISE, signals.shape)
    turned: np.ndarray = np.einsum("ij,nsjt->nsit", worn, axes).reshape(signals.shape) + noise
    return turned


def _signals(
    activity: Activity, pace: float, strength: float, draw: np.random.Generator
) -> np.ndarray:
    """Return windows ``(WINDOWS, 6, 64)`` without noise, each from a random moment.

    Windows differ: cadence, amplitudes and means vary by about a tenth.
    """
    vary = np.exp(draw.normal(0, 0.1, (2, WINDOWS, 1, 1)))
    begin = draw.uniform(0, 2 * np.pi, (WINDOWS, 1, 1))
    angle = begin + 2 * np.pi * activity.cadence * pace * vary[0] * np.arange(SAMPLES) / RATE
    angle = angle + activity.phase[:, None]
    waves = sum(share * np.sin(h * angle) for h, share in enumerate(activity.harmonics, start=1))
    mean = activity.mean[:, None] + draw.normal(0, 0.1, (WINDOWS, CHANNELS, 1))
    signals: np.ndarray = mean + strength * vary[1] * activity.amplitude[:, None] * waves
    return signals


def features(signals: np.ndarray) -> np.ndarray:
    """Return the features of windows: means, deviations and log energies in :data:`BANDS`.

    Parameters
    ----------
    signals : ndarray
        Windows, ``(N, 6, 64)``.

    Returns
    -------
    ndarray
        ``(N, 30)`` float32: the means of all channels, then the deviations, then the log energies
        of each band.
    """
    power = np.abs(np.fft.rfft(signals, axis=2)) ** 2 / SAMPLES
    hertz = np.fft.rfftfreq(SAMPLES, 1 / RATE)
    energies = [
        np.log(power[:, :, (low <= hertz) & (hertz <= high)].sum(axis=2) + 1e-6)
        for low, high in BANDS
    ]
    parts = [signals.mean(axis=2), signals.std(axis=2), *energies]
    return np.concatenate(parts, axis=1).astype(np.float32)
