"""Another Flower project, with a network and data of its own, uses our strategy and client."""

import shutil
from pathlib import Path

import pytest

from tests.fault_injection.loopback import Loopback
from tests.fault_injection.text import plain

pytestmark = pytest.mark.deployment

PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "questions"
version = "1.0.0"
description = "Everybody has a question of their own."
license = { file = "LICENSE" }
dependencies = ["flwr>=1.41,<2", "pfl-flower"]

[tool.hatch.build.targets.wheel]
packages = ["questions"]

[tool.flwr.app]
publisher = "somebody"
fab-format-version = 1
flwr-version-target = "1.41.0"

[tool.flwr.app.components]
serverapp = "questions.apps:server"
clientapp = "questions.apps:client"

[tool.flwr.app.config]
rounds = 3
"""

APPS = '''
"""A network, data, and both apps of a project that only takes the parts."""

import torch
from flwr.serverapp import ServerApp
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from clients import PersonalClient, PersonalState, assign_scopes, client_app
from strategies import PartialAveraging
from strategies.arrays import to_record


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.features, self.out = nn.Linear(20, 32), nn.Linear(32, 2)

    def forward(self, x):
        return self.out(torch.relu(self.features(x)))


def build(context, config):
    number = context.node_config["partition-id"]
    draw = torch.Generator().manual_seed(number)
    x = torch.randn(200, 20, generator=draw)
    y = (x[:, number] > 0).long()
    model = Net()
    return PersonalClient(
        model,
        assign_scopes(model, personal="out"),
        DataLoader(TensorDataset(x[:150], y[:150]), batch_size=16, shuffle=True),
        test_loader=DataLoader(TensorDataset(x[150:], y[150:]), batch_size=50),
        state=PersonalState(context.state),
        partition_id=number,
    )


client = client_app(build)
server = ServerApp()


@server.main()
def main(grid, context):
    shared = {n: t.numpy() for n, t in Net().state_dict().items() if not n.startswith("out.")}
    strategy = PartialAveraging(min_available_nodes=2)
    strategy.start(grid, to_record(shared), num_rounds=int(context.run_config["rounds"]))
    last = {report.client: report for report in strategy.reports if report.phase == "evaluate"}
    assert not any(report.dropped for report in strategy.reports)
    print("CLIENTS", sorted(last), [report.metrics["accuracy"] for report in last.values()])
'''


def test_a_project_of_its_own_takes_strategy_and_client(tmp_path):
    project = tmp_path / "questions"
    (project / "questions").mkdir(parents=True)
    (project / "pyproject.toml").write_text(PYPROJECT)
    (project / "questions" / "__init__.py").touch()
    (project / "questions" / "apps.py").write_text(APPS)
    shutil.copy(Path(__file__).parents[1] / "LICENSE", project / "LICENSE")
    with Loopback(tmp_path / "federation", 2, secure=False, app=project) as link:
        link.start_link()
        for number in range(2):
            link.start_node(number)
        said = plain(link.flwr("run", ".", "loopback", "--stream"))
        logs = said + plain(link.log("link"))
    assert "CLIENTS [0, 1]" in logs, logs
