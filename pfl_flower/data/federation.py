"""From a few settings to every client's own train, validation and test examples."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from pfl_flower.data.client_data import ClientData, phase_starts
from pfl_flower.data.client_records import RawClient, RawSplit
from pfl_flower.data.degradation.devices import check_devices, plant_devices
from pfl_flower.data.degradation.imputation import IMPUTATIONS
from pfl_flower.data.degradation.measurements import check_raw, through_device
from pfl_flower.data.heterogeneity import HETEROGENEITIES, draw_clusters, parse_heterogeneity
from pfl_flower.data.moments import FEWEST_ROWS, moments
from pfl_flower.data.partition.benchmark_clients import BenchmarkClients
from pfl_flower.data.readers.own_clients import OwnClients, is_own
from pfl_flower.data.records import Description, SourceRequest
from pfl_flower.data.schema import (
    ClientSchema,
    DataError,
    DataSchema,
    Label,
    Split,
    TaskName,
    check_columns,
    check_graph,
    fit_inputs,
    fit_targets,
    merge_schemas,
    ordered,
)
from pfl_flower.data.settings import DataSettings
from pfl_flower.data.sources.registry import SOURCES
from strategies.randomness import generator


class Federation:
    """The data of all clients; a client's splits are made when first asked for, and kept.

    Parameters
    ----------
    settings : see :class:`DataSettings`
    num_clients : number of clients

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
        self.devices = plant_devices(settings, num_clients)
        self._raw: dict[int, RawClient] = {}
        self._made: dict[tuple[int, DataSchema], ClientData] = {}

    def client_schema(self, client: int) -> ClientSchema:
        """Return what a client tells of its data before the first round."""
        raw = self._load(client)
        inputs, targets = raw.train
        task = _task(raw)
        labels: set[Label] = set()
        if task == "classification":
            parts = [part[1] for part in (raw.train, raw.validation, raw.test) if part is not None]
            labels.update(*(np.unique(part).tolist() for part in parts))
            source = SOURCES.get(self.settings.dataset)
            labels.update(range(source.num_classes) if source else ())
        tells = len(targets) >= FEWEST_ROWS
        scales = self._standardizes(inputs)
        reports_features = tells and (scales or self._fills_in(inputs))
        amounts = tells and task == "regression"
        return ClientSchema(
            shape=tuple(inputs.shape[1:] if raw.graph is None else raw.graph.features.shape[1:]),
            task=task,
            labels=ordered(labels),
            features=moments(_as_numbers(inputs)) if reports_features else None,
            target=moments(torch.from_numpy(targets.astype(float))) if amounts else None,
            graph=raw.graph is not None,
            edges=self._edges_of(client),
            standardize=scales,
            columns=raw.columns,
        )

    def name(self, client: int) -> str:
        """Return a client's own name (of its file, or in its column); empty if it has none."""
        own = self.clients.data.names() if isinstance(self.clients, OwnClients) else []
        return own[client] if client < len(own) else ""

    def community(self, client: int) -> int | None:
        """Return the community of a client; None where it is unknown."""
        return self._load(client).community

    def tier(self, client: int) -> int:
        """Return the number of the tier that a client's device is of, from 0."""
        return self.devices[client].tier

    @property
    def edges(self) -> tuple[int, int] | None:
        """How many connections are kept and dropped by the cut; None where no graph is cut.

        A connection of two clients' nodes is neither's, and dropped.
        """
        if not isinstance(self.clients, BenchmarkClients) or self.clients.pieces is None:
            return None
        return self.clients.pieces.kept, self.clients.pieces.dropped

    def _edges_of(self, client: int) -> tuple[int, int] | None:
        if not isinstance(self.clients, BenchmarkClients) or self.clients.pieces is None:
            return None
        pieces = self.clients.pieces
        return pieces.edges[client].shape[1] // 2, pieces.dropped_by[client]

    def description(self, client: int) -> Description:
        """Return what a client tells of itself; nothing where it has nothing to tell."""
        return self._descriptions[client] if self._descriptions else {}

    @cached_property
    def _descriptions(self) -> Sequence[Description]:
        source, settings = SOURCES.get(self.settings.dataset), self.settings
        if source is None or source.describe is None:
            return ()
        found = source.describe(SourceRequest(None, False, settings.seed, self.num_clients))
        if settings.descriptions == "own":
            return found
        order = generator(settings.seed, "shuffled descriptions").permutation(len(found))
        return [found[place] for place in order]

    @cached_property
    def schema(self) -> DataSchema:
        """What the clients' schemas say together; a server learns it by asking them."""
        return merge_schemas(
            {client: self.client_schema(client) for client in range(self.num_clients)}
        )[0]

    def client(self, client: int, schema: DataSchema | None = None) -> ClientData:
        """Return the splits of one client, as all clients' :attr:`schema` have them by default.

        Raises
        ------
        DataError
            If the client's data cannot be read, or do not fit the schema.
        """
        key = (client, schema or self.schema)
        if key not in self._made:
            self._made[key] = self._make(*key)
        return self._made[key]

    def _load(self, client: int) -> RawClient:
        if client not in self._raw:
            raw = as_declared(self.clients.load(client), self.settings.task)
            check_raw(raw, self.settings)
            self._raw[client] = raw
        return self._raw[client]

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
        check_columns(raw.columns, schema)
        parts = (raw.train, raw.validation, raw.test)
        train, validation, test = (
            self._fit(client, part, schema, raw.graph is not None) for part in parts
        )
        data = ClientData(train, validation, test, graph=raw.graph)
        if raw.graph is not None or streams:
            return data
        device = self.devices[client]
        stated = None if raw.stated is None else raw.stated.noise(raw.train[0])
        return through_device(data, device, stated, schema, self.settings, client)

    def _fit(self, client: int, part: RawSplit | None, schema: DataSchema, nodes: bool) -> Split:
        assert part is not None  # both kinds of clients give all three
        inputs = _as_numbers(part[0])
        inputs = inputs if nodes else fit_inputs(inputs, schema)
        targets = fit_targets(part[1], schema)
        for name in parse_heterogeneity(self.settings.heterogeneity):
            if schema.task == "link-prediction":
                raise DataError(f"heterogeneity {name!r} changes no links; use none")
            inputs, targets = HETEROGENEITIES[name](
                inputs, targets, len(schema.labels), self.true_clusters[client], self.settings.seed
            )
        if targets.ndim != 1:
            raise DataError(f"{self.settings.dataset!r} needs heterogeneity 'interest'")
        return inputs, targets

    def _standardizes(self, inputs: np.ndarray) -> bool:
        """Whether features are: those of tables are, pixels and what a user prepared are not."""
        source = SOURCES.get(self.settings.dataset)
        if source is not None:
            return source.standardize
        kind = self.settings.dataset.partition(":")[0]
        return kind in ("table", "huggingface") and inputs.ndim == 2

    def _fills_in(self, inputs: np.ndarray) -> bool:
        """Whether the fleet's mean may have to take the place of a feature."""
        return inputs.ndim == 2 and IMPUTATIONS[self.settings.imputation].allows_missing


