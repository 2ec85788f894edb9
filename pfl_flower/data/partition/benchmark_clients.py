"""Clients that share out one pool of examples: the data sets that come with the app."""

from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from clients.graphs.graph import Graph
from pfl_flower.data.client_records import RawClient, RawSplit
from pfl_flower.data.partition.link_split import link_splits
from pfl_flower.data.partition.partitioners import PartitionRequest, partition
from pfl_flower.data.partition.splits import quantity_limit, split
from pfl_flower.data.records import Examples, SourceRequest
from pfl_flower.data.schema import DataError
from pfl_flower.data.settings import DataSettings, data_directory
from pfl_flower.data.sources.registry import SOURCES
from pfl_flower.data.subgraph import Pieces, cut
from strategies.randomness import named_seed


class BenchmarkClients:
    """Every client's own part of a pool; no example has two owners.

    Where the pool is a graph, a client has its own nodes and the connections among them. All of its
    nodes are in its graph, however few of their labels it may learn from.

    Parameters
    ----------
    settings : see :class:`DataSettings`
    num_clients : number of clients

    Raises
    ------
    DataError
        If the data set is missing, or cannot be split among so many clients; or if it makes sense
        only with its natural clients (as a stream of phases does), and these are not asked for.
    """

    def __init__(self, settings: DataSettings, num_clients: int) -> None:
        self.settings = settings
        self.source = SOURCES[settings.dataset]
        streams = self.source.num_phases > 1
        if (streams or self.source.natural) and settings.partition != "natural":
            what = "a stream of phases, which are" if streams else "made of pieces, which are"
            raise DataError(
                f"{settings.dataset!r} is {what} those of its natural clients; partition "
                f"{settings.partition!r} would mix them; use natural"
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
        poor = [c for c in range(num_clients) if min(map(len, self._phases(c))) < 2]
        if poor:
            where = " in a phase" if self.source.num_phases > 1 else ""
            raise DataError(
                f"{len(poor)} of {num_clients} clients (the first is {poor[0]}) have too few "
                f"examples of {settings.dataset!r} for a training and a test example{where}; use "
                f"fewer clients, or a larger alpha or classes-per-client"
            )

    def load(self, client: int) -> RawClient:
        """Return the splits of one client, and of each of its phases where it has some.

        Each has at least one test and one training example, whatever the fractions. The test
        split is the same whatever the limit on training examples.

        Raises
        ------
        DataError
            If links are to be predicted, and the client has too few.
        """
        if self.settings.task == "link-prediction" and self.pieces is not None:
            graph = self.graph(client)
            assert graph is not None  # there are pieces
            links = link_splits(self.settings, client, graph)
            return replace(links, community=self.community(client))
        if self.source.num_phases == 1:
            return self._raw(client, self.rows(client))
        parts = [self.rows(client, phase) for phase in range(self.source.num_phases)]
        whole = [np.concatenate(rows) for rows in zip(*parts, strict=True)]
        phases = tuple(self._raw(client, rows) for rows in parts)
        return replace(self._raw(client, whole), phases=phases)

    @cached_property
    def pieces(self) -> Pieces | None:
        """The graph, cut into the clients' pieces; None where the examples are no nodes."""
        if self.examples.edges is None:
            return None
        return cut(self.examples.edges, self.indices, len(self.examples))

    def graph(self, client: int) -> Graph | None:
        """Return a client's nodes, by their positions among its indices, and their connections."""
        if self.pieces is None:
            return None
        # Multi-hot features are kept as bytes for everybody, and become numbers for one client.
        features = self.examples.inputs[self.indices[client]].float()
        return Graph(features, self.pieces.edges[client])

    def community(self, client: int) -> int | None:
        """Return the community of most of a client's examples: the lowest of several; or None."""
        if self.examples.community is None:
            return None
        return int(np.bincount(self.examples.community[self.indices[client]]).argmax())

    def rows(self, client: int, phase: int = 0) -> list[np.ndarray]:
        """Return positions among the client's indices: train, validation, test; of a phase."""
        mine = self._phases(client)[phase]
        indices = self.indices[client][mine]
        fold = None if self.examples.fold is None else self.examples.fold[indices] == 1
        number = phase if self.source.num_phases > 1 else None
        train, validation, test = split(self.settings, client, len(mine), fold, number)
        limited = train[: quantity_limit(self.settings, client, number)]
        return [mine[rows] for rows in (limited, validation, test)]

    def _phases(self, client: int) -> list[np.ndarray]:
        """Return positions among the client's indices: of each phase, a single one if no stream."""
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
