"""Which method to use, chosen on validation data alone, and what test data say about it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pfl_flower.comparison.advice.caveats import caveats_of
from pfl_flower.comparison.advice.choice import (
    Choice,
    Kind,
    baselines_of,
    beats_constants,
    choose,
    gains_of,
    hardest_constant,
    is_undecided,
)
from pfl_flower.comparison.advice.evidence import evidence_of
from pfl_flower.comparison.cells import CellResult
from pfl_flower.comparison.gains import compare
from pfl_flower.comparison.selection import (
    ALONE,
    BASELINES,
    GLOBAL,
    constants_of,
    direction,
    finished,
    mean_at_choice,
    methods_of,
    score_of,
    task_of,
)
from pfl_flower.comparison.wording import NAMES, gain_over, listed, score_words

COMMON = 0.8
"""From this share of one class on, accuracy says little."""


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


def recommend(cells: Sequence[CellResult]) -> Recommendation:
    """Recommend a method; the choice is made on validation data only.

    What does not clearly beat always answering the same is never recommended, and where nothing
    does, that is said first. The baseline is the global model, unless training alone is clearly
    better. The candidate is the best other method; it is recommended if it is clearly better than
    both baselines, else the baseline is. Clearly better: the 95% interval of the mean gain lies
    above zero.
    """
    choice = choose(cells)
    if choice is None:
        first, *others = _describe_only(cells)
    elif choice.kind == "none":
        first, *others = _nothing_beats(cells, choice.candidate)
    else:
        first = _headline(cells, choice)
        others = [*_reasons(cells, choice), *evidence_of(cells, choice)]
    kind, method = (choice.kind, choice.method) if choice else ("none", "")
    return Recommendation(kind, method, (first, *caveats_of(cells), *others))


def _nothing_beats(cells: Sequence[CellResult], best: str) -> list[str]:
    """Say that no method is better than always answering the same, and what could be done."""
    task, constant = task_of(cells), hardest_constant(cells, best)
    change = (
        "Other learning rates (tuning tries four orders of magnitude), more rounds or features "
        "that say more could change that."
    )
    if not constant:
        return ["Nothing is recommended: the training of every method diverged.", change]
    mean = mean_at_choice(cells, constant, "validation")[0]
    level = score_words(task, mean)
    if score_of(cells) == "accuracy" and mean >= COMMON and task == "classification":
        change = (
            "Where one class is so common, accuracy cannot tell a model that knows something from "
            "this answer: run a method with a decision threshold (run key threshold), and judge by "
            "F1 or balanced accuracy."
        )
    gain = compare(cells, best, constant, "validation")
    test = compare(cells, best, constant, "test")
    if beats_constants(cells, best):  # in a round before training diverged
        beats = "ends with a model that beats"
    else:
        beats = "is shown to beat" if gain and gain.mean > 0 else "beats"
    lines = [
        f"Nothing here {beats} {NAMES[constant]} ({level} on validation data), so no method is "
        "recommended."
    ]
    if gain:
        lines.append(f"On validation data the best method, {best}, gains {gain_over(task, gain)}.")
    if test:
        lines.append(f"On the test data, which had no part in this, {gain_over(task, test)}.")
    return [*lines, change]


def _headline(cells: Sequence[CellResult], choice: Choice) -> str:
    if choice.kind == "personalized":
        return f"Use {choice.method}: it gives every client a model of its own, and that pays here."
    if len(baselines_of(cells)) < len(BASELINES) and choice.method in BASELINES:
        return f"Use {choice.method}: nothing else that could be run is clearly better."
    undecided = is_undecided(cells, choice)
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


def _reasons(cells: Sequence[CellResult], choice: Choice) -> list[str]:
    """Say what validation data say, which is why the choice is as it is."""
    task = task_of(cells)
    missing = [NAMES[name] for name in BASELINES if name not in baselines_of(cells)]
    lines = [f"{name.capitalize()} could not be run and is not compared with." for name in missing]
    if choice.candidate:
        gains = gains_of(cells, choice.candidate, "validation")
        bounds = listed([gain_over(task, gain) for gain in gains])
        chosen = choice.candidate == choice.method
        who = "it" if chosen else f"the best of the other methods there, {choice.candidate},"
        lines.append(
            f"The choice was made on validation data alone: {who} gains {bounds or 'nothing known'}"
            + ("." if chosen else "; it would have to be clearly above both.")
        )
        if is_undecided(cells, choice) and not chosen:
            lines.append("More seeds, clients or validation examples could decide it.")
        lines += _seeds_missing(cells, choice.candidate)
    else:
        lines.append(
            "Only the baselines were compared: no other method ran with validation scores."
        )
    alone = compare(cells, ALONE, GLOBAL, "validation")
    if alone and choice.method in BASELINES:
        lines.append(f"On validation data, training alone gains {gain_over(task, alone)}.")
    return lines


def _seeds_missing(cells: Sequence[CellResult], method: str) -> list[str]:
    ran, asked = len(finished(cells, method)), len({cell.seed for cell in cells})
    return [f"{method} ran on {ran} of {asked} seeds only."] if ran < asked else []


def _describe_only(cells: Sequence[CellResult]) -> tuple[str, ...]:
    """Say what can be said when nothing can be chosen."""
    methods = methods_of(cells)
    if not methods:
        return ("Nothing can be recommended: no method could be run.",)
    if not baselines_of(cells):
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
    gains = [
        *(compare(cells, best, name, "test") for name in constants_of(cells)),
        *gains_of(cells, best, "test"),
    ]
    return (
        first,
        f"As a description only: of all methods {best} has the best mean on the test data, "
        f"{score_words(task, known[best])}.",
        *(f"There it gains {gain_over(task, gain)}." for gain in gains if gain),
    )
