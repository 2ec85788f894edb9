"""Text to and from the ``flwr`` command."""

import re
from collections.abc import Mapping
from typing import Any


def toml(values: Mapping[str, Any]) -> str:
    """Return a run config as ``flwr run`` takes it."""

    def word(value: Any) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        return f'"{value}"' if isinstance(value, str) else str(value)

    return " ".join(f"{name}={word(value)}" for name, value in values.items())


def plain(text: str) -> str:
    """Return a text without the colours of a terminal."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
