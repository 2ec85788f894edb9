"""A line in the log on every message: what comes to a device, what stays and what leaves."""

from collections.abc import Iterable, Mapping
from logging import DEBUG, INFO, getLogger

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable
from flwr.common.logger import log

from clients.state.personal_state import RECORD, watched
from strategies.arrays import num_bytes
from strategies.protocol import CONFIG, PARTITION_ID, SERVER_ROUND

INSPECT = "inspect"
"""Node config: show the line on every message."""

NAME = "name"
"""Node config: what the device is called."""

PERSONAL_DIR = "personal-dir"
"""Node config: where the device keeps what is personal."""


def log_message(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Log a line on every message: what it brought, what was kept of it and what leaves.

    A Flower mod, the outermost of :func:`clients.client_app`. On a device that has a personal
    directory, or ``inspect=true`` in its node config, everybody sees the line (``INFO``); elsewhere
    it is for developers (``DEBUG``).
    """
    with watched() as read:
        reply = call_next(message, context)
    shown = bool(context.node_config.get(INSPECT, False)) or PERSONAL_DIR in context.node_config
    level = INFO if shown else DEBUG
    if getLogger("flwr").isEnabledFor(level):  # the line costs as much as a small client's step
        log(level, "%s", words_on(message, reply, context, read))
    return reply


def words_on(message: Message, reply: Message, context: Context, read: RecordDict) -> str:
    """Return a line on a message and its reply: whose, and what came, stays and goes.

    Arrays are listed by names and bytes, those that are kept by methods; metrics and answers to
    questions by their names.

    Parameters
    ----------
    message, reply, context : Message, Message and Context
        As Flower has them.
    read : RecordDict
        What the client has in its files alone (:func:`clients.state.personal_state.watched`).
    """
    content, answer = (m.content if m.has_content() else RecordDict() for m in (message, reply))
    config = content.config_records.get(CONFIG, ConfigRecord())
    records: list[Mapping[str, object]] = [
        *answer.metric_records.values(),
        *answer.config_records.values(),
    ]
    reported = list(dict.fromkeys(name for record in records for name in record))
    kept_records = {**read.array_records, **context.state.array_records}
    kept = [
        f"{_words(record)} for {key.removeprefix(RECORD)}"
        for key, record in kept_records.items()
        if record
    ]
    return (
        f"{_who(context, records)}, round {config.get(SERVER_ROUND, '-')!s}, "
        f"{message.metadata.message_type}: "
        f"received {_words(_arrays(content.array_records.values()))}; "
        f"keeps {' and '.join(kept) or 'no arrays'}; "
        f"sends {_words(_arrays(answer.array_records.values()))}; "
        f"reports {', '.join(reported) or 'nothing'}"
    )


def _who(context: Context, reported: Iterable[Mapping[str, object]]) -> str:
    """Return a client's name, where it has one, and its number, by which the server knows it."""
    name, own = context.node_config.get(NAME), context.node_config.get(PARTITION_ID)
    number = next((record[PARTITION_ID] for record in reported if PARTITION_ID in record), own)
    return f"client {number}" if name is None else f"{name} (client {number})"


def _words(arrays: Mapping[str, Array]) -> str:
    size = num_bytes(arrays)
    return f"{len(arrays)} arrays of {size} bytes ({', '.join(arrays)})" if arrays else "no arrays"


def _arrays(records: Iterable[ArrayRecord]) -> dict[str, Array]:
    return {name: array for record in records for name, array in record.items()}
