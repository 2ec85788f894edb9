"""Which cases of a parametrized test are quick, and which are of the marker ``integration``."""

from collections.abc import Iterable
from typing import Any

import pytest


def quick_first(cases: Iterable[Any], quick: int = 1) -> list[Any]:
    """Leave the first cases in the quick tier; the others are integration tests."""
    made = []
    for place, case in enumerate(cases):
        values = case if isinstance(case, tuple) else (case,)
        marks = () if place < quick else pytest.mark.integration
        made.append(pytest.param(*values, marks=marks))
    return made
