"""Pictures of which clients are alike: a heat map, a tree and a map of them.

Of methods that measure similarity (``gradient-clusters``, communities by updates); ``cfl`` and
``ifca`` have none to draw.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from pfl_flower.plots.client_plots import COLORS  # and its backend, which needs no screen

Matrix = NDArray[np.floating[Any]]
Ints = Sequence[int]
GROUP_COLORS = [color for color in COLORS if color != "C7"]  # which is grey
AROUND = np.array([(1, 0), (0, 1), (0, -1), (-1, 0), (0.7, 0.7), (0.7, -0.7), (-0.7, 0.7)])
HEAT = "Cosine similarity of every two clients (fewer examples, lower), by group"
TREE = "Clients joined by average linkage, the most alike lowest"
MAP = "A dot is a client, near the clients it is like"
MARKERS = "os^DvP"  # the next each time the colours start again
NO_GROUP, MIXED = "0.55", "0.25"  # greys: of clients in no group, of links between groups


def group_color(group: int) -> str:
    """Return the colour of a group; grey for -1."""
    return NO_GROUP if group < 0 else GROUP_COLORS[group % len(GROUP_COLORS)]


def group_name(group: int) -> str:
    """Return what a picture calls a group; ``"none"`` for -1."""
    return "none" if group < 0 else f"group {group}"


def order_by_group(clients: Ints, groups: Ints) -> NDArray[np.intp]:
    """Return the places of the clients by group, then by number, those in no group last."""
    return np.lexsort((np.asarray(clients), np.asarray(groups), np.asarray(groups) < 0))


def classical_scaling(similarity: Matrix) -> NDArray[np.float64]:
    """Place clients in a plane, as nearly as may be at the distances of unit vectors.

    Unit vectors of cosine similarity s are sqrt(2 (1 - s)) apart. In each axis the coordinate
    of largest size, the first of equals, is positive.

    Parameters
    ----------
    similarity : Matrix
        Cosine similarity of every two clients, shape (n, n).

    Returns
    -------
    ndarray
        Points, shape (n, 2), their mean at zero and the wider axis first.
    """
    squared = np.clip(2 * (1 - np.asarray(similarity, dtype=np.float64)), 0, None)
    np.fill_diagonal(squared, 0)
    center = np.eye(len(squared)) - 1 / len(squared)
    values, vectors = np.linalg.eigh(-center @ squared @ center / 2)
    points = (vectors * np.sqrt(np.clip(values, 0, None)))[:, :-3:-1]  # eigh's are rising
    points = np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
    sizes = np.abs(points)
    largest = np.argmax(sizes >= (1 - 1e-9) * sizes.max(axis=0), axis=0)
    return points * np.where(points[largest, [0, 1]] < 0, -1, 1)


def plot_similarity(
    similarity: Matrix, clients: Ints, groups: Ints, path: Path, title: str = HEAT
) -> None:
    """Draw a heat map, group by group; its diagonal is grey and not in the colours' scale.

    Parameters
    ----------
    similarity : Matrix
        Cosine similarity of every two clients, shape (n, n).
    clients : Ints
        Number of each client.
    groups : Ints
        Group of each client, -1 for none.
    path : Path
        Of the PNG.
    title : str, default HEAT
        Words above.
    """
    n, order = len(clients), order_by_group(clients, groups)
    values = np.array(similarity, dtype=np.float64)[np.ix_(order, order)]
    np.fill_diagonal(values, np.nan)
    limit = np.abs(values[~np.eye(n, dtype=bool)]).max(initial=0) or 1
    figure, axes = plt.subplots(figsize=(7.4, 6.2), layout="constrained")
    image = axes.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    figure.colorbar(image, ax=axes, shrink=0.8, label="cosine similarity")
    names = [str(clients[place]) for place in order] if n <= 40 else []
    axes.set_xticks(range(len(names)), names, rotation=90 if n > 15 else 0)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0, labelsize=8 if n <= 30 else 7)
    axes.set(xlabel="client", ylabel="client", facecolor="0.8")
    _mark_groups(axes, [groups[place] for place in order])
    _save(figure, axes, path, title)


def plot_dendrogram(
    similarity: Matrix, clients: Ints, groups: Ints, path: Path, title: str = TREE
) -> None:
    """Draw the tree of average linkage, from the same as `plot_similarity`.

    A link has the colour of a group if all below are of it.
    """
    n, leaves = len(clients), [0]
    figure, axes = plt.subplots(figsize=(np.clip(2.2 + n / 5, 6.4, 16), 4.2), layout="constrained")
    if n > 1:
        from scipy.cluster.hierarchy import dendrogram, linkage  # slow to import

        distances = 1 - np.asarray(similarity, dtype=np.float64)[np.triu_indices(n, 1)]
        links = linkage(np.clip(distances, 1e-9, None), "average")  # 0 has no scale
        below = [{group} for group in groups]  # the groups below a node: the leaves come first
        for one, other in links[:, :2].astype(int):
            below.append(below[one] | below[other])
        colors = [group_color(min(b)) if len(b) == 1 else MIXED for b in below]
        leaves = dendrogram(links, ax=axes, link_color_func=colors.__getitem__)["leaves"]
        low, high = links[0, 2], links[-1, 2]
        room = max(0.1 * (high - low), 0.02)
        axes.set_ylim(max(0, low - 2 * room), high + room)
    axes.set_xticks(range(5, 10 * n, 10), [str(clients[leaf]) for leaf in leaves])  # scipy's places
    axes.tick_params(axis="x", length=0, labelsize=min(8, 900 / n), rotation=90 if n > 15 else 0)
    for label, leaf in zip(axes.get_xticklabels(), leaves, strict=True):
        label.set(color=group_color(groups[leaf]), fontweight="bold")
    axes.set(xlabel="client", ylabel="1 - cosine similarity", xlim=(0, 10 * n))
    _add_legend(figure, groups, dots=False)
    _save(figure, axes, path, title)


def plot_map(
    similarity: Matrix, clients: Ints, groups: Ints, examples: Ints, path: Path, title: str = MAP
) -> None:
    """Draw `classical_scaling`, the dots' area by examples, the rest as `plot_similarity`.

    Where no numbers of examples are known all dots are alike.
    """
    examples = examples if len(examples) else [1] * len(clients)
    figure, axes = plt.subplots(figsize=(7.4, 5.4), layout="constrained")
    sizes = np.sqrt(np.maximum(160 * np.asarray(examples) / max(*examples, 1), 10))  # in points
    points, rising = classical_scaling(similarity), np.argsort(examples, kind="stable")
    for place in rising[::-1]:  # the small ones last, on top
        axes.plot(*points[place], **_dot(groups[place], sizes[place]), alpha=0.85)
    axes.set_aspect("equal", adjustable="datalim")
    axes.grid(alpha=0.3)
    axes.set(xlabel="first axis of classical scaling", ylabel="second axis")
    _add_legend(figure, groups, dots=True)
    shown = {examples[p]: _dot(-1, sizes[p]) for p in rising[[0, len(rising) // 2, -1]]}
    dots = [Line2D([], [], label=f"{count}", **style) for count, style in shown.items()]
    figure.legend(handles=dots, title="examples", frameon=False, loc="outside right lower")
    figure.draw_without_rendering()  # so that the axes have their place
    offsets = _beside(axes.transData.transform(points) * 72 / figure.dpi, sizes)
    style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7.5}
    for client, point, offset in zip(clients, points, offsets, strict=True):
        axes.annotate(f"{client}", point, offset, textcoords="offset points", **style)
    _save(figure, axes, path, title)


def _dot(group: int, size: float) -> dict[str, Any]:
    """Return the style of a group's dot, of a diameter in points."""
    marker = MARKERS[max(group, 0) // len(GROUP_COLORS) % len(MARKERS)]
    edge = {"markeredgecolor": "white", "markeredgewidth": 0.6, "linestyle": ""}
    return {"marker": marker, "markersize": size, "color": group_color(group), **edge}


def _beside(points: Matrix, sizes: Matrix) -> Matrix:
    """Return from each dot to where its name has most room, in points of the page."""
    taken, radii = points, sizes / 2
    for place, point in enumerate(points):
        spots = point + AROUND * (radii[place] + 6)
        room = (np.linalg.norm(spots[:, None] - taken, axis=2) - radii).min(axis=1)
        best = spots[np.argmax(room.round(6))]
        taken, radii = np.vstack([taken, best]), np.append(radii, 5)  # of what is written
    return taken[len(points) :] - points


def _add_legend(figure: Figure, groups: Ints, dots: bool) -> None:
    """Name the groups beside a picture, by dots or lines, each with its number of clients."""
    handles = []
    for group in sorted(set(groups), key=lambda group: (group < 0, group)):
        style = _dot(group, 7) if dots else {"color": group_color(group), "linewidth": 3}
        label = f"{group_name(group)} ({list(groups).count(group)})"
        handles.append(Line2D([], [], label=label, **style))
    columns = 1 + (len(handles) - 1) // 14
    figure.legend(handles=handles, loc="outside right upper", frameon=False, ncols=columns)


def _mark_groups(axes: Axes, groups: Ints) -> None:
    """Draw lines between the groups of a heat map's rows, and their names at its right."""
    edges = [0, *(np.flatnonzero(np.diff(groups)) + 1).tolist(), len(groups)]
    across = axes.get_yaxis_transform()  # across in widths of the map, down in rows
    for start, end in pairwise(edges):
        color, name = group_color(groups[start]), group_name(groups[start])
        axes.axhline(start - 0.5, color="black", linewidth=0.8)
        axes.axvline(start - 0.5, color="black", linewidth=0.8)
        axes.vlines(1.015, start - 0.4, end - 0.6, color, lw=4, transform=across, clip_on=False)
        axes.text(1.03, (start + end - 1) / 2, name, color=color, va="center", transform=across)
    axes.set(xlim=(-0.5, len(groups) - 0.5), ylim=(len(groups) - 0.5, -0.5))


def _save(figure: Figure, axes: Axes, path: Path, title: str) -> None:
    """Write the picture, with a title, and a frame if it is a heat map, and forget it."""
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(bool(axes.images))
    figure.savefig(path, dpi=130)
    plt.close(figure)
