"""Where personal parameters live between rounds, runs and restarts.

Between the rounds of a run they are in Flower's ``context.state``. With a personal directory
they are also in one file per client, which survives killed processes, restarted SuperNodes and
later runs. The state before the last round is kept beside it: a run that was killed within a
round is resumed from the round before, when some clients have already trained further.
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
from flwr.app import ConfigRecord, RecordDict
from flwr.common.logger import log
from torch import Tensor

from clients.state.model_file import SUFFIX, PersonalizedModel, write_model
from clients.state.state_file import (
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

__all__ = [
    "CorruptStateError",
    "ForeignStateError",
    "PersonalState",
    "PersonalStateError",
    "Snapshot",
    "check_name",
    "tensor_spec",
]


def tensor_spec(tensors: Mapping[str, Tensor]) -> Spec:
    """Return name -> (shape, dtype), with dtypes named as NumPy does."""
    return {
        name: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for name, tensor in tensors.items()
    }


RECORD = "personal."
"""What the name of a record of ``context.state`` begins with; a method's name follows."""

_READ: ContextVar[RecordDict | None] = ContextVar("_READ", default=None)

_OF_ANOTHER_RUN = "; they fit shared arrays of that time, so start the server from those too"

MOST_LETTERS = 100
"""Of a client's name: its files have longer ones, and a file system takes 255 bytes."""


def check_name(name: str) -> None:
    """Refuse a client's name that is no part of a file's, or would be that of another's file.

    Raises
    ------
    ValueError
        The message says what a name is.
    """
    if not re.fullmatch(r"[A-Za-z0-9._-]*[A-Za-z0-9_-]", name) or len(name) > MOST_LETTERS:
        raise ValueError(
            f"{name!r} is no file name: use letters, digits, '.', '_', '-', at most {MOST_LETTERS}"
        )
    # Of "a.model" the personal state would be where "a" keeps its whole model.
    if f"{name}.safetensors".endswith(SUFFIX):
        raise ValueError(
            f"a client cannot be called {name!r}: files of whole models end in {SUFFIX}"
        )


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
    records : ``context.state`` of the node, or any ``RecordDict`` that outlives the round
    method : name of the method; states of different methods never mix
    client : the client's name, of its file: letters, digits, ``.``, ``_`` and ``-``; required
        with a directory, and never the same for two clients; see :func:`check_name`
    directory : the node's personal directory; None keeps the state in ``records`` only
    purpose : what the state was made on, in words (data set, split, seed, ...); a file made on
        something else is foreign, because its parameters have seen other examples
    run : name of the run at hand, the same when it is resumed
    """

    records: RecordDict = field(default_factory=RecordDict)
    method: str = "personal"
    client: str = ""
    directory: Path | None = None
    purpose: str = ""
    run: str = ""

    def __post_init__(self) -> None:
        if self.directory is None and not self.client:
            return
        check_name(self.client)

    @property
    def path(self) -> Path | None:
        """The client's file."""
        if self.directory is None:
            return None
        return self.directory / f"{self.client}.safetensors"

    def load(self, expected: Spec, before: int = 0) -> Snapshot | None:
        """Return what was kept last, or None if nothing was.

        Parameters
        ----------
        expected : every entry of the model at hand, as ``<scope>/<name>``, and what else is
            kept, as ``<part>/<name>``
        before : if positive, leave out what this same run kept in this round or later: the round
            is played again, after a run was killed in it

        Raises
        ------
        CorruptStateError, ForeignStateError
            If the file cannot be used; the message names it and the way out.
        """
        if self._key in self.records.array_records:
            # Copies, because the training loop writes into what it is given.
            arrays = {
                name: torch.from_numpy(np.array(view(array)))
                for name, array in self.records.array_records[self._key].items()
            }
            about = self.records.config_records[self._key + ".about"]
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
                "%s goes on with its personal parameters of round %d from %s%s",
                *(self.client, snapshot.round, candidate, "" if own else _OF_ANOTHER_RUN),
            )
            if (read := _READ.get()) is not None:
                self._put(snapshot, read)
            return snapshot
        return None

    def save(self, snapshot: Snapshot, expected: Spec) -> None:
        """Keep ``snapshot``: on the disk first, then for the next round.

        Raises
        ------
        CorruptStateError, ForeignStateError
            If a file that is not this client's own stands in the way.
        PersonalStateError
            If it cannot be written; the state before is intact.
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

    def save_model(self, model: PersonalizedModel) -> None:
        """Keep the client's whole model beside its personal parameters, where there is a directory.

        Nothing depends on that file, so a disk that refuses it is only warned of.
        """
        if self.directory is None:
            return
        about = {"method": self.method, "client": self.client, "purpose": self.purpose}
        whole = replace(model, about={**model.about, **about})
        try:
            write_model(self.directory / f"{self.client}{SUFFIX}", whole)
        except PersonalStateError as error:
            log(WARNING, "The whole model of %s was not kept: %s", self.client, error)

    def _put(self, snapshot: Snapshot, records: RecordDict) -> None:
        numpys = {name: tensor.numpy() for name, tensor in snapshot.arrays.items()}
        records[self._key] = to_record(numpys)
        records[self._key + ".about"] = ConfigRecord({"round": snapshot.round})

    @property
    def _key(self) -> str:
        return f"{RECORD}{self.method}"

    def _identity(self, expected: Spec) -> dict[str, str]:
        return {
            "format": FORMAT,
            "app": "pfl-flower",
            "method": self.method,
            "client": self.client,
            "purpose": self.purpose,
            "fingerprint": fingerprint(expected),
        }
