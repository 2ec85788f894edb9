"""A personalized model may harm a client; with a safeguard it need not be used."""

import numpy as np

from simulations.study import Arm, Claim, Outcome, Study

MARGIN = 0.02
FALLBACKS = ("fedavg", "local")


def share_harmed(outcome: Outcome, name: str) -> float:
    """Return the share of clients, over all seeds, that are clearly worse off than they could be.

    That is by more than two points of test accuracy below the better of the global model and
    training alone.
    """
    harmed = []
    for own, *others in zip(*(outcome.of(arm) for arm in (name, *FALLBACKS)), strict=True):
        best = np.max([other.accuracy for other in others], axis=0)
        harmed += (own.accuracy < best - MARGIN).tolist()
    return float(np.mean(harmed))


def _claims(outcome: Outcome) -> list[Claim]:
    without, guarded = (share_harmed(outcome, n) for n in ("fedper", "fedper safeguarded"))
    words = f"a safeguard at least halves the share of harmed clients ({without:.0%} without it)"
    return [Claim(words, 1 - guarded / without, 0.5)]


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
    arms=[
        *(Arm(name, {"method": name}) for name in ("fedavg", "local", "fedper")),
        Arm("fedper safeguarded", {"method": "fedper", "safeguard": True}),
    ],
    claims=_claims,
)
