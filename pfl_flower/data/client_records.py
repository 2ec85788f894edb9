"""What all readers of a user's own data share: what they are asked, what they give, the checks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from clients.graphs.graph import Graph
from pfl_flower.data.degradation.declared_errors import StatedErrors, stated_errors
from pfl_flower.data.degradation.imputation import FILLING
from pfl_flower.data.readers.array_checks import KINDS, checked_inputs, checked_targets
from pfl_flower.data.schema import DataError

RawSplit = tuple[np.ndarray, np.ndarray]
"""(inputs, targets) of some examples, see :class:`RawClient`."""

SPLITS = ("train", "val", "test")
"""What follows ``x_`` and ``y_`` in the names of a client's arrays."""

_WAY_OUT = f", or set imputation ({', '.join(FILLING)}) for what is missing"
"""What a user can do about missing inputs, beside filling them in."""


@dataclass(frozen=True)
class RawClient:
    """One client's own examples as its files have them: labels unmapped, features unscaled.

    Attributes
    ----------
    train, validation, test : (inputs, targets); validation and test are None where the client's
        data come unsplit, for the caller to split off the training examples. Train and test have
        at least one example. Inputs are ``(N, *shape)``, finite float32 (or NaN where a value is
        missing, for something to take its place) or uint8 pixels in 0..255;
        targets are ``(N,)`` integers, finite floats or strings (numpy's ``str_``). Shape, dtype of
        inputs and kind of targets are the same in all splits
    phases : the same of each phase, where the data come as a stream of phases; the splits are then
        theirs, one after another. Data of one's own are no streams
    graph : what the examples are nodes of, or pairs of nodes; inputs are then their int64 numbers,
        ``(N,)`` or ``(N, 2)``. Targets of pairs are 1.0 (connected) or 0.0, float32
    community : number of the community that the client belongs to; None where it is unknown
    stated : what is stated of the errors of readings; None where nothing is
    columns : names of the features, where examples are rows of a table; empty elsewhere
    """

    train: RawSplit
    validation: RawSplit | None = None
    test: RawSplit | None = None
    phases: "tuple[RawClient, ...]" = ()
    graph: Graph | None = None
    community: int | None = None
    stated: StatedErrors | None = None
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class OwnRequest:
    """What a reader is told.

    Attributes
    ----------
    location : folder or file (``~`` is the home folder), name of a data set, or ``module:function``
    client_column : says whose a row is, in a table or a data set
    label_column : what is to be predicted, in a table or a data set
    partitioner : number of clients -> a partitioner of flwr-datasets, for a data set of Hugging
        Face; None splits it by ``client_column``, or evenly if that is empty
    seed : of the order of a data set of Hugging Face
    task : see :class:`pfl_flower.data.settings.DataSettings`; links of a graph need no labels
    may_lack : whether features may be missing (NaN), for something else to take their place
    """

    location: str
    client_column: str = ""
    label_column: str = ""
    partitioner: Callable[[int], Any] | None = None
    seed: int = 0
    task: str = "auto"
    may_lack: bool = False


class OwnData(Protocol):
    """A user's own data, which come split by client."""

    def count(self) -> int | None:
        """Return the number of clients there are, or None if there are as many as one asks for.

        Raises
        ------
        DataError
            If the data are missing or cannot be read.
        """

    def names(self) -> list[str]:
        """Return the clients' own names, by their numbers; nothing where they have none."""

    def load(self, partition_id: int, num_partitions: int) -> RawClient:
        """Return the examples of client ``partition_id`` of ``num_partitions``.

        Raises
        ------
        DataError
            If the data are missing, cannot be read, hold fewer clients or fail :func:`checked`.
        """


