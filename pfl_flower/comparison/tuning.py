"""Tuning of a comparison: as many settings for every method, chosen on validation examples."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from pfl_flower.comparison.cells import Cell, CellResult
from pfl_flower.comparison.selection import direction, diverged, evaluated, select_round
from pfl_flower.config.errors import ConfigError
from pfl_flower.config.run_config import RunConfig
from pfl_flower.methods import METHODS

if TYPE_CHECKING:
    from pfl_flower.comparison.compare import Comparison

TRIALS = 9
"""Settings that tuning tries for every method: as many for one with a strength of its own."""

_FACTORS = 10.0 ** np.linspace(-3, 1, TRIALS)
"""Learning rates over that of the run config. Half a decade apart: what suits images can be a
hundred times too much for a table, whose squared errors have steep slopes."""


def grid_of(
    method: str, learning_rate: float, given: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Return the settings that tuning tries: :data:`TRIALS` learning rates from 1/1000 to 10 times.

    A method with a strength of its own (:attr:`Method.strengths`) has its three values in turn, so
    that each is tried over three orders of magnitude, and the number of trials is that of the
    others. What the user gave stays as it is; where that is more than a learning rate, the strength
    is not tried (it may say the same in another way, as ``lambda`` and ``tau`` do).

    Parameters
    ----------
    method : str
        Name of the method.
    learning_rate : float
        That of the run config.
    given : mapping of str to object, optional
        Run keys that the user set for this method.
    """
    own = dict(given or {})
    key, values = next(iter(METHODS[method].strengths.items()), ("", ()))
    if own.keys() - {"learning-rate"}:
        values = ()
    trials = []
    for place, factor in enumerate(_FACTORS):
        settings: dict[str, Any] = {"learning-rate": float(f"{learning_rate * factor:.3g}")}
        if values:  # the learning rate of the run config has the middle value
            settings[key] = values[(place + 1) % len(values)]
        trials.append(settings | own)
    return [settings for place, settings in enumerate(trials) if settings not in trials[:place]]


def tune(
    comparison: "Comparison", run: Callable[[Sequence[Cell], str], list[CellResult]]
) -> dict[str, dict[str, Any]]:
    """Return method -> settings with the best validation score on the first seed.

    A method none of whose settings has a score, or of which all diverged, is left out.

    Parameters
    ----------
    comparison : Comparison
        What is compared.
    run : callable
        (cells, title) -> their results, in their order.
    """
    rate, seed = comparison.base.learning_rate, comparison.seeds[0]
    trials = [
        (method, settings)
        for method in comparison.all_methods
        for settings in grid_of(method, rate, comparison.settings.get(method))
        if _is_allowed(comparison.cell(method, seed, settings))
    ]
    results = run([comparison.cell(m, seed, settings) for m, settings in trials], "tuning")
    tuned: dict[str, dict[str, Any]] = {}
    best: dict[str, tuple[int, float]] = {}
    for (method, settings), result in zip(trials, results, strict=True):
        score = validation_score(result)
        if score > best.get(method, (0, -math.inf)):
            used = comparison.cell(method, seed, settings).config.keys()
            best[method] = score
            tuned[method] = {key: value for key, value in settings.items() if key in used}
    return tuned


def _is_allowed(cell: Cell) -> bool:
    """Whether settings go together; a strength can be too much for a learning rate."""
    with suppress(ConfigError):
        RunConfig.parse(cell.config)
        return True
    return False


def validation_score(result: CellResult) -> tuple[int, float]:
    """Return how good a cell is at its chosen round, by its validation scores; more is better.

    First the number of clients that were evaluated (with settings under which some cannot be any
    more, a mean over the others flatters), then the mean score. (0, minus infinity) if the cell
    failed or diverged, or there are no validation examples.
    """
    nothing = 0, -math.inf
    if result.failure or diverged(result, "validation"):
        return nothing
    place, by_validation = select_round(result)
    if not by_validation:
        return nothing
    scores = result.validation[place]
    return int(evaluated(result)[place]), direction(result.task) * float(np.nanmean(scores))
