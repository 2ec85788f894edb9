"""Personal state of a client: personal parameters between rounds, runs and restarts.

Between the rounds of a run they are in Flower's ``context.state``. With a personal directory they
are also in one file per client, which survives killed processes, restarted SuperNodes and later
runs. The state before the last round is kept, too: a run that was killed in a round resumes from
the round before, although some clients have already trained further.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from logging import INFO, WARNING
from pathlib import Path
from typing import cast

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from flwr.common.logger import log
from torch import Tensor

from clients.state.model_file import (
    BASE_SUFFIX,
    SUFFIX,
    PersonalizedModel,
    write_base,
    write_model,
)
from clients.state.state_file import (
    BASE,
    FORMAT,
    CorruptStateError,
    ForeignStateError,
    PersonalStateError,
    Snapshot,
    fingerprint,
    keep_previous,
    previous_of,
    read_file,
    write_file,
)
from strategies.arrays import Spec, to_record, view
from strategies.errors import ArgumentError

__all__ = [
    "CorruptStateError",
    "ForeignStateError",
    "PersonalState",
    "PersonalStateError",
    "Snapshot",
]


def tensor_spec(tensors: Mapping[str, Tensor]) -> Spec:
    """Return name -> (shape, dtype), with NumPy's names of dtypes."""
    return {
        name: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for name, tensor in tensors.items()
    }


RECORD = "personal."
"""Prefix of the names of records in ``context.state``; a method's name follows."""

_READ: ContextVar[RecordDict | None] = ContextVar("_READ", default=None)

_OF_ANOTHER_RUN = "; they fit the shared arrays of that run, so start the server from those, too"

MOST_LETTERS = 100
"""Limit of a client's name: its files have longer names, and file systems allow 255 bytes."""


def check_name(name: str) -> None:
    """Raise an error for a client's name that is not a file name, or clashes with another file.

    Raises
    ------
    ArgumentError
        If the name is not allowed.
    """
    if not re.fullmatch(r"[A-Za-z0-9._-]*[A-Za-z0-9_-]", name) or len(name) > MOST_LETTERS:
        wanted = f"at most {MOST_LETTERS} letters, digits, '.', '_' and '-', without '.' at the end"
        raise ArgumentError("name", name, wanted)
    # The personal state of "a.model" would overwrite the whole model of "a".
    for suffix, words in ((SUFFIX, "whole models"), (BASE_SUFFIX, "frozen bases")):
        if f"{name}.safetensors".endswith(suffix):
            end = suffix.removesuffix(".safetensors")
            wanted = f"without {end!r} at the end, because files of {words} end in {suffix}"
            raise ArgumentError("name", name, wanted)


@contextmanager
def watched() -> Iterator[RecordDict]:
    """Collect what personal states read from files, in the form that ``context.state`` has.

    A device that was restarted has its personal parameters in its file alone until it trains.
    """
    read = RecordDict()
    token = _READ.set(read)
    try:
        yield read
    finally:
        _READ.reset(token)


