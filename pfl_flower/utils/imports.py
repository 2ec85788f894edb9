"""A user's own function, named in a text: ``module:function``."""

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pfl_flower.utils.text import did_you_mean


class ResolveError(ValueError):
    """A text that names no function which can be imported."""


def resolve(text: str) -> Callable[..., Any]:
    """Return the function (or class) that ``module:function`` names; the module is imported.

    Importing a module runs it: the text comes from whoever configures the run.

    Raises
    ------
    ResolveError
        If the text has another form, the module cannot be imported, or it has no such function.
    """
    module_name, colon, name = text.strip().partition(":")
    words = module_name.split(".")
    if not (colon and name.isidentifier() and all(word.isidentifier() for word in words)):
        raise ResolveError(
            f"{text!r} does not name a function: write module:function, e.g. 'hospital:load' for "
            f"the function load of hospital.py"
        )
    module = _import(module_name, text)
    if not hasattr(module, name):
        known = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
        question = did_you_mean(name, known, f"'{module_name}:{{}}'")
        hint = f"; {question}" if question else ""
        raise ResolveError(
            f"{text!r}: module {module_name!r} ({_origin(module)}) has no {name!r}{hint}"
        )
    found = getattr(module, name)
    if not callable(found):
        raise ResolveError(
            f"{text!r} is a {type(found).__name__}, which cannot be called; name a function"
        )
    return found  # type: ignore[no-any-return]


def takes(function: Callable[..., Any], argument: str) -> bool:
    """Return whether a function has an argument of a name; False where that cannot be told."""
    try:
        return argument in inspect.signature(function).parameters
    except (TypeError, ValueError):  # of some functions written in C
        return False


def source_of(text: str) -> Path | None:
    """Return the source file of a function that is named as ``module:function``; else None."""
    try:
        file = getattr(sys.modules[resolve(text).__module__], "__file__", None)
    except (ResolveError, KeyError):
        return None
    return Path(file) if file else None


def _import(name: str, text: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise ResolveError(
                f"{text!r}: there is no module {error.name!r}; install it in this environment, or "
                f"put its folder in $PYTHONPATH"
            ) from error
        raise ResolveError(f"{text!r}: module {name!r} needs another one: {error}") from error
    except Exception as error:  # a module is a program: importing it can raise anything
        raise ResolveError(
            f"{text!r}: importing module {name!r} failed with {type(error).__name__}: {error}"
        ) from error


def _origin(module: Any) -> str:
    return getattr(module, "__file__", None) or "which has no file"
