"""What a client with few examples gains by borrowing from all the others, as its data grow.

Two studies, of generated data, whose truth is known, and of real ones. The method is run as it is;
beside it, on the same clients' data, stand least squares of each client alone (*local*; the
shortest solution where there are fewer examples than coefficients), least squares of everybody's
examples (*pooled*) and, where the truth is known, the posterior under the true prior (*oracle*),
which no method beats on average.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pfl_flower.data import ClientData, federation
from pfl_flower.data.schema import target_scale
from pfl_flower.data.sources.mixed_effects import Truth, mixed_effects_truth
from pfl_flower.plots.client_plots import plot_errors
from pfl_flower.results.method_run import MethodRun
from simulations.study import Arm, Claim, Measures, Outcome, Study
from strategies.arrays import view
from strategies.hierarchical.linear_arrays import prior_of
from strategies.hierarchical.mixed_effects import Moments, Prior, moments, pooled, posterior, stack

Floats = NDArray[np.float64]

METHOD = "hierarchical-linear"
RIVALS = ("local", "pooled")
FEW = 20
"""Training examples; whoever has fewer has the most to gain."""

PLANTED_SIZES = (2, 4, 8, 16, 32, 64, 201)
SITE_SIZES = (2, 5, 10, 20, 40, 400)
"""Bounds of the bins of data sizes."""


def _clients(run: MethodRun) -> list[ClientData]:
    data = federation(run.config.data, run.num_clients)
    return [data.client(client, run.config.schema) for client in range(run.num_clients)]


def _design(inputs: Any) -> Floats:
    return np.column_stack([inputs.double().numpy(), np.ones(len(inputs))])


def _shortest(own: Moments) -> Floats:
    """Return the least squares solution, the shortest one where there are many."""
    found: Floats = np.linalg.pinv(own.gram, rcond=1e-10, hermitian=True) @ own.cross
    return found


def estimates(run: MethodRun, clients: Sequence[ClientData]) -> tuple[dict[str, Floats], Moments]:
    """Return every client's coefficients by each estimator, ``(clients, d)``, and its moments.

    In the units in which clients train, where targets have deviation 1.
    """
    own = [moments(_design(c.train[0]), c.train[1].double().numpy()) for c in clients]
    everybody = stack(own)
    prior = prior_of({name: view(array) for name, array in run.arrays.items()})
    together = _shortest(pooled(everybody))
    found = {
        "local": np.array([_shortest(each) for each in own]),
        "pooled": np.tile(together, (len(own), 1)),
        METHOD: posterior(everybody, prior).mean,
    }
    return found, everybody


def scaled(truth: Truth, mean: float, deviation: float) -> tuple[Prior, Floats]:
    """Return the true prior and the clients' coefficients where targets are standardised.

    Parameters
    ----------
    truth : Truth
        In the units of the raw targets.
    mean, deviation : float
        That were taken from, and divided into, the raw targets.
    """
    intercept = np.zeros_like(truth.mean)
    intercept[-1] = mean
    none = np.zeros_like(truth.covariance)
    noise = truth.noise / deviation**2
    centre = (truth.mean - intercept) / deviation
    prior = Prior(centre, truth.covariance / deviation**2, none, noise, noise)
    return prior, (truth.coefficients - intercept) / deviation


def measure_generated(run: MethodRun) -> Measures:
    """Take every client's number of examples, squared and excess errors, and interval coverage."""
    clients = _clients(run)
    found, own = estimates(run, clients)
    truth = mixed_effects_truth(run.config.seed, len(clients))
    mean, deviation = target_scale(run.config.required_schema)
    prior, wanted = scaled(truth, mean, deviation)
    found["oracle"] = posterior(own, prior).mean
    misses = {name: deviation * (values - wanted) for name, values in found.items()}
    return {
        "examples": own.examples.tolist(),
        "errors": {name: (miss**2).sum(axis=1).tolist() for name, miss in misses.items()},
        "excess": {
            name: np.einsum("ni,ij,nj->n", miss, truth.inputs, miss).tolist()
            for name, miss in misses.items()
        },
        "coverage": run.values("interval-coverage").tolist(),
    }


def measure_sites(run: MethodRun) -> Measures:
    """Take every client's number of examples and mean squared error on its test examples."""
    clients = _clients(run)
    found, own = estimates(run, clients)
    _, deviation = target_scale(run.config.required_schema)
    errors: dict[str, list[float]] = {name: [] for name in found}
    for client, data in enumerate(clients):
        design, targets = _design(data.test[0]), data.test[1].double().numpy()
        for name, values in found.items():
            misses = deviation * (design @ values[client] - targets)
            errors[name].append(float((misses**2).mean()))
    coverage = run.values("interval-coverage").tolist()
    return {"examples": own.examples.tolist(), "errors": errors, "coverage": coverage}


# ---------------------------------------------------------------------- what came of it


def gathered(outcome: Outcome, arm: str, what: str = "errors") -> tuple[Floats, dict[str, Floats]]:
    """Return the numbers of examples and each estimator's errors, of all clients of all seeds."""
    results = outcome.of(arm)
    sizes = np.concatenate([r.measures["examples"] for r in results])
    names = results[0].measures[what]
    return sizes, {n: np.concatenate([r.measures[what][n] for r in results]) for n in names}


def standard_errors(gains: Floats) -> float:
    """Return the mean of paired gains in its own standard errors; NaN of fewer than two."""
    if len(gains) < 2:
        return float("nan")
    mean, deviation = float(gains.mean()), float(gains.std(ddof=1))
    return mean / (deviation / np.sqrt(len(gains))) if deviation else float(np.sign(mean) * np.inf)


