"""What makes a picture matter differs by person."""

from pathlib import Path

from pfl_flower.plots.client_plots import plot_curves
from simulations.study import Arm, Claim, Outcome, Study

SIZES = (20, 50, 100, 150)
CURVE = ("personal-se", "local")


def _claims(outcome: Outcome) -> list[Claim]:
    return [
        outcome.above("personal-se", "fedavg", 0.30),
        outcome.above("personal-se", "fedper", 0.30),
    ]


def _draw(outcome: Outcome, folder: Path) -> None:
    curves = {
        name: (SIZES, [float(outcome.means(name, size).mean()) for size in SIZES]) for name in CURVE
    }
    title = "Where does the personal SE block pass training alone?"
    plot_curves(curves, folder / "examples.png", "training examples of every client", title)


STUDY = Study(
    name="gallery",
    question="Each client cares about one of three digits: does a personal SE block help?",
    num_clients=12,
    config={
        "dataset": "gallery",
        "partition": "natural",
        "heterogeneity": "interest",
        "min-examples": 20,
        "max-examples": 150,
        "validation-fraction": 0.05,
        "model": "se-cnn",
        "norm": "none",
        "batch-size": 16,
        "learning-rate": 0.05,
        "num-server-rounds": 40,
    },
    arms=[
        *(Arm(name, {"method": name}) for name in ("fedavg", "local", "fedper", "personal-se")),
        *(
            Arm(name, {"method": name, "min-examples": size, "max-examples": size}, size)
            for size in SIZES
            for name in CURVE
        ),
    ],
    claims=_claims,
    draw=_draw,
)
