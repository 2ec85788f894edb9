"""The statistics of a comparison: what each method scores, gains and costs.

Choosing a round is in :mod:`pfl_flower.comparison.selection`, comparing with a baseline in
:mod:`pfl_flower.comparison.gains`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pfl_flower.comparison.cells import CellResult
from pfl_flower.comparison.selection import (
    direction,
    finished,
    known_mean,
    mean_at_choice,
    select_round,
    task_of,
)
from pfl_flower.results.spread import spread, worst_tenth

ALL_EXAMPLES = -1
"""How ``unseen_examples`` writes that a client adapted with all its local examples."""


@dataclass(frozen=True)
class Summary:
    """Scores of a method over the clients of all its seeds, in the unit of the score.

    Attributes
    ----------
    mean, std, median : float
        Over clients, each counted once a seed.
    worst_tenth, best_tenth : float
        Mean of the worst and of the best tenth of the clients, at least one each; the worst
        accuracies are the lowest, the worst errors the highest.
    weighted_mean : float
        Weighted by test examples; of errors, the root of the weighted mean square.
    seed_std : float
        Sample standard deviation of the means of the seeds; NaN with one seed.
    r2 : float
        Mean coefficient of determination; NaN for classification.
    clients, missing : int
        Number of pairs of seed and client with a score, and without one.
    """

    mean: float
    std: float
    median: float
    worst_tenth: float
    best_tenth: float
    weighted_mean: float
    seed_std: float
    r2: float
    clients: int
    missing: int


@dataclass(frozen=True)
class MethodSummary:
    """A method over all seeds it ran on.

    Attributes
    ----------
    method, task, seeds : str, str and tuple of int
        What it is of.
    chosen, last : Summary
        Test scores at the round that validation data chose, and after the last round.
    validation_mean : float
        Mean validation score at the chosen rounds; NaN without validation examples.
    rounds : tuple of int
        Chosen round of each seed.
    by_validation : bool
        Whether validation data chose the round on every seed.
    """

    method: str
    task: str
    seeds: tuple[int, ...]
    chosen: Summary
    last: Summary
    validation_mean: float
    rounds: tuple[int, ...]
    by_validation: bool


@dataclass(frozen=True)
class Cost:
    """What a method costs: means over seeds.

    Attributes
    ----------
    bytes_down, bytes_up : float
        Payload of one client in a round.
    shared, personal : float
        Number of values.
    seconds_per_round : float
        Wall-clock.
    rounds : float
        Number of them.
    """

    bytes_down: float
    bytes_up: float
    shared: float
    personal: float
    seconds_per_round: float
    rounds: float


def weighted_mean(scores: np.ndarray, weights: np.ndarray, task: str) -> float:
    """Return the mean weighted by examples; of root mean squared errors, the pooled one.

    Clients without a score or a weight are left out; NaN if nobody remains.
    """
    known = ~np.isnan(scores) & (weights > 0)
    if not known.any():
        return float("nan")
    if task == "regression":
        return float(np.sqrt(np.average(scores[known] ** 2, weights=weights[known])))
    return float(np.average(scores[known], weights=weights[known]))


def summarize_scores(
    scores: Sequence[np.ndarray], weights: Sequence[np.ndarray], r2: np.ndarray, task: str
) -> Summary:
    """Summarize the scores of the clients of all seeds.

    Parameters
    ----------
    scores, weights : sequence of ndarray
        Test scores and numbers of test examples of the clients of each seed.
    r2 : np.ndarray
        Coefficients of determination of any shape.
    task : str
        Decides what is worst.
    """
    values = np.concatenate(scores)
    known = values[~np.isnan(values)]
    sign = direction(task)
    means = np.array([known_mean(each) for each in scores])
    means = means[~np.isnan(means)]
    with np.errstate(invalid="ignore"):  # a diverged client has an infinite error
        oriented = spread(sign * known)
    return Summary(
        mean=sign * oriented["mean"],
        std=oriented["std"],
        median=float(np.median(known)) if len(known) else float("nan"),
        worst_tenth=sign * oriented["worst_tenth"],
        best_tenth=-sign * worst_tenth(-sign * known),
        weighted_mean=weighted_mean(values, np.concatenate(weights), task),
        seed_std=float(means.std(ddof=1)) if len(means) > 1 else float("nan"),
        r2=float(known_mean(r2)),
        clients=len(known),
        missing=len(values) - len(known),
    )


def summarize_method(cells: Sequence[CellResult], method: str) -> MethodSummary | None:
    """Summarize a method over the seeds it ran on; None if it ran on none."""
    own = finished(cells, method)
    if not own:
        return None
    chosen = [select_round(cell) for cell in own]

    def at(places: Sequence[int]) -> Summary:
        pairs = list(zip(own, places, strict=True))
        r2 = [cell.r2[place] for cell, place in pairs if len(cell.r2)]
        return summarize_scores(
            [cell.test[place] for cell, place in pairs],
            [cell.test_examples for cell in own],
            np.concatenate(r2) if r2 else np.zeros(0),
            task_of(own),
        )

    return MethodSummary(
        method=method,
        task=task_of(own),
        seeds=tuple(cell.seed for cell in own),
        chosen=at([index for index, _ in chosen]),
        last=at([-1 for _ in own]),
        validation_mean=mean_at_choice(cells, method, "validation")[0],
        rounds=tuple(int(c.rounds[index]) for c, (index, _) in zip(own, chosen, strict=True)),
        by_validation=all(by_validation for _, by_validation in chosen),
    )


def cost_of(cells: Sequence[CellResult], method: str) -> Cost | None:
    """Return what a method costs; None if it ran on no seed."""
    own = finished(cells, method)
    if not own:
        return None
    return Cost(
        bytes_down=float(np.mean([cell.bytes_down for cell in own])),
        bytes_up=float(np.mean([cell.bytes_up for cell in own])),
        shared=float(np.mean([cell.parameters.get("shared", 0) for cell in own])),
        personal=float(np.mean([cell.parameters.get("personal", 0) for cell in own])),
        seconds_per_round=float(np.mean([cell.seconds_per_round for cell in own])),
        rounds=float(np.mean([cell.rounds.max() for cell in own])),
    )


def unseen_scores(cells: Sequence[CellResult], method: str) -> dict[int, float]:
    """Return the mean score of unseen clients.

    Returns
    -------
    dict of int to float
        Number of local examples they adapted with (-1 for all, last) -> mean over clients and
        seeds.
    """
    found: dict[int, list[np.ndarray]] = {}
    for cell in finished(cells, method):
        for examples, scores in zip(cell.unseen_examples, cell.unseen_test, strict=True):
            found.setdefault(int(examples), []).append(scores)
    order = sorted(found, key=lambda examples: (examples == ALL_EXAMPLES, examples))
    means = {examples: float(known_mean(np.concatenate(found[examples]))) for examples in order}
    return {examples: mean for examples, mean in means.items() if not np.isnan(mean)}
