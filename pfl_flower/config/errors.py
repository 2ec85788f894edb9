"""The error of a run config or a node config that makes no sense."""

from collections.abc import Iterable
from typing import Any


class ConfigError(ValueError):
    """An unknown key, or a value that is not allowed, in the run config or the node config.

    Parameters
    ----------
    message : str
        What is wrong, where, and what would be right.
    key, value : optional
        The key that is wrong, with hyphens, and its value.
    choices : optional
        What would be right, where it is one of a few.

    Attributes
    ----------
    key, value, choices
        The same; None (choices: empty) where they do not apply.
    """

    def __init__(
        self,
        message: str,
        *,
        key: str | None = None,
        value: Any = None,
        choices: Iterable[str] = (),
    ) -> None:
        super().__init__(message)
        self.key = key
        self.value = value
        self.choices = tuple(choices)
