"""Pictures that a person would want to look at."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")  # no screen needed
from matplotlib import pyplot as plt

COLORS = [f"C{place}" for place in range(10)]
MANY = 6
"""With more lines than these, a picture has its legend beside it."""


def plot_clients(scores: Mapping[str, np.ndarray], path: Path, score: str = "accuracy") -> None:
    """Draw every client's score under every method: a dot a client, a bar at the mean.

    Parameters
    ----------
    scores : mapping of str to ndarray
        Method -> score of each client.
    path : Path
        Of the PNG.
    score : str, default "accuracy"
        ``"accuracy"`` or ``"auc"`` in [0, 1], or ``"rmse"`` in units of the target.
    """
    percent = score != "rmse"
    methods = list(scores)
    figure, axes = plt.subplots(
        figsize=(max(4.6, 1.6 + 1.5 * len(methods)), 4.2), layout="constrained"
    )
    for place, method in enumerate(methods):
        values = np.asarray(scores[method], dtype=float)
        values = np.sort((100 if percent else 1) * values[~np.isnan(values)])
        if not len(values):
            continue
        spots = place + np.linspace(-0.28, 0.28, len(values)) if len(values) > 1 else [place]
        color = COLORS[place % len(COLORS)]
        axes.scatter(spots, values, color=color, alpha=0.75, s=26, zorder=3)
        mean = values.mean()
        axes.hlines(mean, place - 0.38, place + 0.38, color=color, linewidth=2.5)
        words = f"{mean:.1f}" if percent else f"{mean:.3g}"
        axes.annotate(words, (place + 0.38, mean), (2, -3), textcoords="offset points")
    axes.set_xticks(range(len(methods)), methods)
    axes.set_xlim(-0.6, len(methods) - 0.2)
    axes.set_ylim(0, 105 if percent else None)
    words = f"{score} of each client, %" if percent else "error (rmse) of each client"
    axes.set_ylabel(f"test {words}")
    axes.set_title("A dot is a client, a bar the mean over clients", fontsize=10)
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def plot_points(
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    path: Path,
    label: str,
    line: float | None = None,
) -> None:
    """Draw a value of every seed by method, one panel beside the other: a dot a seed, a bar.

    Parameters
    ----------
    panels : mapping of str to mapping of str to sequence of float
        Title -> method -> a value for every seed; those that are not finite are left out.
    path : Path
        Of the PNG.
    label : str
        What the values are.
    line : float, optional
        Where the truth is, if it is known.
    """
    figure, axes = plt.subplots(
        1, len(panels), figsize=(2.5 + 4.5 * len(panels), 4.2), layout="constrained", squeeze=False
    )
    for place, (title, methods) in enumerate(panels.items()):
        panel = axes[0, place]
        for row, (color, values) in enumerate(zip(_colors(methods), methods.values(), strict=True)):
            known = np.asarray(values)[np.isfinite(values)]
            panel.scatter(known, np.full(len(known), row), color=color, alpha=0.6, s=24, zorder=3)
            if len(known):
                panel.vlines(known.mean(), row - 0.35, row + 0.35, color=color, linewidth=2.5)
        if line is not None:
            panel.axvline(line, color="black", linestyle="--", linewidth=1)
        panel.set_yticks(range(len(methods)), list(methods) if not place else [""] * len(methods))
        panel.invert_yaxis()
        panel.set_xlabel(label + (" (dashed: the truth)" if line is not None else ""))
        panel.set_title(f"{title}: a dot is a seed, a bar their mean", fontsize=10)
        panel.grid(axis="x", alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _colors(methods: Mapping[str, Sequence[float]]) -> list[str]:
    return [COLORS[place % len(COLORS)] for place in range(len(methods))]


def plot_curves(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    path: Path,
    x_label: str,
    title: str,
    y_label: str = "mean test accuracy over clients, %",
) -> None:
    """Draw one line a method.

    Parameters
    ----------
    curves : mapping of str to tuple of sequence of float and sequence of float
        Method -> (x values, fractions in [0, 1]).
    path : Path
        Of the PNG.
    x_label, title, y_label : str
        Words around the picture.
    """
    shown = {name: (x, (100 * np.asarray(y)).tolist()) for name, (x, y) in curves.items()}
    _plot_lines(shown, path, x_label, y_label, title)


def plot_errors(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    path: Path,
    title: str,
    y_label: str,
) -> None:
    """Draw errors against the number of training examples, one line a method, both axes log.

    Parameters
    ----------
    curves : mapping of str to tuple of sequence of float and sequence of float
        Method -> (numbers of examples, errors), above zero.
    path : Path
        Of the PNG.
    title, y_label : str
        Words around the picture.
    """
    _plot_lines(curves, path, "training examples of the client", y_label, title, "log")


def _plot_lines(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    path: Path,
    x_label: str,
    y_label: str,
    title: str,
    scale: str = "linear",
) -> None:
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    for place, (method, (x, y)) in enumerate(curves.items()):
        color = COLORS[place % len(COLORS)]
        axes.plot(x, y, marker="o", markersize=4, color=color, label=method)
    axes.set_xscale(scale)
    axes.set_yscale(scale)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    if len(curves) > MANY:  # their names would hide them
        figure.set_size_inches(8.6, 4.2)
        figure.legend(frameon=False, loc="outside right upper", fontsize=8)
    else:
        axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def plot_strengths(
    curve: Mapping[float, Sequence[float]],
    ends: Mapping[str, float],
    point: tuple[str, float, float],
    path: Path,
    title: str,
) -> None:
    """Draw accuracy against the strength of a proximal term, between its two ends.

    Parameters
    ----------
    curve : mapping of float to sequence of float
        Strength, above zero and finite -> accuracy of every seed, fractions.
    ends : mapping of str to float
        Name of each end -> accuracy.
    point : tuple of str, float and float
        Name, strength and accuracy of a single point.
    path : Path
        Of the PNG.
    title : str
        Words above.
    """
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    strengths = sorted(curve)
    means = 100 * np.array([np.mean(curve[s]) for s in strengths])
    spread = 100 * np.array([np.std(curve[s]) for s in strengths])
    axes.fill_between(strengths, means - spread, means + spread, alpha=0.2, linewidth=0)
    axes.plot(strengths, means, marker="o", markersize=4, label="one lambda for all")
    for place, (name, accuracy) in enumerate(ends.items(), start=1):
        axes.axhline(100 * accuracy, color=COLORS[place], linestyle="--", label=name)
    name, strength, accuracy = point
    color = COLORS[len(ends) + 1]
    axes.plot([strength], [100 * accuracy], "*", markersize=13, color=color, label=name)
    axes.set_xscale("log")
    axes.set_xlabel("lambda (band: deviation over seeds)")
    axes.set_ylabel("mean test accuracy over clients, %")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)
