"""A node says who it is, and may have data of its own."""

from dataclasses import replace

import numpy as np
import pytest

from clients.state.model_file import read_model
from pfl_flower.client.node_config import Node, node_of, number_of
from pfl_flower.client_app import make_app
from pfl_flower.config.errors import ConfigError
from pfl_flower.config.run_config import RunConfig
from pfl_flower.data import DataError, DataSettings, number_of_clients
from pfl_flower.grid import InProcessGrid
from pfl_flower.server.run import play
from tests.errors import refused


def context_of(**config):
    grid = InProcessGrid(make_app({}), 1)
    (context,) = grid.contexts.values()
    context.node_config.clear()
    context.node_config.update({key.replace("_", "-"): value for key, value in config.items()})
    return context


def test_a_number_of_a_name_is_the_same_everywhere():
    assert number_of("ward-7") == number_of("ward-7") != number_of("ward-8")
    assert number_of("ward-7") == 1489678581
    assert all(0 <= number_of(str(i)) < 2**31 for i in range(1000))
    assert len({number_of(str(i)) for i in range(1000)}) == 1000


def test_a_device_with_a_name_and_data_needs_no_partition():
    node = node_of(context_of(name="ward-7", data_path="/srv/ward"))
    assert node == Node(number_of("ward-7"), "ward-7", 0, 1, data_path="/srv/ward")
    assert node.settings(DataSettings(dataset="folder:x")).dataset == "folder:/srv/ward"
    assert node.settings(DataSettings(dataset="table:x.csv")).dataset == "table:/srv/ward"
    node = node_of(context_of(partition_id=1, num_partitions=3, data="mine:load"))
    assert node == Node(1, "client-1", 1, 3, data="mine:load")
    assert node.settings(DataSettings(dataset="folder:x")).dataset == "mine:load"


@pytest.mark.parametrize(
    ("config", "key", "value", "choices"),
    [
        ({}, "partition-id", None, ()),
        ({"name": "ward"}, "partition-id", None, ()),
        ({"data_path": "/srv"}, "partition-id", None, ()),
        ({"partition_id": "0", "num_partitions": 1}, "partition-id", "0", ()),
        ({"partition_id": 3, "num_partitions": 3}, "partition-id", 3, ()),
        ({"name": 7, "data": "a:b"}, "name", 7, ("str",)),
        (
            {"name": "w", "data": "a:b", "data_path": "/srv"},
            "data-path",
            "/srv",
            ("data", "data-path"),
        ),
        ({"name": "../w", "data": "a:b"}, "name", "../w", ()),
        ({"name": "a/b", "partition_id": 0, "num_partitions": 1}, "name", "a/b", ()),
        ({"name": "w" * 101, "data": "a:b"}, "name", "w" * 101, ()),
        ({"name": "w.model", "data": "a:b"}, "name", "w.model", ()),
        ({"partition_id": True, "num_partitions": 2}, "partition-id", True, ()),
        ({"partition_id": 0}, "num-partitions", None, ()),
        (
            {"name": "w", "data": "a:b", "PersonalDir": "/srv"},
            "PersonalDir",
            "/srv",
            ("personal-dir",),
        ),
    ],
)
def test_who_does_not_say_who_it_is_is_refused(config, key, value, choices):
    with refused(ConfigError, key=key, value=value, choices=choices):
        node_of(context_of(**config))


def test_a_run_of_the_apps_own_data_takes_no_other():
    node = node_of(context_of(name="ward", data="mine:load"))
    with refused(ConfigError, key="dataset", value="digits", choices=("folder", "table")):
        node.settings(DataSettings())


def wards(tmp_path):
    """Three devices, each with a folder of its own; one names the classes the other way round."""
    for number in range(3):
        folder = tmp_path / f"device-{number}" / "data"
        folder.mkdir(parents=True)
        draw = np.random.default_rng(number)
        x = draw.normal(size=(120, 4)).astype(np.float32)
        y = (x[:, 0] > 0).astype(int) ^ (number == 2)
        np.savez(folder / "own.npz", x_train=x[:80], y_train=y[:80], x_test=x[80:], y_test=y[80:])


def grid_of(tmp_path, config):
    grid = InProcessGrid(make_app(config.dump()), 3)
    for number, context in enumerate(grid.contexts.values()):
        context.node_config.clear()
        context.node_config["name"] = f"ward-{number}"
        context.node_config["data-path"] = str(tmp_path / f"device-{number}" / "data")
        context.node_config["personal-dir"] = str(tmp_path / f"device-{number}" / "personal")
    return grid


def test_devices_with_data_of_their_own_learn_together_and_are_known_again(tmp_path):
    wards(tmp_path)
    values = {"method": "fedper", "dataset": "folder:data", "baselines": "", "min-nodes": 3}
    config = RunConfig.parse(values | {"num-server-rounds": 4, "heterogeneity": "none"})
    (run,) = play(grid_of(tmp_path, config), config)
    scores = run.by_client()
    assert set(scores) == {number_of(f"ward-{number}") for number in range(3)}
    assert min(scores.values()) > 0.75
    for number in range(3):
        assert (tmp_path / f"device-{number}/personal/ward-{number}.safetensors").exists()
    (again,) = play(grid_of(tmp_path, config), config)  # what was kept is found, and fits
    assert not any(report.dropped for report in again.reports)


def test_a_key_with_an_underscore_is_not_passed_over():
    context = context_of(partition_id=0, num_partitions=1, age=70)
    node_of(context)
    context.node_config["personal_dir"] = "/var/lib/pfl"  # unread, nothing would be kept
    wanted = {"key": "personal_dir", "value": "/var/lib/pfl", "choices": ("personal-dir",)}
    with refused(ConfigError, **wanted):
        node_of(context)


def tables(tmp_path):
    """Three devices, each with a table of its own rows, in which no column names a client."""
    for number in range(3):
        folder = tmp_path / f"device-{number}"
        folder.mkdir()
        draw = np.random.default_rng(number)
        rows = [f"{value:.3f},{int(value > 0)}" for value in draw.normal(size=60)]
        (folder / "data.csv").write_text("\n".join(["pressure,label", *rows]))


def test_all_rows_of_a_devices_own_table_are_its_own(tmp_path):
    tables(tmp_path)
    values = {"method": "fedper", "dataset": "table:own", "baselines": "", "min-nodes": 3}
    config = RunConfig.parse(values | {"num-server-rounds": 1, "model": "mlp"})
    grid = grid_of(tmp_path, config)
    for context in grid.contexts.values():
        context.node_config["data-path"] += ".csv"
    (run,) = play(grid, config)
    assert len(run.by_client()) == 3
    assert run.names == {}  # what a device calls itself stays there
    about = read_model(tmp_path / "device-1/personal/ward-1.model.safetensors").about
    assert (about["name"], about["client-column"]) == ("ward-1", "client")


def test_a_column_of_clients_that_the_run_names_has_to_be_there(tmp_path):
    tables(tmp_path)
    node = node_of(context_of(name="ward-0", data_path=str(tmp_path / "device-0" / "data.csv")))
    run = DataSettings(dataset="table:own", client_column="ward")
    with refused(DataError, key="client-column", value="ward"):
        number_of_clients(node.settings(run))
    assert number_of_clients(node.settings(replace(run, client_column=""))) == 1
    numbered = replace(node, name=f"client-{node.number}")  # may hold everybody's rows
    with refused(DataError, key="client-column", value="client"):
        number_of_clients(numbered.settings(replace(run, client_column="")))


def test_what_only_a_node_can_say_is_no_part_of_what_data_are():
    assert DataSettings(whole="ward").describe() == DataSettings().describe()
