"""Wearables of three tiers: some see well, some badly, and all have one truth to learn.

Two studies. Of generated wearables the truth is known, and the question is how far the slopes of
each way to learn from noisy measurements are from it. Of real patients (breast-cancer, to which
errors and gaps are added) the question is how good the model is on good devices and on bad ones,
and what a client costs everybody that lies about its data.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pfl_flower.data import federation
from pfl_flower.data.schema import target_scale
from pfl_flower.data.sources.wearables import SLOPES
from pfl_flower.plots.client_plots import plot_points
from pfl_flower.results.method_run import MethodRun
from simulations.study import Arm, Claim, Measures, Outcome, Study
from strategies.arrays import view

Floats = NDArray[np.float64]

NAIVE, CORRECTED = "fedavg", "errors-in-variables"
TRUTH = np.array(SLOPES)


def measure_slopes(run: MethodRun) -> Measures:
    """Take the slopes that the run ends with, in the unit of the outcome."""
    _, deviation = target_scale(run.config.required_schema)
    first = view(next(iter(run.arrays.values())))[0]  # a layer's weight, or all coefficients
    return {"slopes": (deviation * first[: len(TRUTH)].astype(np.float64)).tolist()}


def slopes_of(outcome: Outcome, arm: str) -> Floats:
    """Return the slopes of an arm, ``(seeds, features)``."""
    return np.array([result.measures["slopes"] for result in outcome.of(arm)])


def mean_bias(outcome: Outcome, arm: str) -> float:
    """Return the bias of the slopes, in absolute value, the mean over features.

    The bias of a slope is the mean over seeds of estimate less truth.
    """
    return float(np.abs(slopes_of(outcome, arm).mean(axis=0) - TRUTH).mean())


def slope_table(outcome: Outcome) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """Return a row for every arm: biases, and the spread of estimates over seeds."""
    rows = []
    for arm in outcome.names:
        found = slopes_of(outcome, arm)
        row: dict[str, Any] = {"method": arm, "mean absolute bias": mean_bias(outcome, arm)}
        row["bias of the first slope"] = float(found[:, 0].mean() - TRUTH[0])
        row["its deviation over seeds"] = float(found[:, 0].std())
        row["mean absolute error"] = float(np.abs(found - TRUTH).mean())
        rows.append(row)
    return {"slopes against the truth": rows}


def _slope_claims(outcome: Outcome) -> list[Claim]:
    naive, corrected = mean_bias(outcome, NAIVE), mean_bias(outcome, CORRECTED)
    words = f"share of the bias of {NAIVE} that {CORRECTED} takes away"
    return [Claim(words, 1 - corrected / naive, 0.9)]


def _draw_slopes(outcome: Outcome, folder: Path) -> None:
    dots = {arm: slopes_of(outcome, arm)[:, 0].tolist() for arm in outcome.names}
    plot_points({"first slope": dots}, folder / "slope.png", "first slope", line=float(TRUTH[0]))


STUDY = Study(
    name="sensors",
    question="Noisy wearables of three tiers: whose slopes are those of the truth?",
    num_clients=20,
    config={
        "dataset": "wearables",
        "partition": "natural",
        "validation-fraction": 0.0,
        "tiers": "4,8,8",
        "noise": "0,0.7,1.4",
        "model": "linear",
        "learning-rate": 0.05,
        "momentum": 0.0,
        "gradient-clip": 0.0,  # the question is what unbiased steps of least squares lead to
    },
    arms=[
        Arm(NAIVE, {"method": "fedavg"}),
        Arm("without bad clients", {"method": "quality-weighted", "least-quality": 0.8}),
        Arm("quality-weighted", {"method": "quality-weighted"}),
        Arm("fedavg, calibrated", {"method": "fedavg", "calibrate-inputs": True}),
        Arm(
            "quality-weighted, calibrated",
            {"method": "quality-weighted", "calibrate-inputs": True},
        ),
        Arm(CORRECTED, {"method": CORRECTED, "num-server-rounds": 1}),
    ],
    claims=_slope_claims,
    draw=_draw_slopes,
    measure=measure_slopes,
    num_seeds=10,
    score="rmse",
    tables=slope_table,
)

# ---------------------------------------------------------------------- good and bad devices

PLAIN, WEIGHTED = "fedavg", "quality-weighted"
TIER_NAMES = ("good", "middling", "bad")
MARGIN = 0.01
"""One point of accuracy."""


def measure_tiers(run: MethodRun) -> Measures:
    """Take every client's tier and whether it lies."""
    devices = federation(run.config.data, run.num_clients).devices
    return {
        "tiers": {client: device.tier for client, device in enumerate(devices)},
        "corrupted-clients": [client for client, device in enumerate(devices) if device.corrupted],
    }


