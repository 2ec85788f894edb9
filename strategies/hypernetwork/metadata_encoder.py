"""What clients tell of themselves, as numbers: standardised, and with a place for what is missing.

Scikit-learn's encoders would do, if what they learn could be kept in a file without a pickle.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Metadata = Mapping[str, float | str | None]
"""Name of a column -> number, category, or None where it is missing."""


def read_metadata(text: str) -> dict[str, float | str | None]:
    """Return what a client told as JSON; truth values are categories.

    Raises
    ------
    ValueError
        If it is no JSON object of numbers, texts, truth values and nulls, a number is not finite,
        or it is longer than :data:`MOST_CHARACTERS`.
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"metadata of {len(text)} characters; {MOST_CHARACTERS} are the most")
    try:
        content = json.loads(text or "{}")
        json.dumps(content, ensure_ascii=False).encode()  # half a character is none
    except (ValueError, RecursionError) as error:
        raise ValueError(f"metadata {text[:80]!r} are no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"metadata must be a JSON object, got {text[:80]!r}")
    for name, value in content.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"metadata {name!r} is {value}; it must be finite, or null")
    return {name: _plain(name, value) for name, value in content.items()}


MOST_CHARACTERS = 5000
"""Of what a client tells, as JSON: what it tells makes the network larger."""

LARGEST = 1e30
"""Of a number; what is larger counts as so large, lest its square is infinite."""

FARTHEST = 10.0
"""Deviations from the mean; a number that is farther away counts as so far."""


def _plain(name: str, value: Any) -> float | str | None:
    """Return a number as a float, a truth value as a category, and NaN and infinity as missing.

    Raises
    ------
    ValueError
        If it is neither number, text, truth value nor None.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        finite = isinstance(value, int) or math.isfinite(value)
        return float(max(-LARGEST, min(LARGEST, value))) if finite else None
    if value is None or isinstance(value, str):
        return value
    raise ValueError(f"metadata {name!r} is {value!r}; it must be a number, text or null")


@dataclass(frozen=True)
class Columns:
    """How metadata become a vector: by the statistics of the clients that were trained.

    A number is standardised and has a flag beside it, which is 1 where it is missing; the number is
    then 0, the mean. A category has a place for each value known, 1 for the client's own and 0
    elsewhere, standardised like numbers; of a value never seen, or missing, nothing is known: all
    places are 0, the mean again. So a client that tells nothing is at the centre of those that do,
    but for its flags.

    Attributes
    ----------
    numbers : mapping of str to tuple of 2 float
        Column -> (mean, deviation; 1 where all are alike).
    categories : mapping of str to mapping of str to float
        Column -> value -> share of the clients.
    """

    numbers: Mapping[str, tuple[float, float]]
    categories: Mapping[str, Mapping[str, float]]

    @classmethod
    def of(cls, clients: Iterable[Metadata]) -> "Columns":
        """Return the columns of some clients' metadata, sorted by name.

        A column is of numbers if more numbers than texts are told there; the texts then count as
        missing. One where nobody tells anything is left out.

        Raises
        ------
        ValueError
            If a value is neither number, text, truth value nor None.
        """
        told: dict[str, list[float | str]] = {}
        for metadata in clients:
            for name, value in metadata.items():
                if (plain := _plain(name, value)) is not None:
                    told.setdefault(name, []).append(plain)
        numbers: dict[str, tuple[float, float]] = {}
        categories: dict[str, dict[str, float]] = {}
        for name, values in sorted(told.items()):
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
        """The columns, those of numbers first."""
        return [*self.numbers, *self.categories]

    @property
    def size(self) -> int:
        """Length of the vectors."""
        return 2 * len(self.numbers) + sum(map(len, self.categories.values()))

    def encode(self, metadata: Metadata) -> NDArray[np.float32]:
        """Return the vector ``(size,)`` of a client; columns that are not known are left out.

        A text where numbers are expected is a missing one, and a number where categories are is
        the category of its name. A number beyond :data:`FARTHEST` deviations counts as that far.

        Raises
        ------
        ValueError
            If a value is neither number, text, truth value nor None.
        """
        values: list[float] = []
        for name, (mean, deviation) in self.numbers.items():
            told = _plain(name, metadata.get(name))
            known = isinstance(told, float)
            distance = (told - mean) / deviation if isinstance(told, float) else 0.0
            values += [max(-FARTHEST, min(FARTHEST, distance)), float(not known)]
        for name, shares in self.categories.items():
            told = _plain(name, metadata.get(name))
            own = None if told is None else category(told)
            known = own in shares
            values += [known * _place(value == own, share) for value, share in shares.items()]
        return np.array(values, dtype=np.float32)

    def never_seen(self, metadata: Metadata) -> list[str]:
        """Return the columns of categories where a client tells one that is not known."""
        return [
            name
            for name, shares in self.categories.items()
            if (told := _plain(name, metadata.get(name))) is not None
            and category(told) not in shares
        ]

    def to_json(self) -> str:
        """Return the columns as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Columns":
        """Return what :meth:`to_json` returned.

        Raises
        ------
        ValueError
            If it does not hold what it should.
        """
        try:
            content = json.loads(text)
            numbers = {str(n): (float(m), float(d)) for n, (m, d) in content["numbers"].items()}
            categories = {
                str(name): {str(value): float(share) for value, share in shares.items()}
                for name, shares in content["categories"].items()
            }
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"no columns of metadata: {error!r}") from error
        return cls(numbers, categories)


def _place(is_own: bool, share: float) -> float:
    """Return the standardised place of a category that a share of the clients has."""
    deviation = math.sqrt(share * (1 - share))
    place = (float(is_own) - share) / deviation if deviation > 0 else 0.0
    return min(FARTHEST, place)


def _without_outliers(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return numbers, none farther from the median than :data:`FARTHEST` robust deviations.

    So one client that lies does not make all others alike. The robust deviation is the range of the
    middle half over 1.349, which is the standard deviation of normal numbers; where that is zero
    all numbers stay.
    """
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    reach = FARTHEST * (high - low) / 1.349
    return np.clip(values, median - reach, median + reach) if reach > 0 else values


def category(value: float | str) -> str:
    """Return how a value is called as a category: a whole number without its fraction."""
    if isinstance(value, str):
        return value
    return str(int(value)) if value == int(value) else repr(float(value))


def encode_all(columns: Columns, clients: Sequence[Metadata]) -> NDArray[np.float32]:
    """Return the vectors ``(N, size)`` of several clients."""
    rows = [columns.encode(metadata) for metadata in clients]
    return np.stack(rows) if rows else np.zeros((0, columns.size), dtype=np.float32)
