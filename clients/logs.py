"""Log lines that many clients of one process would repeat."""

from logging import INFO, WARNING

from flwr.common.logger import FLOWER_LOGGER, log

_said: set[tuple[int, str]] = set()


def warn_once(text: str) -> None:
    """Log a warning, the first time that this process comes to it."""
    _log_once(WARNING, text)


def info_once(text: str) -> None:
    """Log a line, the first time that this process comes to it and does not run quietly."""
    _log_once(INFO, text)


def forget() -> None:
    """Let every line be logged once more."""
    _said.clear()


def _log_once(level: int, text: str) -> None:
    if FLOWER_LOGGER.isEnabledFor(level) and (level, text) not in _said:
        _said.add((level, text))
        log(level, "%s", text)
