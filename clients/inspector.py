"""What comes to a device, what stays and what leaves: a line a message, and a look for leaks."""

from collections.abc import Iterable, Mapping
from logging import DEBUG, INFO

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable
from flwr.common.logger import log

from clients.personal import FINE_TUNED_PART, PERSONAL_PART
from strategies.arrays import view
from strategies.protocol import CONFIG, SERVER_ROUND

INSPECT = "inspect"
"""Node config: look through everything that leaves the device."""

PERSONAL_DIR = "personal-dir"
"""Node config: where the device keeps what is personal."""


class PersonalLeakError(RuntimeError):
    """A message that would have taken something personal with it; it was not sent."""


def inspector(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Tell what a message brought, what was kept of it and what leaves; let nothing personal leave.

    A Flower mod, the outermost of :func:`clients.client_app`. On a device that has a personal
    directory the line is logged for everybody to see (``INFO``), elsewhere for developers
    (``DEBUG``). With ``inspect=true`` in the node config every array that leaves is compared with
    what the client keeps as its personal parameters and, fine-tuned, as its own model. (Methods
    whose idea it is to send a model of one's own, such as ``mr-mtl``, may go on doing so.)

    Raises
    ------
    PersonalLeakError
        If an array that leaves has the name of a personal one, or the same values (of several
        that are not all equal). The server gets this error instead of the message.
    """
    reply = call_next(message, context)
    inspects = bool(context.node_config.get(INSPECT, False))
    device = inspects or PERSONAL_DIR in context.node_config
    personal, tuned = (_kept(context.state, part) for part in (PERSONAL_PART, FINE_TUNED_PART))
    if inspects and reply.has_content():
        check_leaks(reply.content, personal, tuned)
    log(INFO if device else DEBUG, "%s", words_on(message, reply, personal | tuned))
    return reply


def words_on(message: Message, reply: Message, kept: Mapping[str, Array]) -> str:
    """Return a line on a message and its reply: names and bytes of what came, stays and goes."""
    content = message.content if message.has_content() else RecordDict()
    config = content.config_records.get(CONFIG)
    number = "-" if config is None else str(config.get(SERVER_ROUND, "-"))
    answer = reply.content if reply.has_content() else RecordDict()
    parts = (
        ("received", _arrays(content.array_records.values())),
        ("keeps", kept),
        ("sends", _arrays(answer.array_records.values())),
    )
    found = "; ".join(f"{verb} {_words(arrays)}" for verb, arrays in parts)
    return f"Round {number}, {message.metadata.message_type}: {found}"


def _words(arrays: Mapping[str, Array]) -> str:
    size = sum(len(array.data) for array in arrays.values())
    return f"{len(arrays)} arrays of {size} bytes ({', '.join(arrays)})" if arrays else "no arrays"


def _arrays(records: Iterable[ArrayRecord]) -> dict[str, Array]:
    return {name: array for record in records for name, array in record.items()}


def _kept(state: RecordDict, part: str) -> dict[str, Array]:
    """Return a part of what the client keeps: name -> array."""
    start = part + "/"
    kept = _arrays(state.array_records.values())
    return {name.removeprefix(start): a for name, a in kept.items() if name.startswith(start)}


def check_leaks(
    content: RecordDict, personal: Mapping[str, Array], tuned: Mapping[str, Array]
) -> None:
    """Raise if an array of a message is one of a client's own.

    Parameters
    ----------
    content : what would leave
    personal : name -> personal array; neither their names nor their values may leave
    tuned : name -> array of a model that was fine-tuned; their values may not leave

    Raises
    ------
    PersonalLeakError
        With the name of the first such array.
    """
    secrets = [(name, view(array)) for own in (personal, tuned) for name, array in own.items()]
    for name, array in _arrays(content.array_records.values()).items():
        if name in personal:
            raise PersonalLeakError(f"array {name!r} is personal; the message was not sent")
        values = view(array)
        for secret, own in secrets:
            # Arrays of one value, such as zeros, are equal by chance.
            telling = own.size and (own != own.flat[0]).any()
            if telling and own.shape == values.shape and np.array_equal(own, values):
                raise PersonalLeakError(
                    f"array {name!r} has the values of the client's own {secret!r}; the message "
                    f"was not sent"
                )
