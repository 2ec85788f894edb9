"""Scores, gains and amounts in words and digits."""

import math
from collections.abc import Mapping, Sequence

from pfl_flower.comparison.gains import Comparison
from pfl_flower.comparison.selection import ALONE, GLOBAL

MISSING = "n/a"
"""What stands for a number that does not exist."""

NAMES: Mapping[str, str] = {
    GLOBAL: "the global model",
    ALONE: "training alone",
    "mean target": "always answering the mean of all training targets",
    "own mean target": "always answering the client's own mean target",
    "commonest class": "always answering the commonest class",
    "own commonest class": "always answering the client's own commonest class",
    "no preference": "no preference for any pair",
}
"""What methods are compared with -> how a sentence calls it."""


def _decimals(values: Sequence[float]) -> int:
    """Return how many decimals show three digits of the largest value; none from 100 on."""
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    return 2 if largest == 0 else max(0, 2 - math.floor(math.log10(largest)))


def score_text(task: str, score: float) -> str:
    """Write an accuracy in per cent with one decimal, an error with three digits."""
    if math.isnan(score):
        return MISSING
    if task == "regression":
        return f"{score:,.{_decimals([score])}f}"
    return f"{100 * score:.1f}"


def gain_texts(task: str, gains: Sequence[float]) -> list[str]:
    """Write gains with their signs, all with the same number of decimals.

    Percentage points of accuracy, or units of the target of which the largest has three digits.
    """
    scale, decimals = (1, _decimals(gains)) if task == "regression" else (100, 1)
    return [MISSING if math.isnan(g) else f"{scale * g:+,.{decimals}f}" for g in gains]


def score_words(task: str, score: float) -> str:
    """Write a score as it stands in a sentence."""
    text = score_text(task, score)
    return f"a root mean squared error of {text}" if task == "regression" else f"{text}%"


def gain_words(task: str, gain: float, low: float, high: float, baseline: str) -> str:
    """Write a gain over a baseline and its interval as they stand in a sentence."""
    unit = "in root mean squared error" if task == "regression" else "points"
    mean, *bounds = gain_texts(task, [gain, low, high])
    name = NAMES.get(baseline, baseline)
    return f"{mean} {unit} over {name} (95% interval {' to '.join(bounds)})"


def gain_over(task: str, gain: Comparison) -> str:
    """Write a comparison as it stands in a sentence; see :func:`gain_words`."""
    return gain_words(task, gain.mean, gain.low, gain.high, gain.baseline)


def harm_words(task: str, gain: float, baseline: str) -> str:
    """Write how far below a baseline a client is, for a gain below zero."""
    amount = gain_texts(task, [-gain])[0].lstrip("+")
    name = NAMES.get(baseline, baseline)
    if task == "regression":
        return f"an error {amount} above {name}"
    return f"{amount} points below {name}"


def bytes_text(count: float) -> str:
    """Write bytes as kB (1000 bytes), with a decimal below 10 kB."""
    thousands = count / 1000
    return f"{thousands:.1f}" if thousands < 10 else f"{thousands:,.0f}"


def listed(words: list[str]) -> str:
    """Join words with commas and an "and"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def counted(count: int, noun: str) -> str:
    """Write a number of things."""
    return f"{count} {noun}" + ("" if count == 1 else "s")
