"""Which method validation data choose: one that beats always answering the same, or none."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pfl_flower.comparison.cells import CellResult
from pfl_flower.comparison.gains import Comparison, compare
from pfl_flower.comparison.selection import (
    ALONE,
    BASELINES,
    GLOBAL,
    Examples,
    constants_of,
    direction,
    diverged,
    finished,
    mean_at_choice,
    methods_of,
    select_round,
    task_of,
)
from pfl_flower.methods import METHODS

Kind = Literal["global", "alone", "personalized", "none"]


@dataclass(frozen=True)
class Choice:
    """What validation data chose: a method, and the best alternative.

    Attributes
    ----------
    kind : Kind
        One model for all, every client alone, a personalized model each, or none.
    method : str
        Name of the method; empty for the kind "none".
    candidate : str
        Best method on validation data beside the baselines; empty without any. For the kind "none"
        the best of all methods.
    """

    kind: Kind
    method: str
    candidate: str


def choose(cells: Sequence[CellResult]) -> Choice | None:
    """Choose a method by validation scores.

    The choice is None if no baseline finished, or if there are no validation scores. Only a method
    can be chosen that clearly beats always answering the same, and whose training did not diverge.
    (An earlier round may be good, but the run ends with the last one.) Among these the
    baseline is the global model, unless training alone is clearly better; another method is chosen
    if it is clearly better than both baselines, or if neither of them can be chosen.
    """
    there = baselines_of(cells)
    own = [cell for cell in cells if not cell.safeguarded]
    validated = any(select_round(c)[1] for m in methods_of(own) for c in finished(own, m))
    if not there or not validated:
        return None
    fit = [m for m in methods_of(own) if beats_constants(cells, m) and not has_diverged(cells, m)]
    if not fit:
        return Choice("none", "", _best(cells, methods_of(own)))
    others = [method for method in methods_of(own) if method not in BASELINES]
    candidate = _best(cells, [name for name in others if name in fit] or others)
    bases = [name for name in there if name in fit]
    better = clearly_better(cells, candidate, "validation") or not bases
    if candidate in fit and better:
        return Choice(_kind_of(cells, candidate), candidate, candidate)
    alone = compare(cells, ALONE, GLOBAL, "validation")
    if GLOBAL not in bases or (ALONE in bases and alone and alone.clearly_better):
        return Choice("alone", ALONE, candidate)
    return Choice("global", GLOBAL, candidate)


def baselines_of(cells: Sequence[CellResult]) -> list[str]:
    """Return the baselines that ran."""
    return [name for name in BASELINES if finished(cells, name)]


def beats_constants(cells: Sequence[CellResult], method: str) -> bool:
    """Return whether a method is clearly better than always answering the same, where known."""
    gains = (compare(cells, method, name, "validation") for name in constants_of(cells))
    return all(gain is not None and gain.clearly_better for gain in gains)


def has_diverged(
    cells: Sequence[CellResult], method: str, examples: Examples = "validation"
) -> bool:
    """Return whether the training of a method diverged on a seed."""
    return any(diverged(cell, examples) for cell in finished(cells, method))


def best_constant(cells: Sequence[CellResult], examples: Examples) -> str:
    """Return which way of always answering the same is best; empty where none is known."""
    sign = direction(task_of(cells))
    means = {name: sign * mean_at_choice(cells, name, examples)[0] for name in constants_of(cells)}
    known = {name: mean for name, mean in means.items() if not math.isnan(mean)}
    return max(known, key=lambda name: known[name], default="")


def hardest_constant(cells: Sequence[CellResult], method: str) -> str:
    """Return which way of always answering the same a method beats least surely; empty if none."""
    gains = {name: compare(cells, method, name, "validation") for name in constants_of(cells)}
    bounds = {name: gain.low for name, gain in gains.items() if gain and not math.isnan(gain.low)}
    least = min(bounds, key=lambda name: bounds[name], default="")
    return least or best_constant(cells, "validation")


def _best(cells: Sequence[CellResult], methods: Sequence[str]) -> str:
    """Return the method with the best mean validation score; empty without any.

    Taken as the mean gain over always answering the same, or else over a baseline, so that a method
    that could not run on a seed is neither helped nor hurt by how easy that seed is. (A baseline
    may have diverged: of errors of 1e17 differences are lost in rounding.)
    """
    reference = (constants_of(cells) or baselines_of(cells))[0]
    found = {method: compare(cells, method, reference, "validation") for method in methods}
    # a mean of infinite losses and gains is no number, and would be the maximum of anything
    means = {m: gain.mean for m, gain in found.items() if gain and not math.isnan(gain.mean)}
    means |= {reference: 0.0} if reference in methods else {}
    return max(means, key=lambda method: means[method], default="")


def gains_of(cells: Sequence[CellResult], method: str, examples: Examples) -> list[Comparison]:
    """Compare a method with each of the baselines that ran and is another method."""
    found = (compare(cells, method, name, examples) for name in baselines_of(cells))
    return [comparison for comparison in found if comparison]


def clearly_better(cells: Sequence[CellResult], method: str, examples: Examples) -> bool:
    """Return whether a method is clearly better than all baselines that ran."""
    gains = gains_of(cells, method, examples)
    return len(gains) == len(baselines_of(cells)) and all(gain.clearly_better for gain in gains)


def is_undecided(cells: Sequence[CellResult], choice: Choice) -> bool:
    """Return whether the best other method could well be better than the one that was chosen.

    The interval of its validation gain reaches beyond a point of accuracy, or a fiftieth of the
    error of the chosen one.
    """
    gain = choice.candidate and compare(cells, choice.candidate, choice.method, "validation")
    if not gain:
        return False
    error = abs(mean_at_choice(cells, choice.method, "validation")[0])
    return gain.high > (error / 50 if task_of(cells) == "regression" else 0.01)


def _kind_of(cells: Sequence[CellResult], method: str) -> Kind:
    personal = any(cell.parameters.get("personal", 0) for cell in finished(cells, method))
    tuned = method in METHODS and METHODS[method].fine_tunes
    return "personalized" if personal or tuned else "global"