def client_index(partition_id: int, clients: Sequence[object], where: str) -> int:
    """Return which of the clients found is meant.

    A single one is the client whatever its number: a device may hold nothing but its own data.

    Raises
    ------
    DataError
        If there is no such client.
    """
    if len(clients) == 1:
        return 0
    if not 0 <= partition_id < len(clients):
        some = ", ".join(str(client) for client in clients[:5])
        raise DataError(
            f"{where} holds {len(clients)} clients ({some}{', ...' if len(clients) > 5 else ''}), "
            f"numbered from 0, so there is no client {partition_id}; use at most {len(clients)} "
            f"clients"
        )
    return partition_id


def checked(
    arrays: Mapping[str, Any],
    where: str,
    columns: Sequence[str] = (),
    required: Sequence[str] = ("train",),
    may_lack: bool = False,
) -> RawClient:
    """Return a client's arrays as a :class:`RawClient`, after every check on their contents.

    Inputs of float64, integers other than uint8 and booleans become float32 (integers beyond 2^24
    are rounded); boolean targets become integers.

    Parameters
    ----------
    arrays : ``x_train`` and ``y_train``, and maybe ``x_val``, ``y_val``, ``x_test`` and ``y_test``:
        numpy arrays, tensors or what numpy makes arrays of; other names are left alone unless they
        look like a misspelt split, and None is an array that is not there. One of
        :data:`~pfl_flower.data.degradation.declared_errors.DECLARED` says how exact the inputs are
    where : file and client, for error messages
    columns : names of the features, if examples are rows of a table
    required : splits that must be there
    may_lack : whether inputs may be missing (NaN)

    Raises
    ------
    DataError
        If arrays are missing or not of numbers, have other lengths, shapes or types than one
        another, hold NaN or infinity, or there is no training example.
    """
    arrays = {str(name): value for name, value in arrays.items() if value is not None}
    _check_names(arrays, where, required)
    splits: dict[str, RawSplit] = {}
    for name in SPLITS:
        if f"x_{name}" in arrays:
            inputs = checked_inputs(
                arrays[f"x_{name}"], f"{where}: x_{name}", columns, may_lack, _WAY_OUT
            )
            targets = checked_targets(arrays[f"y_{name}"], f"{where}: y_{name}")
            if len(inputs) != len(targets):
                raise DataError(
                    f"{where}: x_{name} has {len(inputs)} examples, but y_{name} {len(targets)}; "
                    f"each example needs one target"
                )
            if not len(inputs) and name != "val":
                raise DataError(f"{where} has no {name} example; it needs at least one")
            splits[name] = (inputs, targets)
    _check_alike(splits, where)
    stated = stated_errors(arrays, splits["train"][0], where)
    return RawClient(splits["train"], splits.get("val"), splits.get("test"), stated=stated)


def _check_names(arrays: Mapping[str, Any], where: str, required: Sequence[str]) -> None:
    pairs = [(f"x_{name}", f"y_{name}") for name in SPLITS]
    present = [pair for pair in pairs if pair[0] in arrays or pair[1] in arrays]
    needed = {name for split in required for name in (f"x_{split}", f"y_{split}")}
    needed.update(name for pair in present for name in pair)
    missing = sorted(needed - set(arrays))
    unknown = sorted({n for n in arrays if n.startswith(("x_", "y_"))} - set(sum(pairs, ())))
    if missing or unknown:
        problem = f"has no {', '.join(missing)}" if missing else f"has {', '.join(unknown)}"
        raise DataError(
            f"{where} {problem} (there: {', '.join(sorted(arrays)) or 'nothing'}); name the arrays "
            f"x_train, y_train, x_test and y_test, and x_val and y_val if there is a validation set"
        )


def _check_alike(splits: Mapping[str, RawSplit], where: str) -> None:
    """Refuse splits that differ: uint8 pixels are scaled later, and other numbers are not."""
    inputs, targets = splits["train"]
    expected = (inputs.shape[1:], str(inputs.dtype), KINDS[targets.dtype.kind])
    for name, (x, y) in splits.items():
        found = (x.shape[1:], str(x.dtype), KINDS[y.dtype.kind])
        if found != expected:
            raise DataError(
                f"{where}: an example of {name} has shape, input type and targets {found}, but one "
                f"of train has {expected}; they have to be the same"
            )
