"""What Flower's privacy wrappers promise, kept for strategies that send clients different arrays.

A wrapper (``flwr.serverapp.strategy.DifferentialPrivacy...``) sees one record of arrays a round. It
clips replies around that record where the server clips, and adds noise to the record that the
wrapped strategy returns. A strategy that sends what is in neither of them has to do the same
itself, by the wrapper's own settings.
"""

import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    Strategy,
)
from numpy.typing import DTypeLike, NDArray

from strategies.arrays import encode, spec_of, view
from strategies.errors import ArgumentError
from strategies.protocol import CHANGES
from strategies.replies import Reply

__all__ = ["Privacy"]

ServerSide = (
    DifferentialPrivacyServerSideFixedClipping | DifferentialPrivacyServerSideAdaptiveClipping
)
ClientSide = (
    DifferentialPrivacyClientSideFixedClipping | DifferentialPrivacyClientSideAdaptiveClipping
)

_CALLS = ("configure_train", "configure_evaluate")


@dataclass(frozen=True)
class Privacy:
    """The settings of the privacy wrapper that is around a strategy, in one round.

    Attributes
    ----------
    wrapper : Strategy
        Flower's wrapper.
    noise_multiplier : float
        Standard deviation of the noise on a sum of updates, in clipping norms.
    clipping_norm : float
        The longest that an update may be in this round.
    """

    wrapper: ServerSide | ClientSide
    noise_multiplier: float
    clipping_norm: float

    def deviation(self, clients: int) -> float:
        """Return the standard deviation of the noise on a mean of so many clients' updates."""
        return self.noise_multiplier * self.clipping_norm / clients

    def noisy(self, mean: NDArray[Any], clients: int) -> NDArray[Any]:
        """Return a mean of so many clients' arrays with noise; integers stay as they are.

        The generator has no seed: whoever knew the seed could take the noise off again.
        """
        deviation = self.deviation(clients)
        if not deviation or not np.issubdtype(mean.dtype, np.floating):
            return mean
        noise = np.random.default_rng().normal(0.0, deviation, mean.shape)
        return np.asarray(mean + noise, dtype=mean.dtype)

    def clip_around(self, sent: Collection[ArrayRecord]) -> bool:
        """Let a wrapper that clips on the server clip around what clients are sent.

        It clips around one record. Where clients are sent several, they have to answer with changes
        from what they were sent, which are clipped around zero.

        Parameters
        ----------
        sent : collection of ArrayRecord
            What is sent, each record once.

        Returns
        -------
        bool
            Whether clients have to answer with changes.
        """
        if not isinstance(self.wrapper, ServerSide) or not sent:
            return False
        first, *others = sent
        self.wrapper.current_arrays = _zeros_like(first) if others else first
        return bool(others)


def privacy_around(strategy: Strategy) -> Privacy | None:
    """Return the settings of the privacy wrapper that is calling a strategy; None if none is.

    A wrapper does not say to the strategy that it is there, so it is looked for among the callers:
    it is the one whose ``strategy`` this is, or is around one that is. Only frames of the methods
    by which strategies call each other are looked into: to look into a frame keeps alive what is in
    it, which in :meth:`Strategy.start` are all replies of a round.
    """
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_name != "start":
        caller = frame.f_locals.get("self") if frame.f_code.co_name in _CALLS else None
        if isinstance(caller, Strategy) and getattr(caller, "strategy", None) is strategy:
            if isinstance(caller, ServerSide | ClientSide):
                return Privacy(caller, caller.noise_multiplier, caller.clipping_norm)
            strategy = caller
        frame = frame.f_back
    return None


