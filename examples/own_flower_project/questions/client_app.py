"""The ClientApp: a network whose output layer never leaves the device."""

from collections.abc import Mapping
from typing import Any

from flwr.app import Context

from clients import PersonalClient, PersonalState, assign_scopes, client_app
from questions.task import Net, load


def build(context: Context, config: Mapping[str, Any]) -> PersonalClient:
    """Return the client of this node. Flower asks for it anew for every message."""
    number = int(context.node_config["partition-id"])
    train, test = load(number)
    model = Net()
    return PersonalClient(
        model,
        assign_scopes(model, personal="out"),
        train,
        test_loader=test,
        state=PersonalState(context.state),
        partition_id=number,
    )


app = client_app(build)
