import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from pfl_flower.client_app import make_app
from pfl_flower.config.run_config import RunConfig
from pfl_flower.engines import simulate
from pfl_flower.grid import GridWithout, InProcessGrid
from pfl_flower.results.files import write
from pfl_flower.server.checkpoint import Checkpoints, code_digest
from pfl_flower.server.discovery import FederationError, wait_for_clients
from pfl_flower.server.holdout import choose_late
from pfl_flower.server.run import play
from pfl_flower.server.session import open_session
from strategies.arrays import view
from tests.errors import refused
from tests.helpers import numbers_of

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
        pytest.param("fedper", "in-process", 0.03, marks=pytest.mark.integration),
        pytest.param("fedper", "in-process", 0.0, marks=pytest.mark.integration),
        pytest.param("fedrep", "in-process", 0.06, marks=pytest.mark.integration),
        pytest.param("fedavg-ft", "in-process", 0.02, marks=pytest.mark.integration),
        pytest.param("ditto", "in-process", 0.04, marks=pytest.mark.integration),
        pytest.param("lifelong", "in-process", 0.05, marks=pytest.mark.deployment),
        pytest.param("hierarchical-bayes", "in-process", 0.05, marks=pytest.mark.deployment),
        pytest.param("fedper", "ray", 0.3, marks=pytest.mark.deployment),
    ],
)
def test_a_killed_run_that_is_resumed_ends_as_one_never_killed(tmp_path, method, engine, delay):
    config = RunConfig.used({**CONFIG, "method": method})
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
    assert numbers_of(resumed) == numbers_of(whole)
    again = simulate({**interrupted, "resume": str(tmp_path / "run")}, CLIENTS, engine)
    assert numbers_of(again) == numbers_of(whole)


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
    with refused(FederationError, key="method", value="fedrep") as error:
        simulate({**config, "method": "fedrep", "momentum": 0.7}, 3)
    text = str(error.value)
    assert "'fedper'" in text
    assert "momentum is 0.9 there and 0.7 here" in error.value.reason
    assert f'resume="{folder / "run"}"' in text
    assert 'baselines=""' in text
    with refused(FederationError, key="dataset", value="breast-cancer"):
        simulate({**config, "dataset": "breast-cancer", "heterogeneity": "none"}, 3)


def test_what_no_number_depends_on_may_differ(complete):
    config, _ = complete
    assert len(simulate({**config, "timeout": 60.0}, 3)[0].by_client()) == 3


def test_another_version_of_the_code_is_refused(complete, monkeypatch):
    config, _ = complete
    monkeypatch.setattr("pfl_flower.server.checkpoint.code_digest", lambda config: "other")
    with refused(FederationError, key="code", value="other"):
        simulate(config, 3)


def test_other_data_are_refused(complete):
    config, folder = complete
    about = folder / "run" / "checkpoint" / "about.json"
    content = json.loads(about.read_text())
    about.write_text(json.dumps({**content, "schema": "{}"}))
    with refused(FederationError, key="schema", value=content["schema"]):
        simulate(config, 3)


def test_clients_that_lost_their_personal_parameters_are_named(complete):
    config, folder = complete
    for left in (folder / "devices").glob("client-1.*"):
        left.unlink()
    with refused(FederationError, key="personal-dir", clients=(1,)):
        simulate(config, 3)


def test_without_a_personal_directory_a_run_with_personal_parameters_cannot_go_on(tmp_path):
    config = {"method": "fedper", "baselines": "", "num-server-rounds": 1}
    simulate(config, 3, folder=tmp_path)
    with refused(FederationError, key="personal-dir", clients=(0, 1, 2)):
        simulate({**config, "resume": str(tmp_path)}, 3)


def test_a_folder_without_a_checkpoint_and_a_damaged_one_say_so(complete):
    config, folder = complete
    with refused(FederationError, key="resume", value=str(folder / "devices")):
        simulate({**config, "resume": str(folder / "devices")}, 3)
    checkpoint = folder / "run" / "checkpoint" / "fedper.safetensors"
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[:-10])
    with refused(FederationError, key="checkpoint", value=str(checkpoint)):
        simulate(config, 3)
    checkpoint.write_bytes(content)
    reports = folder / "run" / "checkpoint" / "fedper.jsonl"
    reports.write_text("".join(reports.read_text().splitlines(keepends=True)[:-1]))
    with refused(FederationError, key="checkpoint", value=str(checkpoint)) as caught:
        simulate(config, 3)
    assert {"11", "12"} <= set(caught.value.reason.split())
    shutil.rmtree(folder / "run" / "checkpoint")
    with refused(FederationError, key="resume", value=str(folder / "run")):
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


