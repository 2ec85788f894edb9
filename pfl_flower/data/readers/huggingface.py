"""Own data from a Hugging Face data set, which flwr-datasets splits among clients."""

import math
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import replace
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from clients.logs import warn_once
from clients.natural_order import in_natural_order
from pfl_flower.data.client_records import OwnRequest, RawClient, checked, client_index
from pfl_flower.data.errors import DataError, error_context
from pfl_flower.data.readers.array_checks import check_few_classes, unnamed_columns
from pfl_flower.data.readers.huggingface_pictures import read_pictures

_NUMBERS = ("int", "uint", "float", "bool")


class HubData:
    """The "train" split of a data set, on the Hub or in a local folder of CSV or Parquet files.

    Other splits, such as a test split, are ignored: a client's test examples must have the same
    distribution as its training examples. Inputs are the column of images, if there is one: uint8
    ``(N, 1, H, W)`` if grey, else ``(N, 3, H, W)`` (transparency is dropped). Otherwise they are
    all columns of numbers except the label and the client, sorted by name: float64 ``(N, F)``;
    other columns are dropped, with a warning. Targets are the label column. If none is named, they
    are the only ``ClassLabel`` column, or the column "label"; a ``ClassLabel`` gives the names of
    its classes, since its numbers are those of one file.

    Flower counts the use of its data sets; ``FLWR_TELEMETRY_ENABLED=0`` switches that off.

    Parameters
    ----------
    request : OwnRequest
        ``location`` is the name of the data set or the folder. Without a ``partitioner``, client
        number i has the i-th value of ``client_column``, sorted (words in natural order; a single
        value belongs to any number), or, without that column, an even share.
    """

    def __init__(self, request: OwnRequest) -> None:
        self.request = request
        self._federated: dict[int, Any] = {}
        self._counted: set[int] = set()

    def count(self) -> int | None:
        """Return the number of clients if a column names them, else None; see :class:`OwnData`."""
        return len(self._clients(self._partitioner(0).dataset)) if self._natural else None

    def names(self) -> list[str]:
        """Return the values of the client column, in order, if it names clients, else none."""
        return self._names

    @cached_property
    def _names(self) -> list[str]:
        if not self._natural:
            return []
        return [str(client) for client in self._clients(self._partitioner(0).dataset)]

    def load(self, partition_id: int, num_partitions: int) -> RawClient:
        """Return a client's examples, not split; see :class:`OwnData`."""
        where = f"data set {self.request.location!r}"
        number = 0 if self._natural else num_partitions
        partitioner = self._partitioner(number)
        index = partition_id
        if self._natural:
            clients = self._clients(partitioner.dataset)
            name = clients[client_index(index, clients, where)]
            index = sorted(clients).index(name)  # as the partitioner numbers them
        try:
            # some partitioners draw a progress bar of their own
            with redirect_stderr(StringIO()):
                part = self._federated[number].load_partition(index, "train")
                self._warn_of_unused(partitioner, num_partitions)
        except (ValueError, KeyError, IndexError) as error:
            raise DataError(
                f"{where} cannot be split among {num_partitions} clients: {error}; use fewer "
                f"clients or another partition, or name the column of classes with label-column",
                key="num_clients",
                value=num_partitions,
                path=self.request.location,
            ) from error
        with error_context(client=partition_id, path=self.request.location):
            return _client(part, self.request, f"{where}, client {partition_id}")

    @property
    def _natural(self) -> bool:
        return self.request.partitioner is None and bool(self.request.client_column)

    def _partitioner(self, num_partitions: int) -> Any:
        """Return the partitioner for a number of clients; 0: the clients that a column names.

        The first call for each number reads the data set.
        """
        from datasets import disable_progress_bars
        from flwr_datasets import FederatedDataset

        if num_partitions not in self._federated:
            disable_progress_bars()
            data = FederatedDataset(
                dataset=_location(self.request.location),
                partitioners={"train": self._make(num_partitions)},
                seed=self.request.seed,
            )
            try:
                columns = data.partitioners["train"].dataset.column_names  # reads the data set
            except Exception as error:  # the HTTP library of the Hub's client raises its own
                location = self.request.location
                raise DataError(
                    _not_found(location, error), key="dataset", value=location, path=location
                ) from error
            column, location = self.request.client_column, self.request.location
            _require("client-column", column, columns, location)
            if others := sorted({*(getattr(data, "_dataset", None) or {})} - {"train"}):
                warn_once(
                    f"Data set {location!r}: the splits {', '.join(others)} are not used; each "
                    "client's test examples are split off its part of the train split"
                )
            self._federated[num_partitions] = data
        return self._federated[num_partitions].partitioners["train"]

    def _warn_of_unused(self, partitioner: Any, num_partitions: int) -> None:
        """Say how many rows no client has, of the one partitioner that leaves some out."""
        from flwr_datasets.partitioner import PathologicalPartitioner

        if num_partitions in self._counted or not isinstance(partitioner, PathologicalPartitioner):
            return
        self._counted.add(num_partitions)
        total = len(partitioner.dataset)
        used = sum(len(partitioner.load_partition(i)) for i in range(num_partitions))
        if used < total:
            warn_once(
                f"{total - used} of {total} rows of {self.request.location!r} are no client's "
                f"(partition 'pathological' among {num_partitions} clients)"
            )

    def _clients(self, dataset: Any) -> list[Any]:
        """Return the values of the client column, in order."""
        clients: list[Any] = dataset.unique(self.request.client_column)
        if None in clients:
            raise DataError(
                f"data set {self.request.location!r} has rows without a client in column "
                f"{self.request.client_column!r}; fill it in or leave these rows out",
                key="client-column",
                value=self.request.client_column,
                path=self.request.location,
            )
        return in_natural_order(clients)

    def _make(self, num_partitions: int) -> Any:
        from flwr_datasets.partitioner import IidPartitioner, NaturalIdPartitioner

        if self.request.partitioner is not None:
            return self.request.partitioner(num_partitions)
        if self._natural:
            return NaturalIdPartitioner(partition_by=self.request.client_column)
        return IidPartitioner(num_partitions=num_partitions)


