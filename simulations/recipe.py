"""Recipes: a TOML file that says how a published table was made, so that it can be made again.

``python -m simulations recipes/taste.toml`` runs one::

    version = 1
    command = "taste"            # a study, or compare
    [options]                    # of that command; seeds = [0, 1] is --seeds 0,1
    seeds = [0, 1, 2, 3, 4]
"""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("recipes")
"""Where the recipes of the published tables are."""

VERSION = 1
_KEYS = ("version", "command", "options")


class RecipeError(ValueError):
    """A recipe that cannot be followed.

    Parameters
    ----------
    message : str
        What is wrong, and what would be right.
    key : str
        The entry of the recipe that is wrong.
    value : object
        What it is.
    choices : sequence of str
        What it could be.
    """

    def __init__(self, message: str, key: str, value: Any, choices: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.key, self.value, self.choices = key, value, tuple(choices)


def words_of(name: str, commands: Sequence[str]) -> list[str]:
    """Return the command line that a recipe stands for.

    Parameters
    ----------
    name : str
        A file, or the name of one in :data:`FOLDER`.
    commands : sequence of str
        The commands there are.

    Returns
    -------
    list of str
        The command and its options.

    Raises
    ------
    RecipeError
        If the file is missing, is no TOML, is of another version, or has entries that no recipe
        has.
    """
    places = [Path(name)] if Path(name).name != name else [Path(name), FOLDER / name]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        known = sorted(file.name for file in FOLDER.glob("*.toml"))
        raise RecipeError(f"there is no recipe {name}; published: {known}", "file", name, known)
    try:
        recipe = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is no TOML: {error}", "file", name) from error
    _check(path, recipe, commands)
    return [recipe["command"], *_options(recipe.get("options", {}))]


def _check(path: Path, recipe: Mapping[str, Any], commands: Sequence[str]) -> None:
    for key in recipe:
        if key not in _KEYS:
            raise RecipeError(f"{path} has {key!r}; it may have {_KEYS}", key, recipe[key], _KEYS)
    if (version := recipe.get("version")) != VERSION:
        raise RecipeError(
            f"{path} is of version {version!r}; this is version {VERSION}",
            "version",
            version,
            [str(VERSION)],
        )
    if (command := recipe.get("command")) not in commands:
        raise RecipeError(
            f"the command of {path} is {command!r}; it must be one of {', '.join(commands)}",
            "command",
            command,
            commands,
        )
    if not isinstance(options := recipe.get("options", {}), Mapping):
        raise RecipeError(f"the options of {path} must be a table", "options", options)


def _options(options: Mapping[str, Any]) -> list[str]:
    """Return options as words; a true one is a flag."""
    return [
        f"--{name}" if value is True else f"--{name}={_text(value)}"
        for name, value in options.items()
    ]


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(str(entry) for entry in value)
    return "false" if value is False else str(value)
