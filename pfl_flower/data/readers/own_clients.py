"""OwnClients: clients with own data, opened by the run keys and split by the fractions."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from clients.logs import info_once, warn_once
from pfl_flower.data.client_records import RawClient, RawSplit
from pfl_flower.data.degradation.imputation import IMPUTATIONS
from pfl_flower.data.errors import DataError
from pfl_flower.data.partition.link_split import link_splits
from pfl_flower.data.partition.own_split import split_own
from pfl_flower.data.partition.partitioners import PARTITIONS, PartitionRequest
from pfl_flower.data.partition.splits import quantity_limit
from pfl_flower.data.readers.registry import OWN, OwnData, OwnRequest
from pfl_flower.data.readers.table_columns import TableColumns
from pfl_flower.data.settings import OF_PICTURES, DataSettings, data_directory, find
from pfl_flower.utils.text import split_words
from strategies.randomness import named_seed


def is_own(dataset: str) -> bool:
    """Return whether a data set is own data: ``kind:location``.

    Parameters
    ----------
    dataset : str
        The run key.
    """
    return ":" in dataset


def open_own(settings: DataSettings) -> OwnData:
    """Return the reader of own data.

    Parameters
    ----------
    settings : DataSettings
        ``dataset`` is ``kind:location`` with a kind of :data:`OWN`, or ``module:function``.

    Raises
    ------
    DataError
        If the data are missing.
    """
    kind, _, location = settings.dataset.partition(":")
    if kind not in OWN:
        kind, location = "function", settings.dataset
    columns = (client_column(settings), settings.label_column)
    if kind in ("table", "images"):
        columns = (columns[0], columns[1] or "label")
    if kind in ("folder", "table", "images"):
        location = str(find(location, settings.data_dir))
    if kind == "huggingface":
        with suppress(DataError):  # a local folder, or else a name on the Hub
            location = str(find(location, settings.data_dir))
    if Path(location).is_absolute():
        info_once(f"Data are read from {location}")
    natural = kind != "huggingface" or settings.partition == "natural"
    if kind == "huggingface" and natural and not (settings.client_column or settings.whole):
        raise DataError(
            f"partition 'natural' of {settings.dataset!r} needs client-column, the column that "
            f"names the client of each row",
            key="client-column",
            value="",
        )
    partitioner = None if natural else partial(_partitioner, settings)
    missing = IMPUTATIONS[settings.imputation].allows_missing
    request = OwnRequest(
        *(location, *columns, partitioner, settings.seed, settings.task, missing, settings.whole),
        columns=_table_columns(settings),
        **{name: getattr(settings, name) for name in (*OF_PICTURES, "split_column")},
    )
    return OWN[kind](request)


def _table_columns(settings: DataSettings) -> TableColumns:
    """Return the columns that run keys name, but for those of clients and labels."""
    lists = (settings.drop_columns, settings.feature_columns, settings.categories)
    drop, features, categories = (tuple(split_words(words)) for words in lists)
    roles = {"split": settings.split_column, "group": settings.group_column}
    return TableColumns(
        **roles, time=settings.time_column, drop=drop, features=features, categories=categories
    )


def client_column(settings: DataSettings) -> str:
    """Return the column that names the client of each row; empty where there is none.

    Parameters
    ----------
    settings : DataSettings
        The run keys that decide the data.
    """
    default = "client" if settings.dataset.startswith(("table:", "images:")) else ""
    return settings.client_column or default


def _partitioner(settings: DataSettings, num_clients: int) -> Any:
    request = PartitionRequest(
        num_clients=num_clients,
        alpha=settings.alpha,
        classes_per_client=settings.classes_per_client,
        seed=named_seed(settings.seed, "partition") % 2**32,
        label=settings.label_column or "label",
    )
    return PARTITIONS[settings.partition](request)


class OwnClients:
    """Every client's own examples, as a reader returns them.

    Parameters
    ----------
    settings : DataSettings
        The run keys that decide the data.
    num_clients : int
        Number of clients.

    Attributes
    ----------
    data : OwnData
        The reader.

    Raises
    ------
    DataError
        If the data are missing.
    """

    def __init__(self, settings: DataSettings, num_clients: int) -> None:
        self.settings = settings
        self.num_clients = num_clients
        self.data = open_own(settings)
        held = self.data.count()
        if num_clients > 1 and held == 1:
            warn_once(
                f"{settings.dataset} holds one client, so every node on this machine reads the "
                f"same data"
            )
        elif held is not None and held > num_clients:
            others = _some(self.data.names()[num_clients:] or range(num_clients, held))
            warn_once(
                f"{settings.dataset} holds {held} clients, but {num_clients} take part; the data "
                f"of the others are not used: {others}. For all of them start "
                f"num-supernodes={held} nodes (compare: --clients {held})"
            )

    def load(self, client: int) -> RawClient:
        """Return the splits of one client. Data that are not split are split by the fractions.

        Parameters
        ----------
        client : int
            Number of the client.

        Raises
        ------
        DataError
            If there is no such client, or it has no training or no test example.
        """
        raw = self.data.load(client, self.num_clients)
        if raw.graph is not None and self.settings.task == "link-prediction":
            links = link_splits(self.settings, client, raw.graph)
            return replace(links, community=raw.community)
        count = len(raw.train[1])
        if raw.test is None and count < 2:
            raise DataError(
                f"client {client} of {self.settings.dataset!r} has {count} "
                f"{'examples' if raw.graph is None else 'labelled nodes'}; it needs one to train "
                f"and one to test on",
                key="examples" if raw.graph is None else "nodes",
                value=count,
                client=client,
            )
        settings = self.settings
        if raw.stratify:
            settings = replace(settings, stratify=True)
        train, validation, test = split_own(settings, client, raw)
        train = train[: quantity_limit(settings, client)]
        return replace(
            raw,
            table=raw.table.of_rows(train),
            train=_take(raw.train, train),
            validation=_take(raw.train, validation) if raw.validation is None else raw.validation,
            test=_take(raw.train, test) if raw.test is None else raw.test,
        )


def _some(names: Sequence[object], most: int = 5) -> str:
    """Return the first names, and how many there are beyond."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(str(name) for name in names[:most]) + more


def _take(examples: RawSplit, rows: np.ndarray) -> RawSplit:
    return examples[0][rows], examples[1][rows]


def stamp(settings: DataSettings) -> str:
    """Return a text that changes when own files change: a digest of names, sizes and times.

    For data sets of the app it is the data folder, because they have a version.

    Parameters
    ----------
    settings : DataSettings
        The run keys that decide the data.
    """
    kind, _, location = settings.dataset.partition(":")
    directory = data_directory(settings.data_dir)
    if kind not in ("folder", "table", "huggingface", "images"):
        return str(directory)
    try:
        path = find(location, settings.data_dir)
    except DataError:
        return location
    files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
    about = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    return blake2b(repr(about).encode(), digest_size=8).hexdigest()


def number_of_clients(settings: DataSettings) -> int | None:
    """Return the number of clients that own data hold; None if any number is possible.

    Parameters
    ----------
    settings : DataSettings
        The run keys that decide the data.

    Raises
    ------
    DataError
        If the data are missing or cannot be read.
    """
    return open_own(settings).count() if is_own(settings.dataset) else None
