"""The main job as a user starts it: ``flwr run`` from a copy of the app."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
APP = ("pfl_flower", "strategies", "clients", "simulations", "pyproject.toml", "README.md")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def flower(tmp_path):
    """A Flower home of its own, whose managed SuperLink is stopped at the end.

    It is not in the app's folder, which is packed whole: the environment of a run that has just
    ended may still be there.
    """
    folder = tmp_path / "app"
    folder.mkdir()
    for name in APP:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    environment = dict(os.environ)
    environment["FLWR_HOME"] = str(tmp_path / "flwr-home")
    environment["HOME"] = str(tmp_path)
    environment["UV_CACHE_DIR"] = os.environ.get("UV_CACHE_DIR", str(Path.home() / ".cache/uv"))
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    for name in ("CONTROL", "SUPERLINK_HTTP"):  # as Flower 1.42 calls them
        environment[f"FLWR_LOCAL_{name}_API_PORT"] = str(free_port())
    yield folder, environment
    for line in subprocess.run(
        ["ps", "-eo", "pid,args"], capture_output=True, text=True
    ).stdout.splitlines():
        if environment["FLWR_LOCAL_SUPERLINK_HTTP_API_PORT"] in line and "flower-super" in line:
            os.kill(int(line.split()[0]), signal.SIGTERM)


def run(flower, run_config):
    folder, environment = flower
    command = ["flwr", "run", ".", "--stream", "--federation-config", "num-supernodes=4"]
    done = subprocess.run(
        [*command, "--run-config", run_config],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    return done.stdout + done.stderr


@pytest.mark.deployment
def test_the_main_job_twice_on_one_managed_superlink_and_wrong_values(flower):
    for method in ("fedper", "fedbn"):
        settings = f'method="{method}" num-server-rounds=2 results-dir="out"'
        text = run(flower, settings)
        assert f"{method}: every one of 4 clients has a model of its own" in text, text
        assert "Against fedavg" in text
    folders = sorted((Path(flower[1]["HOME"]) / "out").iterdir())
    assert len(folders) == 2
    for folder in folders:
        assert json.loads((folder / "summary.json").read_text())["fedavg"]
        assert (folder / "accuracy.png").exists()
    text = run(flower, 'method="fedsgd"')
    assert "method is 'fedsgd'; it must be one of" in text
