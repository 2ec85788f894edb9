"""The methods: one file a family. A family's rows are its ``METHODS``, and are found here.

Thresholds and the safeguard are no methods: any method takes them. Their server parts are
``pfl_flower/server/thresholds.py`` and ``fallback.py``, their run keys are common ones.
"""

from collections.abc import Mapping
from dataclasses import Field, fields
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from pfl_flower.methods.method import Method
from pfl_flower.utils.text import hyphenated

_FIRST = "partial_sharing"  # where a reader of a list of methods begins: fedavg, fedprox, ...
_FAMILIES = sorted(
    (name for _, name, _ in iter_modules(__path__) if name != "method"),
    key=lambda name: (name != _FIRST, name),
)


def _found() -> dict[str, Method]:
    """Return the rows of all families; refuse two of one name."""
    rows: dict[str, Method] = {}
    for family in _FAMILIES:
        own = import_module(f"{__name__}.{family}").METHODS
        if twice := sorted(rows.keys() & own.keys()):
            raise ValueError(f"{family} has methods of names that other families have: {twice}")
        rows |= own
    return rows


METHODS: Mapping[str, Method] = _found()
"""Name of a method -> its row."""


def keys_of(row: Method) -> dict[str, Field[Any]]:
    """Return the run keys of a method's own: key, with hyphens -> field of ``row.keys``."""
    return {hyphenated(item.name): item for item in fields(row.keys)}


def methods_with(key: str) -> list[str]:
    """Return the methods that have a run key of their own, ordered as in :data:`METHODS`."""
    return [name for name, row in METHODS.items() if key in keys_of(row)]


METHOD_KEYS: tuple[str, ...] = tuple(
    dict.fromkeys(key for row in METHODS.values() for key in keys_of(row))
)
"""Run keys that only some methods have."""

__all__ = ["METHODS", "METHOD_KEYS", "Method", "keys_of", "methods_with"]
