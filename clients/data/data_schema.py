"""The client keeps the data schema, which the server sends once and then names by a digest."""

from functools import lru_cache
from hashlib import sha256

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from strategies.protocol import (
    CONFIG,
    DATA_SCHEMA,
    DATA_SCHEMA_DIGEST,
    MISSING_SCHEMA,
)

RECORD = "data-schema"
"""Name of the record in ``context.state``: the schema and its digest, for one run."""


@lru_cache(maxsize=8)
def digest_of(schema: str) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a data schema.

    Parameters
    ----------
    schema : str
        The schema as JSON, as it is sent.
    """
    return sha256(schema.encode()).hexdigest()[:16]


def keep_schema(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Keep the data schema of a message, or put it in the place of its digest.

    A Flower mod: what comes after it finds the schema in every message's config. If the node does
    not have the schema that a digest names (it was restarted and has lost its state), nothing is
    done, and the reply says which schema is missing (:data:`strategies.protocol.MISSING_SCHEMA`);
    the server then sends the request again with the schema in it. Messages that name no schema are
    passed on as they are.
    """
    config = message.content.get(CONFIG) if message.has_content() else None
    if not isinstance(config, ConfigRecord):
        return call_next(message, context)
    if DATA_SCHEMA in config:
        schema = str(config[DATA_SCHEMA])
        context.state[RECORD] = ConfigRecord(
            {DATA_SCHEMA: schema, DATA_SCHEMA_DIGEST: digest_of(schema)}
        )
    elif DATA_SCHEMA_DIGEST in config:
        kept = context.state.get(RECORD)
        wanted = str(config[DATA_SCHEMA_DIGEST])
        if not isinstance(kept, ConfigRecord) or kept[DATA_SCHEMA_DIGEST] != wanted:
            missing = ConfigRecord({DATA_SCHEMA_DIGEST: wanted})
            return Message(RecordDict({MISSING_SCHEMA: missing}), reply_to=message)
        config[DATA_SCHEMA] = kept[DATA_SCHEMA]
    return call_next(message, context)
