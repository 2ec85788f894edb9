"""Graph neural networks on a client's graph: node classification and link prediction.

An example is the number of a node, or the numbers of the two nodes of a pair. So everything that
works with examples (loaders, schedules, proximal terms, safeguards, every client of this package)
works with graphs, too. A :class:`GraphNetwork` looks the numbers up in the client's graph, which
stays on the device like the examples do.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from clients.graphs.neighbor_sampling import Neighbours, sample
from strategies.errors import ArgumentError

__all__ = ["Graph", "GraphNetwork", "bind"]


@dataclass(frozen=True, eq=False)
class Graph:
    """A graph for message passing.

    Attributes
    ----------
    features : Tensor
        Features of the nodes, ``(N, F)`` float32.
    edges : Tensor
        Edges ``(2, E)`` int64, from the nodes of the first row to those of the second. An
        undirected edge is two edges. For link prediction, these are the training edges only: the
        model must not see the edges that it predicts.

    Raises
    ------
    ArgumentError
        If a shape or dtype is wrong, or an edge has a node that does not exist.
    """

    features: Tensor
    edges: Tensor

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or not self.features.is_floating_point():
            found = f"{self.features.dtype} {tuple(self.features.shape)}"
            raise ArgumentError("features", found, "floating-point numbers (nodes, features)")
        if self.edges.ndim != 2 or len(self.edges) != 2 or self.edges.dtype != torch.int64:
            found = f"{self.edges.dtype} {tuple(self.edges.shape)}"
            raise ArgumentError("edges", found, "torch.int64 (2, edges)")
        if self.edges.numel():
            low, high = map(int, self.edges.aminmax())
            if low < 0 or high >= len(self.features):
                wanted = f"between nodes 0 and {len(self.features) - 1}"
                raise ArgumentError("edges", f"{low} to {high}", wanted)

    def __len__(self) -> int:
        return len(self.features)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Graph":
        """Return the graph itself: it is immutable, so a copied network can share it."""
        return self

    def on(self, device: torch.device) -> "Graph":
        """Return the graph on a device; it is moved there once."""
        if self.features.device == device:
            return self
        moved = self._moved.get(device)
        if moved is None:
            moved = Graph(self.features.to(device), self.edges.to(device))
            self._moved[device] = moved
        return moved

    @property
    def _moved(self) -> "dict[torch.device, Graph]":
        return self.__dict__.setdefault("_on_devices", {})  # type: ignore[no-any-return]

    @property
    def neighbours(self) -> Neighbours:
        """The incoming edges of every node, sorted for sampling; computed once."""
        if "_neighbours" not in self.__dict__:
            self.__dict__["_neighbours"] = Neighbours.of(self.edges, len(self))
        return self.__dict__["_neighbours"]  # type: ignore[no-any-return]


class GraphNetwork(nn.Module):
    """A network whose inputs are numbers of nodes ``(B,)`` or of pairs of nodes ``(B, 2)``.

    Set :attr:`graph` to the client's graph before use (:func:`bind`). Subclasses define the encoder
    of nodes, and the outputs for a node and for a pair.

    Training on a graph of more than :attr:`whole` nodes uses neighbour sampling: for each node of
    the batch at most :attr:`fanout` neighbours, and as many for each of these, for every layer
    (GraphSAGE, Hamilton et al. 2017, arXiv:1706.02216, algorithm 2). They are drawn in every step
    from torch's global generator. Evaluation always uses the whole graph. Then a mean over
    neighbours has the same expectation as in training, a sum (GIN) is larger, and weights by degree
    (GCN) differ.
    """

    graph: Graph | None = None
    """The client's graph."""

    layers: int = 1
    """Number of layers of message passing."""

    whole: int = 20_000
    """Largest number of nodes at which training uses the whole graph."""

    fanout: int = 10
    """Number of sampled neighbours of a node in larger graphs."""

    _writes: Mapping[bool, bool] = {}
    """Training mode -> whether the network writes in the features; empty until it was called."""

    def encode(self, features: Tensor, edges: Tensor) -> Tensor:
        """Return encodings ``(N, H)`` of nodes from features ``(N, F)`` and edges ``(2, E)``."""
        raise NotImplementedError(f"{type(self).__name__} needs encode(features, edges)")

    def classify(self, hidden: Tensor) -> Tensor:
        """Return the outputs ``(B, K)`` of nodes with encodings ``(B, H)``."""
        raise NotImplementedError(f"{type(self).__name__} needs classify(hidden) for nodes")

    def link(self, left: Tensor, right: Tensor) -> Tensor:
        """Return logits ``(B,)`` of edges between nodes with encodings ``(B, H)``."""
        raise NotImplementedError(f"{type(self).__name__} needs link(left, right) for pairs")

    def forward(self, examples: Tensor) -> Tensor:
        """Return the outputs for nodes ``(B,)`` or pairs of nodes ``(B, 2)``.

        Raises
        ------
        RuntimeError
            If :attr:`graph` is not set.
        """
        if self.graph is None:
            raise RuntimeError(f"set {type(self).__name__}.graph to the client's graph first")
        graph = self.graph.on(examples.device)
        if self.training and len(graph) > self.whole:
            nodes, places = torch.unique(examples, return_inverse=True)
            drawn, edges = sample(graph.neighbours, nodes, self.layers, self.fanout)
            hidden, examples = self.encode(graph.features[drawn], edges), places
        else:
            hidden = self._encode_all(graph)
        if examples.ndim == 1:
            return self.classify(hidden[examples])
        return self.link(hidden[examples[:, 0]], hidden[examples[:, 1]])

    def _encode_all(self, graph: Graph) -> Tensor:
        """Return encodings of all nodes; a network that writes in its inputs gets a copy of them.

        Whether it does is seen at its first call in training, and at that in evaluation.
        """
        if self._writes.get(self.training) is False:
            return self.encode(graph.features, graph.edges)
        features = graph.features.clone()
        hidden = self.encode(features, graph.edges)
        wrote = features.is_inference() or features._version > 0  # counts what is done in place
        self._writes = {**self._writes, self.training: wrote}
        return hidden


def bind(
    model: nn.Module, graph: Graph | None, whole: int | None = None, fanout: int | None = None
) -> None:
    """Give a network its client's graph, if there is one.

    Parameters
    ----------
    model : nn.Module
        The network; a :class:`GraphNetwork` if there is a graph.
    graph : Graph or None
        The client's graph.
    whole, fanout : int or None, default None
        See :class:`GraphNetwork`; None keeps the current values.

    Raises
    ------
    TypeError
        If there is a graph and the network is not a :class:`GraphNetwork`.
    """
    if isinstance(model, GraphNetwork):
        model.graph = graph
        model.whole = model.whole if whole is None else whole
        model.fanout = model.fanout if fanout is None else fanout
    elif graph is not None:
        raise TypeError(
            f"the examples are nodes of a graph, which a {type(model).__name__} cannot use; "
            f"derive it from clients.GraphNetwork"
        )
