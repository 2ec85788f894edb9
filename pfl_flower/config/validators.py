"""Run keys: how a key is declared, and what its value may be, with what would be right in words."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any

import torch

from pfl_flower.config.errors import ConfigError
from pfl_flower.utils.text import split_words
from strategies.errors import ArgumentError

Check = Callable[[Any], str]
"""Value -> what it must be, or an empty string if it is fine."""


@dataclass(frozen=True)
class OneOf:
    """A check that allows a few words.

    Parameters
    ----------
    choices : tuple of str
        The words.
    wanted : str
        What a value must be, in words.
    allows : callable
        Value -> whether it is one.
    """

    choices: tuple[str, ...]
    wanted: str
    allows: Callable[[str], bool]

    def __call__(self, value: str) -> str:
        """Return what a value must be, or an empty string if it is fine."""
        return "" if self.allows(value) else self.wanted


def choice(*choices: str, function: bool = False, own: Mapping[str, Any] | None = None) -> OneOf:
    """Allow one of the choices, and perhaps ``module:function`` or ``kind:location``."""
    words = f"one of {', '.join(choices)}"
    words += ", or <module>:<function>" if function else ""
    words += f", or <kind>:<location> with a kind of {', '.join(own)}" if own else ""

    def allows(value: str) -> bool:
        before, colon, after = value.partition(":")
        named = bool(colon and before and after) and (function or bool(own))
        return value in choices or named

    return OneOf(choices, words, allows)


def names(choices: Mapping[str, Any]) -> OneOf:
    """Allow a list of names, separated by commas."""
    words = f"names, separated by commas, from {', '.join(choices)}"
    return OneOf(tuple(choices), words, lambda value: all(n in choices for n in split_words(value)))


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


def per_tier(low: float, high: float) -> Check:
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


def channels(value: int) -> str:
    """Allow 0, 1 (grey) and 3 (colour)."""
    return "" if value in (0, 1, 3) else "0, 1 (grey) or 3 (colour)"


def trainable(value: str) -> str:
    """Allow all, head, lora, or blocks with their number."""
    word, _, number = value.partition(":")
    good = value in ("all", "head", "lora") or (word == "blocks" and number.isdigit())
    good = good and (word != "blocks" or int(number) > 0)
    return "" if good else "all, head, lora, or blocks:<number> such as blocks:2"


def device_name(value: str) -> str:
    """Allow a device of torch, or ``auto``."""
    try:
        torch.device("cpu" if value == "auto" else value)
    except RuntimeError:
        return "auto, cpu, cuda, cuda:1 or another device of torch"
    return ""


def anything(_: Any) -> str:
    """Allow any value of the right type."""
    return ""


def key(
    default: Any,
    text: str,
    check: Check = anything,
    *,
    kind: type | tuple[type, ...] | None = None,
    to: str = "",
) -> Any:
    """Return a field of a class of run keys.

    Parameters
    ----------
    default : object
        What it is where the user leaves it empty.
    text : str
        A line of help.
    check : callable, optional
        Value -> what it must be, in words; an empty text if it is fine.
    kind : type or tuple of types, optional
        Types of its values; that of the default otherwise.
    to : str, default ""
        Of a method's own key: whom it is passed to as an argument of the same name, ``"client"``,
        ``"strategy"`` or both (``"client,strategy"``).
    """
    kind = kind or type(default)
    metadata = {"help": text, "check": check, "kind": kind, "to": _receivers(to)}
    return field(default=default, metadata=metadata)


RECEIVERS = ("client", "strategy")
"""Whom a key can be passed to."""


def _receivers(to: str) -> list[str]:
    found = split_words(to)
    if unknown := [word for word in found if word not in RECEIVERS]:
        raise ArgumentError("to", unknown, choices=RECEIVERS)
    return found


def again(keys: type, name: str, default: Any, *, to: str | None = None) -> Any:
    """Return a key that another class has, too, with a default of its own.

    Parameters
    ----------
    keys, name : type and str
        The other class, and the name of its field.
    default : object
        What it is where the user leaves it empty.
    to : str, optional
        Whom it is passed to, if that differs.
    """
    (known,) = (item for item in fields(keys) if item.name == name)
    metadata = dict(known.metadata) | ({} if to is None else {"to": _receivers(to)})
    return field(default=default, metadata=metadata)


def convert(name: str, value: Any, item: Field[Any]) -> Any:
    """Return a value of a key as its field holds it; None where it is left empty.

    Parameters
    ----------
    name : str
        The key, with hyphens.
    value : object
        What was given.
    item : Field
        Dataclasses.Field Made by :func:`key`.

    Raises
    ------
    ConfigError
        If the type is wrong.
    """
    kinds = item.metadata["kind"]
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    if item.default is None and value in ("", None):
        return None
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if str in kinds and value == math.inf:
        return "inf"  # which JSON knows, too
    if type(value) not in kinds:
        raise wrong_type(name, value, kinds)
    return value


def wrong_type(name: str, value: Any, kinds: Iterable[type]) -> ConfigError:
    """Return the error of a value that has none of the types that its key has."""
    names = [kind.__name__ for kind in kinds]
    return ConfigError(
        f"{name} is {value!r}; it must be of type {' or '.join(names)}",
        key=name,
        value=value,
        choices=names,
    )


def check_value(name: str, value: Any, item: Field[Any]) -> None:
    """Refuse a value that the key's check refuses.

    Raises
    ------
    ConfigError
        With what the value must be.
    """
    check = item.metadata["check"]
    if value is not None and (wanted := check(value)):
        raise ConfigError(
            f"{name} is {value!r}; it must be {wanted}",
            key=name,
            value=value,
            choices=check.choices if isinstance(check, OneOf) else (),
        )
