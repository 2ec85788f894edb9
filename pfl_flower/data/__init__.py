"""From a few settings to every client's own train, validation and test examples."""

import os
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pfl_flower.data.heterogeneity import HETEROGENEITIES, parse_heterogeneity
from pfl_flower.data.partition import PARTITIONS, PartitionRequest, partition
from pfl_flower.data.sources import SOURCES, DataError, Examples, Source, SourceRequest
from strategies.randomness import generator, named_seed

Split = tuple[Tensor, Tensor]
"""(inputs, targets) of some examples."""


@dataclass(frozen=True)
class DataSettings:
    """What decides every client's data: hashable, so that data can be cached by it.

    Attributes
    ----------
    dataset, partition : keys of :data:`SOURCES` and :data:`PARTITIONS`
    heterogeneity : comma-separated keys of :data:`HETEROGENEITIES`, or ``"none"``
    alpha : concentration of ``dirichlet``; smaller is more skewed
    classes_per_client : of ``pathological``
    min_examples, max_examples : quantity skew: each client keeps at most a number of training
        examples of its own, log-uniform between these; 0 and 0 for no limit
    validation_fraction, test_fraction : of each client's examples
    seed, data_dir, download : see the run config
    """

    dataset: str = "digits"
    partition: str = "iid"
    heterogeneity: str = "none"
    alpha: float = 0.5
    classes_per_client: int = 2
    min_examples: int = 0
    max_examples: int = 0
    validation_fraction: float = 0.1
    test_fraction: float = 0.25
    seed: int = 0
    data_dir: str = ""
    download: bool = False

    def describe(self) -> str:
        """Say what decides which examples a client has, e.g. in a personal file."""
        skip = ("data_dir", "download")
        values = [(f.name, getattr(self, f.name)) for f in fields(self) if f.name not in skip]
        return " ".join(f"{name.replace('_', '-')}={value}" for name, value in values)


@dataclass(frozen=True)
class ClientData:
    """One client's own examples; inputs are float32, targets int64."""

    train: Split
    validation: Split
    test: Split


class Federation:
    """The data of all clients; a client's splits are made when first asked for, and kept.

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
        self._clients: dict[int, ClientData] = {}
        self._scale = self._statistics() if self.source.standardize else None

    def client(self, client: int) -> ClientData:
        """Return the splits of one client.

        Each has at least one test and one training example, whatever the fractions. The test
        split is the same whatever the limit on training examples.
        """
        if client not in self._clients:
            self._clients[client] = self._make(client)
        return self._clients[client]

    def _make(self, client: int) -> ClientData:
        settings, indices = self.settings, self.indices[client]
        train, validation, test = self._split(client, indices)
        inputs = self.examples.inputs[indices]
        inputs = inputs.float() / 255.0 if inputs.dtype == torch.uint8 else inputs
        if self._scale is not None:
            inputs = (inputs - self._scale[0]) / self._scale[1]
        targets = self.examples.targets[indices]
        for name in parse_heterogeneity(settings.heterogeneity):
            inputs, targets = HETEROGENEITIES[name](
                inputs, targets, self.source.num_classes, client, settings.seed
            )
        if targets.ndim != 1:
            raise DataError(f"{settings.dataset!r} needs heterogeneity 'interest'")
        splits = [(inputs[rows], targets[rows]) for rows in (train, validation, test)]
        return ClientData(*splits)

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of every feature over all clients' training examples."""
        rows = [indices[self._split(c, indices)[0]] for c, indices in enumerate(self.indices)]
        inputs = self.examples.inputs[np.concatenate(rows)]
        return inputs.mean(dim=0), inputs.std(dim=0).clamp_min(1e-8)

    def _split(self, client: int, indices: np.ndarray) -> list[np.ndarray]:
        """Return positions among ``indices``: train, validation, test."""
        settings = self.settings
        order = generator(settings.seed, "split", client).permutation(len(indices))
        if self.examples.fold is None:
            size = max(1, round(settings.test_fraction * len(order)))
            size = min(size, len(order) - 1)
            test, rest = order[:size], order[size:]
        else:
            is_test = self.examples.fold[indices[order]] == 1
            test, rest = order[is_test], order[~is_test]
        size = min(round(settings.validation_fraction * len(order)), len(rest) - 1)
        validation, train = rest[:size], rest[size:]
        limit = self._limit(client)
        train = train[:limit] if limit else train
        return [train, validation, test]

    def _limit(self, client: int) -> int:
        low, high = self.settings.min_examples, self.settings.max_examples
        if not high:
            return 0
        draw = generator(self.settings.seed, "quantity", client)
        return round(float(np.exp(draw.uniform(np.log(max(low, 1)), np.log(high)))))


def data_directory(stated: str) -> Path | None:
    """Return the data folder: the one stated, else ``$PFL_DATA_DIR``, else None."""
    text = stated or os.environ.get("PFL_DATA_DIR", "")
    return Path(text).expanduser() if text else None


@lru_cache(maxsize=2)
def _load(
    dataset: str, directory: Path | None, download: bool, seed: int, num_clients: int
) -> Examples:
    return SOURCES[dataset].load(SourceRequest(directory, download, seed, num_clients))


@lru_cache(maxsize=2)
def federation(settings: DataSettings, num_clients: int) -> Federation:
    """Return the data of all clients, made once a process."""
    return Federation(settings, num_clients)


__all__ = [
    "HETEROGENEITIES",
    "PARTITIONS",
    "SOURCES",
    "ClientData",
    "DataError",
    "DataSettings",
    "Examples",
    "Federation",
    "Source",
    "federation",
]
