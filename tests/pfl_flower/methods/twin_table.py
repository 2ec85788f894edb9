"""The table of docs/guides/unusual_networks.md: which methods refuse which networks, and why."""

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

PAGE = Path(__file__).resolve().parents[3] / "docs" / "guides" / "unusual_networks.md"
ANY = "any but one linear layer"
"""The row of methods that refuse every network of a user."""

_REFUSAL = re.compile(r"`([a-z0-9-]+)` \(`(\w+)`, (\w+) `([^`]+)`\)")


@dataclass(frozen=True)
class Refusal:
    """An error, by its type and the attribute that says what is wrong.

    Parameters
    ----------
    error : str
        Name of its type.
    attribute, value : str
        The first of ``key`` and ``rule`` that it has.
    """

    error: str
    attribute: str
    value: str

    @classmethod
    def of(cls, error: Exception) -> "Refusal":
        """Return what an error says; raise it if it has neither attribute."""
        for attribute in ("key", "rule"):
            if (value := getattr(error, attribute, None)) is not None:
                return cls(type(error).__name__, attribute, str(value))
        raise error


@lru_cache(maxsize=1)
def table() -> dict[str, dict[str, Refusal]]:
    """Return kind of network -> method that refuses it -> how."""
    lines = PAGE.read_text().partition("## What is held to its twin")[2].splitlines()
    rows = [line.strip("|").split("|") for line in lines if line.startswith("| ")][1:]
    return {
        kind.strip(): {method: Refusal(*how) for method, *how in _REFUSAL.findall(refusals)}
        for kind, _, refusals in rows
    }


def refusals_of(kind: str) -> dict[str, Refusal]:
    """Return the methods that refuse a kind of network, and how."""
    return table()[ANY] | table()[kind]
