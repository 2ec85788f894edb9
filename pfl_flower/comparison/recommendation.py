"""Which method to use, chosen on validation data alone, and what test data say about it."""

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
    client_name,
    direction,
    finished,
    known_mean,
    mean_at_choice,
    methods_of,
    select_round,
    task_of,
)
from pfl_flower.comparison.wording import (
    BASELINE_NAMES,
    counted,
    gain_words,
    harm_words,
    listed,
    score_words,
)
from pfl_flower.methods import METHODS

DIVERGED = -1.0
"""Below this coefficient of determination a regression has come to nothing."""

NAMED = 5
"""At most so many harmed clients are named."""

Kind = Literal["global", "alone", "personalized", "none"]


@dataclass(frozen=True)
class Recommendation:
    """What to do, and why.

    Attributes
    ----------
    kind : Kind
        One model for all, every client alone, a personalized model each, or nothing that can be
        recommended.
    method : str
        Its name; empty for the kind "none".
    sentences : tuple of str
        What to do, why on validation data, and then the evidence of the test data.
    """

    kind: Kind
    method: str
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Choice:
    """What validation data chose: a method, and what else stood to be chosen.

    Attributes
    ----------
    kind, method : Kind and str
        As in :class:`Recommendation`.
    candidate : str
        Best method on validation data beside the baselines; empty without any.
    """

    kind: Kind
    method: str
    candidate: str


def recommend(cells: Sequence[CellResult]) -> Recommendation:
    """Recommend a method; the choice is made on validation data only.

    The baseline is the global model, unless training alone is clearly better. The candidate is
    the best other method; it is recommended if it is clearly better than both baselines, else
    the baseline is. Clearly better: the 95% interval of the mean gain lies above zero.
    """
    choice = choose(cells)
    if choice is None:
        first, *others = _describe_only(cells)
        return Recommendation("none", "", (first, *_warnings(cells), *others))
    sentences = (
        _headline(cells, choice),
        *_warnings(cells),
        *_reasons(cells, choice),
        *_evidence(cells, choice),
    )
    return Recommendation(choice.kind, choice.method, sentences)


def choose(cells: Sequence[CellResult]) -> Choice | None:
    """Choose a method by validation scores; None without a baseline or without such scores."""
    there = _baselines(cells)
    validated = any(select_round(c)[1] for m in methods_of(cells) for c in finished(cells, m))
    if not there or not validated:
        return None
    alone = compare(cells, ALONE, GLOBAL, "validation")
    best = ALONE if GLOBAL not in there or (alone and alone.clearly_better) else GLOBAL
    candidate = _candidate(cells)
    if candidate and _clearly_better(cells, candidate, "validation"):
        return Choice(_kind_of(cells, candidate), candidate, candidate)
    return Choice("alone" if best == ALONE else "global", best, candidate)


def _baselines(cells: Sequence[CellResult]) -> list[str]:
    return [name for name in BASELINES if finished(cells, name)]


def _candidate(cells: Sequence[CellResult]) -> str:
    """Return the method beside the baselines with the best mean validation score.

    Taken as the mean gain over a baseline, so that a method that could not run on a seed is
    neither helped nor hurt by how easy that seed is.
    """
    reference = _baselines(cells)[0]
    found = {
        method: compare(cells, method, reference, "validation")
        for method in methods_of([cell for cell in cells if not cell.safeguarded])
        if method not in BASELINES
    }
    # a mean of infinite losses and gains is no number, and would be the maximum of anything
    means = {m: gain.mean for m, gain in found.items() if gain and not math.isnan(gain.mean)}
    return max(means, key=lambda method: means[method], default="")


def _gains(
    cells: Sequence[CellResult], method: str, examples: Literal["test", "validation"]
) -> list[Comparison]:
    """Compare the method with each of the baselines that ran and is another method."""
    found = (compare(cells, method, name, examples) for name in _baselines(cells))
    return [comparison for comparison in found if comparison]


def _clearly_better(
    cells: Sequence[CellResult], method: str, examples: Literal["test", "validation"]
) -> bool:
    gains = _gains(cells, method, examples)
    return len(gains) == len(_baselines(cells)) and all(gain.clearly_better for gain in gains)


