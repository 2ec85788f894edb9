"""What a data set gives, and what a server knows of it without data."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from pfl_flower.data.schema import TaskName


@dataclass(frozen=True)
class Examples:
    """Labelled examples.

    Attributes
    ----------
    inputs : ``(N, *shape)``; float32, or uint8 pixels in 0..255
    targets : ``(N,)`` int64 class labels, or ``(N, K)`` for examples that can be labelled in K
        ways; float32 numbers for regression
    owner : ``(N,)`` number of the natural client each example belongs to, or None
    fold : ``(N,)`` 0 for examples to learn from and 1 for examples to test on, or None if any
        example may serve either purpose
    phase : ``(N,)`` number of the phase each example belongs to, where they come as a stream of
        phases (see :mod:`pfl_flower.data.client_data`), or None
    edges : ``(2, E)`` int64, where the examples are the nodes of a graph and inputs their
        features: who is connected with whom, each connection in both directions; or None
    community : ``(N,)`` number of the community each node belongs to, or None
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
    """What a source is told: where data is, whether it may download, for how many clients."""

    data_dir: Path | None
    download: bool
    seed: int
    num_clients: int


Description = Mapping[str, float | str | None]
"""What a client tells of itself: name -> number, category, or None where it is missing."""


@dataclass(frozen=True)
class Source:
    """A data set: how to load it, and what a server without data must know of it.

    Attributes
    ----------
    load : reads or generates the examples
    shape : of one example
    num_classes : number of classes; 0 for regression
    standardize : whether features are brought to mean 0 and deviation 1 over the training examples
        of all clients, by federated statistics
    generated : whether the examples depend on the seed
    heterogeneity : how clients differ unless the user says so
    num_phases : number of phases that the examples of every natural client come in; 1 for data
        that are no stream
    describe : returns what each natural client tells of itself, if they do
    graph : whether the examples are nodes of a graph; ``shape`` is that of a node's features
    imputation : what takes the place of missing values unless the user says so
    natural : whether the examples of a natural client belong together, so that no other partition
        makes sense; so do those of a stream of phases
    """

    load: Callable[[SourceRequest], Examples]
    shape: tuple[int, ...]
    num_classes: int
    standardize: bool = False
    generated: bool = False
    heterogeneity: str = "taste"
    num_phases: int = 1
    describe: Callable[[SourceRequest], Sequence[Description]] | None = None
    graph: bool = False
    natural: bool = False
    imputation: str = "none"

    @property
    def task(self) -> TaskName:
        """Whether targets are classes or numbers."""
        return "classification" if self.num_classes else "regression"
