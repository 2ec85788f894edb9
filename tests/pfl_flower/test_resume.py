import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from pfl_flower.census import FederationError
from pfl_flower.checkpoint import Checkpoints
from pfl_flower.engines import simulate
from strategies.arrays import view

CONFIG = {
    "num-server-rounds": 10,
    "local-epochs": 1,
    "fraction-train": 0.6,
    "server-momentum": 0.5,
    "baselines": "fedavg",
    "fine-tuning-epochs": "0,1",
}
CLIENTS = 5

VICTIM = """
import json, os, signal, sys, threading
from pathlib import Path
from pfl_flower.engines import simulate

config, clients, engine, folder, delay = json.loads(sys.argv[1])

def die_in_the_next_round(news):
    if news.round == 4:
        threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()

simulate(config, clients, engine, die_in_the_next_round, folder=Path(folder))
"""


def numbers(runs):
    """Everything that a run gave but for the time it took and the ids of nodes."""
    return [
        (
            run.method,
            {name: view(array).tobytes() for name, array in run.arrays.items()},
            [
                (r.round, r.phase, r.client, repr(sorted(r.metrics.items())), r.dropped)
                for r in run.reports
            ],
        )
        for run in runs
    ]


def killed(config, folder, engine, delay):
    """Run until round 4 is complete and a little longer, then kill everything."""
    arguments = json.dumps([config, CLIENTS, engine, str(folder), delay])
    victim = subprocess.Popen(
        [sys.executable, "-c", VICTIM, arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        assert victim.wait(timeout=300) == -signal.SIGKILL
    finally:
        if engine == "ray":  # its workers outlive the server
            os.killpg(victim.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("method", "engine", "delay"),
    [
        ("fedper", "in-process", 0.03),
        ("fedper", "in-process", 0.0),
        ("fedrep", "in-process", 0.06),
        ("fedavg-ft", "in-process", 0.02),
        pytest.param("fedper", "ray", 0.3, marks=pytest.mark.deployment),
    ],
)
def test_a_killed_run_that_is_resumed_ends_as_one_never_killed(tmp_path, method, engine, delay):
    config = {**CONFIG, "method": method}
    whole = simulate({**config, "personal-dir": str(tmp_path / "whole")}, CLIENTS, engine)
    interrupted = {**config, "personal-dir": str(tmp_path / "devices")}
    killed(interrupted, tmp_path / "run", engine, delay)
    at = Checkpoints.__new__(Checkpoints)
    at.folder = tmp_path / "run" / "checkpoint"
    stopped = at.load(method).round
    assert 4 <= stopped < 10
    played = []
    resumed = simulate(
        {**interrupted, "resume": str(tmp_path / "run")},
        CLIENTS,
        engine,
        lambda news: played.append((news.method, news.round)),
    )
    assert (method, stopped) not in played
    assert (method, stopped + 1) in played
    assert numbers(resumed) == numbers(whole)
    again = simulate({**interrupted, "resume": str(tmp_path / "run")}, CLIENTS, engine)
    assert numbers(again) == numbers(whole)


@pytest.fixture
def complete(tmp_path):
    """A run of two rounds, complete, and its config."""
    config = {
        "method": "fedper",
        "baselines": "",
        "num-server-rounds": 2,
        "personal-dir": str(tmp_path / "devices"),
    }
    simulate(config, 3, folder=tmp_path / "run")
    return {**config, "resume": str(tmp_path / "run")}, tmp_path


def test_another_config_is_refused_with_the_one_to_repeat(complete):
    config, folder = complete
    with pytest.raises(FederationError) as error:
        simulate({**config, "method": "fedrep", "alpha": 0.7}, 3)
    text = str(error.value)
    assert "method is 'fedper' there and 'fedrep' here" in text
    assert "alpha is 0.5 there and 0.7 here" in text
    assert f'resume="{folder / "run"}"' in text
    assert 'baselines=""' in text
    with pytest.raises(FederationError, match="dataset is 'digits' there and 'breast-cancer'"):
        simulate({**config, "dataset": "breast-cancer", "heterogeneity": "none"}, 3)


def test_what_no_number_depends_on_may_differ(complete):
    config, _ = complete
    assert len(simulate({**config, "timeout": 60.0}, 3)[0].by_client()) == 3


def test_another_version_of_the_code_is_refused(complete, monkeypatch):
    config, _ = complete
    monkeypatch.setattr("pfl_flower.checkpoint.code_digest", lambda: "other")
    with pytest.raises(FederationError, match="another version of the code"):
        simulate(config, 3)


def test_other_data_are_refused(complete):
    config, folder = complete
    about = folder / "run" / "checkpoint" / "about.json"
    content = json.loads(about.read_text())
    about.write_text(json.dumps({**content, "facts": "{}"}))
    with pytest.raises(FederationError, match="the clients' data are not what they were"):
        simulate(config, 3)


def test_clients_that_lost_their_personal_parameters_are_named(complete):
    config, folder = complete
    for left in (folder / "devices").glob("client-1.*"):
        left.unlink()
    with pytest.raises(FederationError, match=r"clients \[1\] do not have the personal parameters"):
        simulate(config, 3)


def test_without_a_personal_directory_a_run_with_personal_parameters_cannot_go_on(tmp_path):
    config = {"method": "fedper", "baselines": "", "num-server-rounds": 1}
    simulate(config, 3, folder=tmp_path)
    with pytest.raises(FederationError, match=r"clients \[0, 1, 2\] .* personal-dir"):
        simulate({**config, "resume": str(tmp_path)}, 3)


def test_a_folder_without_a_checkpoint_and_a_damaged_one_say_so(complete):
    config, folder = complete
    with pytest.raises(FederationError, match="nothing to resume in"):
        simulate({**config, "resume": str(folder / "devices")}, 3)
    checkpoint = folder / "run" / "checkpoint" / "fedper.safetensors"
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[:-10])
    with pytest.raises(FederationError, match="fedper.safetensors is damaged"):
        simulate(config, 3)
    checkpoint.write_bytes(content)
    reports = folder / "run" / "checkpoint" / "fedper.jsonl"
    reports.write_text("".join(reports.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(FederationError, match="11 reports instead of 12"):
        simulate(config, 3)
    shutil.rmtree(folder / "run" / "checkpoint")
    with pytest.raises(FederationError, match="nothing to resume in"):
        simulate(config, 3)


def test_a_line_that_was_being_written_is_no_harm(complete):
    config, folder = complete
    reports = folder / "run" / "checkpoint" / "fedper.jsonl"
    with reports.open("a") as stream:
        stream.write('{"round": 3, "phase": "tra')
    assert len(simulate(config, 3)[0].by_client()) == 3
    assert all(json.loads(line) for line in reports.read_text().splitlines())


def test_a_checkpoint_keeps_the_order_and_dtypes_of_arrays(complete):
    config, folder = complete
    (run,) = simulate(config, 3)
    for array in run.arrays.values():
        assert np.isfinite(view(array)).all()
    (fresh,) = simulate({**config, "resume": "", "personal-dir": str(folder / "new")}, 3)
    assert list(run.arrays) == list(fresh.arrays)
    assert [a.dtype for a in run.arrays.values()] == [a.dtype for a in fresh.arrays.values()]
