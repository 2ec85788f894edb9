"""Errors that say what was wrong as attributes, not only in words."""

from collections.abc import Iterable
from typing import Any


class ArgumentError(ValueError):
    """An argument has a value that is not allowed.

    Parameters
    ----------
    argument : str
        Its name.
    value : object
        What was given.
    wanted : str, default ""
        What would be right, to be read after "it must be"; by default one of the choices.
    choices : iterable of str, optional
        What would be right, if there are only a few possibilities.

    Attributes
    ----------
    argument, value, wanted, choices
        The same.
    """

    def __init__(
        self, argument: str, value: Any, wanted: str = "", choices: Iterable[str] = ()
    ) -> None:
        self.argument = argument
        self.value = value
        self.choices = tuple(choices)
        self.wanted = wanted or f"one of {', '.join(self.choices)}"
        super().__init__(f"{argument} is {value!r}; it must be {self.wanted}")

    def __reduce__(self) -> tuple[type["ArgumentError"], tuple[str, Any, str, tuple[str, ...]]]:
        """Return what makes the same error in another process."""
        return type(self), (self.argument, self.value, self.wanted, self.choices)