def _location(text: str) -> str:
    folder = Path(text).expanduser()
    return str(folder) if folder.exists() else text


def _not_found(location: str, error: Exception) -> str:
    folder = Path(location).expanduser().absolute()
    return (
        f"data set {location!r} could not be read ({type(error).__name__}: {error}). "
        f"{'It is' if folder.exists() else 'There is no'} local folder {folder}"
        f"{'' if folder.exists() else ', and the Hugging Face Hub did not have it either'}"
        f". Name a folder of CSV or Parquet files with a train split, or a data set of the Hub; "
        f"without a network, it must be in the cache ($HF_HOME)"
    )


def _require(setting: str, column: str, columns: Sequence[str], location: str) -> None:
    if column and column not in columns:
        raise DataError(
            f"data set {location!r} has no column {column!r}, which {setting} names; its columns "
            f"are: {', '.join(columns)}",
            key=setting,
            value=column,
            path=location,
            choices=columns,
        )


def _client(part: Any, request: OwnRequest, where: str) -> RawClient:
    """Return one client's rows, a ``datasets.Dataset``, as arrays."""
    from datasets import Image

    label = _label_column(part.features, request)
    targets = _labels(part, label, where)
    images = [name for name, feature in part.features.items() if isinstance(feature, Image)]
    if len(images) > 1:
        raise DataError(
            f"{where} has several columns of images ({', '.join(images)}); keep one",
            key=", ".join(images),
            choices=images,
        )
    if images:
        return checked(
            {"x_train": read_pictures(part, images[0], where), "y_train": targets}, where
        )
    names = _features(part.features, {label, request.client_column}, request.location)
    if not names:
        raise DataError(
            f"{where} has neither images nor numbers to learn from; its columns are: "
            f"{part.features}",
            key="columns",
            value=list(part.features),
        )
    check_few_classes(targets, request.task, f"column {label!r} of {where}")
    inputs = np.stack([np.asarray(list(part[name]), dtype=np.float64) for name in names], axis=1)
    arrays = {"x_train": inputs, "y_train": targets}
    found = checked(arrays, where, names, allow_missing=request.allow_missing)
    return replace(found, columns=tuple(names))


def _label_column(features: Mapping[str, Any], request: OwnRequest) -> str:
    from datasets import ClassLabel

    if request.label_column:
        _require("label-column", request.label_column, list(features), request.location)
        return request.label_column
    classes = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    if len(classes) == 1:
        return classes[0]
    if "label" in features:
        return "label"
    raise DataError(
        f"data set {request.location!r} does not declare which column to predict (of type "
        f"ClassLabel: {', '.join(classes) or 'none'}); name one with label-column: "
        f"{', '.join(features)}",
        key="label-column",
        value=request.label_column,
        path=request.location,
        choices=features,
    )


def _labels(part: Any, column: str, where: str) -> np.ndarray:
    from datasets import ClassLabel

    values = list(part[column])
    none = (None, -1) if isinstance(part.features[column], ClassLabel) else (None,)
    unlabelled = sum(
        value in none or (isinstance(value, float) and math.isnan(value)) for value in values
    )
    if unlabelled:
        raise DataError(
            f"{where} has no value in column {column!r} of {unlabelled} of {len(values)} rows; "
            f"leave these rows out",
            key=column,
            value=unlabelled,
        )
    feature = part.features[column]
    # numbers of a ClassLabel are those of one file: elsewhere they may mean other classes
    named = isinstance(feature, ClassLabel) and feature.names is not None
    return np.asarray(feature.int2str(values) if named and values else values)


def _features(features: Mapping[str, Any], leave_out: set[str], location: str) -> list[str]:
    """Return the columns of numbers by name, which is their order at every client.

    Raises
    ------
    DataError
        If one has no name, such as the index that pandas writes.
    """
    from datasets import Value

    others = [name for name in features if name not in leave_out]
    if unnamed := unnamed_columns(others):
        raise DataError(
            f"data set {location!r} has columns without a name ({', '.join(unnamed)}), such as the "
            f"index that pandas writes; write it without (index=False), or name them",
            key=", ".join(unnamed),
        )
    numbers = [
        name
        for name in others
        if isinstance(features[name], Value) and features[name].dtype.startswith(_NUMBERS)
    ]
    if dropped := sorted(set(others) - set(numbers)):
        columns = ", ".join(dropped)
        warn_once(f"Data set {location!r}: columns that are no numbers are not used: {columns}")
    return sorted(numbers)