@pytest.mark.integration
def test_a_folder_that_is_used_again_forgets_the_run_before(tmp_path):
    config = {"method": "fedavg", "baselines": "local", "num-server-rounds": 2}
    first = simulate(config, 3, folder=tmp_path)
    checkpoints = sorted(path.name for path in (tmp_path / "checkpoint").iterdir())
    second = simulate({**config, "seed": 1}, 3, folder=tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoint").iterdir()) == checkpoints
    resumed = simulate({**config, "seed": 1, "resume": str(tmp_path)}, 3)
    assert numbers_of(resumed) == numbers_of(second) != numbers_of(first)


def test_unseen_clients_stay_unseen_whoever_is_there_when_it_goes_on(tmp_path, caplog):
    config = {"method": "fedavg", "baselines": "", "num-server-rounds": 2, "unseen": 0.4}
    (run,) = simulate(config, 6, folder=tmp_path)
    unseen = {report.client for report in run.unseen[0]}
    parsed = RunConfig.parse({**config, "resume": str(tmp_path)})
    grid = InProcessGrid(make_app(config), 6)
    absent = min(set(range(6)) - unseen)
    (resumed,) = play(GridWithout(grid, {100 + absent}), replace(parsed, wait=0.0), folder=tmp_path)
    assert {report.client for report in resumed.unseen[0]} == unseen


@pytest.mark.integration
def test_late_clients_stay_late_whoever_is_there_when_it_goes_on(tmp_path):
    config = {"method": "fedavg", "baselines": "", "num-server-rounds": 4, "late": 0.4}
    run_config = RunConfig.parse(config)
    late = choose_late(run_config, range(10))
    everybody = set(range(10))
    # without this one, which is not late itself, others would be drawn
    left = min(c for c in everybody - late if choose_late(run_config, everybody - {c}) != late)
    grid = InProcessGrid(make_app(config), 10)
    next(play(grid, replace(run_config, wait=0.0), folder=tmp_path))
    about = tmp_path / "checkpoint" / "about.json"
    assert frozenset(json.loads(about.read_text())["late"]) == late
    resumed = RunConfig.parse({**config, "resume": str(tmp_path)})
    without = GridWithout(grid, {100 + left})
    there = wait_for_clients(without, replace(resumed, wait=0.0))
    session = open_session(without, resumed, there, tmp_path)
    assert session.late == {100 + client for client in late}


def test_a_client_that_is_not_there_is_no_reason_to_stop(complete, caplog):
    config, folder = complete
    grid = InProcessGrid(make_app(config), 3)
    parsed = replace(RunConfig.parse(config), wait=0.0)
    logging.getLogger("flwr").addHandler(caplog.handler)
    (run,) = play(GridWithout(grid, {101}), parsed, folder=folder / "run")
    logging.getLogger("flwr").removeHandler(caplog.handler)
    assert len(run.by_client()) == 3  # as it was: the run is complete
    assert "Clients [1] were trained before and are not there now" in caplog.text


def test_a_run_that_started_from_another_can_be_resumed(tmp_path):
    config = {"method": "fedavg", "baselines": "", "num-server-rounds": 1}
    write(tmp_path / "one", simulate(config, 3))
    later = {**config, "initial": str(tmp_path / "one")}
    whole = simulate(later, 3, folder=tmp_path / "two")
    assert numbers_of(simulate({**later, "resume": str(tmp_path / "two")}, 3)) == numbers_of(whole)


def test_the_source_of_ones_own_network_is_code_too(tmp_path, monkeypatch):
    module = tmp_path / "my_network.py"
    module.write_text("def build(shape, outputs): ...")
    monkeypatch.syspath_prepend(str(tmp_path))
    config = RunConfig(model="my_network:build")
    before = code_digest(config)
    assert before != code_digest(RunConfig())
    module.write_text("def build(shape, outputs): return None")
    assert code_digest(config) != before