def tier_accuracy(outcome: Outcome, arm: str, tier: int) -> Floats:
    """Return the mean accuracy of the honest clients of a tier, for every seed; NaN without any.

    Parameters
    ----------
    outcome : Outcome
        Of the study.
    arm : str
        Its name.
    tier : int
        Number of the tier; the best is 0.
    """
    found = []
    for result in outcome.of(arm):
        tiers, corrupted_clients = result.measures["tiers"], result.measures["corrupted-clients"]
        values = [
            v
            for c, v in result.by_client.items()
            if tiers[c] == tier and c not in corrupted_clients
        ]
        found.append(float(np.mean(values)) if values else np.nan)
    return np.array(found)


def _lie_cost(outcome: Outcome, honest: str, lied_to: str) -> float:
    """Return the mean accuracy that a corrupted client costs honest clients."""
    costs = []
    for fair, unfair in zip(outcome.of(honest), outcome.of(lied_to), strict=True):
        corrupted_clients = unfair.measures["corrupted-clients"]
        clients = [client for client in fair.by_client if client not in corrupted_clients]
        costs.append(np.mean([fair.by_client[c] - unfair.by_client[c] for c in clients]))
    return float(np.mean(costs))


def _tier_claims(outcome: Outcome) -> list[Claim]:
    gains = [
        float(np.mean(tier_accuracy(outcome, WEIGHTED, t) - tier_accuracy(outcome, PLAIN, t)))
        for t in range(len(TIER_NAMES))
    ]
    cost = _lie_cost(outcome, WEIGHTED, f"{WEIGHTED}, a corrupted client")
    return [
        Claim(f"{WEIGHTED}: gain over {PLAIN} on good devices", gains[0], MARGIN),
        Claim(f"{WEIGHTED}: gain over {PLAIN} on bad devices", gains[-1], 0.0),
        Claim(
            f"{WEIGHTED}: gain of honest clients by a corrupted client among ten", -cost, -MARGIN
        ),
    ]


def _tier_columns(outcome: Outcome) -> dict[str, dict[str, float]]:
    return {
        arm: {
            f"{name} devices": float(np.nanmean(tier_accuracy(outcome, arm, tier)))
            for tier, name in enumerate(TIER_NAMES)
        }
        for arm in outcome.names
    }


def _draw_tiers(outcome: Outcome, folder: Path) -> None:
    dots = {
        f"{name} devices": {a: tier_accuracy(outcome, a, tier).tolist() for a in outcome.names}
        for tier, name in enumerate(TIER_NAMES)
        if name != "middling"
    }
    plot_points(dots, folder / "devices.png", "accuracy")


_METHODS: Mapping[str, Mapping[str, Any]] = {
    "local": {"method": "local"},
    PLAIN: {"method": "fedavg"},
    WEIGHTED: {"method": "quality-weighted"},
}

CLASSES_STUDY = Study(
    name="sensors-classes",
    question="Noisy and missing measurements of patients: how good on good and on bad devices?",
    num_clients=10,
    config={
        "dataset": "breast-cancer",
        "heterogeneity": "none",
        "tiers": "3,3,4",
        "noise": "0,1,4",
        "missing": "0,0.2,0.3",
        "imputation": "mean",
        "validation-fraction": 0.0,
        "test-fraction": 0.4,
        "model": "linear",
        "learning-rate": 0.05,
        "weight-decay": 0.03,
    },
    arms=[
        *(Arm(name, config) for name, config in _METHODS.items()),
        Arm(f"{WEIGHTED}, no update shortened", {"method": WEIGHTED, "update-clip": 0.0}),
        Arm(f"{WEIGHTED}, equal shares", {"method": WEIGHTED, "largest-share": 0.1}),
        *(
            Arm(f"{name}, calibrated", {**_METHODS[name], "calibrate-inputs": True})
            for name in (PLAIN, WEIGHTED)
        ),
        Arm(CORRECTED, {"method": CORRECTED, "num-server-rounds": 1}),
        *(
            Arm(f"{name}, a corrupted client", {**_METHODS[name], "corrupted-clients": 1})
            for name in (PLAIN, WEIGHTED)
        ),
    ],
    claims=_tier_claims,
    draw=_draw_tiers,
    measure=measure_tiers,
    columns=_tier_columns,
    num_seeds=10,
)
