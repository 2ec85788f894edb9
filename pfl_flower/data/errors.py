"""DataError: data that are missing, cannot be read or do not fit, with the reason as attributes."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


class DataError(ValueError):
    """A data set that is missing, cannot be read, or cannot be split as asked.

    Parameters
    ----------
    message : str
        What is wrong, where, and what would be right.
    key : str, optional
        The run key (with hyphens), array, column or argument that is wrong.
    value : object, optional
        Its value.
    client : int or str, optional
        The client whose data are meant.
    path : str, optional
        The file or folder.
    choices : iterable of str, default ()
        What would be right, where it is one of a few.

    Attributes
    ----------
    key, value, client, path, choices
        The same; None (choices: empty) where they do not apply.
    """

    def __init__(
        self,
        message: str,
        *,
        key: str | None = None,
        value: Any = None,
        client: int | str | None = None,
        path: str | None = None,
        choices: Iterable[str] = (),
    ) -> None:
        super().__init__(message)
        self.key = key
        self.value = value
        self.client = client
        self.path = path
        self.choices = tuple(choices)


class SchemaError(DataError):
    """A client's data do not fit the data schema of the federation."""


@contextmanager
def error_context(*, client: int | str | None = None, path: str | None = None) -> Iterator[None]:
    """Let every DataError of a block name the client and the file, unless it names others.

    Parameters
    ----------
    client : int or str, optional
        The client whose data the block reads.
    path : str, optional
        The file or folder that the block reads.
    """
    try:
        yield
    except DataError as error:
        error.client = client if error.client is None else error.client
        error.path = path if error.path is None else error.path
        raise
