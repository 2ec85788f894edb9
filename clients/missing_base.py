"""A client without the frozen base that the server has says so, and is sent it."""

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from strategies.protocol import FROZEN_BASE, MISSING_BASE


class MissingBaseError(RuntimeError):
    """A client that needs a frozen base from the server before it can answer.

    Parameters
    ----------
    fingerprint : str
        Of the base.

    Attributes
    ----------
    fingerprint
        The same.
    """

    def __init__(self, fingerprint: str) -> None:
        super().__init__(f"this node does not have the server's frozen base {fingerprint}")
        self.fingerprint = fingerprint


def ask_for_base(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Reply which base is missing, where a client cannot answer without it.

    A Flower mod. The server then sends the base and the same request again; nothing has been done
    for the first one (:data:`strategies.protocol.MISSING_BASE`).
    """
    try:
        return call_next(message, context)
    except MissingBaseError as error:
        missing = ConfigRecord({FROZEN_BASE: error.fingerprint})
        return Message(RecordDict({MISSING_BASE: missing}), reply_to=message)
