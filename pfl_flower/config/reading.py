"""From a mapping of hyphenated run keys to typed values; errors name the valid choices."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pfl_flower.config.errors import ConfigError
from pfl_flower.config.keys import OF_FIRST_METHOD, CommonKeys
from pfl_flower.config.validators import check_value, convert
from pfl_flower.methods import METHOD_KEYS, METHODS, keys_of, methods_with
from pfl_flower.utils.text import did_you_mean, hyphenated

KEYS = {hyphenated(item.name): item for item in fields(CommonKeys)}
"""Common run key, with hyphens -> its field."""

if _both := sorted(KEYS.keys() & set(METHOD_KEYS)):
    raise ValueError(f"methods have keys of their own that are common keys: {_both}")

SET_BY_METHOD = tuple(map(hyphenated, OF_FIRST_METHOD)) + METHOD_KEYS
"""Run keys that make one method another."""


def typed_values(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the common keys and those of the method's own, each as field -> value.

    Parameters
    ----------
    values : mapping of str to object
        Hyphenated keys, such as Flower's ``run_config``.

    Raises
    ------
    ConfigError
        If a key is unknown or of another method, a value has a wrong type, or there is no such
        method.
    """
    common = {
        KEYS[name].name: convert(name, value, KEYS[name])
        for name, value in values.items()
        if name in KEYS
    }
    method = common.get("method", CommonKeys.method)
    check_value("method", method, KEYS["method"])
    known = keys_of(METHODS[method])
    given = {
        name: value
        for name, value in values.items()
        if name not in KEYS and not (name in METHOD_KEYS and value in ("", None))
    }
    for name, value in given.items():
        if name not in known:
            raise _of_another(method, name, value) if name in METHOD_KEYS else _unknown(name, value)
    return common, {known[n].name: convert(n, value, known[n]) for n, value in given.items()}


def _of_another(method: str, name: str, value: Any) -> ConfigError:
    having = methods_with(name)
    return ConfigError(
        f"method {method!r} has no {name}; there is one in {', '.join(having)}",
        key=name,
        value=value,
        choices=having,
    )


def _unknown(name: str, value: Any) -> ConfigError:
    valid = (*KEYS, *METHOD_KEYS)
    hint = did_you_mean(name, valid)
    return ConfigError(
        f"unknown key {name!r}; {hint}{' ' if hint else ''}valid keys: {', '.join(valid)}",
        key=name,
        value=value,
        choices=valid,
    )
