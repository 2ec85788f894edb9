"""Pictures of communities: scores in each, what a message weighs, and how adapters lie."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from numpy.typing import NDArray

from pfl_flower.plots.client_plots import COLORS  # and its backend, which needs no screen
from pfl_flower.plots.clustered import group_color

Floats = NDArray[np.float64]


def principal_plane(vectors: Floats) -> Floats:
    """Return vectors ``(n, d)`` as points ``(n, 2)`` of the plane of their first two components.

    Of each component the entry of largest size, the first of equals, is positive.

    Parameters
    ----------
    vectors : ndarray
        A row each, at least one.
    """
    centred = vectors - vectors.mean(axis=0)
    left, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    points = np.zeros((len(vectors), 2))
    rank = min(2, len(sizes))
    largest = np.abs(axes[:rank]).argmax(axis=1)
    signs = np.where(axes[np.arange(rank), largest] < 0, -1.0, 1.0)
    points[:, :rank] = left[:, :rank] * sizes[:rank] * signs
    return points


def plot_bars(
    bars: Mapping[str, Sequence[float]],
    names: Sequence[str],
    path: Path,
    y_label: str,
    title: str,
) -> None:
    """Draw a group of bars for every name, one bar a method.

    Parameters
    ----------
    bars : mapping of str to sequence of float
        Method -> the height of each of its bars.
    names : sequence of str
        Of the groups, as many as each method has bars.
    path : Path
        Of the PNG.
    y_label, title : str
        Words around the picture.
    """
    figure, axes = plt.subplots(figsize=(8.6, 4.4), layout="constrained")
    places, width = np.arange(len(names)), 0.84 / max(1, len(bars))
    for number, (method, heights) in enumerate(bars.items()):
        left = places - 0.42 + width * (number + 0.5)
        axes.bar(left, heights, 0.92 * width, color=COLORS[number % len(COLORS)], label=method)
    axes.set_xticks(places, names)
    axes.set_ylabel(y_label)
    axes.set_title(title, fontsize=10)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside right upper", fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def plot_adapters(
    clients: Floats, communities: Sequence[int], means: Mapping[int, Floats], path: Path
) -> None:
    """Draw the adapters of clients as dots and those of communities as crosses, in a plane.

    Parameters
    ----------
    clients : ndarray
        ``(n, d)`` adapters of each client, flat.
    communities : sequence of int
        Of each client; -1 for none.
    means : mapping of int to ndarray
        Community -> its adapters, flat ``(d,)``.
    path : Path
        Of the PNG.
    """
    everything = np.concatenate([clients, *(vector[None] for vector in means.values())])
    points = principal_plane(everything)
    dots, crosses = points[: len(clients)], points[len(clients) :]
    figure, axes = plt.subplots(figsize=(6.4, 4.8), layout="constrained")
    for community in sorted(set(communities)):
        mine = dots[np.asarray(communities) == community]
        words = "none" if community < 0 else f"community {community}"
        axes.plot(mine[:, 0], mine[:, 1], "o", color=group_color(community), label=words)
    for community, point in zip(means, crosses, strict=True):
        axes.plot(*point, "X", color=group_color(community), markersize=11, markeredgecolor="black")
    axes.set_xlabel("first principal component")
    axes.set_ylabel("second principal component")
    axes.set_title(
        "Cross: adapters of a community; dot: what a client's next round makes of them", fontsize=10
    )
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)
