"""Frozen bases that a server sends, by fingerprint, for the networks of this process.

The server puts here what its file of first arrays has, a client what it was sent. Whether a client
*has* a base is no matter of this process, which may play many clients, but of the client's own
state and files (:mod:`pfl_flower.client.kept_base`).
"""

from collections.abc import Mapping

from torch import Tensor

from pfl_flower.data.schema import DataSchema

_MOST = 4
"""How many are held: a base may take most of the memory of a small device."""

_bases: dict[str, Mapping[str, Tensor]] = {}


def hold_base(fingerprint: str, entries: Mapping[str, Tensor]) -> None:
    """Hold a base for the networks of this process.

    Parameters
    ----------
    fingerprint : str
        Its fingerprint (:func:`clients.base_fingerprint`).
    entries : mapping
        Frozen entry -> value; empty where the network's builder makes this base itself.
    """
    known = _bases.pop(fingerprint, {})
    _bases[fingerprint] = known or entries
    while len(_bases) > _MOST:
        del _bases[next(iter(_bases))]


def is_held(fingerprint: str) -> bool:
    """Return whether a base has been put here."""
    return fingerprint in _bases


def held_base(fingerprint: str) -> Mapping[str, Tensor]:
    """Return a base that this process holds; empty where it holds none of that fingerprint."""
    return _bases.get(fingerprint, {})


def with_sent_base(schema: DataSchema | None, values: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return a network's first values with the base of a schema in the place of the builder's.

    Parameters
    ----------
    schema : DataSchema or None
        What says whether there is one.
    values : mapping
        State-dict name -> first value, as the network's builder made it.

    Raises
    ------
    RuntimeError
        If the base has not been put here before.
    """
    if schema is None or not schema.sends_base:
        return values
    if not is_held(schema.base):  # never go on with another base without a word
        raise RuntimeError(f"the frozen base {schema.base} is not in this process")
    return {**values, **_bases[schema.base]}
