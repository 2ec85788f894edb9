"""The ServerApp: the average of what clients share."""

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from clients import assign_scopes
from questions.task import Net
from strategies import PartialAveraging
from strategies.arrays import to_record

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train for as many rounds as the run config says."""
    train(grid, int(context.run_config["num-server-rounds"]))


def train(grid: Grid, num_rounds: int) -> None:
    """Train, and print the accuracy of every client after the last round."""
    model = Net()
    scopes = assign_scopes(model, personal="out")
    state = model.state_dict()
    shared = {name: state[name].numpy() for name in scopes if scopes[name] == "shared"}
    strategy = PartialAveraging(min_available_nodes=2)
    strategy.start(grid, to_record(shared), num_rounds=num_rounds)
    evaluations = [report for report in strategy.reports if report.phase == "evaluate"]
    last = {report.client: report.metrics["accuracy"] for report in evaluations}
    print("Accuracy of each client:", dict(sorted(last.items())))
