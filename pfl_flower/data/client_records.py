"""Records of own data: the request to a reader, the raw examples of a client, and their checks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from clients.graphs.graph import Graph
from pfl_flower.data.degradation.declared_errors import DeclaredErrors, declared_errors
from pfl_flower.data.degradation.imputation import FILLING
from pfl_flower.data.errors import DataError
from pfl_flower.data.named_inputs import names_of_inputs, stack_inputs
from pfl_flower.data.readers.array_checks import KINDS, checked_inputs, checked_targets
from pfl_flower.data.readers.table_columns import TableColumns, TableDetails

RawSplit = tuple[Any, np.ndarray]
"""(inputs, targets) of some examples, see :class:`RawClient`. Inputs are an array, or
:class:`~pfl_flower.data.lazy_inputs.LazyInputs`, which are read when a batch needs them."""

SPLITS = ("train", "val", "test")
"""Endings of the names of a client's arrays, after ``x_`` and ``y_``."""

_HINT = f", or set imputation ({', '.join(FILLING)}) to fill in missing values"


@dataclass(frozen=True)
class RawClient:
    """One client's examples as its files have them: labels not numbered, features not scaled.

    Attributes
    ----------
    train : RawSplit
        Inputs and targets of at least one example. Inputs are ``(N, *shape)``, finite float32 (NaN
        where a value is missing and will be imputed; float64 if they have ``columns``), int64 or
        uint8 pixels in 0..255. Targets are
        ``(N,)`` integers, finite floats or strings (numpy's ``str_``).
    validation, test : RawSplit, optional
        The same, with the same shape, dtype of inputs and kind of targets. None where the data are
        not split; then the caller splits the training examples.
    phases : tuple of RawClient, default ()
        The splits of each phase, where the data are a stream of phases. The splits above are then
        those of all phases, one after another. Own data are no streams.
    graph : Graph, optional
        The graph whose nodes, or pairs of nodes, are the examples. Inputs are then their int64
        numbers, ``(N,)`` or ``(N, 2)``. Targets of pairs are 1.0 (an edge) or 0.0, float32.
    community : int, optional
        Number of the community of the client.
    declared_errors : DeclaredErrors, optional
        The declared size of the measurement errors.
    columns : tuple of str, default ()
        Names of the features, where examples are rows of a table.
    inputs : tuple of str, default ()
        Names of several inputs, where the network gets them by name. They are stacked, ``(N, names,
        length)`` int64 (:mod:`pfl_flower.data.named_inputs`).
    table : TableDetails
        What else is known of rows of a table: which features are dates and which are categories
        (the last ones, as places in a list of words), and the group and time of each training row.
    classes : tuple of str, default ()
        Classes that the data name, those without examples included.
    stratify : bool, default False
        Whether data that are not split are split class by class, whatever the run key says.
    left_out : int, default 0
        Number of examples that cannot be read.
    """

    train: RawSplit
    validation: RawSplit | None = None
    test: RawSplit | None = None
    phases: "tuple[RawClient, ...]" = ()
    graph: Graph | None = None
    community: int | None = None
    declared_errors: DeclaredErrors | None = None
    columns: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    table: TableDetails = TableDetails()
    classes: tuple[str, ...] = ()
    stratify: bool = False
    left_out: int = 0


@dataclass(frozen=True)
class OwnRequest:
    """The arguments of a reader of own data.

    Attributes
    ----------
    location : str
        Folder or file (``~`` is the home folder), name of a data set, or ``module:function``.
    client_column : str, default ""
        Column with the client of each row, in a table or a data set.
    label_column : str, default ""
        Column with the targets, in a table or a data set.
    partitioner : callable, optional
        Number of clients -> a partitioner of flwr-datasets, for a data set of Hugging Face. None
        splits it by ``client_column``, or evenly if that is empty.
    seed : int, default 0
        Decides the order of a data set of Hugging Face; a function that draws its data gets it.
    task : str, default "auto"
        See :class:`pfl_flower.data.settings.DataSettings`; link prediction needs no labels.
    allow_missing : bool, default False
        Whether features may be missing (NaN), because an imputation fills them in.
    whole : str, default ""
        Name of the client whose rows all rows are, in a table without ``client_column``.
    columns : TableColumns
        Further columns of a table that run keys name.
    path_column, split_column, image_size, image_channels : str and int
        See :class:`pfl_flower.data.settings.DataSettings`.
    """

    location: str
    client_column: str = ""
    label_column: str = ""
    partitioner: Callable[[int], Any] | None = None
    seed: int = 0
    task: str = "auto"
    allow_missing: bool = False
    whole: str = ""
    columns: TableColumns = TableColumns()
    path_column: str = ""
    split_column: str = ""
    image_size: int = 0
    image_channels: int = 0


