"""What all pictures of a report have in common: width, type, colors and how they are saved."""

import io
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from PIL import Image

matplotlib.use("Agg")  # no screen needed
from matplotlib import pyplot as plt

from pfl_flower.comparison.cells import CellResult
from pfl_flower.comparison.selection import ALONE, BASELINES, GLOBAL, score_name, task_of

WIDTH = 5.4
"""Inches. At this width a text of 10 points is still legible on a phone 390 pixels wide."""

DPI = 170
BASELINE_COLORS = {GLOBAL: "#1a1a1a", ALONE: "#8c8c8c"}
COLORS = [f"C{place}" for place in (0, 1, 2, 3, 4, 5, 6, 8, 9)]
"""Colors of the other methods: tab10 without its grey, which is that of training alone."""

STYLE: Any = {
    **{"font.size": 10, "axes.titlesize": 10.5, "axes.labelsize": 10, "legend.fontsize": 9.5},
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#777777"},
    **{"axes.grid": True, "grid.alpha": 0.25, "axes.axisbelow": True, "legend.frameon": False},
    **{"xtick.color": "#444444", "ytick.color": "#444444", "figure.constrained_layout.use": True},
}


ROLES = {GLOBAL: "global", ALONE: "alone"}
"""What the baselines stand for."""


@dataclass(frozen=True)
class Picture:
    """A picture of the report.

    Attributes
    ----------
    name : str
        Of its file, without ``.png``.
    title : str
        In the report.
    aid : str
        One line on how to read it.
    alt : str
        What is seen, for people who do not see it.
    png : bytes
        The file.
    """

    name: str
    title: str
    aid: str
    alt: str
    png: bytes


def colors_of(cells: Sequence[CellResult]) -> dict[str, str]:
    """Return the color of every method: the same in all pictures of a comparison."""
    names = list(dict.fromkeys(cell.method for cell in cells))
    others = [name for name in names if name not in BASELINES]
    return BASELINE_COLORS | {n: COLORS[i % len(COLORS)] for i, n in enumerate(others)}


def shown_name(method: str) -> str:
    """Return the name of a method in a legend, which says what the baselines are."""
    return f"{method} ({ROLES[method]})" if method in ROLES else method


def score_axis(cells: Sequence[CellResult], whose: str = "") -> str:
    """Return the words on an axis of scores."""
    unit = "" if task_of(cells) == "regression" else ", %"
    return f"test {score_name(cells)}{whose}{unit}"


def scaled(task: str, values: Any) -> np.ndarray:
    """Return scores or gains as they are drawn: in per cent, or as they are for errors."""
    array = np.asarray(values, float)
    array = array if task == "regression" else 100 * array
    return np.where(np.isfinite(array), array, np.nan)


def save(figure: Any) -> bytes:
    """Return the PNG of a figure, and close it.

    256 colors are enough for flat colors and make the file a third as large.
    """
    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png", dpi=DPI)
    plt.close(figure)
    picture = Image.open(full).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    picture.save(small, format="png", optimize=True)
    return small.getvalue()


def in_style() -> AbstractContextManager[None]:
    """Draw in the style of the report while the context lasts."""
    style: AbstractContextManager[None] = plt.rc_context(STYLE)
    return style


def new_figure(height: float) -> tuple[Any, Any]:
    """Return a figure as wide as the report's, and its axes."""
    return plt.subplots(figsize=(WIDTH, height))


def panels(count: int, height: float) -> tuple[Any, list[Any]]:
    """Return a figure of two columns with so many panels that share their axes."""
    columns = 1 if count == 1 else 2
    rows = -(-count // columns)
    size = (WIDTH, 0.5 + height * rows * (1.5 if columns == 1 else 1))
    figure, grid = plt.subplots(
        rows, columns, figsize=size, sharex=True, sharey=True, squeeze=False
    )
    flat = list(grid.ravel())
    for axes in flat[count:]:
        axes.set_visible(False)
    if len(flat) > count:  # the panel above the hole has the numbers of the shared axis
        flat[count - columns].tick_params(labelbottom=True)
    return figure, flat[:count]
