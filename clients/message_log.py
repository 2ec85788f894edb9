"""What comes to a device, what stays and what leaves: a line a message, and a look for leaks."""

from collections.abc import Iterable, Mapping
from logging import DEBUG, INFO

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable
from flwr.common.logger import log

from clients.leaks import LeakSearch, leaving
from clients.local_client import PERSONAL_PART
from clients.state.personal_state import RECORD, UNGUARDED, watched
from strategies.arrays import num_bytes, view
from strategies.protocol import CONFIG, PARTITION_ID, SERVER_ROUND

INSPECT = "inspect"
"""Node config: look through everything that leaves the device."""

NAME = "name"
"""Node config: what the device is called."""

PERSONAL_DIR = "personal-dir"
"""Node config: where the device keeps what is personal."""


class PersonalLeakError(RuntimeError):
    """A message that would have taken something personal with it; it was not sent."""


def inspector(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Tell what a message brought, what was kept of it and what leaves; let nothing personal leave.

    A Flower mod, the outermost of :func:`clients.client_app`. On a device that has a personal
    directory the line is logged for everybody to see (``INFO``), elsewhere for developers
    (``DEBUG``). With ``inspect=true`` in the node config everything that leaves is compared with
    what the client keeps under the method at hand, and kept before: see :func:`check_leaks`. That
    takes seconds a message where tens of millions of values are shared and personal.

    Raises
    ------
    PersonalLeakError
        If something personal would leave. The server gets this error instead of the message.
    """
    inspects = bool(context.node_config.get(INSPECT, False))
    received = message.content if message.has_content() else RecordDict()
    sent = _arrays(received.array_records.values())
    before = kept_by(context.state) if inspects else {}
    with watched() as seen:
        reply = call_next(message, context)
    if inspects and reply.has_content():
        own = [*before.items(), *kept_by(seen.read).items(), *kept_by(context.state).items()]
        # What one method keeps another may share: the head that fedavg sends after round 1 is the
        # one that fedper keeps. Where no method is seen at work, nothing of any may leave.
        checked: list[Mapping[str, Array]] = []
        for method, secrets in own:
            if secrets not in checked and (method in seen.methods or not seen.methods):
                check_leaks(reply.content, sent, secrets)
                checked.append(secrets)
    shown = inspects or PERSONAL_DIR in context.node_config
    log(INFO if shown else DEBUG, "%s", words_on(message, reply, context, seen.read))
    return reply


def words_on(message: Message, reply: Message, context: Context, read: RecordDict) -> str:
    """Return a line on a message and its reply: whose, and what came, stays and goes.

    Arrays are told by names and bytes, by methods those that are kept; metrics and answers to
    questions by their names.

    Parameters
    ----------
    message, reply, context : as Flower has them
    read : what the client has in its files alone (:class:`clients.state.personal_state.Seen`)
    """
    content, answer = (m.content if m.has_content() else RecordDict() for m in (message, reply))
    config = content.config_records.get(CONFIG, ConfigRecord())
    records: list[Mapping[str, object]] = [
        *answer.metric_records.values(),
        *answer.config_records.values(),
    ]
    told = list(dict.fromkeys(name for record in records for name in record))
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
        f"tells {', '.join(told) or 'nothing'}"
    )


def _who(context: Context, told: Iterable[Mapping[str, object]]) -> str:
    """Return a client's name, where it has one, and its number, by which the server knows it."""
    name, own = context.node_config.get(NAME), context.node_config.get(PARTITION_ID)
    number = next((record[PARTITION_ID] for record in told if PARTITION_ID in record), own)
    return f"client {number}" if name is None else f"{name} (client {number})"


def _words(arrays: Mapping[str, Array]) -> str:
    size = num_bytes(arrays)
    return f"{len(arrays)} arrays of {size} bytes ({', '.join(arrays)})" if arrays else "no arrays"


def _arrays(records: Iterable[ArrayRecord]) -> dict[str, Array]:
    return {name: array for record in records for name, array in record.items()}


def kept_by(state: RecordDict) -> dict[str, dict[str, Array]]:
    """Return what a client keeps to itself: method -> ``<part>/<name>`` -> array.

    Whole models of its own are not among it: ``mr-mtl`` sends them, and those of ``ditto`` begin as
    the shared one, with which they stay alike in many values.

    Parameters
    ----------
    state : ``context.state``, or what is like it
    """
    found = {}
    for key, record in state.array_records.items():
        about = state.config_records.get(f"{key}.about", ConfigRecord())
        told = about.get(UNGUARDED, [])
        own = {n: a for n, a in record.items() if n.partition("/")[0] not in told}  # type: ignore[operator]
        found[key.removeprefix(RECORD)] = own
    return found


def check_leaks(
    content: RecordDict, received: Mapping[str, Array], kept: Mapping[str, Array]
) -> None:
    """Raise if a message holds something that a client keeps to itself.

    Parameters
    ----------
    content : what would leave
    received : name -> array that the server has sent, which may be sent back
    kept : ``<part>/<name>`` -> array. Values of none may leave, whole or in part, in whatever shape
        and type, as arrays, among metrics or as bytes (:class:`clients.leaks.LeakSearch`); nor may
        the name of a personal parameter, which the server does not have. This finds mistakes, not
        who hides what leaves: values that were changed (scaled, rounded, subtracted) or written
        as text are not known again

    Raises
    ------
    PersonalLeakError
        With the name of the first such array.
    """
    for name in _arrays(content.array_records.values()):
        if name not in received and f"{PERSONAL_PART}/{name}" in kept:
            raise PersonalLeakError(f"array {name!r} is personal; the message was not sent")
    if not kept:
        return
    own = {name: view(array) for name, array in kept.items()}
    known = [view(array) for array in received.values()]
    searches: dict[bool, LeakSearch] = {}
    for name, values in leaving(content):
        half = values.dtype == np.float16
        if half not in searches:
            searches[half] = LeakSearch(own, known, half)
        if secret := searches[half].secret_in(values):
            raise PersonalLeakError(
                f"{name} has values of the client's own {secret!r}; the message was not sent"
            )
