"""The network and the data: every client asks a question of its own about the same 20 numbers."""

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    """Shared features, and an output layer that every client has of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)  # all clients start from the same values
        self.features, self.out = nn.Linear(20, 32), nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(N, 2)`` of inputs ``(N, 20)``."""
        logits: Tensor = self.out(torch.relu(self.features(x)))
        return logits


Loader = DataLoader[tuple[Tensor, ...]]


def load(client: int) -> tuple[Loader, Loader]:
    """Return the training and test examples of a client.

    Its question is whether number ``client`` of the 20 is above 0.
    """
    draw = torch.Generator().manual_seed(client)
    x = torch.randn(200, 20, generator=draw)
    y = (x[:, client] > 0).long()
    train, test = TensorDataset(x[:150], y[:150]), TensorDataset(x[150:], y[150:])
    return DataLoader(train, batch_size=16, shuffle=True), DataLoader(test, batch_size=50)
