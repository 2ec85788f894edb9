"""Heart disease at four real hospitals, which measure different things: much is missing.

Detrano et al. 1989, "International application of a new probability algorithm for the diagnosis of
coronary artery disease" (American Journal of Cardiology 64); UCI data set 45. The investigators are
Andras Janosi (Budapest), William Steinbrunn (Zurich), Matthias Pfisterer (Basel) and Robert Detrano
(Long Beach and Cleveland).
"""

from pathlib import Path

import numpy as np
import torch

from pfl_flower.data.records import Examples, SourceRequest
from pfl_flower.data.schema import DataError
from pfl_flower.data.settings import default_cache

FOLDER = "heart_disease"
HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
"""The clients, in order."""

NUM_FEATURES = 13
"""Age, sex, kind of chest pain, resting blood pressure, cholesterol, fasting blood sugar, resting
electrocardiogram, highest heart rate, angina at exercise, depression of the ST segment and its
slope, vessels coloured, and thallium scan."""

_PRESSURE, _CHOLESTEROL = 3, 4


def heart_disease(request: SourceRequest) -> Examples:
    """Return the patients of the four hospitals; the class is whether there is any disease.

    Missing values are NaN. So are a cholesterol and a blood pressure of 0, which no patient has.
    With fewer clients only the first hospitals are read.

    Raises
    ------
    DataError
        If a file is missing or torn.
    """
    root = (request.data_dir or default_cache()) / FOLDER
    names = HOSPITALS[: request.num_clients]
    tables = [_read(root / f"processed.{name}.data") for name in names]
    rows = np.concatenate(tables)
    features, diagnosis = rows[:, :-1], rows[:, -1]
    for column in (_PRESSURE, _CHOLESTEROL):
        features[features[:, column] == 0, column] = np.nan
    return Examples(
        torch.from_numpy(features).float(),
        torch.from_numpy((diagnosis > 0).astype(np.int64)),
        np.repeat(np.arange(len(tables)), [len(table) for table in tables]),
    )


def _read(path: Path) -> np.ndarray:
    """Return a hospital's rows ``(N, 14)``, float64: features and diagnosis."""
    try:
        lines = path.read_text(encoding="ascii").split("\n")
    except FileNotFoundError as error:
        raise DataError(
            f"heart-disease was not found: there is no {path}. Put the files "
            f"{', '.join(f'processed.{name}.data' for name in HOSPITALS)} of the UCI data set "
            f"'Heart Disease' (archive.ics.uci.edu/dataset/45) into the folder {FOLDER} of the "
            f"data folder, or name another one with data-dir or $PFL_DATA_DIR"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); get it again from UCI") from error
    rows = [_row(line, f"{path}, line {n}") for n, line in enumerate(lines, 1) if line.strip()]
    if len(rows) < 2:
        raise DataError(f"{path} has {len(rows)} patients; it is torn: get it again from UCI")
    return np.array(rows)


def _row(line: str, where: str) -> list[float]:
    """Return the numbers of a line, NaN for a question mark."""
    words = [word.strip() for word in line.split(",")]
    try:
        numbers = [float("nan" if word == "?" else word) for word in words]
    except ValueError:
        numbers = []
    right = len(numbers) == NUM_FEATURES + 1 and np.isfinite(numbers[-1])
    if not right or np.isinf(numbers).any():
        raise DataError(
            f"{where} is not {NUM_FEATURES + 1} numbers or question marks, the last one a number: "
            f"{line[:80]!r}; the file is torn: get it again from UCI"
        )
    return numbers
