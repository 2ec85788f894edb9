"""Run keys of a comparison: which it takes for all methods, and which for one of them.

A key that makes one method another, such as Ditto's ``lambda``, is set for that method:
``ditto.lambda=auto``. One that a comparison decides itself, or could only ignore, is refused.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import Field
from typing import Any

from pfl_flower.comparison.selection import BASELINES
from pfl_flower.config.errors import ConfigError
from pfl_flower.config.reading import KEYS, SET_BY_METHOD
from pfl_flower.config.validators import check_value, convert, wrong_type
from pfl_flower.engines import Engine
from pfl_flower.methods import METHODS, keys_of
from pfl_flower.utils.text import did_you_mean

DECIDED = frozenset(
    {"method", "baselines", "seed", "safeguard", "resume", "initial", "results-dir"}
    | {"personal-dir", "tensorboard", *SET_BY_METHOD}
)
"""Run keys that a comparison decides itself, or that make one method another."""

_JUDGED = "a comparison judges the largest output, not a decision threshold"
WITHOUT_EFFECT: Mapping[str, str] = {
    "threshold": _JUDGED,
    "threshold-metric": _JUDGED,
    "cost-ratio": _JUDGED,
    "wanted-recall": _JUDGED,
}
"""Run keys that a comparison could only ignore -> why."""

_IN_PROCESS = "in one process all clients are there, and none is waited for"
WITHOUT_EFFECT_IN_PROCESS: Mapping[str, str] = {
    "min-nodes": _IN_PROCESS,
    "wait": _IN_PROCESS,
    "timeout": _IN_PROCESS,
}
"""The same on the engine ``in-process``; on Ray they have an effect."""

OPTIONS: Mapping[str, str] = {
    "method": "--methods (Comparison.methods)",
    "baselines": "--methods (Comparison.methods); fedavg and local are there anyway",
    "seed": "--seeds (Comparison.seeds)",
    "safeguard": "--safeguard (Comparison.safeguard)",
    "resume": "--out, the folder of a comparison that was interrupted",
    "results-dir": "--out",
    "tensorboard": "--tensorboard",
}
"""Run keys that a comparison decides itself -> what has that place; others have none."""

_OF_BASELINES = ("mu", "learning-rate")
"""Common run keys that a baseline can have for itself: others would make it another method."""

_OF_A_METHOD = (*(name for name in SET_BY_METHOD if name in KEYS), "learning-rate")
"""Common run keys that one method can have for itself."""


def allowed_keys() -> list[str]:
    """Return the run keys that a comparison takes for all methods."""
    return [name for name in KEYS if name not in DECIDED and name not in WITHOUT_EFFECT]


def keys_for(method: str) -> dict[str, Field[Any]]:
    """Return the run keys that can be set for a method: those of its own, and a few common ones."""
    common = _OF_BASELINES if method in BASELINES else _OF_A_METHOD
    return keys_of(METHODS[method]) | {name: KEYS[name] for name in common}


def check_common(config: Mapping[str, Any], engine: Engine) -> None:
    """Refuse run keys that a comparison decides itself, or that it could only ignore.

    Raises
    ------
    ConfigError
        With the first such key.
    """
    unused = dict(WITHOUT_EFFECT)
    unused |= WITHOUT_EFFECT_IN_PROCESS if engine == "in-process" else {}
    for key, value in config.items():
        if key in DECIDED:
            hint = f"; see {OPTIONS[key]}" if key in OPTIONS else ""
            if key in SET_BY_METHOD:
                hint = f"; for one method write --set METHOD.{key}=... (Comparison.settings)"
            raise ConfigError(f"a comparison decides {key} itself{hint}", key=key, value=value)
        if key in unused:
            raise ConfigError(
                f"{key} would have no effect: {unused[key]}; leave it out", key=key, value=value
            )


def check_settings(settings: Mapping[str, Mapping[str, Any]], methods: Iterable[str]) -> None:
    """Refuse settings of a method that is not compared, of a key it does not have, or wrong ones.

    How they go together with the rest of the run config is checked with that of each method.

    Parameters
    ----------
    settings : mapping
        Method -> its run keys.
    methods : iterable of str
        The methods that are compared.

    Raises
    ------
    ConfigError
        With what is wrong, and what there is.
    """
    compared = tuple(methods)
    for method, own in settings.items():
        if method not in compared:
            raise ConfigError(
                f"{method!r} is set something, but is not compared; compared are "
                f"{', '.join(compared)}",
                key="set",
                value=method,
                choices=compared,
            )
        for key, value in own.items():
            if key not in (known := keys_for(method)):
                raise _no_such_key(method, key, value, known)
            check_value(key, convert(key, value, known[key]), known[key])


def _no_such_key(method: str, key: str, value: Any, known: Mapping[str, Any]) -> ConfigError:
    hint = did_you_mean(key, known)
    everyone = f"; --{key} sets it for all methods" if key in allowed_keys() else ""
    return ConfigError(
        f"method {method!r} has no {key} of its own{everyone}; {hint}{' ' if hint else ''}it has: "
        f"{', '.join(known)}",
        key=key,
        value=value,
        choices=known,
    )


def read_settings(texts: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the settings that texts ``METHOD.KEY=VALUE`` say: method -> run key -> value.

    Raises
    ------
    ConfigError
        If one has another form, or its method, key or value does not exist.
    """
    settings: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        method, dot, key = name.strip().partition(".")
        if not (equals and dot and key):
            raise ConfigError(
                f"{text!r} is no METHOD.KEY=VALUE, such as ditto.lambda=auto", key="set", value=text
            )
        if method not in METHODS:
            raise ConfigError(
                f"{text!r}: unknown method {method!r}; {did_you_mean(method, METHODS)}".rstrip(),
                key="set",
                value=method,
                choices=METHODS,
            )
        if key not in (known := keys_for(method)):
            raise _no_such_key(method, key, value, known)
        settings.setdefault(method, {})[key] = read_value(key, value.strip(), known[key])
    return settings


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(text)
    return text == "true"


_READERS: Mapping[type, Callable[[str], Any]] = {
    bool: _truth,
    int: int,
    float: float,
    str: str,
}
"""Type of a value -> how its text is read; of several types the first that can read it does."""


def read_value(key: str, text: str, item: Field[Any]) -> Any:
    """Return the value of a run key that stands on a command line, of the type that the key has.

    Raises
    ------
    ConfigError
        If the text is no such value.
    """
    kinds = item.metadata["kind"]
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    for kind, read in _READERS.items():
        if kind in kinds:
            with suppress(ValueError):
                return read(text)
    raise wrong_type(key, text, kinds)
