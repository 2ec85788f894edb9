"""A frozen base that only the server has: sent once, kept by its fingerprint, counted."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping

from clients import Scope
from clients.scopes import names_of
from clients.state.model_file import BASE_SUFFIX
from pfl_flower import sent_bases
from pfl_flower.client_app import forget_networks, make_app
from pfl_flower.config.run_config import RunConfig
from pfl_flower.engines import simulate
from pfl_flower.grid import InProcessGrid
from pfl_flower.model_setup import model_setup
from pfl_flower.results.files import summarize, write
from pfl_flower.results.shared_file import BASE_NAME, NAME, read_shared
from pfl_flower.server.base_delivery import BaseDelivery
from pfl_flower.server.discovery import FederationError, wait_for_clients
from pfl_flower.server.run import build_strategy, play
from pfl_flower.server.session import open_session
from strategies.array_file import array_bytes
from strategies.arrays import num_bytes, to_record, view
from strategies.protocol import BASE_QUERY, CONFIG, DATA_SCHEMA, FROZEN_BASE, MISSING_BASE
from tests.errors import SOME, refused
from tests.grids import FIRST_NODE, RecordingGrid
from tests.helpers import assert_identical
from tests.pfl_flower.methods.sent_base_networks import FILE
from tests.tiers import quick_first

NETWORKS = "tests.pfl_flower.methods.sent_base_networks"
CLIENTS = 3
CONFIG_OF_ALL = {
    "dataset": "breast-cancer",
    "heterogeneity": "none",
    "baselines": "",
    "num-server-rounds": 3,
    "local-epochs": 1,
    "batch-size": 8,
    "max-examples": 30,
    "learning-rate": 0.05,
    "wait": 0.0,
}


@pytest.fixture(scope="module")
def body(tmp_path_factory):
    """The results folder of a run that trained the whole network."""
    folder = tmp_path_factory.mktemp("body")
    config = CONFIG_OF_ALL | {"method": "fedavg", "model": f"{NETWORKS}:Network"}
    write(folder, simulate(config, CLIENTS))
    return folder


@pytest.fixture(autouse=True)
def on_file(body, monkeypatch):
    """Where the networks that have the base find it; no process has a base from another test."""
    monkeypatch.setenv(FILE, str(body / NAME))
    sent_bases._bases.clear()
    forget_networks()


def config_of(method, body, network="WithoutBase", **options):
    model = {"model": f"{NETWORKS}:{network}", "initial": str(body) if body else ""}
    return CONFIG_OF_ALL | {"method": method} | model | options


def played(config, kind=RecordingGrid, **options):
    """The run of a config, and a grid that recorded it."""
    forget_networks()
    grid = kind(make_app(config), CLIENTS, **options)
    (run,) = play(grid, RunConfig.parse(config))
    return run, grid


def receivers(grid):
    """The clients that a base was sent to, in any message."""
    return sorted(
        exchange.client
        for exchange in grid.exchanges
        if any(
            name.startswith("base.")
            for record in exchange.message.content.array_records.values()
            for name in record
        )
    )


def own_directories(folder):
    """Node configs of devices with a personal directory each."""
    return lambda number: {"personal-dir": str(folder / f"device-{number}")}


@pytest.mark.parametrize(
    ("method", "network"),
    quick_first(
        [
            ("fedper", "WithBase"),
            ("fedavg", "WithEverything"),
            ("ditto", "WithEverything"),
            ("apfl", "WithEverything"),
            ("fedrep", "WithBase"),
        ],
        quick=2,
    ),
)
def test_the_numbers_are_those_of_devices_that_have_it_and_it_is_sent_once(method, network, body):
    start = body
    if network == "WithBase":  # adapters and head are new there
        start = body.parent / "only-base"
        start.mkdir(exist_ok=True)
        arrays, _ = read_shared(body)
        base = {name: values for name, values in arrays.items() if name.startswith("base.")}
        (start / NAME).write_bytes(array_bytes(base))
    whole = simulate(config_of(method, "", network), CLIENTS)
    run, grid = played(config_of(method, start))
    assert_identical(whole, [run])
    assert not any(report.dropped for report in run.reports)
    assert run.base == whole[0].base
    assert receivers(grid) == list(range(CLIENTS))
    sent = grid.of_type(BASE_QUERY)
    assert len(sent) == CLIENTS
    setup = model_setup(run.config)
    frozen = names_of(setup.scopes, Scope.FROZEN)
    arrays = sent[0].message.content["arrays"]
    assert set(arrays) == set(frozen)
    assert run.base_bytes == summarize(run)["base_bytes"] == CLIENTS * num_bytes(arrays)
    assert sum(setup.initial[name].nbytes for name in frozen) <= num_bytes(arrays)
    assert summarize(run)["bytes_per_round"] == summarize(whole[0])["bytes_per_round"]


def test_who_has_it_is_sent_nothing(body):
    run, grid = played(config_of("fedavg", body, "WithBase"))
    assert receivers(grid) == []
    assert run.base_bytes == 0
    assert "base_bytes" not in summarize(run)
    assert not any(report.dropped for report in run.reports)


@pytest.mark.integration
def test_ray_gives_the_same_numbers(body):
    config = config_of("fedper", body, wait=60.0)
    here = simulate(config, CLIENTS)
    there = simulate(config, CLIENTS, engine="ray")
    assert_identical(here, there)
    assert here[0].base_bytes == there[0].base_bytes > 0


@pytest.mark.integration
def test_methods_that_a_safeguard_adds_go_by_it_and_its_bytes_count_once(body):
    config = config_of("fedper", body, safeguard=True) | {"validation-fraction": 0.3}
    grid = RecordingGrid(make_app(config), CLIENTS)
    runs = list(play(grid, RunConfig.parse(config)))
    assert receivers(grid) == list(range(CLIENTS))
    assert [bool(run.base_bytes) for run in runs] == [True, False, False, False]
    assert not any(report.dropped for run in runs for report in run.reports)


# ---------------------------------------------------------------------- devices


def test_a_device_keeps_it_on_its_disk_and_a_later_run_finds_it_there(body, tmp_path):
    config = config_of("fedavg", body)
    first, grid = played(config, node_config=own_directories(tmp_path))
    assert receivers(grid) == list(range(CLIENTS))
    files = [tmp_path / f"device-{i}" / f"{first.base}{BASE_SUFFIX}" for i in range(CLIENTS)]
    assert all(path.is_file() for path in files)
    assert not any(key.startswith("sent-base") for c in grid.contexts.values() for key in c.state)
    again, grid = played(config, node_config=own_directories(tmp_path))
    assert receivers(grid) == []
    assert again.base_bytes == 0
    assert_identical([first], [again])
    files[1].write_bytes(files[1].read_bytes()[:-9])
    files[2].write_bytes(files[2].read_bytes()[:-1] + b"x")
    again, grid = played(config, node_config=own_directories(tmp_path))
    assert receivers(grid) == [1, 2]
    assert_identical([first], [again])
    assert files[1].read_bytes() == files[2].read_bytes() == files[0].read_bytes()


class Forgetful(RecordingGrid):
    """A grid on which client 1 is restarted before it trains in round 2."""

    at = "train"

    def answer(self, message):
        config = message.content.config_records.get(CONFIG, {})
        asked = message.metadata.message_type, message.metadata.dst_node_id
        in_round_2 = config.get("server-round") == 2 and DATA_SCHEMA not in config
        if asked == (self.at, FIRST_NODE + 1) and in_round_2:
            self.contexts[FIRST_NODE + 1].state = RecordDict()
            sent_bases._bases.clear()
            forget_networks()
            self.hold(message)
        return super().answer(message)

    def hold(self, message):
        """The server's process is another one, and still has it."""


@pytest.fixture
def server_keeps(monkeypatch):
    """The delivery has the base of the server's process, whatever a client's process has."""
    held = {}

    def remember(fingerprint, entries):
        if entries:
            held[fingerprint] = entries
        sent_bases.hold_base(fingerprint, entries)

    monkeypatch.setattr("pfl_flower.server.frozen_bases.hold_base", remember)
    monkeypatch.setattr(
        "pfl_flower.server.base_delivery.held_base", lambda name: held.get(name, {})
    )


def test_a_device_that_restarts_is_sent_it_again_or_finds_it_on_its_disk(
    body, tmp_path, server_keeps
):
    config = config_of("fedavg", body)
    undisturbed, _ = played(config)
    run, grid = played(config, Forgetful)
    assert receivers(grid) == [0, 1, 1, 2]
    assert_identical([undisturbed], [run])
    run, grid = played(config, Forgetful, node_config=own_directories(tmp_path))
    assert receivers(grid) == [0, 1, 2]
    assert_identical([undisturbed], [run])
