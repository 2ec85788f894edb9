"""Another Flower project, with a network and data of its own, uses our strategy and client."""

import re
import shutil
from pathlib import Path

import pytest

from tests.fault_injection.loopback import Loopback
from tests.fault_injection.text import plain

pytestmark = pytest.mark.deployment

EXAMPLE = Path(__file__).parents[1] / "examples" / "own_flower_project"


def test_a_project_of_its_own_takes_strategy_and_client(tmp_path):
    project = tmp_path / "questions"
    shutil.copytree(EXAMPLE, project, ignore=shutil.ignore_patterns("__pycache__"))
    with Loopback(tmp_path / "federation", 2, secure=False, app=project) as link:
        link.start_link()
        for number in range(2):
            link.start_node(number)
        said = plain(link.flwr("run", ".", "loopback", "--stream"))
        logs = said + plain(link.log("link"))
    found = re.search(r"Accuracy of each client: \{0: ([\d.]+), 1: ([\d.]+)\}", logs)
    assert found, logs
    assert min(map(float, found.groups())) > 0.6, logs
