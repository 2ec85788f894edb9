"""Clients that share out one pool of examples: the data sets that come with the app."""

from functools import lru_cache
from pathlib import Path

import numpy as np

from pfl_flower.data.facts import DataError
from pfl_flower.data.partition import PartitionRequest, partition
from pfl_flower.data.raw import RawClient, RawSplit
from pfl_flower.data.settings import DataSettings, data_directory
from pfl_flower.data.sources import SOURCES, Examples, SourceRequest
from pfl_flower.data.splits import quantity_limit, split
from strategies.randomness import named_seed


class PooledClients:
    """Every client's own part of a pool; no example has two owners.

    Parameters
    ----------
    settings : see :class:`DataSettings`
    num_clients : number of clients

    Raises
    ------
    DataError
        If the data set is missing, or cannot be split among so many clients.
    """

    def __init__(self, settings: DataSettings, num_clients: int) -> None:
        self.settings = settings
        self.source = SOURCES[settings.dataset]
        seed = settings.seed if self.source.generated else 0
        directory = data_directory(settings.data_dir)
        self.examples = _load(settings.dataset, directory, settings.download, seed, num_clients)
        request = PartitionRequest(
            num_clients=num_clients,
            alpha=settings.alpha,
            classes_per_client=settings.classes_per_client,
            seed=named_seed(settings.seed, "partition") % 2**32,
        )
        self.indices = partition(self.examples, settings.partition, request)
        poor = [client for client, rows in enumerate(self.indices) if len(rows) < 2]
        if poor:
            raise DataError(
                f"{len(poor)} of {num_clients} clients (the first is {poor[0]}) have too few "
                f"examples of {settings.dataset!r} for a training and a test example; use fewer "
                f"clients, or a larger alpha or classes-per-client"
            )

    def load(self, client: int) -> RawClient:
        """Return the splits of one client.

        Each has at least one test and one training example, whatever the fractions. The test
        split is the same whatever the limit on training examples.
        """
        indices = self.indices[client]
        inputs = self.examples.inputs[indices].numpy()
        targets = self.examples.targets[indices].numpy()
        train, validation, test = ((inputs[rows], targets[rows]) for rows in self.rows(client))
        return RawClient(train, validation, test)

    def rows(self, client: int) -> list[np.ndarray]:
        """Return positions among the client's indices: train, validation, test."""
        indices = self.indices[client]
        fold = None if self.examples.fold is None else self.examples.fold[indices] == 1
        train, validation, test = split(self.settings, client, len(indices), fold)
        return [train[: quantity_limit(self.settings, client)], validation, test]


@lru_cache(maxsize=2)
def _load(
    dataset: str, directory: Path | None, download: bool, seed: int, num_clients: int
) -> Examples:
    return SOURCES[dataset].load(SourceRequest(directory, download, seed, num_clients))


__all__ = ["PooledClients", "RawSplit"]
