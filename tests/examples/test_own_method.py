"""The example of a method of one's own: copied over the tree, it is a method like the others."""

import csv
import json
import os
import shutil
import subprocess
import sys
from math import sqrt
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "own_method"
PACKAGES = ("strategies", "clients", "pfl_flower", "simulations")

RUN = """
import json
from pathlib import Path

import pfl_flower
from pfl_flower.engines import simulate
from pfl_flower.results.files import write
from strategies import EmaHeadAveraging

assert Path(pfl_flower.__file__).is_relative_to(Path.cwd()), pfl_flower.__file__

# Of clients that have as many examples each, all weights are alike.
alike = {"method": "ema-head", "num-server-rounds": 2, "min-examples": 60, "max-examples": 60}
last, fedper = simulate({**alike, "head-decay": 0.0, "baselines": "fedper"}, num_clients=4)
(averaged,) = simulate({**alike, "head-decay": 0.9, "baselines": ""}, num_clients=4)
runs = {"last": last, "fedper": fedper, "averaged": averaged}
losses = {name: list(run.by_client("validation-loss").values()) for name, run in runs.items()}
losses["arrays"] = [float(run.arrays["hidden.weight"].numpy().sum()) for run in runs.values()]
Path("losses.json").write_text(json.dumps(losses))

config = {"method": "ema-head", "num-server-rounds": 2, "min-examples": 20, "max-examples": 200}
write(Path("results"), simulate({**config, "baselines": "fedper"}, num_clients=4))
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """The tree with the example in it, generated and run."""
    folder: Path = tmp_path_factory.mktemp("tree")
    caches = shutil.ignore_patterns("__pycache__")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=caches)
        if (EXAMPLE / package).exists():
            shutil.copytree(EXAMPLE / package, folder / package, ignore=caches, dirs_exist_ok=True)
    shutil.copy(ROOT / "pyproject.toml", folder)
    for command in (["-m", "pfl_flower.utils.generate"], ["-c", RUN]):
        done = subprocess.run(
            [sys.executable, *command],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_the_key_and_the_exports_are_generated(tree):
    assert '\nhead-decay = ""\n' in (tree / "pyproject.toml").read_text()
    assert '"EmaHeadAveraging"' in (tree / "strategies" / "__init__.py").read_text()
    assert '"EmaHeadClient"' in (tree / "clients" / "__init__.py").read_text()


def test_a_client_counts_by_the_square_root_of_its_examples(tree):
    last = {
        row["client"]: row
        for row in rows_of(tree / "results" / "clients.csv")
        if (row["method"], row["round"]) == ("ema-head", "2")
    }
    sizes = {client: int(row["train_num_examples"]) for client, row in last.items()}
    assert len(set(sizes.values())) > 1
    rows = rows_of(tree / "results" / "ema_head.csv")
    assert [row["client"] for row in rows] == ["0", "1", "2", "3"]
    total = sum(map(sqrt, sizes.values()))
    for row in rows:
        assert float(row["weight"]) == pytest.approx(sqrt(sizes[row["client"]]) / total)
        assert row["accuracy"] == last[row["client"]]["accuracy"]


def test_without_decay_it_is_fedper_and_an_average_changes_predictions_only(tree):
    losses = json.loads((tree / "losses.json").read_text())
    assert losses["last"] == losses["fedper"]
    assert losses["averaged"] != losses["last"]
    assert len(set(losses["arrays"])) == 1
