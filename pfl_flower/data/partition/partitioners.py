"""PARTITIONS, the table of partitions: flwr-datasets' partitioners and graph partitions."""

from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from typing import Any

import numpy as np

from pfl_flower.data.errors import DataError
from pfl_flower.data.partition.graph_partition import GRAPH_PARTITIONS
from pfl_flower.data.records import Examples


@dataclass(frozen=True)
class PartitionRequest:
    """The arguments of a partitioner.

    Attributes
    ----------
    num_clients : int
        Number of clients.
    alpha : float
        Concentration of ``dirichlet``.
    classes_per_client : int
        Number of classes per client of ``pathological``.
    seed : int
        Seed of the partitioner.
    label : str, default "label"
        Name of the column of classes.
    owner : str, default "owner"
        Name of the column of natural clients.
    """

    num_clients: int
    alpha: float
    classes_per_client: int
    seed: int
    label: str = "label"
    owner: str = "owner"


def _iid(request: PartitionRequest) -> Any:
    from flwr_datasets.partitioner import IidPartitioner

    return IidPartitioner(num_partitions=request.num_clients)


def _dirichlet(request: PartitionRequest) -> Any:
    from flwr_datasets.partitioner import DirichletPartitioner

    return DirichletPartitioner(
        num_partitions=request.num_clients,
        partition_by=request.label,
        alpha=request.alpha,
        min_partition_size=10,
        seed=request.seed,
    )


def _pathological(request: PartitionRequest) -> Any:
    from flwr_datasets.partitioner import PathologicalPartitioner

    return PathologicalPartitioner(
        num_partitions=request.num_clients,
        partition_by=request.label,
        num_classes_per_partition=request.classes_per_client,
        class_assignment_mode="first-deterministic",
        seed=request.seed,
    )


def _natural(request: PartitionRequest) -> Any:
    from flwr_datasets.partitioner import NaturalIdPartitioner

    return NaturalIdPartitioner(partition_by=request.owner)


def _needs_edges(name: str) -> Callable[[PartitionRequest], Any]:
    """Return the partitioner of a graph partition, which refuses data without edges."""

    def refuse(_: PartitionRequest) -> Any:
        raise DataError(
            f"partition {name!r} needs a graph, but these data have no edges; use one of "
            f"{', '.join(_FLAT)}",
            key="partition",
            value=name,
            choices=_FLAT,
        )

    return refuse


_FLAT = ("iid", "dirichlet", "pathological", "natural")
"""Partitions that need no graph."""

PARTITIONS: Mapping[str, Callable[[PartitionRequest], Any]] = {
    "iid": _iid,
    "dirichlet": _dirichlet,
    "pathological": _pathological,
    "natural": _natural,
    **{name: _needs_edges(name) for name in GRAPH_PARTITIONS},
}
"""Name of a partition -> flwr-datasets' partitioner. A new one is a row, here or in
:data:`~pfl_flower.data.partition.graph_partition.GRAPH_PARTITIONS`."""

_BY_LABEL = ("dirichlet", "pathological")


def partition(examples: Examples, name: str, request: PartitionRequest) -> list[np.ndarray]:
    """Return, for every client, the indices of its examples.

    No example has two clients. Every example has a client, except with ``pathological`` (fewer
    clients than classes may leave classes out) and ``natural`` (client k is the k-th natural client
    in ascending order; fewer clients leave the others' examples out).

    Parameters
    ----------
    examples : Examples
        The data set.
    name : str
        A key of :data:`PARTITIONS`.
    request : PartitionRequest
        Arguments of the partitioner.

    Returns
    -------
    list of ndarray
        ``(N,)`` int64 for every client, ascending.

    Raises
    ------
    DataError
        If the data set has too few examples or natural clients, lacks classes or edges that the
        partition needs, or the partitioner fails.
    """
    if len(examples) < 2 * request.num_clients:
        raise DataError(
            f"{request.num_clients} clients need a training and a test example each, but the data "
            f"set has only {len(examples)} examples; use fewer clients",
            key="num_clients",
            value=request.num_clients,
        )
    if name in _BY_LABEL and examples.targets.is_floating_point():
        raise DataError(
            f"partition {name!r} needs classes; a regression can use iid or natural",
            key="partition",
            value=name,
            choices=("iid", "natural"),
        )
    if name in GRAPH_PARTITIONS and examples.edges is not None:
        divide = GRAPH_PARTITIONS[name]
        owner = divide(examples.edges.numpy(), len(examples), request.num_clients, request.seed)
        return [np.flatnonzero(owner == client) for client in range(request.num_clients)]
    return _partition_rows(examples, name, request)


def _partition_rows(examples: Examples, name: str, request: PartitionRequest) -> list[np.ndarray]:
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    targets = examples.targets
    labels = targets if targets.ndim == 1 else targets[:, 0]
    # IidPartitioner takes every n-th row, so rows are shuffled first. Partitioners get only labels,
    # because they only decide which client has which row.
    order = np.random.default_rng(request.seed).permutation(len(examples))
    columns = {"row": order, "label": labels.numpy()[order]}
    if name == "natural":
        if examples.owner is None:
            raise DataError(
                "this data set has no natural clients; use iid, dirichlet or pathological, or, if "
                "it is a graph, louvain or metis",
                key="partition",
                value=name,
                choices=("iid", *_BY_LABEL, *GRAPH_PARTITIONS),
            )
        columns["owner"] = examples.owner[order]
        found = len(np.unique(examples.owner))
        if found < request.num_clients:
            raise DataError(
                f"there are only {found} natural clients, not {request.num_clients}; use at most "
                f"{found} clients",
                key="num_clients",
                value=request.num_clients,
            )
    partitioner = PARTITIONS[name](request)
    partitioner.dataset = Dataset.from_dict(columns)
    try:
        with redirect_stderr(StringIO()):  # some partitioners draw a progress bar of their own
            parts = [partitioner.load_partition(i) for i in range(request.num_clients)]
    except ValueError as error:
        raise DataError(
            f"partition {name!r} failed for {request.num_clients} clients: {error}",
            key="partition",
            value=name,
        ) from error
    return [np.sort(np.asarray(part["row"], dtype=np.int64)) for part in parts]
