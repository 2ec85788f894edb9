"""Metadata of clients as vectors: standardization, one-hot encoding, flags for missing values.

Scikit-learn's encoders would do, if their state could be saved without a pickle.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from logging import WARNING
from typing import Any

import numpy as np
from flwr.common.logger import log
from numpy.typing import NDArray

from strategies.errors import ArgumentError

Metadata = Mapping[str, float | str | None]
"""Name of a column -> number, category, or None where it is missing."""


def read_metadata(text: str) -> dict[str, float | str | None]:
    """Parse a client's metadata from JSON; booleans become categories.

    Raises
    ------
    ArgumentError
        If the text is not a JSON object of numbers, strings, booleans and nulls, if a number is
        not finite, or if the text has more than :data:`MOST_CHARACTERS` characters. ``argument`` is
        ``metadata``, or ``metadata[<name>]`` for a single entry.
    """
    if len(text) > MOST_CHARACTERS:
        wanted = f"at most {MOST_CHARACTERS} characters long"
        raise ArgumentError("metadata", f"{text[:40]}...", wanted)
    try:
        content = json.loads(text or "{}")
        json.dumps(content, ensure_ascii=False).encode()  # half a character is none
    except (ValueError, RecursionError) as error:
        raise ArgumentError("metadata", text[:80], f"JSON ({error})") from error
    if not isinstance(content, dict):
        raise ArgumentError("metadata", text[:80], "a JSON object")
    for name, value in content.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ArgumentError(f"metadata[{name!r}]", value, "finite, or null")
    return {name: _plain(name, value) for name, value in content.items()}


def reported_metadata(node: int, text: Any) -> Metadata:
    """Return the metadata that a node reported; none, with a warning, if they cannot be used."""
    try:
        return read_metadata(text if isinstance(text, str) else "")
    except ArgumentError as error:
        log(WARNING, "Node %d: %s; it counts as one without metadata", node, error)
        return {}


MOST_CHARACTERS = 5000
"""Limit of the length of a client's metadata as JSON: every column makes the network larger."""

LARGEST = 1e30
"""Numbers are clipped to this absolute value, so that their squares stay finite."""

FARTHEST = 10.0
"""Standardized numbers are clipped to this distance from the mean."""


