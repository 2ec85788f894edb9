"""The scripts in ``benchmarks/``: that they run, and that CPU seconds are counted."""

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
SPENT = 0.2
_BUSY = f"import time\nwhile time.process_time() < {SPENT}: pass\n"


@pytest.fixture
def cpu_seconds(monkeypatch):
    """The function, from a folder that is no package."""
    monkeypatch.syspath_prepend(str(FOLDER))
    cpu_seconds = import_module("processes").cpu_seconds

    return cpu_seconds


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_the_cpu_of_children_counts_while_they_run_and_after(cpu_seconds):
    least = SPENT - 4 / os.sysconf("SC_CLK_TCK")  # each of four counters is cut to a tick
    before = cpu_seconds(os.getpid())
    subprocess.run([sys.executable, "-c", _BUSY], check=True)
    assert cpu_seconds(os.getpid()) - before >= least
    with subprocess.Popen(
        [sys.executable, "-c", _BUSY + "print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as running:
        running.stdout.readline()
        assert cpu_seconds(running.pid) >= least
        assert cpu_seconds(os.getpid()) - before >= 2 * least
        running.communicate(b"\n")


@pytest.mark.integration
def test_a_simulated_round_is_measured(tmp_path):
    target = tmp_path / "out.json"
    command = [sys.executable, FOLDER / "simulated_round.py", target]
    subprocess.run([*command, "--clients", "3", "--rounds", "2"], check=True, cwd=tmp_path)
    found = json.loads(target.read_text())
    assert found["setting"]["clients"] == 3
    for kind in ("clock", "cpu"):
        assert len(found["seconds a round"][kind]) == 2
        assert 0 < found["seconds a round, median"][kind] < 60


@pytest.mark.integration
@pytest.mark.skipif(not os.environ.get("PFL_DATA_DIR"), reason="needs $PFL_DATA_DIR")
def test_pictures_that_are_read_lazily_are_measured(tmp_path):
    target = tmp_path / "out.json"
    command = [sys.executable, FOLDER / "lazy_pictures.py", target, "--model", "cnn"]
    sizes = ["--clients", "2", "--examples", "20", "--rounds", "1", "--turns", "1"]
    subprocess.run([*command, *sizes], check=True, cwd=tmp_path)
    found = json.loads(target.read_text())
    assert len(found["loss"]) == 1
    assert found["of memory"].keys() == {"memory", "mapped", "decoded"}
