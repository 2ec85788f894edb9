"""The moments at which a device can break, each brought about by a change of what runs there."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from clients.local_training import training
from clients.personal_client import PersonalClient
from clients.state import state_file as personal_file

Strike = Callable[[], None]


def _before_training(strike: Strike) -> None:
    fit = PersonalClient.fit

    def struck(self: PersonalClient, *arguments: Any) -> Any:
        strike()
        return fit(self, *arguments)

    PersonalClient.fit = struck  # type: ignore[method-assign, assignment]


def _during_training(strike: Strike) -> None:
    steps, local_step = 0, vars(training)["local_step"]

    def struck(*arguments: Any, **keywords: Any) -> Any:
        nonlocal steps
        done = local_step(*arguments, **keywords)
        steps += 1
        if steps == 2:
            strike()
        return done

    vars(training)["local_step"] = struck


def _after_training(strike: Strike) -> None:
    fit = PersonalClient.fit

    def struck(self: PersonalClient, *arguments: Any) -> Any:
        result = fit(self, *arguments)
        strike()
        return result

    PersonalClient.fit = struck  # type: ignore[method-assign, assignment]


def _before_writing(strike: Strike) -> None:
    def struck(stream: Any, content: bytes) -> int:
        strike()
        return int(stream.write(content))

    _in_stream(struck)


def _half_written(strike: Strike) -> None:
    def struck(stream: Any, content: bytes) -> int:
        half = len(content) // 2
        stream.write(content[:half])
        stream.flush()
        strike()
        return half + int(stream.write(content[half:]))

    _in_stream(struck)


def _in_stream(write: Callable[[Any, bytes], int]) -> None:
    """Write a state into its temporary file, which is there already, in another way."""

    def fdopen(descriptor: int, mode: str) -> Any:
        stream = os.fdopen(descriptor, mode)
        return _Stream(stream, partial(write, stream))

    _in_writing(fdopen=fdopen)


class _Stream:
    """A stream, but for how it writes."""

    def __init__(self, stream: Any, write: Callable[[bytes], int]) -> None:
        self.stream, self.write = stream, write

    def __enter__(self) -> "_Stream":
        return self

    def __exit__(self, *error: object) -> None:
        self.stream.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _before_rename(strike: Strike) -> None:
    def replace(source: str, target: Path) -> None:
        if not str(target).endswith(".previous"):
            strike()
        os.replace(source, target)

    _in_writing(replace=replace)


def _after_rename(strike: Strike) -> None:
    def replace(source: str, target: Path) -> None:
        os.replace(source, target)
        if not str(target).endswith(".previous"):
            strike()

    _in_writing(replace=replace)


def _after_previous(strike: Strike) -> None:
    """The state before has just been given its second name."""

    def replace(source: str, target: Path) -> None:
        os.replace(source, target)
        if str(target).endswith(".previous"):
            strike()

    _in_writing(replace=replace)


def _in_writing(**changes: Any) -> None:
    """Change what the module that writes personal files, and it alone, knows of the system."""
    vars(personal_file)["os"] = SimpleNamespace(**(vars(os) | changes))


MOMENTS: Mapping[str, Callable[[Strike], None]] = {
    "before training": _before_training,
    "during training": _during_training,
    "after training": _after_training,
    "before writing": _before_writing,
    "half written": _half_written,
    "before the rename": _before_rename,
    "after the rename": _after_rename,
    "after the second name": _after_previous,
}
"""Name -> what makes a device be struck at that moment."""
