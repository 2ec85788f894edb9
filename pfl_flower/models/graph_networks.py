"""Graph neural networks (GCN, GraphSAGE, GAT, GIN): an encoder, adapters after layers, a head."""

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch_geometric.nn import GATConv, GCNConv, GINConv, SAGEConv

from clients.graphs.graph import GraphNetwork
from pfl_flower.models.blocks import BottleneckAdapter

HEADS = 4
"""Number of attention heads of a GAT layer, whose outputs are concatenated."""


def _gin(inputs: int, outputs: int) -> nn.Module:
    transform = nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU(), nn.Linear(outputs, outputs))
    layer: nn.Module = GINConv(transform)
    return layer


LAYERS: Mapping[str, Callable[[int, int], nn.Module]] = {
    "gcn": GCNConv,
    "sage": SAGEConv,
    "gat": lambda inputs, outputs: GATConv(inputs, outputs // HEADS, heads=HEADS),
    "gin": _gin,
}
"""Name of a layer -> (features in, features out) -> PyG's layer. A new one is one row."""


class GNN(GraphNetwork):
    """Two layers of message passing and a head; optionally with adapters after the layers.

    ``h <- adapter(relu(layer(h, edges)))`` twice. A node's outputs are ``head(h)``. A pair's logit
    is the dot product of ``head(h)`` of both nodes, over the root of its length.

    Parameters
    ----------
    layer : str
        A key of :data:`LAYERS`: GCN (Kipf & Welling 2017, arXiv:1609.02907), GraphSAGE (Hamilton
        et al. 2017, arXiv:1706.02216), GAT (Velickovic et al. 2018, arXiv:1710.10903) or GIN (Xu
        et al. 2019, arXiv:1810.00826).
    num_features : int
        Number of features of a node.
    num_outputs : int
        Number of outputs of the head.
    links : bool, default False
        Whether to predict links (pairs of nodes); the head then has ``hidden`` outputs.
    adapter_size : int, default 0
        Bottleneck of the residual adapter after each layer; 0 for none.
    hidden : int, default 64
        Width of the layers.
    """

    parts: ClassVar = {"encoder": ("layer1", "layer2"), "head": ("head",)}
    layers = 2

    def __init__(
        self,
        layer: str,
        num_features: int,
        num_outputs: int,
        links: bool = False,
        adapter_size: int = 0,
        hidden: int = 64,
    ) -> None:
        super().__init__()
        make = LAYERS[layer]
        self.layer1, self.layer2 = make(num_features, hidden), make(hidden, hidden)
        self.head = nn.Linear(hidden, hidden if links else num_outputs)
        # Made last, so that adapters do not change the initial values of other layers.
        self.adapter1, self.adapter2 = (
            BottleneckAdapter(hidden, adapter_size) if adapter_size else nn.Identity()
            for _ in range(2)
        )

    def encode(self, features: Tensor, edges: Tensor) -> Tensor:
        """Return the embedding of every node, ``(N, hidden)``.

        Parameters
        ----------
        features : Tensor
            ``(N, num_features)``.
        edges : Tensor
            ``(2, E)`` int64.
        """
        hidden: Tensor = self.adapter1(torch.relu(self.layer1(features, edges)))
        hidden = self.adapter2(torch.relu(self.layer2(hidden, edges)))
        return hidden

    def classify(self, hidden: Tensor) -> Tensor:
        """Return logits ``(B, num_outputs)`` of nodes.

        Parameters
        ----------
        hidden : Tensor
            Embeddings ``(B, hidden)``.
        """
        outputs: Tensor = self.head(hidden)
        return outputs

    def link(self, left: Tensor, right: Tensor) -> Tensor:
        """Return logits ``(B,)`` of pairs of nodes.

        Parameters
        ----------
        left, right : Tensor
            Embeddings ``(B, hidden)`` of both nodes.
        """
        products = self.head(left) * self.head(right)
        logits: Tensor = products.sum(dim=1) / products.shape[1] ** 0.5
        return logits
