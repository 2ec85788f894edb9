"""UCI heart disease: patients of four hospitals as clients, with many missing values.

Detrano et al. 1989, "International application of a new probability algorithm for the diagnosis of
coronary artery disease" (American Journal of Cardiology 64); UCI data set 45. The investigators are
Andras Janosi (Budapest), William Steinbrunn (Zurich), Matthias Pfisterer (Basel) and Robert Detrano
(Long Beach and Cleveland).
"""

from pathlib import Path

import numpy as np
import torch

from pfl_flower.data.errors import DataError
from pfl_flower.data.records import Examples, SourceRequest
from pfl_flower.data.sources.stored import data_folder, not_found

FOLDER = "heart_disease"
HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
"""The clients, in their order."""

NUM_FEATURES = 13
"""Age, sex, type of chest pain, resting blood pressure, cholesterol, fasting blood sugar, resting
electrocardiogram, maximal heart rate, exercise angina, depression of the ST segment and its slope,
number of coloured vessels, and thallium scan."""

_PRESSURE, _CHOLESTEROL = 3, 4


def heart_disease(request: SourceRequest) -> Examples:
    """Return the patients of the four hospitals; class 1 is any heart disease.

    Missing values are NaN. A cholesterol or a blood pressure of 0 counts as missing. With fewer
    clients only the first hospitals are read.

    Parameters
    ----------
    request : SourceRequest
        Its folder holds ``heart_disease``; its number of clients says how many files are read.

    Returns
    -------
    examples : Examples
        Inputs ``(N, 13)`` float32 with NaN, targets ``(N,)`` int64.

    Raises
    ------
    DataError
        If a file is missing or damaged.
    """
    root = data_folder(request) / FOLDER
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
    """Return the rows of a hospital, ``(N, 14)`` float64: 13 features and the diagnosis."""
    try:
        lines = path.read_text(encoding="ascii").split("\n")
    except FileNotFoundError as error:
        files = ", ".join(f"processed.{name}.data" for name in HOSPITALS)
        what = (
            f"the files {files} of the UCI data set 'Heart Disease' "
            f"(archive.ics.uci.edu/dataset/45) into the folder {FOLDER} of the data folder"
        )
        raise not_found("heart-disease", path, what) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read ({error}); download it again from UCI", path=str(path)
        ) from error
    rows = [_row(line, path, number) for number, line in enumerate(lines, 1) if line.strip()]
    if len(rows) < 2:
        raise DataError(
            f"{path} has {len(rows)} patients, so it is damaged; download it again from UCI",
            key="patients",
            value=len(rows),
            path=str(path),
        )
    return np.array(rows)


def _row(line: str, path: Path, number: int) -> list[float]:
    """Return the numbers of a line, NaN for a question mark."""
    words = [word.strip() for word in line.split(",")]
    try:
        numbers = [float("nan" if word == "?" else word) for word in words]
    except ValueError:
        numbers = []
    right = len(numbers) == NUM_FEATURES + 1 and np.isfinite(numbers[-1])
    if not right or np.isinf(numbers).any():
        raise DataError(
            f"line {number} of {path} is {line[:80]!r}; it must hold {NUM_FEATURES + 1} numbers or "
            f"question marks, the last one a number. Download the file again from UCI",
            key="line",
            value=number,
            path=str(path),
        )
    return numbers
