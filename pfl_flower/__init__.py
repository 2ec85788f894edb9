"""The Flower app: run config -> data, model, method; results of every client."""

import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def _version() -> str:
    """Return the version: of what is installed, or of the app that Flower has unpacked.

    Flower installs the dependencies of an app and not the app itself, but its ``pyproject.toml`` is
    beside this package.
    """
    try:
        return version("pfl-flower")
    except PackageNotFoundError:
        if not _PROJECT.exists():
            return "unknown"
        return str(tomllib.loads(_PROJECT.read_text())["project"]["version"])


__version__ = _version()