def _kind_of(cells: Sequence[CellResult], method: str) -> Kind:
    personal = any(cell.parameters.get("personal", 0) for cell in finished(cells, method))
    tuned = method in METHODS and METHODS[method].fine_tunes
    return "personalized" if personal or tuned else "global"


def _headline(cells: Sequence[CellResult], choice: Choice) -> str:
    if choice.kind == "personalized":
        return f"Use {choice.method}: it gives every client a model of its own, and that pays here."
    if len(_baselines(cells)) < len(BASELINES) and choice.method in BASELINES:
        return f"Use {choice.method}: nothing else that could be run is clearly better."
    undecided = _undecided(cells, choice)
    if choice.kind == "alone":
        alone = f"Let every client train alone ({ALONE})"
        return (
            f"{alone} for now: it is not shown here that sharing pays."
            if undecided
            else f"{alone}: sharing does not pay here."
        )
    if choice.method == GLOBAL:
        return (
            f"Stay with the global model ({GLOBAL}) for now: it is not shown here that "
            "personalization pays."
            if undecided
            else f"Use the global model ({GLOBAL}): personalization does not pay here."
        )
    return f"Use one global model, trained with {choice.method}: nothing personalized is better."


def _undecided(cells: Sequence[CellResult], choice: Choice) -> bool:
    """Whether the best other method could well be better than the baseline, for all one knows.

    The interval of its validation gain reaches beyond a point of accuracy, or a fiftieth of the
    baseline's error.
    """
    gain = choice.candidate and compare(cells, choice.candidate, choice.method, "validation")
    if not gain:
        return False
    error = abs(mean_at_choice(cells, choice.method, "validation")[0])
    return gain.high > (error / 50 if task_of(cells) == "regression" else 0.01)


def _warnings(cells: Sequence[CellResult]) -> list[str]:
    """Say who took no part, and which methods came to nothing."""
    reasons = dict.fromkeys(words for cell in cells for words in cell.left_out)
    lines = [f"Left out of everything, {words.rstrip('.')}." for words in reasons]
    lost = [
        method
        for method in methods_of(cells)
        if any(known_mean(cell.r2[-1]) < DIVERGED for cell in finished(cells, method))
    ]
    if lost:
        lines.append(
            f"{listed(lost)} did far worse than always answering the mean (R2 below "
            f"{DIVERGED:g}): fair to them would be a smaller learning-rate, or tuning."
        )
    return lines


def _reasons(cells: Sequence[CellResult], choice: Choice) -> list[str]:
    """Say what validation data say, which is why the choice is as it is."""
    task = task_of(cells)
    missing = [BASELINE_NAMES[name] for name in BASELINES if name not in _baselines(cells)]
    lines = [f"{name.capitalize()} could not be run and is not compared with." for name in missing]
    if choice.candidate:
        gains = _gains(cells, choice.candidate, "validation")
        bounds = listed([_gain_over(task, gain) for gain in gains])
        chosen = choice.candidate == choice.method
        who = "it" if chosen else f"the best of the other methods there, {choice.candidate},"
        lines.append(
            f"The choice was made on validation data alone: {who} gains {bounds or 'nothing known'}"
            + ("." if chosen else "; it would have to be clearly above both.")
        )
        if _undecided(cells, choice) and not chosen:
            lines.append("More seeds, clients or validation examples could decide it.")
        lines += _seeds_missing(cells, choice.candidate)
    else:
        lines.append(
            "Only the baselines were compared: no other method ran with validation scores."
        )
    alone = compare(cells, ALONE, GLOBAL, "validation")
    if alone and choice.method in BASELINES:
        lines.append(f"On validation data, training alone gains {_gain_over(task, alone)}.")
    return lines


def _seeds_missing(cells: Sequence[CellResult], method: str) -> list[str]:
    ran, asked = len(finished(cells, method)), len({cell.seed for cell in cells})
    return [f"{method} ran on {ran} of {asked} seeds only."] if ran < asked else []


