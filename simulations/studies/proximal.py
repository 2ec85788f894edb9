"""How strong should the proximal term be, between training alone and one model for all."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pfl_flower.comparison.gains import bootstrap_interval
from pfl_flower.plots.client_plots import plot_strengths
from pfl_flower.results.method_run import MethodRun
from simulations.study import Arm, Claim, Measures, Outcome, Study

FEDERATIONS: Mapping[str, Mapping[str, Any]] = {
    "dirichlet": {"partition": "dirichlet", "alpha": 0.1, "heterogeneity": "none"},
    "mild-taste": {"partition": "iid", "heterogeneity": "swap"},
}
"""Name -> run-config keys: clients with few classes each; clients that swap two of ten names."""

STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
ENDS = {"local": 0.0, "fedavg": math.inf}
"""Training alone is lambda = 0 and FedAvg infinity, bit for bit."""


def _name(method: str, federation: str) -> str:
    return f"{method}, {federation}"


def _measure(run: MethodRun) -> Measures:
    chosen = run.by_client("lambda") if run.config.row.local_model else {}
    return {"validation": float(np.mean(run.values("validation-accuracy"))), "lambda": chosen}


def chosen_inside(outcome: Outcome, federation: str) -> list[float]:
    """Return, for every seed, the inner lambda with the best mean validation accuracy."""
    name = _name("ditto", federation)
    found = np.array([[r.measures["validation"] for r in outcome.of(name, s)] for s in STRENGTHS])
    return [STRENGTHS[place] for place in found.argmax(axis=0)]


def gains(outcome: Outcome, federation: str, end: str) -> list[np.ndarray]:
    """Return, for every seed, each client's gain of the chosen inner lambda over an end."""
    name = _name("ditto", federation)
    chosen = chosen_inside(outcome, federation)
    own = [outcome.of(name, strength)[seed] for seed, strength in enumerate(chosen)]
    others = outcome.of(_name(end, federation))
    return [mine.accuracy - other.accuracy for mine, other in zip(own, others, strict=True)]


def _means(outcome: Outcome, federation: str) -> dict[float, float]:
    """Return lambda -> mean accuracy over seeds, the ends included."""
    inner = {s: outcome.means(_name("ditto", federation), s).mean() for s in STRENGTHS}
    ends = {s: outcome.means(_name(end, federation)).mean() for end, s in ENDS.items()}
    return {s: float(mean) for s, mean in {**inner, **ends}.items()}


def _claims(outcome: Outcome) -> list[Claim]:
    claims = []
    for federation in FEDERATIONS:
        for end in ENDS:
            found = gains(outcome, federation, end)
            words = f"{federation}: the inner lambda that validation chooses, above {end}"
            mean = float(np.mean([seed.mean() for seed in found]))
            claims.append(Claim(f"{words}, on average", mean, 0.01))
            low = bootstrap_interval(found)[0]
            claims.append(Claim(f"{words}, lower end of the 95% interval", low, 0.0))
    for federation in FEDERATIONS:
        auto = outcome.means(_name("ditto auto", federation)).mean()
        best = max(_means(outcome, federation).values())
        words = f"{federation}: lambda=auto, next to the best lambda for all"
        claims.append(Claim(words, float(auto - best), -0.01))
    return claims


def _draw(outcome: Outcome, folder: Path) -> None:
    for federation in FEDERATIONS:
        auto = outcome.of(_name("ditto auto", federation))
        chosen = [s for r in auto for s in r.measures["lambda"].values()]
        # the middle of what clients chose, where the axis can show it
        middle = float(np.clip(np.median(chosen), STRENGTHS[0], STRENGTHS[-1]))
        accuracy = float(np.mean([result.accuracy.mean() for result in auto]))
        plot_strengths(
            {s: outcome.means(_name("ditto", federation), s).tolist() for s in STRENGTHS},
            {end: float(outcome.means(_name(end, federation)).mean()) for end in ENDS},
            ("auto, at the median choice", middle, accuracy),
            folder / f"{federation}.png",
            f"How strong a proximal term? ({federation}, {len(outcome.seeds)} seeds)",
        )


def _arms(federation: str) -> list[Arm]:
    config = FEDERATIONS[federation]
    ends = [Arm(_name(end, federation), {"method": end, **config}) for end in ENDS]
    ditto: dict[str, Any] = {"method": "ditto", **config}
    auto = Arm(_name("ditto auto", federation), {**ditto, "lambda": "auto"})
    name = _name("ditto", federation)
    return [*ends, auto, *(Arm(name, {**ditto, "lambda": s}, s) for s in STRENGTHS)]


STUDY = Study(
    name="proximal",
    question="Own models around a shared one: how strong should the proximal term be?",
    num_clients=10,
    config={
        "dataset": "digits",
        # a quarter of each client's examples to train on, the rest to judge by
        "validation-fraction": 0.25,
        "test-fraction": 0.5,
    },
    arms=[arm for federation in FEDERATIONS for arm in _arms(federation)],
    claims=_claims,
    draw=_draw,
    measure=_measure,
    num_seeds=10,
)
