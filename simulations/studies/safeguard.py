"""A personalized model may harm a client; with a safeguard it need not be used."""

from pathlib import Path

import numpy as np

from pfl_flower.plots.client_plots import plot_curves
from simulations.study import Arm, Claim, Outcome, Study

MARGIN = 0.02
OWN = ("fedper", "fedper safeguarded")
FALLBACKS = ("fedavg", "local")
FRACTION = 0.2
OTHER_FRACTIONS = (0.1, 0.3)
"""Of each client's examples, for validation: a choice is as good as the examples behind it."""


def share_harmed(outcome: Outcome, name: str, point: float | None = None) -> float:
    """Return the share of clients, over all seeds, that are clearly worse off than they could be.

    That is by more than two points of test accuracy below the better of the global model and
    training alone.
    """
    harmed = []
    arms = (outcome.of(arm, point) for arm in (name, *FALLBACKS))
    for own, *others in zip(*arms, strict=True):
        best = np.max([other.accuracy for other in others], axis=0)
        harmed += (own.accuracy < best - MARGIN).tolist()
    return float(np.mean(harmed))


def _claims(outcome: Outcome) -> list[Claim]:
    without, guarded = (share_harmed(outcome, name) for name in OWN)
    words = f"share of harmed clients, {without:.0%} without a safeguard, falls at least by half"
    return [Claim(words, 1 - guarded / without if without else 0.0, 0.5)]


def _draw(outcome: Outcome, folder: Path) -> None:
    points = sorted({FRACTION: None, **{p: p for p in OTHER_FRACTIONS}}.items())
    curves = {
        name: ([f for f, _ in points], [share_harmed(outcome, name, p) for _, p in points])
        for name in OWN
    }
    plot_curves(
        curves,
        folder / "harmed.png",
        "share of each client's examples that is for validation",
        "How many validation examples does a safeguard need?",
        "clients more than 2 points worse off than they could be, %",
    )


def _arms(fraction: float, point: float | None) -> list[Arm]:
    common = {"validation-fraction": fraction}
    methods = ("fedavg", "local", "fedper")
    plain = [Arm(name, {"method": name, **common}, point) for name in methods]
    return [*plain, Arm(OWN[1], {"method": "fedper", "safeguard": True, **common}, point)]


STUDY = Study(
    name="safeguard",
    question="Clients see few classes each: does a safeguard protect those that fedper harms?",
    num_clients=10,
    config={
        "dataset": "digits",
        "partition": "dirichlet",
        "alpha": 0.3,
        "heterogeneity": "none",
    },
    arms=[*_arms(FRACTION, None), *(arm for f in OTHER_FRACTIONS for arm in _arms(f, f))],
    claims=_claims,
    draw=_draw,
)
