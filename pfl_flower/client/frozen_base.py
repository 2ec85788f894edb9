"""The client's side of a frozen base: it reports its own, and does not work on another one."""

import json
from collections.abc import Mapping
from typing import Any

from flwr.app import ConfigRecord, Context
from flwr.client import NumPyClient

from clients import base_fingerprint
from pfl_flower.config.errors import ConfigError
from pfl_flower.config.run_config import RunConfig
from pfl_flower.frozen_base import base_of, own_fingerprints
from strategies.protocol import FROZEN_BASE

_FINGERPRINT = "fingerprint"
_OWN = "own-fingerprint/"
"""Before a method's name: of what is frozen under that method."""


class BaseReporter(NumPyClient):
    """Answers the question for a digest of every frozen entry of the network, once a run.

    Parameters
    ----------
    config : RunConfig
        Of the run, with the schema of the data.
    context : Context
        Of the node, which keeps the fingerprints.
    """

    shared_names: list[str] = []  # noqa: RUF012

    def __init__(self, config: RunConfig, context: Context) -> None:
        self.config = config
        self.context = context

    def get_properties(self, config: dict[str, Any]) -> dict[str, Any]:
        """Return the digests, as JSON."""
        return {FROZEN_BASE: json.dumps(_found(self.config, self.context))}


def check_base(config: RunConfig, context: Context) -> str:
    """Return the fingerprint of what is frozen under the config's method; ``""`` for nothing.

    It is what the client's files go by; the server's is of the base of all methods of the run.
    The base is hashed in the node's first message of a run, and not again.

    Raises
    ------
    ConfigError
        If the node's base is another one than the server's.
    """
    expected = config.required_schema.base
    if not expected:
        return ""
    kept = context.state.get(FROZEN_BASE)
    known = dict(kept) if isinstance(kept, ConfigRecord) else {}
    own = _OWN + config.method
    if known.get(_FINGERPRINT) != expected or own not in known:
        _found(config, context)
        known = dict(context.state.config_records[FROZEN_BASE])
    if (found := known[_FINGERPRINT]) != expected:
        raise ConfigError(
            f"the frozen base of model {config.model!r} has the fingerprint "
            f"{str(found) or 'none'} on this node and {expected} on the server; give both the same "
            "file",
            key="model",
            value=config.model,
        )
    return str(known[own])


def _found(config: RunConfig, context: Context) -> Mapping[str, str]:
    digests = base_of(config)
    own = {_OWN + name: each for name, each in own_fingerprints(config).items()}
    context.state[FROZEN_BASE] = ConfigRecord({_FINGERPRINT: base_fingerprint(digests), **own})
    return digests
