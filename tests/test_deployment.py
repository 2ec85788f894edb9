"""The app on real processes: a SuperLink with TLS, SuperNodes with keys, on this machine."""

import csv
import json
import time
from contextlib import ExitStack

import numpy as np
import pytest
from safetensors.numpy import load, load_file

from pfl_flower.certificates import AUTHORITY, make_authority, make_node_key
from pfl_flower.engines import simulate
from pfl_flower.results.files import write
from tests.fault_injection.federation import federation, write_data
from tests.fault_injection.loopback import Loopback
from tests.fault_injection.text import plain

pytestmark = pytest.mark.deployment

SETTINGS = {"method": "fedper", "baselines": "", "num-server-rounds": 5, "heterogeneity": "none"}


def secured(folder, num_nodes):
    """A SuperLink that is up and knows the keys of its SuperNodes, none of which is up."""
    link = Loopback(folder, num_nodes)
    link.start_link()
    for number in range(num_nodes):
        link.register(number)
    return link


def test_with_tls_and_keys_the_numbers_are_those_of_one_process(tmp_path):
    folder = tmp_path / "real"
    write_data(tmp_path / "data")
    settings = SETTINGS | {"dataset": f"folder:{tmp_path / 'data'}"}
    with secured(folder, 3) as link:
        for number in range(3):
            link.start_node(number)
        said = plain(link.run(settings | {"results-dir": "results"}))
    assert "every one of 3 clients has a model of its own" in said, said
    (real,) = (folder / "results").iterdir()
    simulated = tmp_path / "simulated"
    write(simulated, simulate(settings | {"personal-dir": str(tmp_path / "personal")}, 3))
    assert rows(real) == rows(simulated)
    same_arrays(real / "shared.safetensors", simulated / "shared.safetensors")
    for number in range(3):
        own = f"client-{number}.safetensors"
        same_arrays(folder / "personal" / own, tmp_path / "personal" / own)
    assert "client 1, round 5, train: received" in plain(link.log("node-1"))


def test_a_killed_node_goes_on_from_its_last_completed_round(tmp_path):
    """As two runs in one process do, the second of which starts from the first one's states."""
    with ExitStack() as up:
        here = federation(tmp_path / "real", up)
        settings = SETTINGS | {"num-server-rounds": 2, "dataset": f"folder:{here.data}"}
        here.link.run(settings | {"results-dir": "results"})
        own = here.disk(1) / "client-1.safetensors"
        completed = own.read_bytes()
        assert here.state_of(1).round == 2
        here.link.kill("node-1")
        here.start(1)
        assert own.read_bytes() == completed
        here.link.run(settings | {"results-dir": "results"})
        found = load_file(own)
    for _ in range(2):
        simulate(settings | {"personal-dir": str(tmp_path / "personal")}, 3)
    same_arrays_as(found, load_file(tmp_path / "personal" / "client-1.safetensors"))
    assert any((found[name] != values).any() for name, values in load(completed).items())


def test_a_base_of_the_server_is_sent_to_a_device_once(tmp_path):
    """The devices' networks begin with other values; what they need comes with the first run."""
    body = tmp_path / "body"
    with ExitStack() as up:
        here = federation(tmp_path / "real", up)
        settings = {"dataset": f"folder:{here.data}", "model": "mlp", "heterogeneity": "none"}
        settings |= {"baselines": "", "num-server-rounds": 1}
        write(body, simulate(settings | {"method": "fedavg"}, 3))
        settings |= {"method": "fedavg", "trainable": "head", "initial": str(body)}
        for results in ("first", "second"):
            here.link.run(settings | {"results-dir": results})
        real, again = (next((here.link.folder / name).iterdir()) for name in ("first", "second"))
        kept = [len(list(here.disk(number).glob("*.base.safetensors"))) for number in range(3)]
    (run,) = simulate(settings, 3)
    simulated = tmp_path / "simulated"
    write(simulated, [run])
    assert rows(real) == rows(again) == rows(simulated)
    same_arrays(real / "shared.safetensors", simulated / "shared.safetensors")
    found = [
        json.loads((folder / "summary.json").read_text())["fedavg"] for folder in (real, again)
    ]
    assert [each.get("base_bytes", 0) for each in found] == [run.base_bytes, 0]
    assert kept == [1, 1, 1]


def rows(folder):
    """What became of every client in every round; only the ids of nodes are others."""
    with (folder / "clients.csv").open() as stream:
        return [row | {"node": ""} for row in csv.DictReader(stream)]


def same_arrays(one, other):
    same_arrays_as(load_file(one), load_file(other))


def same_arrays_as(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_who_is_not_known_is_refused(tmp_path):
    strangers = tmp_path / "strangers"
    make_authority(strangers)
    key, _ = make_node_key(strangers, "node")
    with secured(tmp_path / "real", 1) as link:
        link.start_node(0, authority=strangers / AUTHORITY)
        wait_for(link, "node-0", "connection attempt failed")
        link.stop("node-0")
        link.start_node(0, key=key)
        wait_for(link, "node-0", "failed to activate")
        link.stop("node-0")
        link.start_node(0, keyless=True)
        wait_for(link, "node-0", "must be registered")


def wait_for(link, name, words, seconds=60):
    end = time.monotonic() + seconds
    while words.lower() not in plain(link.log(name)).lower():
        assert time.monotonic() < end, plain(link.log(name))
        time.sleep(0.2)
