"""Four clients whose heads are personal: odd ones name the two classes the other way round."""

from collections.abc import Mapping
from typing import Any

import torch
from flwr.app import ArrayRecord, Context
from torch import nn

from clients import PersonalClient, PersonalState, Scope, assign_scopes, in_memory_loader
from clients.scopes import names_of
from strategies.arrays import to_record

CLIENTS = 4


class Net(nn.Module):
    """A shared body and a personal head."""

    parts = {"head": ("out",)}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.features = nn.Linear(4, 8)
        self.out = nn.Linear(8, 2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the outputs of the two classes, ``(N, 2)``."""
        outputs: torch.Tensor = self.out(torch.relu(self.features(inputs)))
        return outputs


def build(context: Context, config: Mapping[str, Any]) -> PersonalClient:
    """Return a node's client; it is called for every message."""
    number = int(context.node_config["partition-id"])
    inputs = torch.randn(80, 4, generator=torch.Generator().manual_seed(number))
    targets = (inputs[:, 0] > 0).long() ^ (number % 2)
    model = Net()
    return PersonalClient(
        model,
        assign_scopes(model, personal="head"),
        in_memory_loader(inputs[:40], targets[:40], 10, shuffle=True),
        test_loader=in_memory_loader(inputs[40:], targets[40:], 40),
        state=PersonalState(context.state),
        partition_id=number,
    )


def first_arrays() -> ArrayRecord:
    """Return what the server starts from: the shared entries only."""
    model = Net()
    shared = names_of(assign_scopes(model, personal="head"), Scope.SHARED)
    return to_record({name: model.state_dict()[name].numpy() for name in shared})
