"""The data and the network of the project: a club's graph as PyG `Data`, and a GraphSAGE."""

from pathlib import Path
from typing import ClassVar

import pandas as pd
import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import SAGEConv

from clients import GraphNetwork
from pfl_flower.models import BottleneckAdapter

TABLES = Path(__file__).parent / "tables"


def load(partition_id: int, num_partitions: int) -> Data:
    """Return the graph of a club.

    Parameters
    ----------
    partition_id : int
        Number of the client.
    num_partitions : int
        Number of clients.

    Returns
    -------
    Data
        ``x`` (members, features); ``edge_index`` (2, friendships); ``y`` (members,), -1 where the
        genre is not known; ``community``, the town.
    """
    members = pd.read_csv(TABLES / str(partition_id) / "members.csv")
    friends = pd.read_csv(TABLES / str(partition_id) / "friends.csv")
    genre = members.pop("genre").fillna(-1)
    return Data(
        x=torch.tensor(members.to_numpy(), dtype=torch.float32),
        edge_index=torch.tensor(friends.to_numpy().T, dtype=torch.int64),
        y=torch.tensor(genre.to_numpy(), dtype=torch.int64),
        community=partition_id % 2,
    )


class ReadingNet(GraphNetwork):
    """One layer of message passing, an adapter, and a head.

    Parameters
    ----------
    shape : tuple of int
        Shape of a node's features, ``(F,)``.
    num_outputs : int
        Number of classes.
    """

    parts: ClassVar = {"head": ("head",)}  # what `personal="head"` and `group="head"` mean
    layers = 1

    def __init__(self, shape: tuple[int, ...], num_outputs: int) -> None:
        super().__init__()
        self.layer, self.adapter = SAGEConv(shape[0], 32), BottleneckAdapter(32, 4)
        self.head = nn.Linear(32, num_outputs)

    def encode(self, features: Tensor, edges: Tensor) -> Tensor:
        """Return encodings ``(N, 32)`` of all nodes."""
        hidden: Tensor = self.adapter(torch.relu(self.layer(features, edges)))
        return hidden

    def classify(self, hidden: Tensor) -> Tensor:
        """Return outputs ``(B, K)`` of nodes with encodings ``(B, 32)``."""
        outputs: Tensor = self.head(hidden)
        return outputs