def _gain_over(task: str, gain: Comparison) -> str:
    return gain_words(task, gain.mean, gain.low, gain.high, gain.baseline)


def _evidence(cells: Sequence[CellResult], choice: Choice) -> list[str]:
    """Say what test data say about the chosen method; they had no part in the choice."""
    task = task_of(cells)
    mean, clients = mean_at_choice(cells, choice.method)
    seeds = len(finished(cells, choice.method))
    lines = [
        f"On the test data, which had no part in the choice, {choice.method} reaches "
        f"{score_words(task, mean)} on average over {counted(clients, 'client')}"
        + (f" of {seeds} seeds." if seeds > 1 else ".")
    ]
    gains = _gains(cells, choice.method, "test")
    for gain in gains:
        harmed = f"{len(gain.harmed)} of {counted(gain.clients, 'client')} ({gain.share_worse:.0%})"
        other = "with the global model" if gain.baseline == GLOBAL else "training alone"
        lines.append(
            f"There it gains {_gain_over(task, gain)}; {harmed} would be better off {other}."
        )
    return [*lines, *_harmed(cells, task, gains), _agreement(cells, choice)]


def _harmed(cells: Sequence[CellResult], task: str, gains: Sequence[Comparison]) -> list[str]:
    """Name the clients that lose most, each with its greater loss."""
    losses = sorted((h.gain, h.seed, h.client, g.baseline) for g in gains for h in g.harmed)
    worst: dict[tuple[int, int], str] = {}
    for gain, seed, client, baseline in losses:
        who = client_name(cells, client)
        words = f"{who} (seed {seed}): {harm_words(task, gain, baseline)}"
        worst.setdefault((seed, client), words)
    if not worst:
        return ["No client is harmed by it."] if gains else []
    return ["Harmed most: " + "; ".join(list(worst.values())[:NAMED]) + "."]


def _agreement(cells: Sequence[CellResult], choice: Choice) -> str:
    """Say whether test data would have led to the same choice."""
    own = _gains(cells, choice.method, "test")
    rivals = [name for name in _baselines(cells) if name != choice.method]
    lost_to = [BASELINE_NAMES[gain.baseline] for gain in own if gain.clearly_worse]
    if choice.candidate and choice.candidate != choice.method:
        lost_to += [choice.candidate] * _clearly_better(cells, choice.candidate, "test")
    if lost_to:
        return (
            f"The test data disagree: there {listed(lost_to)} would have been clearly better. "
            "The choice stays, because choosing again by test data would flatter the winner."
        )
    sure = len(own) == len(rivals) and all(gain.clearly_better for gain in own)
    if choice.method == GLOBAL:  # which stays unless something is clearly better
        others = [*rivals, *([choice.candidate] if choice.candidate else [])]
        found = (compare(cells, name, choice.method, "test") for name in others)
        sure = not any(gain.mean > 0 for gain in found if gain)
    if sure:
        return "The test data agree with the choice."
    return "The test data do not settle it: an interval of the gain there contains zero."


def _describe_only(cells: Sequence[CellResult]) -> tuple[str, ...]:
    """Say what can be said when nothing can be chosen."""
    methods = methods_of(cells)
    if not methods:
        return ("Nothing can be recommended: no method could be run.",)
    if not _baselines(cells):
        first = "Nothing can be recommended: neither baseline could be run, so there is no gain."
    else:
        first = (
            "Nothing can be recommended honestly: there are no validation examples, so there is "
            "nothing but test data to choose on, and a choice by them would flatter its winner."
        )
    task = task_of(cells)
    means = {m: mean_at_choice(cells, m)[0] for m in methods}
    known = {m: mean for m, mean in means.items() if not math.isnan(mean)}
    if not known:
        return (first, "No client has a test score.")
    best = max(known, key=lambda method: direction(task) * known[method])
    return (
        first,
        f"As a description only: of all methods {best} has the best mean on the test data, "
        f"{score_words(task, known[best])}.",
        *(f"There it gains {_gain_over(task, gain)}." for gain in _gains(cells, best, "test")),
    )