def _plain(name: str, value: Any) -> float | str | None:
    """Return a number as a float, a boolean as a category, and NaN and infinity as missing.

    Raises
    ------
    ArgumentError
        If the value is not a number, a string, a boolean or None.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        finite = isinstance(value, int) or math.isfinite(value)
        return float(max(-LARGEST, min(LARGEST, value))) if finite else None
    if value is None or isinstance(value, str):
        return value
    raise ArgumentError(f"metadata[{name!r}]", value, "a number, a string, a boolean or null")


@dataclass(frozen=True)
class Columns:
    """Encoder of metadata, fitted to the training clients.

    A number is standardized and followed by a flag, which is 1 if the number is missing; the number
    is then 0, the mean. A category is one-hot encoded over the known values, and standardized like
    numbers; for an unknown or missing value all entries are 0, again the mean. So a client without
    metadata is at the mean of the training clients, except for its flags.

    Attributes
    ----------
    numbers : mapping of str to tuple of 2 float
        Column -> (mean, standard deviation; 1 if all numbers are equal).
    categories : mapping of str to mapping of str to float
        Column -> value -> share of the clients with this value.
    """

    numbers: Mapping[str, tuple[float, float]]
    categories: Mapping[str, Mapping[str, float]]

    @classmethod
    def of(cls, clients: Iterable[Metadata]) -> "Columns":
        """Fit the encoder to clients' metadata; the columns are sorted by name.

        A column is numeric if it has more numbers than strings; the strings then count as missing.
        A column without values is left out.

        Raises
        ------
        ArgumentError
            If a value is not a number, a string, a boolean or None.
        """
        found: dict[str, list[float | str]] = {}
        for metadata in clients:
            for name, value in metadata.items():
                if (plain := _plain(name, value)) is not None:
                    found.setdefault(name, []).append(plain)
        numbers: dict[str, tuple[float, float]] = {}
        categories: dict[str, dict[str, float]] = {}
        for name, values in sorted(found.items()):
            amounts = [value for value in values if isinstance(value, float)]
            if 2 * len(amounts) > len(values):
                known = _without_outliers(np.array(amounts, dtype=np.float64))
                deviation = float(known.std())
                # equal numbers may differ in their last bits from their mean
                equal = deviation <= 1e-12 * max(1.0, float(np.abs(known).max()))
                numbers[name] = float(known.mean()), 1.0 if equal else deviation
            else:
                texts = [category(value) for value in values]
                categories[name] = {t: texts.count(t) / len(texts) for t in sorted(set(texts))}
        return cls(numbers, categories)

    @property
    def names(self) -> list[str]:
        """The names of the columns, numeric ones first."""
        return [*self.numbers, *self.categories]

    @property
    def size(self) -> int:
        """Length of the vectors."""
        return 2 * len(self.numbers) + sum(map(len, self.categories.values()))

    def encode(self, metadata: Metadata) -> NDArray[np.float32]:
        """Return the vector ``(size,)`` float32 of a client; unknown columns are ignored.

        A string in a numeric column counts as missing. A number in a categorical column is the
        category of its decimal form. Numbers are clipped at :data:`FARTHEST` standard deviations.

        Raises
        ------
        ArgumentError
            If a value is not a number, a string, a boolean or None.
        """
        values: list[float] = []
        for name, (mean, deviation) in self.numbers.items():
            plain = _plain(name, metadata.get(name))
            known = isinstance(plain, float)
            distance = (plain - mean) / deviation if isinstance(plain, float) else 0.0
            values += [max(-FARTHEST, min(FARTHEST, distance)), float(not known)]
        for name, shares in self.categories.items():
            plain = _plain(name, metadata.get(name))
            own = None if plain is None else category(plain)
            known = own in shares
            values += [known * _place(value == own, share) for value, share in shares.items()]
        return np.array(values, dtype=np.float32)

    def never_seen(self, metadata: Metadata) -> list[str]:
        """Return the categorical columns in which a client has an unknown category."""
        return [
            name
            for name, shares in self.categories.items()
            if (plain := _plain(name, metadata.get(name))) is not None
            and category(plain) not in shares
        ]

    def to_json(self) -> str:
        """Return the encoder as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Columns":
        """Restore an encoder from :meth:`to_json`.

        Raises
        ------
        ArgumentError
            If the text is not the JSON of an encoder.
        """
        try:
            content = json.loads(text)
            numbers = {str(n): (float(m), float(d)) for n, (m, d) in content["numbers"].items()}
            categories = {
                str(name): {str(value): float(share) for value, share in shares.items()}
                for name, shares in content["categories"].items()
            }
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            wanted = f"the JSON of columns of metadata ({error!r})"
            raise ArgumentError("text", text[:80], wanted) from error
        return cls(numbers, categories)


def _place(is_own: bool, share: float) -> float:
    """Return the standardized one-hot entry of a category that a share of the clients has."""
    deviation = math.sqrt(share * (1 - share))
    place = (float(is_own) - share) / deviation if deviation > 0 else 0.0
    return min(FARTHEST, place)


def _without_outliers(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Clip numbers to :data:`FARTHEST` robust deviations from the median.

    So one corrupted client does not make all others look equal. The robust deviation is the
    interquartile range over 1.349, which is the standard deviation of normal numbers. If it is
    zero, no number is clipped.
    """
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    reach = FARTHEST * (high - low) / 1.349
    return np.clip(values, median - reach, median + reach) if reach > 0 else values


def category(value: float | str) -> str:
    """Return the name of a value as a category: an integer without decimal places."""
    if isinstance(value, str):
        return value
    return str(int(value)) if value == int(value) else repr(float(value))


def encode_all(columns: Columns, clients: Sequence[Metadata]) -> NDArray[np.float32]:
    """Return the vectors ``(N, size)`` of several clients."""
    rows = [columns.encode(metadata) for metadata in clients]
    return np.stack(rows) if rows else np.zeros((0, columns.size), dtype=np.float32)
