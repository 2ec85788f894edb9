"""When a device learns new habits, does it keep the old ones and stay with the group."""

from pathlib import Path
from typing import Any

import numpy as np

from pfl_flower.method_run import MethodRun
from pfl_flower.plots import plot_curves
from pfl_flower.stream_scores import phase_curves, stream_scores
from simulations.study import Arm, Claim, Measures, Outcome, Study

ALL_THREE = "all three"
FINE_TUNING = "fine-tuning"
CEILING = "joint"
COLUMNS = {
    "average_accuracy": "all phases",
    "backward_transfer": "transfer",
    "forgetting": "forgetting",
    "plasticity": "plasticity",
}


def _measure(run: MethodRun) -> Measures:
    """Return each client's scores, and the mean curves of the first and of the phase at hand."""
    curves = list(phase_curves(run).values())
    old = np.mean([accuracies[:, 0] for accuracies, _ in curves], axis=0)
    at_hand = [accuracies[np.arange(len(phases)), phases] for accuracies, phases in curves]
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
    names = {result.arm.name: None for result in outcome.results}
    return {
        name: {words: mean_score(outcome, name, score) for score, words in COLUMNS.items()}
        for name in names
    }


def _claims(outcome: Outcome) -> list[Claim]:
    found = _columns(outcome)
    mine, plain = found[ALL_THREE], found[FINE_TUNING]
    others = [
        row["all phases"]
        for name, row in found.items()
        if not name.startswith(ALL_THREE) and name != CEILING
    ]
    return [
        Claim(
            "all three terms: share of fine-tuning's forgetting that is prevented",
            1 - mine["forgetting"] / plain["forgetting"],
            0.5,
        ),
        Claim(
            "all three terms: plasticity above fine-tuning's",
            mine["plasticity"] - plain["plasticity"],
            -0.03,
        ),
        Claim(
            "all three terms: accuracy on all phases above the best but joint training",
            mine["all phases"] - max(others),
            0.0,
        ),
    ]


def _draw(outcome: Outcome, folder: Path) -> None:
    names = list(dict.fromkeys(result.arm.name for result in outcome.results))
    pictures = {
        "old": "What is left of the first habit, while new ones are learnt",
        "new": "How well the habit at hand is known",
    }
    for key, title in pictures.items():
        curves = {}
        for name in names:
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
    arms=[*_ARMS, Arm("all three, changes detected", _lifelong(**{"task-changes": "detected"}))],
    claims=_claims,
    draw=_draw,
    measure=_measure,
    columns=_columns,
)

REAL_STUDY = Study(
    name="smartwatch-real",
    question="The same on real watches (WISDM, from $PFL_DATA_DIR); it promises nothing",
    num_clients=10,
    config={"dataset": "wisdm", **_CONFIG},
    arms=_ARMS,
    claims=lambda outcome: [],
    draw=_draw,
    measure=_measure,
    columns=_columns,
)
