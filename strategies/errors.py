"""Errors that say what was wrong as attributes, not only in words."""

from typing import Any


class ArgumentError(ValueError):
    """An argument has a value that is not allowed.

    Parameters
    ----------
    argument : str
        Its name.
    value : object
        What was given.
    wanted : str
        What would be right, to be read after "it must be".

    Attributes
    ----------
    argument, value, wanted
        The same.
    """

    def __init__(self, argument: str, value: Any, wanted: str) -> None:
        super().__init__(f"{argument} is {value!r}; it must be {wanted}")
        self.argument = argument
        self.value = value
        self.wanted = wanted

    def __reduce__(self) -> tuple[type["ArgumentError"], tuple[str, Any, str]]:
        """Return what makes the same error in another process."""
        return type(self), (self.argument, self.value, self.wanted)