class OwnData(Protocol):
    """A reader of own data, which come split by client."""

    def count(self) -> int | None:
        """Return the number of clients, or None if the data can be split among any number.

        Raises
        ------
        DataError
            If the data are missing or cannot be read.
        """

    def names(self) -> list[str]:
        """Return the names of the clients, by number; an empty list where they have none."""

    def load(self, partition_id: int, num_partitions: int) -> RawClient:
        """Return the examples of a client.

        Parameters
        ----------
        partition_id : int
            Number of the client, from 0.
        num_partitions : int
            Number of clients.

        Raises
        ------
        DataError
            If the data are missing, cannot be read, hold fewer clients or fail :func:`checked`.
        """


def client_index(partition_id: int, clients: Sequence[object], where: str) -> int:
    """Return the index of a client among those that data hold.

    Data with one client belong to any client number: a device may hold only its own data.

    Parameters
    ----------
    partition_id : int
        Number of the client, from 0.
    clients : sequence
        Names of all clients that the data hold.
    where : str
        Name of the data, for error messages.

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
            f"clients",
            key="partition-id",
            value=partition_id,
            client=partition_id,
            choices=map(str, clients),
        )
    return partition_id


def checked(
    arrays: Mapping[str, Any],
    where: str,
    columns: Sequence[str] = (),
    required: Sequence[str] = ("train",),
    allow_missing: bool = False,
) -> RawClient:
    """Return a client's arrays as a :class:`RawClient`, after every check on their contents.

    Inputs of other floats and booleans become float32, and integers int64; if only some splits have
    integers, all become float32. Boolean targets become integers.

    Parameters
    ----------
    arrays : mapping
        ``x_train`` and ``y_train``, and optionally ``x_val``, ``y_val``, ``x_test`` and ``y_test``:
        numpy arrays, tensors or what numpy makes arrays of. Inputs may be a mapping of several by
        name, such as ``input_ids`` and ``attention_mask``. None counts as an array that is not
        there. Other names are ignored unless they look like a misspelt split. One of
        :data:`~pfl_flower.data.degradation.declared_errors.DECLARED` declares how exact the inputs
        are.
    where : str
        File and client, for error messages.
    columns : sequence of str, default ()
        Names of the features, if examples are rows of a table.
    required : sequence of str, default ("train",)
        Splits that must be there.
    allow_missing : bool, default False
        Whether inputs may be missing (NaN).

    Raises
    ------
    DataError
        If arrays are missing or not of numbers, have other lengths, shapes or types than one
        another, hold NaN or infinity, or there is no training example.
    """
    arrays = {str(name): value for name, value in arrays.items() if value is not None}
    _check_names(arrays, where, required)
    names = names_of_inputs(arrays, where)
    if names:
        arrays = {**arrays, **stack_inputs(arrays, names, where)}
    splits: dict[str, RawSplit] = {}
    for name in SPLITS:
        if f"x_{name}" in arrays:
            inputs = checked_inputs(
                arrays[f"x_{name}"], f"x_{name}", where, columns, allow_missing, _HINT
            )
            targets = checked_targets(arrays[f"y_{name}"], f"y_{name}", where)
            if len(inputs) != len(targets):
                raise DataError(
                    f"{where}: x_{name} has {len(inputs)} examples, but y_{name} {len(targets)}; "
                    f"each example needs one target",
                    key=f"y_{name}",
                    value=len(targets),
                )
            if not len(inputs) and name != "val":
                raise DataError(
                    f"{where} has no {name} example; it needs at least one",
                    key=f"x_{name}",
                    value=0,
                )
            splits[name] = (inputs, targets)
    if {x.dtype for x, _ in splits.values()} == {np.dtype(np.int64), np.dtype(np.float32)}:
        splits = {name: (x.astype(np.float32), y) for name, (x, y) in splits.items()}
    _check_alike(splits, where)
    errors = declared_errors(arrays, splits["train"][0], where)
    parts = splits["train"], splits.get("val"), splits.get("test")
    return RawClient(*parts, declared_errors=errors, inputs=names)


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
            f"x_train and y_train, and x_test, y_test, x_val and y_val if they are split",
            key=", ".join(missing or unknown),
            choices=sorted(arrays),
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
                f"of train has {expected}; they must be the same",
                key=f"x_{name}, y_{name}",
                value=found,
            )
