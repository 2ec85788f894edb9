"""WISDM: smartwatch data of fifty people in eighteen activities, as a stream of three phases.

Weiss, Yoneda and Hayajneh 2019, "Smartphone and Smartwatch-Based Biometrics Using Activities of
Daily Living" (IEEE Access 7), UCI data set 507. ``wisdm51/watch_accel.npz`` in the data folder
holds the authors' features of the watch's accelerometer in windows of ten seconds (their
``arff_files/watch/accel``) as plain arrays: ``X`` (N, 91), ``y`` (N,) from 0 to 17 in the order of
the activities' letters, and ``subject`` (N,) from 1600 to 1650.
"""

from pathlib import Path

import numpy as np
import torch

from pfl_flower.data.errors import DataError
from pfl_flower.data.records import Examples, SourceRequest
from pfl_flower.data.sources.stored import data_folder, read_arrays

FILE = "wisdm51/watch_accel.npz"
NUM_FEATURES, NUM_ACTIVITIES = 91, 18

WALKING, JOGGING, STAIRS, SITTING, STANDING, TYPING, TEETH, SOUP, CHIPS = range(9)
PASTA, DRINKING, SANDWICH, KICKING, CATCH, DRIBBLING, WRITING, CLAPPING, FOLDING = range(9, 18)

HABITS = (
    (WALKING, STAIRS, SITTING, STANDING, TYPING, WRITING, TEETH, FOLDING),
    (WALKING, JOGGING, STAIRS, KICKING, CATCH, DRIBBLING, CLAPPING),
    (SITTING, SOUP, CHIPS, PASTA, DRINKING, SANDWICH, JOGGING),
)
"""The activities of each phase: everyday life, then sport, then meals."""

NUM_PHASES = len(HABITS)


def wisdm(request: SourceRequest) -> Examples:
    """Return the windows of all people; a client is a person, in ascending order of numbers.

    Parameters
    ----------
    request : SourceRequest
        Its folder holds :data:`FILE`.

    Returns
    -------
    examples : Examples
        Inputs ``(N, 91)`` float32, targets ``(N,)`` int64, and phases.

    Raises
    ------
    DataError
        If the file is missing, or its arrays have other shapes or values.
    """
    inputs, targets, subjects = _read(data_folder(request) / FILE)
    _, owner = np.unique(subjects, return_inverse=True)
    phase = _phases(targets, owner)
    return Examples(torch.from_numpy(inputs), torch.from_numpy(targets), owner, phase=phase)


def _read(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return inputs (N, 91) float32, targets and subjects (N,) int64."""
    what = f"the file {FILE} (arrays X, y and subject) into the data folder"
    inputs, targets, subjects = read_arrays(path, ("X", "y", "subject"), "wisdm", what)
    if (
        inputs.ndim != 2
        or inputs.shape[1] != NUM_FEATURES
        or not targets.shape == subjects.shape == (len(inputs),)
        or not np.isin(targets, np.arange(NUM_ACTIVITIES)).all()
    ):
        raise DataError(
            f"{path}: X has shape {inputs.shape}, y {targets.shape} and subject {subjects.shape}; "
            f"they must be (N, 91), (N,) and (N,), with y from 0 to 17",
            key="X, y, subject",
            value=(inputs.shape, targets.shape, subjects.shape),
            path=str(path),
        )
    if not np.isfinite(inputs).all():
        raise DataError(f"{path}: X has missing (NaN) or infinite values", key="X", path=str(path))
    return inputs.astype(np.float32), targets.astype(np.int64), subjects.astype(np.int64)


def _phases(targets: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Return the phase of each window.

    Where two phases have an activity, the first half of a person's windows of it belong to the
    earlier phase. Rows are presumably in order of time; the files do not say so.
    """
    phase = np.empty(len(targets), dtype=np.int64)
    for activity in range(NUM_ACTIVITIES):
        habit_of = [number for number, habits in enumerate(HABITS) if activity in habits]
        rows = np.flatnonzero(targets == activity)
        for person in np.unique(owner[rows]):
            parts = np.array_split(rows[owner[rows] == person], len(habit_of))
            for number, part in zip(habit_of, parts, strict=True):
                phase[part] = number
    return phase
