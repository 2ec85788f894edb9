"""Federation, the data of all clients: every client's splits, from a few settings."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, lru_cache

from pfl_flower.data.categories import with_one_hot
from pfl_flower.data.client_data import ClientData, phase_starts
from pfl_flower.data.client_records import RawClient, RawSplit
from pfl_flower.data.client_schema import schema_of
from pfl_flower.data.degradation.applicability import check_raw
from pfl_flower.data.degradation.devices import check_devices, draw_devices
from pfl_flower.data.degradation.measurements import apply_device
from pfl_flower.data.errors import DataError, error_context
from pfl_flower.data.fitting import (
    as_numbers,
    check_columns,
    check_graph,
    check_pixels,
    fit_inputs,
    fit_targets,
)
from pfl_flower.data.heterogeneity import (
    HETEROGENEITIES,
    OF_INPUTS,
    draw_clusters,
    parse_heterogeneity,
)
from pfl_flower.data.lazy_inputs import LazyInputs
from pfl_flower.data.named_inputs import fit_named_inputs
from pfl_flower.data.partition.benchmark_clients import BenchmarkClients
from pfl_flower.data.readers.own_clients import OwnClients, is_own
from pfl_flower.data.records import ClientMetadata, SourceRequest
from pfl_flower.data.schema import ClientSchema, DataSchema, Split
from pfl_flower.data.schema_merging import merge_schemas
from pfl_flower.data.settings import DataSettings
from pfl_flower.data.sources.registry import SOURCES
from pfl_flower.data.subgraph import GraphPartition
from pfl_flower.data.task import convert_targets, task_of
from strategies.randomness import generator


class Federation:
    """The data of all clients; a client's splits are made when first asked for, and cached.

    Parameters
    ----------
    settings : DataSettings
        The run keys that decide the data.
    num_clients : int
        Number of clients.

    Attributes
    ----------
    settings, num_clients
        The same.
    clients : OwnClients or BenchmarkClients
        The examples of all clients as they were read.
    true_clusters : list of int
        The cluster of every client.
    devices : list of Device
        The device of every client.

    Raises
    ------
    DataError
        If the data are missing, or cannot be split among so many clients.
    """

    def __init__(self, settings: DataSettings, num_clients: int) -> None:
        self.settings = settings
        self.num_clients = num_clients
        kind = OwnClients if is_own(settings.dataset) else BenchmarkClients
        self.clients: OwnClients | BenchmarkClients = kind(settings, num_clients)
        self.true_clusters = draw_clusters(settings.cluster_sizes, num_clients, settings.seed)
        check_devices(settings)
        self.devices = draw_devices(settings, num_clients)
        self._raw: dict[int, RawClient] = {}
        self._made: dict[tuple[int, DataSchema], ClientData] = {}

    def client_schema(self, client: int) -> ClientSchema:
        """Return what a client sends about its data before the first round.

        Parameters
        ----------
        client : int
            Number of the client.

        Raises
        ------
        DataError
            If the client's data cannot be read.
        """
        edges = self._edges_of(client)
        return schema_of(self._load(client), self.settings, self.devices[client], edges)

    def name(self, client: int) -> str:
        """Return a client's own name (of its file, or in its column); empty if it has none.

        Parameters
        ----------
        client : int
            Number of the client.
        """
        own = self.clients.data.names() if isinstance(self.clients, OwnClients) else []
        return own[client] if client < len(own) else ""

    def community(self, client: int) -> int | None:
        """Return the community of a client; None where it is unknown.

        Parameters
        ----------
        client : int
            Number of the client.
        """
        return self._load(client).community

    def tier(self, client: int) -> int:
        """Return the number of the tier of a client's device, from 0.

        Parameters
        ----------
        client : int
            Number of the client.
        """
        return self.devices[client].tier

    @property
    def _graph_partition(self) -> GraphPartition | None:
        clients = self.clients
        return clients.graph_partition if isinstance(clients, BenchmarkClients) else None

    @property
    def edges(self) -> tuple[int, int] | None:
        """Number of edges that the graph partition keeps and drops; None without one.

        Edges between nodes of two clients are dropped.
        """
        found = self._graph_partition
        return None if found is None else (found.kept, found.dropped)

    def _edges_of(self, client: int) -> tuple[int, int] | None:
        found = self._graph_partition
        return (
            None if found is None else (found.edges[client].shape[1] // 2, found.dropped_by[client])
        )

    def client_metadata(self, client: int) -> ClientMetadata:
        """Return the metadata of a client; empty where it has none.

        Parameters
        ----------
        client : int
            Number of the client.
        """
        return self._metadata[client] if self._metadata else {}

    @cached_property
    def _metadata(self) -> Sequence[ClientMetadata]:
        source, settings = SOURCES.get(self.settings.dataset), self.settings
        if source is None or source.metadata is None:
            return ()
        found = source.metadata(SourceRequest(None, False, settings.seed, self.num_clients))
        if settings.client_metadata == "own":
            return found
        order = generator(settings.seed, "shuffled descriptions").permutation(len(found))
        return [found[place] for place in order]

    @cached_property
    def schema(self) -> DataSchema:
        """The merged schemas of all clients, as a server merges what they send."""
        return merge_schemas(
            {client: self.client_schema(client) for client in range(self.num_clients)}
        )[0]

    def client(self, client: int, schema: DataSchema | None = None) -> ClientData:
        """Return the splits of one client.

        Parameters
        ----------
        client : int
            Number of the client.
        schema : DataSchema, optional
            The data schema that the splits must fit; by default :attr:`schema`.

        Raises
        ------
        DataError
            If the client's data cannot be read, or do not fit the schema.
        """
        key = (client, schema or self.schema)
        if key not in self._made:
            with error_context(client=client):
                self._made[key] = self._make(*key)
        return self._made[key]

    def _load(self, client: int) -> RawClient:
        if client not in self._raw:
            with error_context(client=client):
                raw = convert_targets(self.clients.load(client), self.settings.task)
                check_raw(raw, self.settings)
                self._check_stratify(raw)
            self._raw[client] = raw
        return self._raw[client]

    def _check_stratify(self, raw: RawClient) -> None:
        if self.settings.stratify and (task_of(raw) != "classification" or raw.train[1].ndim != 1):
            raise DataError(
                f"stratify needs one class per example; the examples of {self.settings.dataset!r} "
                f"have numbers, links or several",
                key="stratify",
                value=True,
                choices=("false",),
            )

    def _make(self, client: int, schema: DataSchema) -> ClientData:
        raw = self._load(client)
        whole = self._splits(client, raw, schema, bool(raw.phases))
        if not raw.phases:
            return whole
        phases = tuple(self._splits(client, phase, schema, True) for phase in raw.phases)
        streams = self.settings.phases == "stream"
        starts = phase_starts(self.settings.seed, client, len(phases)) if streams else ()
        return replace(whole, phases=phases, starts=starts)

    def _splits(self, client: int, raw: RawClient, schema: DataSchema, streams: bool) -> ClientData:
        if raw.graph is not None:
            check_graph(raw.graph, schema)
        else:
            check_pixels(raw.train[0], schema)
        check_columns(raw.columns, schema, raw.table)
        parts = (raw.train, raw.validation, raw.test)
        train, validation, test = (self._fit(client, part, schema, raw) for part in parts)
        data = ClientData(train, validation, test, graph=raw.graph)
        if raw.graph is not None or streams:
            return data
        errors = raw.declared_errors
        declared = None if errors is None else errors.noise(raw.train[0])
        return apply_device(data, self.devices[client], declared, schema, self.settings, client)

    def _fit(self, client: int, part: RawSplit | None, schema: DataSchema, raw: RawClient) -> Split:
        assert part is not None  # both kinds of clients have all three splits
        inputs = fit_named_inputs(as_numbers(part[0]), raw.inputs, schema)
        inputs = with_one_hot(inputs, raw.table.categories, schema.categories)
        inputs = inputs if raw.graph is not None else fit_inputs(inputs, schema)
        targets = fit_targets(part[1], schema)
        lazy = isinstance(inputs, LazyInputs)
        for name in parse_heterogeneity(self.settings.heterogeneity):
            if schema.task == "link-prediction" or (lazy and name in OF_INPUTS):
                what = "pictures in files, or a Dataset" if lazy else "link prediction"
                raise DataError(
                    f"heterogeneity {name!r} does not apply to {what}; use 'none'",
                    key="heterogeneity",
                    value=name,
                    choices=("none",),
                )
            inputs, targets = HETEROGENEITIES[name](
                inputs, targets, len(schema.labels), self.true_clusters[client], self.settings.seed
            )
        if targets.ndim != 1:
            raise DataError(
                f"{self.settings.dataset!r} has several labels per example; it needs "
                f"heterogeneity 'interest'",
                key="heterogeneity",
                value=self.settings.heterogeneity,
                choices=("interest",),
            )
        return inputs, targets


@lru_cache(maxsize=2)
def federation(settings: DataSettings, num_clients: int) -> Federation:
    """Return the data of all clients, made once per process.

    Parameters
    ----------
    settings, num_clients
        See :class:`Federation`.
    """
    return Federation(settings, num_clients)