@dataclass
class PersonalState:
    """The personal state of one client under one method.

    Parameters
    ----------
    records : RecordDict, default empty
        ``context.state`` of the node, or any ``RecordDict`` that outlives the round.
    method : str, default "personal"
        Name of the method. States of different methods are separate.
    client : str, default ""
        The client's name, which is the name of its file; see :func:`check_name`. It is required
        with a directory, and must be unique.
    directory : Path or None, default None
        The node's personal directory; with None the state is in ``records`` only.
    purpose : str, default ""
        Description of the data (data set, split, seed, ...). A file with another one is refused as
        foreign, because its parameters were trained on other examples.
    run : str, default ""
        Name of the current run; a resumed run keeps its name.
    model_directory : Path, optional
        Where the client's whole model is saved, to be exported; ``directory`` by default.
    base : str, default ""
        Fingerprint of the frozen base (:func:`clients.base_fingerprint`), which is in no file of
        personal state. A file that was trained on another one is refused as foreign.
    """

    records: RecordDict = field(default_factory=RecordDict)
    method: str = "personal"
    client: str = ""
    directory: Path | None = None
    purpose: str = ""
    run: str = ""
    model_directory: Path | None = None
    base: str = ""

    def __post_init__(self) -> None:
        self.model_directory = self.model_directory or self.directory
        if self.model_directory is None and not self.client:
            return
        check_name(self.client)

    @property
    def path(self) -> Path | None:
        """The client's file."""
        if self.directory is None:
            return None
        return self.directory / f"{self.client}.safetensors"

    def load(self, expected: Spec, before: int = 0) -> Snapshot | None:
        """Return the last saved state, or None.

        Parameters
        ----------
        expected : Spec
            All entries of the current model, as ``<scope>/<name>``, and all other saved arrays, as
            ``<part>/<name>``.
        before : int, default 0
            If positive, ignore states that this run saved in this round or later: the run was
            killed in this round and repeats it.

        Raises
        ------
        CorruptStateError, ForeignStateError
            If the file cannot be used; the message says what to do.
        """
        if isinstance(kept := self.records.get(self._key), ArrayRecord):
            # Copies, because the training loop changes its arrays in place.
            arrays = {name: torch.from_numpy(np.array(view(array))) for name, array in kept.items()}
            about = cast(ConfigRecord, self.records[self._key + ".about"])
            return Snapshot(cast(int, about["round"]), arrays, self.run)
        path = self.path
        for candidate in () if path is None else (path, previous_of(path)):
            if not candidate.exists():
                continue
            snapshot = read_file(candidate, self._identity(expected), expected)
            own = bool(self.run) and snapshot.run == self.run
            if own and 0 < before <= snapshot.round:
                continue
            log(
                INFO if own else WARNING,
                "%s continues with its personal parameters of round %d from %s%s",
                *(self.client, snapshot.round, candidate, "" if own else _OF_ANOTHER_RUN),
            )
            if (read := _READ.get()) is not None:
                self._put(snapshot, read)
            return snapshot
        return None

    def save(self, snapshot: Snapshot, expected: Spec) -> None:
        """Save ``snapshot``: first on the disk, then in ``records`` for the next round.

        Raises
        ------
        CorruptStateError, ForeignStateError
            If the path has a file that this state did not write.
        PersonalStateError
            If it cannot be written; the previous state is intact.
        """
        path = self.path
        if path is not None:
            snapshot = replace(snapshot, run=self.run)
            identity = self._identity(expected)
            if path.exists():
                old = read_file(path, identity, expected)
                if self.run and (old.run, old.round) != (self.run, snapshot.round):
                    keep_previous(path)
            write_file(path, snapshot, identity)
        self._put(snapshot, self.records)

    def save_model(self, model: PersonalizedModel, base: Mapping[str, Tensor] = {}) -> None:
        """Save the client's whole model, if there is a directory for it.

        Nothing depends on that file, so a write error is only a warning.

        Parameters
        ----------
        model : PersonalizedModel
            The model without its frozen base.
        base : mapping of str to Tensor
            The frozen base, which is written once for all clients of the directory.
        """
        if self.model_directory is None:
            return
        about = {"method": self.method, "client": self.client, "purpose": self.purpose}
        about |= {BASE: self.base} if base else {}
        whole = replace(model, about={**model.about, **about})
        try:
            if base:
                write_base(self.model_directory, self.base, base)
            write_model(self.model_directory / f"{self.client}{SUFFIX}", whole, apart=bool(base))
        except PersonalStateError as error:
            log(WARNING, "The whole model of %s was not saved: %s", self.client, error)

    def _put(self, snapshot: Snapshot, records: RecordDict) -> None:
        numpys = {name: tensor.numpy() for name, tensor in snapshot.arrays.items()}
        records[self._key] = to_record(numpys)
        records[self._key + ".about"] = ConfigRecord({"round": snapshot.round})

    @property
    def _key(self) -> str:
        return f"{RECORD}{self.method}"

    def _identity(self, expected: Spec) -> dict[str, str]:
        base = {BASE: self.base} if self.base else {}
        return {
            "format": FORMAT,
            "app": "pfl-flower",
            "method": self.method,
            "client": self.client,
            "purpose": self.purpose,
            "fingerprint": fingerprint(expected),
        } | base
