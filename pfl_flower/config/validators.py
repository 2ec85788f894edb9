"""What a value of the run config may be: each check says in words what would be right."""

import math
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any

Check = Callable[[Any], str]
"""Value -> what it must be, or an empty string if it is fine."""


def choice(*choices: str, function: bool = False, own: Mapping[str, Any] | None = None) -> Check:
    """Allow one of the choices, and perhaps ``module:function`` or ``kind:location``."""
    words = f"one of {', '.join(choices)}"
    words += ", or <module>:<function>" if function else ""
    words += f", or <kind>:<location> with a kind of {', '.join(own)}" if own else ""

    def check(value: str) -> str:
        before, colon, after = value.partition(":")
        named = bool(colon and before and after) and (function or bool(own))
        return "" if value in choices or named else words

    return check


def names(choices: Mapping[str, Any]) -> Check:
    """Allow a list of names, separated by commas."""

    def check(value: str) -> str:
        unknown = [n for n in split_words(value) if n not in choices]
        return f"names, separated by commas, from {', '.join(choices)}" if unknown else ""

    return check


def between(low: float, high: float = math.inf, *, open_low: bool = False) -> Check:
    """Allow finite numbers from ``low`` (without it, if open) to ``high``."""

    def check(value: float) -> str:
        inside = low < value <= high if open_low else low <= value <= high
        inside = inside and math.isfinite(value)
        bounds = f"{'above' if open_low else 'at least'} {low:g}"
        return "" if inside else bounds + (f" and at most {high:g}" if high < math.inf else "")

    return check


def number_or(low: float, high: float, *words: str) -> Check:
    """Allow finite numbers from ``low`` to ``high``, and some words."""
    numbers = between(low, high)

    def check(value: float | str) -> str:
        if isinstance(value, str):
            wanted = "" if value in words else "a number"
        else:
            wanted = numbers(value)
        return f"{wanted}, or one of {', '.join(words)}" if wanted else ""

    return check


def epochs(value: str) -> str:
    """Allow ascending numbers, separated by commas."""
    numbers = split_words(value)
    ascending = numbers and all(n.isdigit() for n in numbers)
    ascending = ascending and sorted({int(n) for n in numbers}) == [int(n) for n in numbers]
    return "" if ascending else "ascending numbers separated by commas, such as 0,1,5"


def sizes(value: str) -> str:
    """Allow positive numbers, separated by commas, or nothing."""
    good = all(n.isdigit() and int(n) for n in split_words(value))
    return "" if good else "positive numbers separated by commas, such as 6,8,16"


def per_tier(low: float, high: float = math.inf) -> Check:
    """Allow one number, or one for every tier, separated by commas; or nothing."""
    numbers = between(low, high)

    def check(value: str | float) -> str:
        words = split_words(str(value))
        try:
            wanted = next((w for w in (numbers(float(word)) for word in words) if w), "")
        except ValueError:
            wanted = numbers(math.nan)
        return f"one number, or one a tier separated by commas, each {wanted}" if wanted else ""

    return check


def anything(_: Any) -> str:
    """Allow any value of the right type."""
    return ""


def split_words(value: str) -> list[str]:
    """Return the words of a list that is separated by commas."""
    return [word.strip() for word in value.split(",") if word.strip()]


def key(
    default: Any,
    text: str,
    check: Check = anything,
    *,
    kind: type | tuple[type, ...] | None = None,
) -> Any:
    """Return a field of the config; ``kind`` is for those that may be left empty."""
    kind = kind or type(default)
    return field(default=default, metadata={"help": text, "check": check, "kind": kind})
