"""Files that are written whole or not at all."""

import csv
import io
import json
import math
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def file_name(text: str) -> str:
    """Return a text as part of a file name: what is neither letter, digit, _ nor - becomes -."""
    return re.sub(r"[^\w-]+", "-", text).strip("-")


def write_bytes(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file atomically, with its permissions from the start: a temporary name, a rename."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically; NaN becomes null, which every reader of JSON knows."""
    write_bytes(path, (json.dumps(_plain(content), indent=2) + "\n").encode())


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV atomically; columns in the order in which they first occur."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode())


def _plain(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {str(key): _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


def under_home(text: str) -> Path:
    """Return a folder that a config names; a relative one is under the home folder.

    The managed SuperLink, in which ``flwr run`` runs the server, has a working directory of its
    own, which a user does not know.
    """
    path = Path(text).expanduser()
    return path if path.is_absolute() else Path.home() / path
