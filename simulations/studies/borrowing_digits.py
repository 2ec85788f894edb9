"""Clients with 2 to 200 examples of their own: how much should each borrow from the others.

Everybody names the digits alike but for two, which everybody swaps in a way of its own. A client's
training pictures are drawn from one pool for all (so two clients may have the same picture), and
all clients are judged on the pictures of another one, named in their own way: however few examples
a client has to train on, its score is as exact as everybody's.
"""

from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from pfl_flower.plots.client_plots import plot_curves
from pfl_flower.results.method_run import MethodRun
from simulations.study import Arm, Claim, Measures, Outcome, Study
from strategies.randomness import generator

TEST_PICTURES = 300
EDGES = (2, 5, 10, 20, 50, 100, 201)
"""Where bins of the number of training examples begin, and where the last one ends."""

BINS = tuple(pairwise(EDGES))
FEW = 20
"""Clients with fewer training examples have most to gain."""

OWN = "hierarchical-bayes"
ENDS = ("local", "fedavg")


@lru_cache(maxsize=1)
def _pictures() -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's digits ``(1797, 1, 8, 8)`` in [0, 1] and their classes, shuffled."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = generator(0, "borrowing-digits").permutation(len(digits.target))
    pictures = (digits.images / 16.0).astype(np.float32)[:, None]
    return pictures[order], digits.target[order].astype(np.int64)


def load(partition_id: int, num_partitions: int) -> Mapping[str, np.ndarray]:
    """Return the two pools: of the first one, the app draws a client its training examples."""
    pictures, classes = _pictures()
    test, rest = slice(TEST_PICTURES), slice(TEST_PICTURES, None)
    return {
        "x_train": pictures[rest],
        "y_train": classes[rest],
        "x_test": pictures[test],
        "y_test": classes[test],
    }


def measure(run: MethodRun) -> Measures:
    """Take how many examples clients train on and, of a prior, what became of it."""
    first = [r for r in run.reports if (r.round, r.phase) == (1, "train")]
    examples = {r.client: int(r.metrics["num-examples"]) for r in first if not r.dropped}
    reported = run.reports[-1].metrics
    names = [name for name in ("calibration-error", "shrinkage") if name in reported]
    return {"examples": examples, **{name: run.by_client(name) for name in names}}


def _pooled(outcome: Outcome, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of examples and the accuracy of every client of every seed."""
    pairs = [
        (result.measures["examples"][client], accuracy)
        for result in outcome.of(name)
        for client, accuracy in sorted(result.by_client.items())
    ]
    examples, accuracy = zip(*pairs, strict=True)
    return np.array(examples), np.array(accuracy)


def accuracy_by_size(outcome: Outcome, name: str) -> list[float]:
    """Return the mean accuracy over the clients of each bin; NaN where there are none."""
    examples, accuracy = _pooled(outcome, name)
    chosen = [(low <= examples) & (examples < high) for low, high in BINS]
    return [float(accuracy[who].mean()) if who.any() else np.nan for who in chosen]


def gain(outcome: Outcome, other: str, low: int, high: int) -> tuple[float, float]:
    """Return the gain over another arm for clients of some sizes, and its standard error.

    Parameters
    ----------
    outcome, other : Outcome and str
        Name of the other arm.
    low, high : int
        Clients with ``low <= n < high`` training examples.

    Returns
    -------
    tuple of float and float
        Mean over clients and seeds of the paired difference; its deviation over the root of their
        number (NaN for fewer than two).
    """
    examples, own = _pooled(outcome, OWN)
    _, others = _pooled(outcome, other)
    found = (own - others)[(low <= examples) & (examples < high)]
    if len(found) < 2:
        return float("nan"), float("nan")
    return float(found.mean()), float(found.std(ddof=1) / np.sqrt(len(found)))


def _claims(outcome: Outcome) -> list[Claim]:
    claims = []
    for low, high in BINS:
        mean, error = min(gain(outcome, end, low, high) for end in ENDS)
        words = f"{low} to {high - 1} examples: gain over the better of local and fedavg"
        claims.append(Claim(f"{words}, plus two standard errors", mean + 2 * error, 0.0))
    for end in ENDS:
        mean, error = gain(outcome, end, 0, FEW)
        words = f"fewer than {FEW} examples: gain over {end}, less two standard errors"
        claims.append(Claim(words, mean - 2 * error, 0.0))
    return claims


def _columns(outcome: Outcome) -> dict[str, dict[str, float]]:
    columns: dict[str, dict[str, float]] = {}
    for name in outcome.names:
        found = accuracy_by_size(outcome, name)
        columns[name] = {
            f"{low}-{high - 1}": value for (low, high), value in zip(BINS, found, strict=True)
        }
        results = outcome.of(name)
        for measured, words in (("calibration-error", "ECE"), ("shrinkage", "shrinkage")):
            if measured in results[0].measures:
                values = [v for r in results for v in r.measures[measured].values()]
                columns[name][words] = float(np.mean(values))
    return columns


def _draw(outcome: Outcome, folder: Path) -> None:
    """Draw accuracy against the amount of data."""
    places = [float(np.log2(np.sqrt(low * (high - 1)))) for low, high in BINS]
    names = [name for name in outcome.names if name != SAMPLED]
    curves = {name: (places, accuracy_by_size(outcome, name)) for name in names}
    label = "log2 of the client's number of training examples"
    title = f"Digits, two of ten names swapped ({len(outcome.seeds)} seeds)"
    plot_curves(curves, folder / "curve.png", label, title)


SAMPLED = f"{OWN}, 20 draws"
ARMS: Mapping[str, Mapping[str, Any]] = {
    "local": {"method": "local"},
    "fedavg": {"method": "fedavg"},
    "fedper": {"method": "fedper"},
    "mr-mtl": {"method": "mr-mtl"},
    "mr-mtl, tau": {"method": "mr-mtl", "tau": 0.3},
    OWN: {"method": OWN},
    SAMPLED: {"method": OWN, "posterior-samples": 20},
}

STUDY = Study(
    name="borrowing-digits",
    question="Clients with 2 to 200 examples: what is it worth to borrow from the others?",
    num_clients=30,
    config={
        "dataset": f"{__name__}:load",
        "heterogeneity": "swap",
        "min-examples": 2,
        "max-examples": 200,
        "validation-fraction": 0.0,
    },
    arms=[Arm(name, config) for name, config in ARMS.items()],
    claims=_claims,
    draw=_draw,
    measure=measure,
    columns=_columns,
)
