"""The client's side of a frozen base: reports it, keeps what is sent, works on no other one."""

import json
from collections.abc import Mapping
from typing import Any

from flwr.app import Array, ConfigRecord, Context, RecordDict
from flwr.client import NumPyClient
from torch import Tensor

from clients import base_fingerprint
from clients.frozen import base_digests
from clients.missing_base import MissingBaseError
from clients.state.personal_state import tensor_spec
from pfl_flower.client.kept_base import keep_base, kept_base, tensors_of
from pfl_flower.config.errors import ConfigError
from pfl_flower.config.run_config import RunConfig
from pfl_flower.frozen_base import base_entries, base_of, own_fingerprints, without_sent_base
from pfl_flower.sent_bases import hold_base, is_held
from strategies.arrays import difference
from strategies.protocol import FROZEN_BASE, PROPERTIES

_FINGERPRINT = "fingerprint"
_OWN = "own-fingerprint/"
"""Before a method's name: of what is frozen under that method."""

_BUILT = "built-base"
"""Record in the node's state: the base of a run -> the fingerprint of what the builder makes."""


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
        """Return the digests, as JSON.

        Raises
        ------
        MissingBaseError
            If the server has another base than the builder makes, and the node does not have it.
        """
        _take_base(self.config, self.context)
        return {FROZEN_BASE: json.dumps(_found(self.config, self.context))}

    def answer(
        self, question: str, arrays: Mapping[str, Array], config: dict[str, Any]
    ) -> RecordDict:
        """Keep the base that the server sends; return its fingerprint.

        Raises
        ------
        ConfigError
            If it is not the base of the schema, or does not fit the node's network.
        PersonalStateError
            If the disk refuses.
        """
        base = tensors_of(arrays)
        _check_sent(self.config, base)
        keep_base(self.config, self.context, arrays)
        fingerprint = self.config.required_schema.base
        hold_base(fingerprint, base)
        return RecordDict({PROPERTIES: ConfigRecord({FROZEN_BASE: fingerprint})})


def check_base(config: RunConfig, context: Context) -> str:
    """Return the fingerprint of what is frozen under the config's method; ``""`` for nothing.

    It is what the client's files go by; the server's is of the base of all methods of the run.
    The base is hashed in the node's first message of a run, and not again.

    Raises
    ------
    ConfigError
        If the node's base is another one than the server's, which the server does not send.
    MissingBaseError
        If the server sends it, and the node does not have it.
    """
    expected = config.required_schema.base
    if not expected:
        return ""
    _take_base(config, context)
    known = _known(context)
    own = _OWN + config.method
    if known.get(_FINGERPRINT) != expected or own not in known:
        _found(config, context)
        known = _known(context)
    if (found := known[_FINGERPRINT]) != expected:
        raise ConfigError(
            f"the frozen base of model {config.model!r} has the fingerprint "
            f"{str(found) or 'none'} on this node and {expected} on the server; give both the same "
            "file",
            key="model",
            value=config.model,
        )
    return str(known[own])


def _take_base(config: RunConfig, context: Context) -> None:
    """Let the network be built on the base that the node was sent, if the builder makes another.

    Raises
    ------
    MissingBaseError
        If the node needs it and does not have it.
    """
    schema = config.required_schema
    verified = _known(context).get(_FINGERPRINT) == schema.base
    if not schema.sends_base or (verified and is_held(schema.base)):
        return
    if _built(config, context) == schema.base:
        hold_base(schema.base, {})
        return
    base = kept_base(config, context)
    if base is None:
        raise MissingBaseError(schema.base)
    hold_base(schema.base, base)


def _built(config: RunConfig, context: Context) -> str:
    """Return the fingerprint of the base that the builder makes; hashed once a run."""
    wanted = config.required_schema.base
    kept = context.state.get(_BUILT)
    if isinstance(kept, ConfigRecord) and wanted in kept:
        return str(kept[wanted])
    found = base_fingerprint(base_of(without_sent_base(config)))
    context.state[_BUILT] = ConfigRecord({wanted: found})
    return found


def _check_sent(config: RunConfig, base: Mapping[str, Tensor]) -> None:
    """Raise unless a base that was sent is that of the schema, and one for this network."""
    expected = config.required_schema.base
    found = base_fingerprint(base_digests(base, base))
    own = base_entries(without_sent_base(config))
    words = "" if found == expected else f"its fingerprint is {found or 'none'}, not {expected}"
    if words := words or difference(tensor_spec(own), tensor_spec(base)):
        raise ConfigError(
            f"the frozen base that the server sent is refused: {words}",
            key="model",
            value=config.model,
        )


def _known(context: Context) -> Mapping[str, Any]:
    """Return the fingerprints that the node has found in this run."""
    kept = context.state.get(FROZEN_BASE)
    return dict(kept) if isinstance(kept, ConfigRecord) else {}


def _found(config: RunConfig, context: Context) -> Mapping[str, str]:
    digests = base_of(config)
    own = {_OWN + name: each for name, each in own_fingerprints(config).items()}
    context.state[FROZEN_BASE] = ConfigRecord({_FINGERPRINT: base_fingerprint(digests), **own})
    return digests
