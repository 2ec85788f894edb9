"""What a method gives each client beyond a baseline, and how sure that is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import wilcoxon

from pfl_flower.comparison.cells import CellResult
from pfl_flower.comparison.selection import Examples, direction, finished, scores_at_choice
from strategies.randomness import generator

RESAMPLES = 10_000
BLOCK = 2_000_000
"""At most so many draws at once, which keeps the bootstrap below 50 MB."""

SEEDS_FOR_A_TEST = 6
"""With fewer pairs the signed-rank test cannot reach p < 0.05, whatever the gains."""


@dataclass(frozen=True)
class ClientGain:
    """What one client of one seed gains; positive is better for it, whatever the score."""

    seed: int
    client: int
    gain: float


@dataclass(frozen=True)
class Comparison:
    """A method against a baseline on the clients and seeds that both have.

    Attributes
    ----------
    method, baseline : str
        What is compared, each at its own chosen round.
    seeds : tuple of int
        That both ran on.
    clients : int
        Number of pairs of seed and client.
    mean : float
        Mean gain over the pairs; positive is better.
    low, high : float
        95% interval of the mean gain, see :func:`bootstrap_interval`.
    share_worse : float
        Part of the pairs with a gain below zero, in [0, 1].
    harmed : tuple of ClientGain
        Those pairs, the worst first.
    p_value : float or None
        Two-sided Wilcoxon signed-rank test of the mean gains of the seeds; None with fewer than 6
        seeds.
    """

    method: str
    baseline: str
    seeds: tuple[int, ...]
    clients: int
    mean: float
    low: float
    high: float
    share_worse: float
    harmed: tuple[ClientGain, ...]
    p_value: float | None

    @property
    def clearly_better(self) -> bool:
        """Whether the whole interval is above zero."""
        return self.low > 0

    @property
    def clearly_worse(self) -> bool:
        """Whether the whole interval is below zero."""
        return self.high < 0


def paired_gains(
    cells: Sequence[CellResult], method: str, baseline: str, examples: Examples = "test"
) -> list[ClientGain]:
    """Return the gain of every client on every seed that both methods ran on.

    A client whose score is missing under one of them is left out.

    Returns
    -------
    list of ClientGain
        By seed and client; in the unit of the score, positive where the method is better.
    """
    others = {cell.seed: cell for cell in finished(cells, baseline)}
    found = []
    for cell in finished(cells, method):
        if cell.seed not in others:
            continue
        other = others[cell.seed]
        theirs, own = (
            dict(zip(c.clients.tolist(), scores_at_choice(c, examples).tolist(), strict=True))
            for c in (other, cell)
        )
        for client in sorted(own.keys() & theirs.keys()):
            gain = direction(cell.task) * (own[client] - theirs[client])
            if not math.isnan(gain):
                found.append(ClientGain(cell.seed, client, gain))
    return found


def bootstrap_interval(groups: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return the 95% interval of the mean gain by a hierarchical bootstrap.

    A resample draws as many seeds as there are, with replacement, and within each drawn seed as
    many clients as it has, with replacement; the interval runs from the 2.5th to the 97.5th
    percentile of the means of 10,000 resamples. With one seed only clients are drawn. The
    generator is always the same one, so equal gains have an equal interval.

    Source: Davison and Hinkley 1997, Bootstrap Methods and their Application, section 3.8.

    Parameters
    ----------
    groups : sequence of ndarray
        Gains of the clients of each seed, none empty.
    """
    sizes = np.array([len(group) for group in groups])
    padded = np.zeros((len(groups), sizes.max()))
    for place, group in enumerate(groups):
        padded[place, : len(group)] = group
    draw = generator(0, "bootstrap")
    block = max(1, BLOCK // padded.size)
    means = []
    for start in range(0, RESAMPLES, block):
        count = min(block, RESAMPLES - start)
        seeds = draw.integers(len(groups), size=(count, len(groups)))
        counts = sizes[seeds]
        clients = (draw.random((*seeds.shape, sizes.max())) * counts[..., None]).astype(int)
        drawn = np.arange(sizes.max()) < counts[..., None]
        gains = np.where(drawn, padded[seeds[..., None], clients], 0.0)
        means.append(gains.sum(axis=(1, 2)) / counts.sum(axis=1))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


def signed_rank(gains: np.ndarray) -> float | None:
    """Return the two-sided p of the Wilcoxon signed-rank test; None with fewer than 6 gains.

    Parameters
    ----------
    gains : ndarray
        Mean gain of each seed.
    """
    if len(gains) < SEEDS_FOR_A_TEST or not np.isfinite(gains).all():
        return None
    return float(wilcoxon(gains).pvalue) if gains.any() else 1.0


def compare(
    cells: Sequence[CellResult], method: str, baseline: str, examples: Examples = "test"
) -> Comparison | None:
    """Compare a method with a baseline; None with itself, or if they share no client."""
    gains = [] if method == baseline else paired_gains(cells, method, baseline, examples)
    if not gains:
        return None
    seeds = sorted({gain.seed for gain in gains})
    groups = [np.array([g.gain for g in gains if g.seed == seed]) for seed in seeds]
    with np.errstate(invalid="ignore"):  # a diverged client has an infinite error
        mean = float(np.mean([gain.gain for gain in gains]))
        low, high = bootstrap_interval(groups)
        p_value = signed_rank(np.array([group.mean() for group in groups]))
    harmed = sorted((g for g in gains if g.gain < 0), key=lambda g: (g.gain, g.seed, g.client))
    return Comparison(
        method=method,
        baseline=baseline,
        seeds=tuple(seeds),
        clients=len(gains),
        mean=mean,
        low=low,
        high=high,
        share_worse=len(harmed) / len(gains),
        harmed=tuple(harmed),
        p_value=p_value,
    )
