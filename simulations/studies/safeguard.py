"""A personalized model may harm a client; with a safeguard it need not be used."""

from pathlib import Path

import numpy as np

from pfl_flower.comparison.gains import bootstrap_interval
from pfl_flower.plots.client_plots import plot_curves
from simulations.study import Arm, Claim, Outcome, Study

MARGIN = 0.02
OWN = ("fedper", "fedper safeguarded")
FALLBACKS = ("fedavg", "local")
FRACTION = 0.2
OTHER_FRACTIONS = (0.1, 0.3)
"""Of each client's examples, for validation: a choice is as good as the examples behind it."""


def harmed(outcome: Outcome, name: str, point: float | None = None) -> list[np.ndarray]:
    """Return for each seed which clients are clearly worse off than they could be, as 0 and 1.

    That is by more than two points of test accuracy below the better of the global model and
    training alone.
    """
    arms = (outcome.of(arm, point) for arm in (name, *FALLBACKS))
    return [
        (own.accuracy < np.max([o.accuracy for o in others], axis=0) - MARGIN).astype(float)
        for own, *others in zip(*arms, strict=True)
    ]


def share_harmed(outcome: Outcome, name: str, point: float | None = None) -> float:
    """Return the share of harmed clients over all seeds."""
    return float(np.mean(np.concatenate(harmed(outcome, name, point))))


def _claims(outcome: Outcome) -> list[Claim]:
    without, guarded = (share_harmed(outcome, name) for name in OWN)
    pairs = zip(*(harmed(outcome, name) for name in OWN), strict=True)
    low, _ = bootstrap_interval([plain - chosen for plain, chosen in pairs])
    words = (
        f"harmed clients: {guarded:.0%} with a safeguard, {without:.0%} without; at least 1% fewer "
        f"at the lower end of the paired 95% interval"
    )
    return [Claim(words, low, 0.01)]


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
    reading="*Harmed* is a client whose test accuracy is more than two points below the better of "
    "the global model and its own training alone. A client chooses by a fifth of its examples, "
    "which often say little: part of the harmed clients stay harmed.",
)
