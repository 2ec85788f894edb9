"""Small functions on the texts that a run config is made of."""

from collections import Counter
from collections.abc import Iterable


def split_words(value: str) -> list[str]:
    """Return the words of a list that is separated by commas, without empty ones."""
    return [word.strip() for word in value.split(",") if word.strip()]


def hyphenated(name: str) -> str:
    """Return how a field is written as a run key: ``lambda_`` is ``lambda``."""
    return name.rstrip("_").replace("_", "-")


def commonest(reasons: Iterable[str]) -> str:
    """Return the reason that occurs most; empty ones do not count."""
    counts = Counter(filter(None, reasons))
    return counts.most_common(1)[0][0] if counts else "nobody was asked"
