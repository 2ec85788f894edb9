"""Small functions on the texts that a run config is made of."""

from collections import Counter
from collections.abc import Iterable
from difflib import SequenceMatcher

MOST_SUGGESTED = 3
"""At most so many names are suggested in place of an unknown one."""

_NEAR = 0.75
"""Share of letters in common from which two words are near."""

_SLIP = 0.9
"""Share of letters in common from which one is a slip of the keyboard for the other."""


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


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Return the known names that were probably meant by an unknown one, the nearest first.

    A name is near if nearly all letters agree, if a word of it does (``rounds`` for
    ``num-server-rounds``), or if it is its initials (``lr`` for ``learning-rate``).

    Parameters
    ----------
    name : str
        What was given; dashes around do not count, and underscores are hyphens.
    known : iterable of str
        The names that there are.

    Returns
    -------
    list of str
        At most :data:`MOST_SUGGESTED`; empty where nothing is near.
    """
    wanted = _plain(name)
    scores = {candidate: _likeness(wanted, candidate) for candidate in known}
    near = sorted((c for c, (near, _) in scores.items() if near), key=lambda c: scores[c][1])
    slip = bool(near) and scores[near[-1]][1] >= _SLIP
    return near[::-1][: 1 if slip else MOST_SUGGESTED]


def _likeness(wanted: str, candidate: str) -> tuple[bool, float]:
    """Return whether a candidate is near, and the share of letters that the whole texts share."""
    words = _plain(candidate).split("-")
    whole = SequenceMatcher(None, wanted, _plain(candidate)).ratio()
    word = max(SequenceMatcher(None, wanted, word).ratio() for word in words)
    initials = len(words) > 1 and wanted == "".join(word[:1] for word in words)
    return max(whole, word) >= _NEAR or initials, whole


def _plain(name: str) -> str:
    return name.replace("_", "-").strip("-").lower()


def did_you_mean(name: str, known: Iterable[str], form: str = "{!r}") -> str:
    """Return the question whether one of the nearest names was meant; empty where none is near.

    Parameters
    ----------
    name, known : str and iterable of str
        See :func:`nearest`.
    form : str
        How a name is written.
    """
    found = [form.format(each) for each in nearest(name, known)]
    return f"did you mean {' or '.join(found)}?" if found else ""