def table(outcome: Outcome, arm: str, bounds: Sequence[int]) -> list[dict[str, Any]]:
    """Return a row for every bin of data sizes: mean errors, and what is gained on each rival.

    Gains are in standard errors, over seeds and clients.
    """
    sizes, errors = gathered(outcome, arm)
    rows = []
    for low, high in pairwise(bounds):
        inside = (sizes >= low) & (sizes < high)
        if not inside.any():
            continue
        row: dict[str, Any] = {"examples": f"{low} to {high - 1}", "clients": int(inside.sum())}
        row |= {name: float(values[inside].mean()) for name, values in errors.items()}
        for rival in RIVALS:
            gains = (errors[rival] - errors[METHOD])[inside]
            row[f"gain on {rival} (se)"] = standard_errors(gains)
        rows.append(row)
    return rows


def never_below(outcome: Outcome, arm: str, bounds: Sequence[int]) -> Claim:
    """Claim that at no data size the method is two standard errors worse than a rival."""
    rows = table(outcome, arm, bounds)
    held = [row[f"gain on {rival} (se)"] >= -2.0 for row in rows for rival in RIVALS]
    words = "data sizes and rivals at which it is not worse by two standard errors"
    return Claim(f"{arm}: {words}", float(np.mean(held)), 1.0)


def _draw(outcome: Outcome, folder: Path, bounds: Sequence[int], y_label: str) -> None:
    for place, arm in enumerate(outcome.names):
        sizes, errors = gathered(outcome, arm)
        bins = [(sizes >= a) & (sizes < b) for a, b in pairwise(bounds)]
        bins = [inside for inside in bins if inside.any()]
        x = [float(np.exp(np.log(sizes[inside]).mean())) for inside in bins]
        curves = {n: (x, [float(v[inside].mean()) for inside in bins]) for n, v in errors.items()}
        name = "curve.png" if not place else f"curve-{place + 1}.png"
        seeds = len(outcome.seeds)
        plot_errors(curves, folder / name, f"{arm} ({seeds} seeds)", y_label)


def _tables(outcome: Outcome, bounds: Sequence[int]) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    return {f"{arm}: mean squared errors": table(outcome, arm, bounds) for arm in outcome.names}


def _coverage(outcome: Outcome, arm: str) -> float:
    """Return the share of test targets in their 90 % interval, the mean over clients."""
    return float(np.mean(np.concatenate([r.measures["coverage"] for r in outcome.of(arm)])))


def _generated_claims(outcome: Outcome) -> list[Claim]:
    _, errors = gathered(outcome, METHOD)
    _, excess = gathered(outcome, METHOD, "excess")
    coverage = _coverage(outcome, METHOD)
    known = {
        name: float(of["oracle"].mean() / of[METHOD].mean())
        for name, of in (("squared error", errors), ("excess prediction error", excess))
    }
    return [
        never_below(outcome, METHOD, PLANTED_SIZES),
        *(Claim(f"{name}: the oracle's, beside its own", v, 1 / 1.05) for name, v in known.items()),
        Claim("90 % intervals: test targets inside, at least 87 %", coverage, 0.87),
        Claim("90 % intervals: test targets outside, at least 7 %", 1 - coverage, 0.07),
    ]


def _site_claims(outcome: Outcome) -> list[Claim]:
    sizes, errors = gathered(outcome, METHOD)
    few = sizes < FEW
    gains = {rival: (errors[rival] - errors[METHOD])[few] for rival in RIVALS}
    return [
        never_below(outcome, METHOD, SITE_SIZES),
        *(
            Claim(
                f"clients with fewer than {FEW} examples: error saved, of that of {rival}",
                float(gain.mean() / errors[rival][few].mean()),
                0.0,
            )
            for rival, gain in gains.items()
        ),
    ]


STUDY = Study(
    name="borrowing",
    question="Linear models with a common prior: what do clients gain, from 2 to 200 examples?",
    num_clients=100,
    config={
        "dataset": "mixed-effects",
        "partition": "natural",
        "min-examples": 2,
        "max-examples": 200,
        "validation-fraction": 0.0,
        "method": METHOD,
        "protocol": "one-shot",
        "num-server-rounds": 1,
    },
    arms=[Arm(METHOD, {})],
    claims=_generated_claims,
    draw=partial(_draw, bounds=PLANTED_SIZES, y_label="mean squared error of the coefficients"),
    measure=measure_generated,
    num_seeds=10,
    score="rmse",
    tables=partial(_tables, bounds=PLANTED_SIZES),
)

DIABETES_STUDY = replace(
    STUDY,
    name="borrowing-diabetes",
    question="Real patients at sites that differ by something nobody notes: what is borrowed?",
    num_clients=30,
    config={
        "dataset": "diabetes-sites",
        "partition": "natural",
        "validation-fraction": 0.0,
        "method": METHOD,
        "protocol": "one-shot",
        "num-server-rounds": 1,
    },
    arms=[
        Arm(METHOD, {"covariance": "diagonal"}),
        # 55 values from 30 sites are too many; shown to say so
        Arm(f"{METHOD}, full covariance", {"covariance": "full"}),
    ],
    claims=_site_claims,
    draw=partial(_draw, bounds=SITE_SIZES, y_label="mean squared test error"),
    measure=measure_sites,
    tables=partial(_tables, bounds=SITE_SIZES),
)
