"""Smartwatches, generated: what wearers' watches measure while their habits change.

An accelerometer and a gyroscope of three axes each are sampled at 20 Hz, in windows of 64 samples.
An activity has a cadence, harmonics, and on every channel an amplitude, a phase and a mean (how
the arm is held); everybody's are alike but for the wearer's pace, strength and the watch's
orientation on the wrist. Habits come in phases, see :data:`HABITS`.
"""

from dataclasses import dataclass

import numpy as np
import torch

from pfl_flower.data.records import Examples, SourceRequest
from strategies.randomness import generator

HABITS = ((0, 1, 2, 3), (2, 3, 4, 5), (4, 5, 6, 7))
"""The activities of each phase: everyday life; training for a marathon begins; what follows it.

The two that go on from the phase before are no longer what they were: every wearer does them
faster and stronger, and holds the arm differently, in a way of its own.
"""

NUM_PHASES = len(HABITS)
NUM_ACTIVITIES = 8
WINDOWS = 31
"""Windows of a wearer, a phase and an activity."""

CHANNELS, SAMPLES, RATE = 6, 64, 20.0
BANDS = ((0.3, 1.8), (1.8, 3.6), (3.6, 10.0))
"""Hz; energies are told of these."""

NUM_FEATURES = CHANNELS * (2 + len(BANDS))
HARMONICS = 3
NOISE = 1.5
"""Deviation of what a sensor adds to every sample, next to amplitudes of about 1."""


@dataclass(frozen=True)
class Activity:
    """How a channel moves in time t: ``mean + amplitude sum_h harmonic_h sin(h (wt + phase))``.

    Attributes
    ----------
    cadence : repetitions a second, w / 2 pi
    amplitude, phase, mean : ``(6,)`` of each channel
    harmonics : ``(3,)`` shares of the fundamental and its harmonics
    """

    cadence: float
    amplitude: np.ndarray
    phase: np.ndarray
    mean: np.ndarray
    harmonics: np.ndarray


def smartwatch(request: SourceRequest) -> Examples:
    """Return the windows of so many wearers; a wearer's depend on its number and the seed only."""
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
    """Return what a wearer makes of an activity once its habits change."""
    return Activity(
        cadence=activity.cadence * draw.uniform(1.3, 1.8),
        amplitude=activity.amplitude * draw.uniform(1.0, 2.5, CHANNELS),
        phase=activity.phase,
        mean=activity.mean + draw.normal(0, 0.8, CHANNELS),
        harmonics=activity.harmonics,
    )


def _wearer(seed: int, wearer: int, activities: list[Activity]) -> np.ndarray:
    """Return a wearer's windows ``(N, 6, 64)``: by phase, in it by activity."""
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
    """Return windows ``(WINDOWS, 6, 64)`` without noise; each begins at a moment of its own.

    No two are quite alike: cadence and amplitudes vary by a tenth, the way the arm is held too.
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
    """Return float32 features ``(N, 30)`` of windows ``(N, 6, 64)``.

    Of all channels the means, then the deviations, then the logarithms of the energies in each
    of :data:`BANDS`.
    """
    power = np.abs(np.fft.rfft(signals, axis=2)) ** 2 / SAMPLES
    hertz = np.fft.rfftfreq(SAMPLES, 1 / RATE)
    energies = [
        np.log(power[:, :, (low <= hertz) & (hertz <= high)].sum(axis=2) + 1e-6)
        for low, high in BANDS
    ]
    parts = [signals.mean(axis=2), signals.std(axis=2), *energies]
    return np.concatenate(parts, axis=1).astype(np.float32)
