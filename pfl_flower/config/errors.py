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

    @classmethod
    def from_error(cls, error: Exception, prefix: str = "") -> "ConfigError":
        """Return another error as one of the config, with what it says of key, value and choices.

        Parameters
        ----------
        error : Exception
            Such as an ``ArgumentError``, whose argument is the key, or a ``DataError``.
        prefix : str, default ""
            What to put before its message.
        """
        argument = getattr(error, "argument", None)
        key = argument.strip("_").replace("_", "-") if argument else getattr(error, "key", None)
        return cls(
            f"{prefix}{error}",
            key=key,
            value=getattr(error, "value", None),
            choices=getattr(error, "choices", ()),
        )
