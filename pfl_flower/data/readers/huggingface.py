"""A data set of Hugging Face, split among clients by flwr-datasets."""

import math
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from pfl_flower.data.client_records import OwnRequest, RawClient, checked, client_index
from pfl_flower.data.schema import DataError

_NUMBERS = ("int", "uint", "float", "bool")


class HubData:
    """The "train" split of a data set, on the Hub or in a local folder of CSV or Parquet files.

    Other splits, such as its own test split, are left alone: a client's test examples have to come
    from where its training examples come from. Inputs are the column of images, if there is one:
    uint8 ``(N, 1, H, W)`` if grey, else ``(N, 3, H, W)`` (transparency is dropped). Otherwise they
    are all columns of numbers, but for the label and the client: float32 ``(N, F)``; columns of
    anything else are left out. Targets are the label column, or, if none is named, the only one
    that is a ``ClassLabel``, or the one called "label"; a ``ClassLabel`` stays a number.

    Flower counts the use of its data sets; ``FLWR_TELEMETRY_ENABLED=0`` switches that off.

    Parameters
    ----------
    request : ``location`` is the name of the data set or the folder. Without a ``partitioner``,
        client number i has the i-th of the sorted values of ``client_column`` (the only one,
        whatever its number), or, without one, an even share
    """

    def __init__(self, request: OwnRequest) -> None:
        self.request = request
        self._federated: dict[int, Any] = {}

    def count(self) -> int | None:
        """Return the number of clients if a column names them, else None."""
        return len(self._clients(self._partitioner(0).dataset)) if self._natural else None

    def names(self) -> list[str]:
        """Return nothing: parts of a data set have no names."""
        return []

    def load(self, partition_id: int, num_partitions: int) -> RawClient:
        """Return a client's examples, which are not split; see :class:`OwnData`."""
        where = f"data set {self.request.location!r}"
        number = 0 if self._natural else num_partitions
        partitioner = self._partitioner(number)
        index = partition_id
        if self._natural:
            index = client_index(index, sorted(self._clients(partitioner.dataset)), where)
        try:
            # some partitioners draw a progress bar of their own
            with redirect_stderr(StringIO()):
                part = self._federated[number].load_partition(index, "train")
        except (ValueError, KeyError, IndexError) as error:
            raise DataError(
                f"{where} cannot be split among {num_partitions} clients: {error}; use fewer "
                f"clients or another partition, or name the column of classes with label-column"
            ) from error
        return _client(part, self.request, f"{where}, client {partition_id}")

    @property
    def _natural(self) -> bool:
        return self.request.partitioner is None and bool(self.request.client_column)

    def _partitioner(self, num_partitions: int) -> Any:
        """Return the partitioner for so many clients, or 0 for the clients that a column names.

        The data set is read when first asked for so many.
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
                raise DataError(_not_found(self.request.location, error)) from error
            _require(self.request.client_column, columns, self.request.location)
            self._federated[num_partitions] = data
        return self._federated[num_partitions].partitioners["train"]

    def _clients(self, dataset: Any) -> list[Any]:
        """Return the values of the client column."""
        clients: list[Any] = dataset.unique(self.request.client_column)
        if None in clients:
            raise DataError(
                f"data set {self.request.location!r} does not say in column "
                f"{self.request.client_column!r} whose each row is; fill it in or leave rows out"
            )
        return clients

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
        f"{'' if folder.exists() else ', and it could not be had from the Hugging Face Hub either'}"
        f". Name a folder of CSV or Parquet files with a train split, or a data set of the Hub; "
        f"without a network, it has to be in the cache ($HF_HOME)"
    )


def _require(column: str, columns: Sequence[str], location: str) -> None:
    if column and column not in columns:
        raise DataError(
            f"data set {location!r} has no column {column!r}; its columns are: {', '.join(columns)}"
        )


def _client(part: Any, request: OwnRequest, where: str) -> RawClient:
    """Return one client's rows, a ``datasets.Dataset``, as arrays."""
    from datasets import Image

    label = _label_column(part.features, request)
    targets = _labels(part, label, where)
    images = [name for name, feature in part.features.items() if isinstance(feature, Image)]
    if len(images) > 1:
        raise DataError(f"{where} has several columns of images ({', '.join(images)}); keep one")
    if images:
        return checked({"x_train": _pixels(part, images[0], where), "y_train": targets}, where)
    names = _numeric(part.features, {label, request.client_column})
    if not names:
        raise DataError(
            f"{where} has neither images nor numbers to learn from; its columns are: "
            f"{part.features}"
        )
    inputs = np.stack([np.asarray(list(part[name]), dtype=np.float32) for name in names], axis=1)
    return checked({"x_train": inputs, "y_train": targets}, where, names, may_lack=request.may_lack)


def _label_column(features: Mapping[str, Any], request: OwnRequest) -> str:
    from datasets import ClassLabel

    if request.label_column:
        _require(request.label_column, list(features), request.location)
        return request.label_column
    classes = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    if len(classes) == 1:
        return classes[0]
    if "label" in features:
        return "label"
    raise DataError(
        f"data set {request.location!r} does not say which column to predict (of type ClassLabel: "
        f"{', '.join(classes) or 'none'}); name one with label-column: {', '.join(features)}"
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
            f"leave these rows out"
        )
    return np.asarray(values)


def _numeric(features: Mapping[str, Any], leave_out: set[str]) -> list[str]:
    from datasets import Value

    return [
        name
        for name, feature in features.items()
        if name not in leave_out
        and isinstance(feature, Value)
        and feature.dtype.startswith(_NUMBERS)
    ]


def _pixels(part: Any, column: str, where: str) -> np.ndarray:
    """Return a column of images as uint8 ``(N, C, H, W)``."""
    pixels = []
    try:
        for image in part[column]:
            if image is None or image.mode.startswith(("I", "F")):
                kind = "missing" if image is None else f"of mode {image.mode!r}"
                raise DataError(
                    f"{where}: an image of column {column!r} is {kind}; it has to have pixels of 8 "
                    f"bits"
                )
            grey = image.mode in ("1", "L", "LA")
            array = np.asarray(image.convert("L" if grey else "RGB"), dtype=np.uint8)
            pixels.append(array[None] if grey else array.transpose(2, 0, 1))
    except OSError as error:
        raise DataError(f"{where}: an image of column {column!r} is damaged: {error}") from error
    shapes = sorted({array.shape for array in pixels})
    if len(shapes) > 1:
        raise DataError(
            f"{where}: images of column {column!r} differ in (channels, height, width): "
            f"{', '.join(map(str, shapes[:5]))}; bring them to one"
        )
    return np.stack(pixels) if pixels else np.empty((0, 1, 1, 1), dtype=np.uint8)
