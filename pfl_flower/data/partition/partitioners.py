"""Who gets which examples: flwr-datasets' partitioners and cuts of graphs, by name."""

from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from typing import Any

import numpy as np

from pfl_flower.data.partition.graph_partition import GRAPH_PARTITIONS
from pfl_flower.data.records import Examples
from pfl_flower.data.schema import DataError


@dataclass(frozen=True)
class PartitionRequest:
    """How to split: the number of clients, the partitioner's settings, the seed, the columns."""

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


def _cut_of_a_graph(name: str) -> Callable[[PartitionRequest], Any]:
    """Return what takes the place of a partitioner, for data that have no edges."""

    def refuse(_: PartitionRequest) -> Any:
        raise DataError(
            f"partition {name!r} cuts a graph, and these data have no edges; use iid, dirichlet, "
            f"pathological or natural"
        )

    return refuse


PARTITIONS: Mapping[str, Callable[[PartitionRequest], Any]] = {
    "iid": _iid,
    "dirichlet": _dirichlet,
    "pathological": _pathological,
    "natural": _natural,
    **{name: _cut_of_a_graph(name) for name in GRAPH_PARTITIONS},
}
"""Name of a partition -> flwr-datasets partitioner. A new one is a row, here or there."""

_BY_LABEL = ("dirichlet", "pathological")


def partition(examples: Examples, name: str, request: PartitionRequest) -> list[np.ndarray]:
    """Return, for every client, the indices of its examples.

    No example has two clients, and none is left out, but for ``pathological`` (with fewer clients
    than classes some classes may be nobody's) and ``natural`` (client k is the k-th natural client
    in ascending order; with fewer clients the others' examples are nobody's).

    Raises
    ------
    DataError
        If the data set has no natural clients or too few, or the partitioner cannot do it; or if a
        graph is to be cut, and there is none.
    """
    from datasets import Dataset, disable_progress_bars

    if len(examples) < 2 * request.num_clients:
        raise DataError(
            f"{request.num_clients} clients need a training and a test example each, but the data "
            f"set has only {len(examples)} examples; use fewer clients"
        )
    if name in _BY_LABEL and examples.targets.is_floating_point():
        raise DataError(f"partition {name!r} needs classes; a regression can use iid or natural")
    if name in GRAPH_PARTITIONS and examples.edges is not None:
        cut = GRAPH_PARTITIONS[name]
        owner = cut(examples.edges.numpy(), len(examples), request.num_clients, request.seed)
        return [np.flatnonzero(owner == client) for client in range(request.num_clients)]
    disable_progress_bars()
    targets = examples.targets
    labels = targets if targets.ndim == 1 else targets[:, 0]
    # IidPartitioner takes every n-th row, so rows are shuffled first. Only labels go in: the
    # partitioners decide who gets which row, the rows themselves stay tensors.
    order = np.random.default_rng(request.seed).permutation(len(examples))
    columns = {"row": order, "label": labels.numpy()[order]}
    if name == "natural":
        if examples.owner is None:
            raise DataError(
                "this data set has no natural clients; use iid, dirichlet or pathological, or, if "
                "it is a graph, louvain or metis"
            )
        columns["owner"] = examples.owner[order]
        found = len(np.unique(examples.owner))
        if found < request.num_clients:
            raise DataError(
                f"{request.num_clients} clients, but only {found} natural ones; use at most {found}"
            )
    partitioner = PARTITIONS[name](request)
    partitioner.dataset = Dataset.from_dict(columns)
    try:
        with redirect_stderr(StringIO()):  # some partitioners draw a progress bar of their own
            parts = [partitioner.load_partition(i) for i in range(request.num_clients)]
    except ValueError as error:
        raise DataError(f"partition {name!r} for {request.num_clients} clients: {error}") from error
    return [np.sort(np.asarray(part["row"], dtype=np.int64)) for part in parts]
