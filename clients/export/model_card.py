"""Model card of a client's exported model: the keys of its metadata, and how to read them."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from clients.state.model_file import PersonalizedModel

NETWORK, ARGUMENTS = "network", "network-arguments"
"""Function that builds the network, ``module:function``, and its keyword arguments (JSON)."""

SHAPE, OUTPUTS, TASK, LABELS = "shape", "outputs", "task", "labels"
"""Shape of an example, number of outputs, task, and names of the classes (JSON)."""

INTEGERS = "integers"
"""Whether the network takes int64 inputs, as an embedding does (JSON); float32 if it is absent."""

INPUTS = "inputs"
"""Names of several inputs that the network gets by name, stacked in an example (JSON); absent or
``[]`` where it gets one tensor."""

PIXELS = "pixels"
"""``"bytes"`` if some clients' pictures are uint8, which are scaled to 0 to 1 (text)."""

NAME = "name"
"""The client's own name in the data (text); absent where it has none."""

CLIENT_COLUMN = "client-column"
"""The column that names the client of each row, where there is one (text)."""

COLUMNS = "columns"
"""Names of the features of a table, in the model's order (JSON); ``[]`` for other data."""

CATEGORIES, DATES = "categories", "dates"
"""Of a table (JSON): columns of words with their categories, ``[["ward", ["A", "B"]]]``, which are
the last of :data:`COLUMNS` as ``ward=A``, and columns of dates, which are days since 1970."""

SCALES = "scales"
"""``{"inputs": [means, deviations], "target": [mean, deviation]}`` (JSON): inputs are standardized
before prediction, and the predicted target is transformed back."""

MEASUREMENTS = "measurements"
"""What the client does to its measurements before the model gets them, in words; empty for nothing.
How it does it is the file's preprocessing. (The value is part of the file format.)"""

LIMITS = "limits"
"""In what predicting with the file is not what the client was judged by, in words; empty if it is
the same."""

TRUSTED = "pfl_flower.client.model_card:rebuild"
"""The only function that is called because a file names it. It builds networks of this app only."""

_KINDS: Mapping[str, type] = {
    ARGUMENTS: dict,
    SHAPE: list,
    OUTPUTS: int,
    LABELS: list,
    INTEGERS: bool,
    INPUTS: list,
    COLUMNS: list,
    CATEGORIES: list,
    DATES: list,
    SCALES: dict,
}


class ExportError(ValueError):
    """A model that cannot be exported or used.

    Parameters
    ----------
    message : str
        What is wrong and what would be right.
    path : Path, optional
        The file or directory.
    key : str, optional
        The entry of the model card, or the argument, that is wrong.
    value : optional
        Its value.
    choices : iterable of str, optional
        What would be right, if there are only a few possibilities.

    Attributes
    ----------
    path, key, value, choices
        The same; None (choices: empty) if they do not apply.
    """

    def __init__(
        self,
        message: str,
        *,
        path: Path | None = None,
        key: str | None = None,
        value: Any = None,
        choices: Iterable[str] = (),
    ) -> None:
        super().__init__(message)
        self.path = path
        self.key = key
        self.value = value
        self.choices = tuple(choices)


def card_entry(model: PersonalizedModel, key: str) -> Any:
    """Return an entry of a model's card, parsed from JSON.

    Raises
    ------
    ExportError
        If the entry is missing or has another type: the client was created without an ``about``
        that has it.
    """
    try:
        found = json.loads(model.about[key])
        if not isinstance(found, _KINDS[key]):
            raise ValueError(f"{found!r} is not a {_KINDS[key].__name__}")
        return found
    except (KeyError, ValueError) as error:
        raise ExportError(
            f"the file does not declare the {key} of its model; give the client an 'about' that "
            "does",
            key=key,
            value=model.about.get(key),
        ) from error
