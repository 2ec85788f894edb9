"""A Flower app as Flower's quickstart for PyTorch writes one: nothing of pfl-flower is in it."""

from collections.abc import Callable
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg, Result
from small_clients import BATCH, clients, network
from torch.utils.data import DataLoader, TensorDataset

LEARNING_RATE, MOMENTUM = 0.1, 0.9
"""What pfl-flower takes by default."""

app = ClientApp()


def load_data(context: Context) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Return the batches of the client to train on, and those to test on."""
    own = clients(int(context.node_config["partition-id"]), 0)
    arrays = {name: torch.from_numpy(values) for name, values in own.items()}
    trained = TensorDataset(arrays["x_train"], arrays["y_train"])
    tested = TensorDataset(arrays["x_test"], arrays["y_test"])
    return DataLoader(trained, BATCH, shuffle=True), DataLoader(tested, BATCH)


def load_model(message: Message) -> torch.nn.Module:
    """Return the perceptron with the parameters in a message."""
    model = network((64,), 10)
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    return model


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train for one epoch."""
    torch.set_num_threads(1)
    model = load_model(message)
    batches, _ = load_data(context)
    criterion = torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    model.train()
    running = 0.0
    for inputs, labels in batches:
        optimizer.zero_grad()
        loss = criterion(model(inputs), labels)
        loss.backward()
        optimizer.step()
        running += loss.item()
    metrics = {"train_loss": running / len(batches), "num-examples": len(batches.dataset)}
    content = {"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord(metrics)}
    return Message(content=RecordDict(content), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate on the test examples."""
    torch.set_num_threads(1)
    model = load_model(message)
    _, batches = load_data(context)
    criterion = torch.nn.CrossEntropyLoss()
    model.eval()
    correct, loss = 0, 0.0
    with torch.no_grad():
        for inputs, labels in batches:
            outputs = model(inputs)
            loss += criterion(outputs, labels).item()
            correct += (outputs.argmax(1) == labels).sum().item()
    examples = len(batches.dataset)
    metrics = {
        "loss": loss / len(batches),
        "accuracy": correct / examples,
        "num-examples": examples,
    }
    content = {"metrics": MetricRecord(metrics)}
    return Message(content=RecordDict(content), reply_to=message)


def server_app(num_rounds: int, ended: Callable[[int], None], kept: list[Result]) -> ServerApp:
    """Return a ServerApp that averages everyone.

    Parameters
    ----------
    num_rounds : int
        How many rounds.
    ended : callable
        Called with the number of every round at its end, and with 0 before the first.
    kept : list of Result
        Is given the result.
    """
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        torch.manual_seed(0)
        kept.append(
            FedAvg(fraction_train=1.0, fraction_evaluate=1.0).start(
                grid=grid,
                initial_arrays=ArrayRecord(network((64,), 10).state_dict()),
                num_rounds=num_rounds,
                evaluate_fn=lambda server_round, _: ended(server_round),
            )
        )

    return server
