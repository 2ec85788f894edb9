"""BenchmarkClients: the clients of a data set of the app, among which its examples are divided."""

from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from clients.graphs.graph import Graph
from clients.logs import warn_once
from pfl_flower.data.client_records import RawClient, RawSplit
from pfl_flower.data.errors import DataError
from pfl_flower.data.partition.link_split import link_splits
from pfl_flower.data.partition.partitioners import PartitionRequest, partition
from pfl_flower.data.partition.splits import quantity_limit, split
from pfl_flower.data.records import Examples, SourceRequest
from pfl_flower.data.settings import DataSettings, data_directory
from pfl_flower.data.sources.registry import SOURCES
from pfl_flower.data.subgraph import GraphPartition, partition_graph
from strategies.randomness import named_seed


class BenchmarkClients:
    """Every client's part of a data set; no example has two clients.

    Where the data set is a graph, a client has its nodes and the edges among them. All of its nodes
    are in its graph, however few of their labels it trains on.

    Parameters
    ----------
    settings : DataSettings
        The run keys that decide the data.
    num_clients : int
        Number of clients.

    Attributes
    ----------
    source : Source
        Row of the data set in the table of sources.
    examples : Examples
        All examples.
    indices : list of ndarray
        Indices of every client's examples.

    Raises
    ------
    DataError
        If the data set is missing, cannot be split among so many clients, or needs the partition
        ``natural`` (as a stream of phases does) and another one is set.
    """

    def __init__(self, settings: DataSettings, num_clients: int) -> None:
        self.settings = settings
        self.num_clients = num_clients
        self.source = SOURCES[settings.dataset]
        streams = self.source.num_phases > 1
        if (streams or self.source.natural) and settings.partition != "natural":
            what = "a stream of phases" if streams else "a data set"
            raise DataError(
                f"{settings.dataset!r} is {what} of natural clients, which partition "
                f"{settings.partition!r} would mix; use natural",
                key="partition",
                value=settings.partition,
                choices=("natural",),
            )
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
        self._warn_of_unused()
        poor = [c for c in range(num_clients) if min(map(len, self._phases(c))) < 2]
        if poor:
            where = " in a phase" if self.source.num_phases > 1 else ""
            raise DataError(
                f"{len(poor)} of {num_clients} clients (the first is {poor[0]}) have too few "
                f"examples of {settings.dataset!r} for a training and a test example{where}; use "
                f"fewer clients, or a larger alpha or classes-per-client",
                key="num_clients",
                value=num_clients,
                client=poor[0],
            )

    def _warn_of_unused(self) -> None:
        """Say how many examples, and which classes, no client has."""
        used = np.concatenate(self.indices)
        if len(used) == len(self.examples):
            return
        targets = self.examples.targets
        classes = () if targets.is_floating_point() else np.unique(targets.numpy()).tolist()
        lost = sorted(set(classes) - set(np.unique(targets[used].numpy()).tolist()))
        warn_once(
            f"{len(self.examples) - len(used)} of {len(self.examples)} examples of "
            f"{self.settings.dataset!r} are no client's (partition {self.settings.partition!r} "
            f"among {self.num_clients} clients)" + (f"; nobody has classes {lost}" if lost else "")
        )

    def load(self, client: int) -> RawClient:
        """Return the splits of one client, and of each of its phases where it has some.

        Each has at least one test and one training example, whatever the fractions. The limit on
        training examples does not change the test split.

        Parameters
        ----------
        client : int
            Number of the client.

        Raises
        ------
        DataError
            If the client has too few edges for link prediction.
        """
        if self.settings.task == "link-prediction" and self.graph_partition is not None:
            graph = self.graph(client)
            assert graph is not None  # there is a graph partition
            links = link_splits(self.settings, client, graph)
            return replace(links, community=self.community(client))
        if self.source.num_phases == 1:
            return self._raw(client, self.rows(client))
        parts = [self.rows(client, phase) for phase in range(self.source.num_phases)]
        whole = [np.concatenate(rows) for rows in zip(*parts, strict=True)]
        phases = tuple(self._raw(client, rows) for rows in parts)
        return replace(self._raw(client, whole), phases=phases)

    @cached_property
    def graph_partition(self) -> GraphPartition | None:
        """The subgraphs of the clients; None where the examples are no nodes."""
        if self.examples.edges is None:
            return None
        return partition_graph(self.examples.edges, self.indices, len(self.examples))

    def graph(self, client: int) -> Graph | None:
        """Return a client's subgraph; nodes are positions among its indices.

        Parameters
        ----------
        client : int
            Number of the client.

        Returns
        -------
        Graph or None
            None where the examples are no nodes.
        """
        if self.graph_partition is None:
            return None
        # Multi-hot features stay bytes for all clients together, and become floats for one client.
        features = self.examples.inputs[self.indices[client]].float()
        return Graph(features, self.graph_partition.edges[client])

    def community(self, client: int) -> int | None:
        """Return the community that most of a client's examples have (ties: the lowest number).

        Parameters
        ----------
        client : int
            Number of the client.

        Returns
        -------
        int or None
            None where the data set has no communities.
        """
        if self.examples.community is None:
            return None
        return int(np.bincount(self.examples.community[self.indices[client]]).argmax())

    def rows(self, client: int, phase: int = 0) -> list[np.ndarray]:
        """Return the splits as positions among the client's indices.

        Parameters
        ----------
        client : int
            Number of the client.
        phase : int, default 0
            Number of the phase of a stream.

        Returns
        -------
        list of ndarray
            Train, validation and test.
        """
        mine = self._phases(client)[phase]
        indices = self.indices[client][mine]
        fold = None if self.examples.fold is None else self.examples.fold[indices] == 1
        number = phase if self.source.num_phases > 1 else None
        train, validation, test = split(
            self.settings, client, len(mine), fold, number, self.examples.targets[indices].numpy()
        )
        limited = train[: quantity_limit(self.settings, client, number)]
        return [mine[rows] for rows in (limited, validation, test)]

    def _phases(self, client: int) -> list[np.ndarray]:
        """Return positions among the client's indices, of each phase; one phase if no stream."""
        if self.examples.phase is None:
            return [np.arange(len(self.indices[client]))]
        phase = self.examples.phase[self.indices[client]]
        return [np.flatnonzero(phase == number) for number in range(self.source.num_phases)]

    def _raw(self, client: int, parts: list[np.ndarray]) -> RawClient:
        examples, indices = self.examples, self.indices[client]
        graph = self.graph(client)
        train, validation, test = (
            (
                rows if graph is not None else examples.inputs[indices[rows]].numpy(),
                examples.targets[indices[rows]].numpy(),
            )
            for rows in parts
        )
        return RawClient(train, validation, test, graph=graph, community=self.community(client))


@lru_cache(maxsize=2)
def _load(
    dataset: str, directory: Path | None, download: bool, seed: int, num_clients: int
) -> Examples:
    return SOURCES[dataset].load(SourceRequest(directory, download, seed, num_clients))


__all__ = ["BenchmarkClients", "RawSplit"]
