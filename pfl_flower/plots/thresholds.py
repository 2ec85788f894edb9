"""Pictures of decision thresholds: what they are worth, and where they lie."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")  # no screen needed
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from pfl_flower.plots.client_plots import COLORS
from strategies.thresholds.search import EDGES, histogram


def plot_rules(values: Mapping[str, np.ndarray], path: Path, score: str, method: str) -> None:
    """Draw every client's score under every rule: a dot a client, a bar at the mean.

    Parameters
    ----------
    values : mapping of str to ndarray
        Rule -> score of each client, in [0, 1].
    path : Path
        Of the PNG.
    score, method : str
        Words around the picture.
    """
    figure, axes = plt.subplots(figsize=(1.6 + 1.1 * len(values), 4.2), layout="constrained")
    for place, found in enumerate(values.values()):
        if not len(found):
            continue
        ordered, color = np.sort(100 * found), COLORS[place % len(COLORS)]
        spots = place + np.linspace(-0.25, 0.25, len(ordered)) if len(ordered) > 1 else [place]
        axes.scatter(spots, ordered, color=color, alpha=0.75, s=22, zorder=3)
        axes.hlines(ordered.mean(), place - 0.35, place + 0.35, color=color, linewidth=2.5)
        words = f"{ordered.mean():.1f}"
        axes.annotate(words, (place + 0.2, ordered.mean()), (2, 3), textcoords="offset points")
    axes.set_xticks(range(len(values)), list(values), rotation=20)
    axes.set_ylim(0, 105)
    axes.set_ylabel(f"{score} of each client, %")
    axes.set_title(f"{method}: a dot is a client, a bar the mean over clients", fontsize=10)
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


@dataclass(frozen=True, eq=False)
class Scored:
    """The scores of one client, and where its thresholds lie.

    Attributes
    ----------
    title : str
        Of its picture.
    scores, labels : ndarray
        ``(N,)`` of its examples.
    thresholds : mapping of str to float
        Rule -> threshold.
    """

    title: str
    scores: np.ndarray
    labels: np.ndarray
    thresholds: Mapping[str, float]


def plot_histograms(clients: Sequence[Scored], path: Path) -> None:
    """Draw the scores of both classes of some clients, one below the other, with thresholds."""
    figure, every = plt.subplots(
        len(clients), 1, figsize=(7.2, 2.1 * len(clients)), layout="constrained", sharex=True
    )
    for axes, client in zip(np.atleast_1d(every), clients, strict=True):
        counts = histogram(client.scores, client.labels).reshape(2, -1, 5).sum(axis=2)
        left, width = EDGES[::5], 5 * EDGES[1]
        for row, words in ((1, "healthy"), (0, "ill")):
            axes.bar(left, counts[row], width, align="edge", alpha=0.55, label=words)
        for place, (rule, threshold) in enumerate(client.thresholds.items(), start=2):
            axes.axvline(threshold, color=COLORS[place], linewidth=1.8, label=rule)
        axes.set_title(client.title, fontsize=9)
        axes.set_ylabel("patients")
        axes.spines[["top", "right"]].set_visible(False)
    np.atleast_1d(every)[-1].set_xlabel("score")
    handles, labels = np.atleast_1d(every)[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside right upper", fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def plot_operating_points(clients: Sequence[Scored], path: Path) -> None:
    """Draw the curve of precision and recall of some clients, with a mark at every threshold."""
    figure, every = plt.subplots(
        1, len(clients), figsize=(3.4 * len(clients), 3.6), layout="constrained", sharey=True
    )
    for axes, client in zip(np.atleast_1d(every), clients, strict=True):
        _draw_operating_points(axes, client)
    np.atleast_1d(every)[0].set_ylabel("precision")
    handles, labels = np.atleast_1d(every)[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=6, fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _draw_operating_points(axes: Axes, client: Scored) -> None:
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(client.labels, client.scores)
    axes.plot(recall[:-1], precision[:-1], color="0.6", linewidth=1.2)
    ill = client.labels.astype(bool)
    for place, (rule, threshold) in enumerate(client.thresholds.items(), start=2):
        called = client.scores >= threshold
        if not called.any():
            continue
        point = (called & ill).sum() / ill.sum(), (called & ill).sum() / called.sum()
        axes.plot(*point, "o", color=COLORS[place], markersize=7, label=rule)
    axes.set_title(client.title, fontsize=9)
    axes.set_xlabel("recall")
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.3)
