"""Natural order of names: ``Clinic 2`` comes before ``Clinic 10``."""

import re
from collections.abc import Iterable
from typing import Any, TypeVar

Name = TypeVar("Name")


def natural_order(name: str) -> tuple[list[str | int], str]:
    """Return a sort key by which 2 comes before 10, and 02 before 2 (never equal).

    Parameters
    ----------
    name : str
        The name.
    """
    words = re.split(r"(\d+)", name)
    return [int(word) if word.isdecimal() else word for word in words], name


def in_natural_order(names: Iterable[Name]) -> list[Name]:
    """Return names sorted: words in natural order, and numbers by size.

    Parameters
    ----------
    names : iterable
        Names of clients, all words or all numbers.
    """
    return sorted(names, key=_key)


def _key(name: object) -> Any:
    return natural_order(name) if isinstance(name, str) else name
