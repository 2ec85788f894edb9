"""Clients with data of their own: opened by the run config, split where they come unsplit."""

from contextlib import suppress
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from logging import WARNING
from typing import Any

import numpy as np
from flwr.common.logger import log

from pfl_flower.data.client_records import RawClient, RawSplit
from pfl_flower.data.degradation.imputation import IMPUTATIONS
from pfl_flower.data.partition.link_split import link_splits
from pfl_flower.data.partition.partitioners import PARTITIONS, PartitionRequest
from pfl_flower.data.partition.splits import quantity_limit, split
from pfl_flower.data.readers.registry import OWN, OwnData, OwnRequest
from pfl_flower.data.schema import DataError
from pfl_flower.data.settings import DataSettings, data_directory, find
from strategies.randomness import named_seed


def is_own(dataset: str) -> bool:
    """Return whether ``dataset`` names data of one's own: ``kind:location``."""
    return ":" in dataset


def open_own(settings: DataSettings) -> OwnData:
    """Return the reader of a user's own data.

    ``dataset`` is ``kind:location`` with a kind of :data:`OWN`, or ``module:function``.

    Raises
    ------
    DataError
        If the data are missing.
    """
    kind, _, location = settings.dataset.partition(":")
    if kind not in OWN:
        kind, location = "function", settings.dataset
    columns = (settings.client_column, settings.label_column)
    if kind == "table":
        columns = (columns[0] or "client", columns[1] or "label")
    if kind in ("folder", "table"):
        location = str(find(location, settings.data_dir))
    if kind == "huggingface":
        with suppress(DataError):  # a folder of one's own, or else a name on the hub
            location = str(find(location, settings.data_dir))
    natural = kind != "huggingface" or settings.partition == "natural"
    partitioner = None if natural else partial(_partitioner, settings)
    lacks = IMPUTATIONS[settings.imputation].allows_missing
    request = OwnRequest(location, *columns, partitioner, settings.seed, settings.task, lacks)
    return OWN[kind](request)


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
    """Every client's own examples, as a reader finds them.

    Parameters
    ----------
    settings : see :class:`DataSettings`
    num_clients : number of clients
    """

    def __init__(self, settings: DataSettings, num_clients: int) -> None:
        self.settings = settings
        self.num_clients = num_clients
        self.data = open_own(settings)
        if num_clients > 1 and self.data.count() == 1:
            log(
                WARNING,
                "%s holds one client, which every node of this machine takes, whatever its number",
                settings.dataset,
            )

    def load(self, client: int) -> RawClient:
        """Return the splits of one client; what comes unsplit is split by the fractions.

        Raises
        ------
        DataError
            If there is no such client, or it has no example to test on beside one to train on.
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
                f"and one to test on"
            )
        settings = self.settings
        if raw.validation is not None:
            settings = replace(settings, validation_fraction=0.0)
        given = None if raw.test is None else np.zeros(count, dtype=bool)
        train, validation, test = split(settings, client, count, given)
        return replace(
            raw,
            train=_take(raw.train, train[: quantity_limit(settings, client)]),
            validation=_take(raw.train, validation) if raw.validation is None else raw.validation,
            test=_take(raw.train, test) if raw.test is None else raw.test,
        )


def _take(examples: RawSplit, rows: np.ndarray) -> RawSplit:
    return examples[0][rows], examples[1][rows]


def stamp(settings: DataSettings) -> str:
    """Return words that change when the user's own files do: their names, sizes and times.

    Data sets of the app have a version of their own, of them it is the data folder.
    """
    kind, _, location = settings.dataset.partition(":")
    directory = data_directory(settings.data_dir)
    if kind not in ("folder", "table", "huggingface"):
        return str(directory)
    try:
        path = find(location, settings.data_dir)
    except DataError:
        return location
    files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
    about = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    return blake2b(repr(about).encode(), digest_size=8).hexdigest()


def number_of_clients(settings: DataSettings) -> int | None:
    """Return how many clients the data have of themselves; None where any number will do."""
    return open_own(settings).count() if is_own(settings.dataset) else None