def _as_numbers(inputs: np.ndarray) -> Tensor:
    """Return inputs as they are; pixels (uint8) as float32 in 0 to 1."""
    found = torch.from_numpy(inputs)
    return found.float() / 255.0 if found.dtype == torch.uint8 else found


def _task(raw: RawClient) -> TaskName:
    """Return what the targets are for."""
    if raw.graph is not None and raw.train[0].ndim == 2:
        return "link-prediction"
    return "regression" if raw.train[1].dtype.kind == "f" else "classification"


def as_declared(raw: RawClient, task: str) -> RawClient:
    """Return a client's examples with targets of the kind that the task needs.

    Fractions are for regression, everything else is classes, unless ``task`` says otherwise: whole
    numbers can be amounts, and fractions that are all whole can be classes.

    Raises
    ------
    DataError
        If the targets cannot be what is stated.
    """
    kind = raw.train[1].dtype.kind
    if task == "link-prediction":
        if raw.graph is None:
            raise DataError("task 'link-prediction' needs a graph, and these data are none")
        return raw
    if task == "auto" or (task == "regression") == (kind == "f"):
        return raw
    if kind not in "iuf":
        raise DataError(f"task 'regression' needs numbers, but the targets are {raw.train[1][:3]}")

    def convert(part: RawSplit | None) -> RawSplit | None:
        if part is None:
            return None
        inputs, targets = part
        wanted = np.dtype(np.float64 if task == "regression" else np.int64)
        if (targets.astype(wanted) != targets).any():
            raise DataError("task 'classification' needs labels, but the targets are fractions")
        return inputs, targets.astype(wanted)

    train = convert(raw.train)
    assert train is not None
    phases = tuple(as_declared(phase, task) for phase in raw.phases)
    return replace(
        raw,
        train=train,
        validation=convert(raw.validation),
        test=convert(raw.test),
        phases=phases,
    )


@lru_cache(maxsize=2)
def federation(settings: DataSettings, num_clients: int) -> Federation:
    """Return the data of all clients, made once a process."""
    return Federation(settings, num_clients)
