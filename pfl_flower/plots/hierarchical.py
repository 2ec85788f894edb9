"""Pictures of hierarchical Bayes: how far the prior draws each client."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib import pyplot as plt

from pfl_flower.plots.client_plots import COLORS


def plot_shrinkage(dots: Mapping[str, Sequence[tuple[int, float, float]]], path: Path) -> None:
    """Draw shrinkage, and the distance from the prior, against training examples: a dot a client.

    Parameters
    ----------
    dots : mapping of str to sequence of tuple of int, float and float
        Method -> (training examples, shrinkage, distance) of each client.
    path : Path
        Of the PNG.
    """
    figure, both = plt.subplots(1, 2, figsize=(9.6, 4.0), layout="constrained")
    labels = ("shrinkage (1: the prior's model, 0: its own)", "distance from the prior's mean")
    for number, (axes, label) in enumerate(zip(both, labels, strict=True), start=1):
        for place, (method, found) in enumerate(dots.items()):
            color = COLORS[place % len(COLORS)]
            x, y = [dot[0] for dot in found], [dot[number] for dot in found]
            axes.scatter(x, y, color=color, alpha=0.75, s=26, label=method)
        axes.set_xscale("log")
        axes.set_xlabel("training examples of the client")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    both[0].set_ylim(-0.02, 1.02)
    both[0].legend(frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)
