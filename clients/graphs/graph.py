"""Clients whose examples are nodes, or pairs of nodes, of a graph of their own.

An example is a number: that of a node, or those of the two nodes of a pair. So everything that is
made for examples (loaders, schedules, proximal_terms, safeguards, any client of this package) works
for graphs, too; the graph itself is what a :class:`GraphNetwork` looks at to make something of the
number. It stays on the device like the examples do.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from clients.graphs.neighbor_sampling import Neighbours, sample


@dataclass(frozen=True, eq=False)
class Graph:
    """A graph that messages are passed on.

    Attributes
    ----------
    features : Tensor
        ``(N, F)`` float32, of the nodes.
    edges : Tensor
        ``(2, E)`` int64, from the nodes of the first row to those of the second; a connection in
        both directions is two edges. For the prediction of links these are the training edges only:
        the others must not be seen when they are predicted.

    Raises
    ------
    ValueError
        If shapes or types are others, or an edge names a node that there is not.
    """

    features: Tensor
    edges: Tensor

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or not self.features.is_floating_point():
            raise ValueError(
                f"features must be numbers (nodes, features), got {self.features.dtype} "
                f"{tuple(self.features.shape)}"
            )
        if self.edges.ndim != 2 or len(self.edges) != 2 or self.edges.dtype != torch.int64:
            raise ValueError(
                f"edges must be int64 (2, edges), got {self.edges.dtype} {tuple(self.edges.shape)}"
            )
        if self.edges.numel() and not 0 <= int(self.edges.min()) <= int(self.edges.max()) < len(
            self.features
        ):
            raise ValueError(
                f"edges name nodes {int(self.edges.min())} to {int(self.edges.max())}, but the "
                f"nodes are 0 to {len(self.features) - 1}"
            )

    def __len__(self) -> int:
        return len(self.features)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Graph":
        """Return the graph itself: it never changes, and a copied network needs no copy of it."""
        return self

    def on(self, device: torch.device) -> "Graph":
        """Return the graph on a device, moved there once."""
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
        """Who sends messages to whom, in the order that sampling needs; made once."""
        if "_neighbours" not in self.__dict__:
            self.__dict__["_neighbours"] = Neighbours.of(self.edges, len(self))
        return self.__dict__["_neighbours"]  # type: ignore[no-any-return]


class GraphNetwork(nn.Module):
    """A network whose inputs are numbers of nodes ``(B,)`` or of pairs of nodes ``(B, 2)``.

    Set :attr:`graph` to the client's graph before it is used. Subclasses say how nodes are
    encoded, what is told of a node and what of a pair.

    In training a graph of more than :attr:`whole` nodes is not passed as a whole: of each node
    that is needed at most :attr:`fanout` neighbours are looked at, drawn afresh every time from
    torch's global generator, and of each of those again, for every layer (GraphSAGE, Hamilton et
    al. 2017, arXiv:1706.02216, algorithm 2). In evaluation it is always the whole graph: a mean
    over neighbours then has the expectation that it had in training, a sum (GIN) is larger, and
    weights by degree (GCN) are others.
    """

    graph: Graph | None = None
    """What the examples are nodes of."""

    layers: int = 1
    """How far messages travel: number of rounds of message passing."""

    whole: int = 20_000
    """Most nodes of a graph that is passed as a whole in training."""

    fanout: int = 10
    """Most neighbours of a node that are looked at in a larger one."""

    def encode(self, features: Tensor, edges: Tensor) -> Tensor:
        """Return ``(N, H)`` from features ``(N, F)`` and edges ``(2, E)``."""
        raise NotImplementedError(f"{type(self).__name__} needs encode(features, edges)")

    def classify(self, hidden: Tensor) -> Tensor:
        """Return the outputs ``(B, K)`` of nodes with encodings ``(B, H)``."""
        raise NotImplementedError(f"{type(self).__name__} needs classify(hidden) for nodes")

    def link(self, left: Tensor, right: Tensor) -> Tensor:
        """Return logits ``(B,)`` that pairs of nodes ``(B, H)`` and ``(B, H)`` are connected."""
        raise NotImplementedError(f"{type(self).__name__} needs link(left, right) for pairs")

    def forward(self, examples: Tensor) -> Tensor:
        """Return what is predicted for nodes ``(B,)`` or pairs ``(B, 2)``.

        Raises
        ------
        RuntimeError
            If there is no graph.
        """
        if self.graph is None:
            raise RuntimeError(f"set {type(self).__name__}.graph to the client's graph first")
        graph = self.graph.on(examples.device)
        if self.training and len(graph) > self.whole:
            nodes, places = torch.unique(examples, return_inverse=True)
            drawn, edges = sample(graph.neighbours, nodes, self.layers, self.fanout)
            hidden, examples = self.encode(graph.features[drawn], edges), places
        else:
            hidden = self.encode(graph.features, graph.edges)
        if examples.ndim == 1:
            return self.classify(hidden[examples])
        return self.link(hidden[examples[:, 0]], hidden[examples[:, 1]])


def bind(
    model: nn.Module, graph: Graph | None, whole: int | None = None, fanout: int | None = None
) -> None:
    """Show a network its client's graph; nothing where there is none.

    Parameters
    ----------
    model : nn.Module
        A :class:`GraphNetwork`, if there is a graph.
    graph : Graph or None
        The client's.
    whole, fanout : int or None, default None
        See :class:`GraphNetwork`; None for what they are.

    Raises
    ------
    TypeError
        If there is a graph, and the network cannot look at it.
    """
    if isinstance(model, GraphNetwork):
        model.graph = graph
        model.whole = model.whole if whole is None else whole
        model.fanout = model.fanout if fanout is None else fanout
    elif graph is not None:
        raise TypeError(
            f"examples are nodes of a graph, which a {type(model).__name__} cannot look at; "
            f"make it a clients.GraphNetwork"
        )
