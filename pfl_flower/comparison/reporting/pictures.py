"""The pictures of a report: narrow enough to be read on a phone, crisp enough to be printed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.ticker import MaxNLocator

from pfl_flower.comparison.cells import CellResult
from pfl_flower.comparison.gains import paired_gains
from pfl_flower.comparison.reporting.canvas import (
    Picture,
    colors_of,
    in_style,
    new_figure,
    panels,
    save,
    scaled,
    score_axis,
    shown_name,
)
from pfl_flower.comparison.reporting.lines import draw_curves, draw_traffic, draw_unseen
from pfl_flower.comparison.selection import (
    BASELINES,
    finished,
    known_mean,
    methods_of,
    scores_at_choice,
    task_of,
)
from pfl_flower.comparison.wording import score_text

CLIENTS_SHOWN = 60
"""The heat map has a row for at most so many clients."""


def draw_pictures(cells: Sequence[CellResult]) -> list[Picture]:
    """Draw every picture for which there is something to see.

    Without the baselines there are no gains, without labels no heat map, and without unseen
    clients nothing about them.
    """
    if not methods_of(cells):
        return []
    drawers = (draw_clients, draw_gains, draw_curves, draw_traffic, draw_labels, draw_unseen)
    with in_style():
        pictures = [draw(cells) for draw in drawers]
    return [picture for picture in pictures if picture]


def draw_clients(cells: Sequence[CellResult]) -> Picture:
    """Draw one row per method: sorted dots, one per client and seed, and a bar at the mean."""
    task, colors, methods = task_of(cells), colors_of(cells), methods_of(cells)
    figure, axes = new_figure(1.0 + 0.62 * len(methods))
    for place, method in enumerate(methods):
        scores = [scores_at_choice(cell) for cell in finished(cells, method)]
        values = np.sort(scaled(task, np.concatenate(scores)))
        values = values[~np.isnan(values)]
        if not len(values):
            continue
        heights = place - np.linspace(-0.3, 0.3, len(values)) if len(values) > 1 else [place]
        axes.scatter(values, heights, color=colors[method], alpha=0.55, s=13, linewidth=0)
        mean = values.mean()
        axes.vlines(mean, place - 0.42, place + 0.42, color=colors[method], linewidth=2.5)
        text = score_text(task, float(known_mean(np.concatenate(scores))))
        axes.annotate(text, (1.01, place), xycoords=("axes fraction", "data"), va="center")
    axes.set_yticks(range(len(methods)), [shown_name(m).replace(" ", "\n") for m in methods])
    axes.set_ylim(len(methods) - 0.45, -0.55)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(score_axis(cells, " of each client"))
    return Picture(
        "clients",
        "Every client under every method",
        "A dot is a client of a seed, sorted from bottom to top; the bar and the number are the "
        f"mean. {'Further left' if task == 'regression' else 'Further right'} is better.",
        f"Strip of the {score_axis(cells)} of every client for {', '.join(methods)}.",
        save(figure),
    )


def draw_gains(cells: Sequence[CellResult]) -> Picture | None:
    """Draw a panel a method: gain over the global model against gain over training alone."""
    task, colors = task_of(cells), colors_of(cells)
    points: dict[str, np.ndarray] = {}
    for method in methods_of(cells):
        x, y = (
            {(g.seed, g.client): g.gain for g in paired_gains(cells, method, baseline)}
            for baseline in BASELINES
        )
        both = [(x[key], y[key]) for key in x if key in y]
        if both and method not in BASELINES:
            points[method] = scaled(task, both)
    if not points:
        return None
    figure, spots = panels(len(points), 2.2)
    found = np.concatenate(list(points.values()))
    limit = 1.3 * max(np.nanmax(np.abs(found), initial=0.0), 1e-9)
    for axes, (method, values) in zip(spots, points.items(), strict=True):
        _draw_quadrants(axes, values, limit)
        axes.scatter(*values.T, color=colors[method], alpha=0.65, s=14, linewidth=0)
        axes.set_title(method, color=colors[method], weight="bold")
    unit = "RMSE" if task == "regression" else "points"
    figure.supxlabel(f"gain over the global model, {unit}", fontsize=10)
    figure.supylabel(f"gain over training alone, {unit}", fontsize=10)
    return Picture(
        "gains",
        "Who gains, and who is harmed",
        "A dot is a client of a seed. Up and to the right it gains over both baselines; in the red "
        "corner it would be better off with either of them. The shares are of the clients.",
        f"Gains of every client over both baselines for {', '.join(points)}.",
        save(figure),
    )


def _draw_quadrants(axes: Any, values: np.ndarray, limit: float) -> None:
    """Shade and label the four corners with the share of clients in each."""
    right, up = values[:, 0] >= 0, values[:, 1] >= 0
    corners = {
        (1, 1): ("neither", "#2a9d55", right & up),
        (-1, -1): ("both", "#d1372f", ~right & ~up),
        (-1, 1): ("global", "#e0a030", ~right & up),
        (1, -1): ("alone", "#e0a030", right & ~up),
    }
    for (x, y), (words, color, inside) in corners.items():
        axes.fill_between([0, x * limit], 0, y * limit, color=color, alpha=0.09, linewidth=0)
        sides = {1: "right", -1: "left"}[x], {1: "top", -1: "bottom"}[y]
        spot = (0.97 if x > 0 else 0.03, 0.97 if y > 0 else 0.03)
        text = f"worse than\n{words}: {inside.mean():.0%}"
        axes.text(
            *spot, text, transform=axes.transAxes, ha=sides[0], va=sides[1], fontsize=8.5, zorder=5
        )
    axes.axhline(0, color="#777777", linewidth=0.8)
    axes.axvline(0, color="#777777", linewidth=0.8)
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit))


def draw_labels(cells: Sequence[CellResult]) -> Picture | None:
    """Draw how many training examples of each label the clients of the first seed have."""
    ran = [cell for method in methods_of(cells) for cell in finished(cells, method)]
    ran = sorted((cell for cell in ran if cell.label_counts.size), key=lambda cell: cell.seed)
    if not ran:
        return None
    cell, counts = ran[0], ran[0].label_counts[:CLIENTS_SHOWN]
    height = min(6.5, max(2.4, 1.1 + 0.16 * len(counts)))
    figure, axes = new_figure(height)
    # the square root keeps small counts apart from none
    norm = PowerNorm(0.5, vmin=0, vmax=max(1.0, float(np.nanmax(counts))))
    image = axes.imshow(counts, aspect="auto", cmap="Blues", norm=norm, interpolation="nearest")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    every = max(1, -(-len(cell.labels) // 12))
    long = max(map(len, cell.labels), default=0) > 4
    axes.set_xticks(
        range(0, len(cell.labels), every),
        cell.labels[::every],
        rotation=60 if long else 0,
        ha="right" if long else "center",
        rotation_mode="anchor",
    )
    every = max(1, -(-len(counts) // 20))
    axes.set_yticks(range(0, len(counts), every), cell.clients[: len(counts) : every].tolist())
    axes.set_xlabel("range of the target" if cell.task == "regression" else "class")
    axes.set_ylabel("client")
    bar = figure.colorbar(image, ax=axes, label="training examples", shrink=0.9, aspect=25)
    bar.outline.set_visible(False)
    bar.locator = MaxNLocator(5, integer=True)
    bar.update_ticks()
    total = len(cell.label_counts)
    shown = f"The first {len(counts)} of {total}" if total > len(counts) else f"All {total}"
    return Picture(
        "labels",
        "How the data of the clients differ",
        f"A row is a client; the darker, the more training examples it has. {shown} clients of "
        f"seed {cell.seed}.",
        f"Heat map of training examples: {len(counts)} clients by {len(cell.labels)} labels.",
        save(figure),
    )