def check_protectable(arrays: ArrayRecord, reason: str, wrapper: object) -> None:
    """Refuse a wrapper around a strategy for which clipping updates has no meaning.

    Parameters
    ----------
    arrays : ArrayRecord
        What clients are sent.
    reason : str
        Why the strategy refuses wrappers; empty if it does not.
    wrapper : object
        The wrapper.

    Raises
    ------
    ArgumentError
        With the reason; also if there are no parameters to protect.
    """
    if not any(np.issubdtype(array.dtype, np.floating) for array in arrays.values()):
        reason = "clients send no parameters"
    if reason:
        wanted = f"left out: {reason}, so there are no updates to clip"
        raise ArgumentError("wrapper", type(wrapper).__name__, wanted)


def with_integers_of(before: Mapping[str, Array], arrays: ArrayRecord) -> ArrayRecord:
    """Return arrays with integer and boolean entries restored from an earlier record.

    A wrapper adds noise to them as well, which would turn indices into other indices, and every
    boolean into true.
    """
    kept = {n: before[n] for n in arrays if n in before and not _is_learned(before[n].dtype)}
    return ArrayRecord({**arrays, **kept}) if kept else arrays


def _is_learned(dtype: DTypeLike) -> bool:
    """Return whether arrays of a dtype have updates to clip: integers and booleans have none."""
    return np.issubdtype(dtype, np.inexact)


def refuse_local_noise(replies: Sequence[Reply], reason: str) -> None:
    """Drop replies to which their clients added noise, if there is a reason to refuse it."""
    for reply in replies:
        if reason and reply.has_local_noise and not reply.dropped:
            reply.dropped = f"it adds noise, but {reason}"


def restore(
    replies: Sequence[Reply], sent: Mapping[int, ArrayRecord], otherwise: ArrayRecord, changes: bool
) -> None:
    """Give replies the arrays that their clients ended with, by what each was sent.

    Of a client that failed those are what it was sent; only a wrapper has it answer so, without one
    its reply is marked dropped. Changes are added to what was sent. An array without dimensions,
    which comes with length 1, has none again. Integers and booleans, which come as floats where
    a wrapper or a mod clips them, are those that were sent.

    Parameters
    ----------
    replies : sequence of Reply
        All of a round. One with arrays in the place of changes is marked dropped.
    sent : mapping of int to ArrayRecord
        Node -> what it was sent.
    otherwise : ArrayRecord
        What the other nodes were sent.
    changes : bool
        Whether clients were to answer with changes.
    """
    for reply in replies:
        before = sent.get(reply.node_id, otherwise)
        if not sent:
            reply.dropped = reply.unused
        if changes and not reply.dropped:
            reply.dropped = _no_changes(reply)
        if reply.dropped or not before:
            continue
        if reply.failure:
            reply.views = {name: view(array) for name, array in before.items()}
            reply.spec = spec_of(before)
        else:
            _restore_arrays(reply, before, changes, bool(sent) or reply.has_local_noise)


def _no_changes(reply: Reply) -> str:
    """Return why a reply is not made of changes that have been clipped; empty if it is."""
    if not reply.notes.get(CHANGES):
        return (
            "it sends arrays, not the changes that Flower's wrapper has clipped: clients need "
            "clients.client_app, or a wrapper that clips on clients"
        )
    if reply.has_local_noise:
        return "it sends changes, which LocalDpMod clips as if they were arrays: leave out one"
    return ""


def _restore_arrays(reply: Reply, before: ArrayRecord, changes: bool, integers: bool) -> None:
    for name in [name for name in reply.views if name in before]:
        values, shape = reply.views[name], tuple(before[name].shape)
        if not shape and values.shape == (1,):
            values = values.reshape(())
        if integers and _is_learned(values.dtype) and not _is_learned(before[name].dtype):
            values = view(before[name])  # it comes as floats
        elif changes and values.shape == shape:
            with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is dropped
                values = np.asarray(view(before[name]) + values)
        if values is not reply.views[name]:
            reply.views[name] = values
            reply.spec[name] = values.shape, str(values.dtype)


def _zeros_like(arrays: ArrayRecord) -> ArrayRecord:
    zeros = {name: encode(np.zeros_like(view(array))) for name, array in arrays.items()}
    return ArrayRecord(zeros)
