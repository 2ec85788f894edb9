"""When a device learns new habits, does it keep the old ones and stay with the group."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pfl_flower.plots.client_plots import plot_curves
from pfl_flower.results.method_run import MethodRun
from pfl_flower.results.streams import phase_curves, stream_scores
from simulations.study import Arm, Claim, Measures, Outcome, Study

ALL_THREE = "all three"
FINE_TUNING = "fine-tuning"
CEILING = "joint"
DETECTED = "all, detected"
"""All three terms, with changes of the habit that nobody announces."""

COLUMNS = ("backward_transfer", "forgetting", "plasticity")
"""Of the table, beside the mean: after the last phase that is the accuracy on all of them."""


def _measure(run: MethodRun) -> Measures:
    """Return each client's scores, and the mean curves of the first and of the phase at hand."""
    found = phase_curves(run).values()
    rounds = max(len(phases) for _, phases in found)
    curves = [curve for curve in found if len(curve[1]) == rounds]  # those never left out
    old = np.mean([accuracies[:, 0] for accuracies, _ in curves], axis=0)
    at_hand = [
        accuracies[np.arange(rounds), phases] if phases.any() else accuracies.mean(axis=1)
        for accuracies, phases in curves  # who has all phases from the start has no other
    ]
    return {
        "scores": stream_scores(run),
        "old": old.tolist(),
        "new": np.mean(at_hand, axis=0).tolist(),
    }


def mean_score(outcome: Outcome, name: str, score: str) -> float:
    """Return an arm's mean over seeds and clients of one of the scores of a stream."""
    by_seed = [
        np.mean([scores[score] for scores in result.measures["scores"].values()])
        for result in outcome.of(name)
    ]
    return float(np.mean(by_seed))


def _columns(outcome: Outcome) -> dict[str, dict[str, float]]:
    return {
        name: {score.replace("_", " "): mean_score(outcome, name, score) for score in COLUMNS}
        for name in outcome.names
    }


def _claims(outcome: Outcome) -> list[Claim]:
    def difference(score: str, other: str) -> float:
        return mean_score(outcome, ALL_THREE, score) - mean_score(outcome, other, score)

    others = [n for n in outcome.names if n not in (ALL_THREE, DETECTED, CEILING)]
    forgotten = mean_score(outcome, FINE_TUNING, "forgetting")
    return [
        Claim(
            "all three terms: share of fine-tuning's forgetting that is prevented",
            -difference("forgetting", FINE_TUNING) / forgotten if forgotten else math.nan,
            0.5,
        ),
        Claim(
            "all three terms: plasticity above fine-tuning's",
            difference("plasticity", FINE_TUNING),
            -0.03,
        ),
        Claim(
            "all three terms: accuracy on all phases above the best but joint training",
            min(difference("average_accuracy", other) for other in others),
            0.0,
        ),
    ]


def _draw(outcome: Outcome, folder: Path) -> None:
    pictures = {
        "old": "What is left of the first habit, while new ones are learnt",
        "new": "How well the habit at hand is known",
    }
    for key, title in pictures.items():
        curves = {}
        for name in outcome.names:
            mean = np.mean([result.measures[key] for result in outcome.of(name)], axis=0)
            curves[name] = (range(1, len(mean) + 1), mean.tolist())
        plot_curves(curves, folder / f"{key}.png", "round", title)


def _lifelong(**settings: Any) -> dict[str, Any]:
    return {"method": "lifelong", **settings}


_ARMS = [
    Arm(FINE_TUNING, _lifelong(**{"lambda": 0.0, "mu": 0.0})),
    Arm("proximal", _lifelong(**{"lambda": 0.0})),
    Arm("Fisher", _lifelong(mu=0.0)),
    Arm(ALL_THREE, _lifelong()),
    Arm("local", {"method": "local"}),
    Arm("fedavg", {"method": "fedavg"}),
    Arm(CEILING, _lifelong(phases="joint")),
]

_CONFIG = {
    "partition": "natural",
    "num-server-rounds": 45,
    "learning-rate": 0.05,
    "momentum": 0.0,
    "batch-size": 16,
}

STUDY = Study(
    name="smartwatch",
    question="Habits change: can a device learn the new, keep the old and stay with the group?",
    num_clients=8,
    config={"dataset": "smartwatch", **_CONFIG},
    arms=[*_ARMS, Arm(DETECTED, _lifelong(**{"task-changes": "detected"}))],
    claims=_claims,
    draw=_draw,
    measure=_measure,
    columns=_columns,
)

REAL_STUDY = replace(
    STUDY,
    name="smartwatch-real",
    question="The same on real watches (WISDM, from $PFL_DATA_DIR); it promises nothing",
    num_clients=10,
    config={"dataset": "wisdm", **_CONFIG},
    arms=_ARMS,
    claims=lambda outcome: [],
)
