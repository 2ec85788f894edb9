"""Errors by what they say in their attributes, whatever their words."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

SOME = object()
"""Any value but None."""


@contextmanager
def refused(
    kind: type[Exception], *, choices: tuple[str, ...] = (), **attributes: Any
) -> Iterator[pytest.ExceptionInfo[Any]]:
    """Expect an error with these attributes; ``choices`` are some of those it offers."""
    with pytest.raises(kind) as caught:
        yield caught
    error: Any = caught.value
    for name, wanted in attributes.items():
        found = getattr(error, name)
        same = found is not None if wanted is SOME else repr(found) == repr(wanted)
        assert same, f"{name} is {found!r} instead of {wanted!r} in {error!r}"
    assert set(choices) <= set(error.choices if choices else ()), (choices, error)
