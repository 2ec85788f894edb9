"""Examples, which a data set returns, and Source, its row in the table of data sets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from pfl_flower.data.schema import TaskName


@dataclass(frozen=True)
class Examples:
    """Labelled examples of a data set.

    Attributes
    ----------
    inputs : Tensor
        ``(N, *shape)``; float32, or uint8 pixels in 0..255.
    targets : Tensor
        ``(N,)`` int64 class labels, or ``(N, K)`` for examples that have K labels each; float32
        numbers for regression.
    owner : ndarray, optional
        ``(N,)`` number of the natural client of each example.
    fold : ndarray, optional
        ``(N,)`` 0 for training and 1 for test examples. None if any example may be either.
    phase : ndarray, optional
        ``(N,)`` number of the phase of each example, where they come as a stream of phases (see
        :mod:`pfl_flower.data.client_data`).
    edges : Tensor, optional
        ``(2, E)`` int64, each edge in both directions, where the examples are the nodes of a graph
        and inputs their features.
    community : ndarray, optional
        ``(N,)`` number of the community of each node.
    """

    inputs: Tensor
    targets: Tensor
    owner: np.ndarray | None = None
    fold: np.ndarray | None = None
    phase: np.ndarray | None = None
    edges: Tensor | None = None
    community: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class SourceRequest:
    """The arguments of a data set's loader.

    Attributes
    ----------
    data_dir : Path or None
        The data folder; None for the cache.
    download : bool
        Whether missing files may be downloaded.
    seed : int
        Seed of generated data.
    num_clients : int
        Number of clients.
    """

    data_dir: Path | None
    download: bool
    seed: int
    num_clients: int


ClientMetadata = Mapping[str, float | str | None]
"""Metadata of one client: name -> number, category, or None where it is missing."""


@dataclass(frozen=True)
class Source:
    """A data set: its loader, and what a server without data must know of it.

    Attributes
    ----------
    load : callable
        SourceRequest -> Examples; reads or generates them.
    shape : tuple of int
        Shape of one example; of a node's features in a graph.
    num_classes : int
        Number of classes; 0 for regression.
    standardize : bool, default False
        Whether features are scaled to mean 0 and deviation 1 over the training examples of all
        clients, by federated statistics.
    generated : bool, default False
        Whether the examples depend on the seed.
    heterogeneity : str, default "taste"
        The value of the run key ``heterogeneity`` where the user sets none.
    num_phases : int, default 1
        Number of phases of every natural client; 1 for data that are no stream.
    metadata : callable, optional
        SourceRequest -> the metadata of each natural client.
    graph : bool, default False
        Whether the examples are nodes of a graph.
    natural : bool, default False
        Whether only the partition ``natural`` makes sense. So it is for a stream of phases.
    imputation : str, default "none"
        The value of the run key ``imputation`` where the user sets none.
    """

    load: Callable[[SourceRequest], Examples]
    shape: tuple[int, ...]
    num_classes: int
    standardize: bool = False
    generated: bool = False
    heterogeneity: str = "taste"
    num_phases: int = 1
    metadata: Callable[[SourceRequest], Sequence[ClientMetadata]] | None = None
    graph: bool = False
    natural: bool = False
    imputation: str = "none"

    @property
    def task(self) -> TaskName:
        """The task: classification or regression."""
        return "classification" if self.num_classes else "regression"
