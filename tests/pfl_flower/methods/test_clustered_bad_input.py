"""What methods with groups do with bad settings and bad answers, and what is written of them."""

import csv
import json
import logging
import re
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import ArrayRecord, Error, Message
from safetensors.numpy import load_file

from clients import PersonalClient
from pfl_flower.client_app import make_app
from pfl_flower.config.errors import ConfigError
from pfl_flower.config.run_config import RunConfig
from pfl_flower.data import Federation
from pfl_flower.engines import simulate
from pfl_flower.grid import InProcessGrid
from pfl_flower.methods import METHODS
from pfl_flower.results.files import describe, write
from pfl_flower.server.run import play
from strategies import NO_GROUP
from strategies.arrays import to_record, view
from strategies.errors import ArgumentError
from strategies.protocol import GRADIENT_QUERY
from tests.errors import refused
from tests.grids import FailingGrid
from tests.helpers import data_for
from tests.tiers import quick_first

CLIENTS = 8
BASE = {
    "dataset": "digits",
    "partition": "iid",
    "heterogeneity": "taste",
    "cluster-sizes": "3,5",
    "min-examples": 10,
    "max-examples": 40,
    "baselines": "",
    "num-server-rounds": 3,
    "local-epochs": 1,
}
CLUSTERS = {"method": "gradient-clusters"}
FOUND = {"communities": "gradients"}
PLANTED = dict(enumerate(Federation(RunConfig.parse(BASE).data, CLIENTS).true_clusters))


def partition(groups):
    """The groups as sets of clients, whatever their numbers are."""
    return {frozenset(c for c in groups if groups[c] == group) for group in set(groups.values())}


def clusters_without(*absent):
    return partition({c: cluster for c, cluster in PLANTED.items() if c not in absent})


def bits(record):
    return {name: view(array).tobytes() for name, array in sorted(record.items())}


def accuracy(run):
    return {server_round: run.by_client(server_round=server_round) for server_round in (1, 2, 3)}


@pytest.fixture
def log(caplog):
    """What is logged in a test."""
    logger = logging.getLogger("flwr")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


# ---------------------------------------------------------------------- settings


@pytest.mark.parametrize("method", ["gradient-clusters", "ifca"])
@pytest.mark.parametrize("late", [0.0, 0.3])
def test_more_clusters_than_clients_are_refused_with_both_numbers(method, late):
    config = BASE | {"method": method, "clusters": 9, "late": late}
    there = 6 if late else 8
    with refused(ArgumentError, argument="clusters", value=9) as caught:
        simulate(config, CLIENTS)
    assert str(there) in caught.value.wanted


@pytest.mark.parametrize(
    ("options", "key", "choices"),
    [
        ({"method": "ifca", "clusters": 0}, "clusters", ()),
        ({"method": "ifca", "clusters": -1}, "clusters", ()),
        (CLUSTERS | {"clusterer": "hdbscan", "clusters": 2}, "clusters", ()),
        (CLUSTERS | {"clusterer": "kmeans"}, "clusterer", ("agglomerative",)),
        (CLUSTERS | {"agreement": 1.0}, "agreement", ()),
        (CLUSTERS | {"smallest-cluster": 0}, "smallest-cluster", ()),
        ({"method": "cfl", "mean-below": 0.0}, "mean-below", ()),
        ({"method": "cfl", "personal": "all"}, "personal", ()),
        (
            CLUSTERS | {"revise-every": 2, "validation-fraction": 0.0},
            "revise-every",
            (),
        ),
        ({"method": "ifca", "initial": "x", "baselines": ""}, "initial", ()),
    ],
)
def test_bad_settings_are_refused_before_a_run(options, key, choices):
    with refused(ConfigError, key=key, value=options[key], choices=choices):
        RunConfig.parse(options)


def test_hdbscan_that_finds_the_number_itself_is_fine():
    config = RunConfig.parse(CLUSTERS | {"clusterer": "hdbscan", "clusters": 0})
    assert config.own_keys.rules.clusterer == "hdbscan"


@pytest.mark.parametrize(
    ("key", "value", "having"),
    [
        (
            "group",
            "rest",
            ("known-groups", "gradient-clusters", "ifca", "cfl", "community-adapters"),
        ),
        ("clusters", 2, ("gradient-clusters", "ifca", "community-adapters")),
        *(
            (key, value, ("gradient-clusters",))
            for key, value in {
                "clusterer": "spectral",
                "agreement": 0.5,
                "few-examples": 5,
                "smallest-cluster": 2,
                "projection-size": 64,
                "revise-every": 2,
            }.items()
        ),
        ("restart", 1, ("ifca",)),
        ("mean-below", 0.3, ("cfl",)),
        ("group-decay", 0.3, ("community-adapters",)),
        ("communities", "gradients", ("community-adapters",)),
    ],
)
def test_other_methods_have_none_of_these_keys(key, value, having):
    for method in METHODS:
        values = {"method": method, key: value} | data_for(method)
        if method in having:
            # Communities that are reported have no number of clusters to set.
            RunConfig.parse(values | FOUND if method == "community-adapters" else values)
            continue
        with refused(ConfigError, key=key, value=value) as caught:
            RunConfig.parse(values)
        assert caught.value.choices == having


# ---------------------------------------------------------------------- odd gradients


class Odd(InProcessGrid):
    """A grid of which one client answers the query for its gradient in its own way."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.odd, self.times, self.asked = 0, 99, 0
        self.change = lambda values: values
        self.received = []

    def answer(self, message):
        reply = super().answer(message)
        if message.metadata.dst_node_id != 100 + self.odd:
            return reply
        if message.metadata.message_type == "train":
            self.received.append(bits(message.content["arrays"]))
        if message.metadata.message_type != GRADIENT_QUERY:
            return reply
        self.asked += 1
        if self.asked > self.times:
            return reply
        values = view(reply.content["arrays"]["gradient"])
        changed = self.change(values)
        if isinstance(changed, str):
            return Message(Error(2, changed), reply_to=message)
        reply.content["arrays"] = ArrayRecord() if changed is None else to_record(changed)
        return reply


def odd_run(change, odd=0, times=99, **more):
    config = RunConfig.parse(BASE | CLUSTERS | more)
    grid = Odd(make_app(config.dump()), CLIENTS)
    grid.odd, grid.times, grid.change = odd, times, change
    (run,) = play(grid, replace(config, wait=0.0))
    return run, grid


ODD = {
    "zero": lambda v: {"gradient": 0 * v},
    "NaN": lambda v: {"gradient": np.where(np.arange(len(v)) == 5, np.float32(np.nan), v)},
    "infinite": lambda v: {"gradient": np.full_like(v, np.inf)},
    "too short": lambda v: {"gradient": v[:-1]},
    "too long": lambda v: {"gradient": np.append(v, v)},
    "empty": lambda v: {"gradient": v[:0]},
    "a matrix": lambda v: {"gradient": v[None]},
    "whole numbers": lambda v: {"gradient": np.arange(len(v))},
    "another name": lambda v: {"gradients": v},
    "no array": lambda v: None,
    "an error": lambda v: "out of memory",
}


@pytest.mark.parametrize("odd", quick_first([0, 6]))
@pytest.mark.parametrize("what", ODD)
def test_a_client_that_reports_no_gradient_trains_on_with_the_mean_and_is_asked_again(
    what, odd, log
):
    run, grid = odd_run(ODD[what], odd)
    assert partition(run.grouping.groups) == clusters_without(odd)
    assert odd not in run.grouping.clients
    assert re.search(rf"Node {100 + odd} \w+ no gradient", log.text)
    assert not any(report.dropped for report in run.reports)
    assert {r.metrics["group"] for r in run.reports if r.client == odd} == {NO_GROUP}
    assert run.by_client().keys() == set(range(CLIENTS))
    assert grid.asked >= 3  # once a round at least
    models = [bits(model) for model in run.grouping.models.values()]
    assert len(models) == 2
    assert not [arrays for arrays in grid.received if arrays in models]


def test_the_others_train_as_if_it_was_not_odd():
    odd, _ = odd_run(ODD["zero"], 0)
    usual, _ = odd_run(ODD["zero"], 0, times=0)
    cluster = PLANTED[0]
    others = [client for client in PLANTED if PLANTED[client] != cluster]
    for server_round in (1, 2, 3):
        one, other = accuracy(odd)[server_round], accuracy(usual)[server_round]
        assert [one[client] for client in others] == [other[client] for client in others]
    (found,) = {odd.grouping.groups[client] for client in others}
    (expected,) = {usual.grouping.groups[client] for client in others}
    assert bits(odd.grouping.models[found]) == bits(usual.grouping.models[expected])


@pytest.mark.parametrize("what", ["zero", "NaN", "an error"])
@pytest.mark.parametrize("times", [1, 2])
def test_a_client_that_reports_its_gradient_later_joins_its_cluster(what, times):
    run, grid = odd_run(ODD[what], times=times)
    assert grid.asked == times + 1
    assert partition(run.grouping.groups) == partition(PLANTED)
    (assignment,) = [p for p in run.grouping.assignments if p.client == 0]
    assert assignment.reason == "joined by its gradient"
    assert assignment.round == (1 if times == 1 else 2)  # before round 1's evaluation, round 2
    assert bits(run.grouping.models[assignment.group]) not in grid.received[:1]


def test_a_client_alone_in_telling_founds_a_cluster_and_no_other():
    def of_another(message):
        query = message.metadata.message_type == GRADIENT_QUERY
        return query and message.metadata.dst_node_id != 103

    config = RunConfig.parse(BASE | CLUSTERS)
    grid = FailingGrid(make_app(config.dump()), CLIENTS, fails=of_another)
    (run,) = play(grid, replace(config, wait=0.0))
    assert run.grouping.groups == {3: 0}
    assert run.grouping.similarity.shape == (1, 1)
    assert run.by_client().keys() == set(range(CLIENTS))


@pytest.mark.parametrize("clusterer", ["agglomerative", "spectral", "hdbscan"])
def test_gradients_all_alike_are_one_cluster(clusterer):
    class Alike(InProcessGrid):
        def answer(self, message):
            reply = super().answer(message)
            if message.metadata.message_type == GRADIENT_QUERY:
                values = np.ones_like(view(reply.content["arrays"]["gradient"]))
                reply.content["arrays"] = to_record({"gradient": values})
            return reply

    config = RunConfig.parse(BASE | CLUSTERS | {"clusterer": clusterer})
    (run,) = play(Alike(make_app(config.dump()), CLIENTS), replace(config, wait=0.0))
    assert run.grouping.groups == dict.fromkeys(range(CLIENTS), 0)
    (fedavg,) = simulate(BASE | {"method": "fedavg"}, CLIENTS)
    assert bits(run.arrays) == bits(fedavg.arrays)


@pytest.mark.parametrize("method", ["gradient-clusters", "ifca"])
def test_clients_that_know_no_such_query_are_in_none_and_it_is_fedavg(method, monkeypatch, log):
    monkeypatch.setitem(METHODS, method, replace(METHODS[method], client=PersonalClient))
    (run,) = simulate(BASE | {"method": method}, CLIENTS)
    (fedavg,) = simulate(BASE | {"method": "fedavg"}, CLIENTS)
    assert accuracy(run) == accuracy(fedavg)
    assert bits(run.arrays) == bits(fedavg.arrays)
    assert set(run.grouping.groups.values()) <= {NO_GROUP}
    assert "it must be a ClusteredClient" in log.text
    assert "no client is in a group" in describe([run])[0]


def test_clients_that_know_no_such_query_stay_in_the_one_group_of_cfl(monkeypatch):
    monkeypatch.setitem(METHODS, "cfl", replace(METHODS["cfl"], client=PersonalClient))
    (run,) = simulate(BASE | {"method": "cfl"}, CLIENTS)
    assert run.grouping.groups == dict.fromkeys(range(CLIENTS), 0)


# ---------------------------------------------------------------------- odd clients


def broken_run(options, node_config=None, partition_id=None):
    config = RunConfig.parse(BASE | options)
    grid = InProcessGrid(make_app(config.dump()), CLIENTS, node_config=node_config)
    if partition_id is not None:
        grid.contexts[100].node_config["partition-id"] = partition_id
    (run,) = play(grid, replace(config, wait=0.0))
    return run


@pytest.mark.parametrize("method", ["known-groups", "gradient-clusters", "ifca", "cfl"])
def test_a_node_that_cannot_work_is_in_no_group(method):
    run = broken_run({"method": method}, partition_id=99)
    assert run.by_client().keys() == set(range(1, CLIENTS))
    assert run.grouping.groups.keys() == set(range(1, CLIENTS))
    if method in ("known-groups", "gradient-clusters"):
        assert partition(run.grouping.groups) == clusters_without(0)


SPLITTING = {"method": "cfl", "mean-below": 0.9, "num-server-rounds": 6}


def test_a_node_that_cannot_work_keeps_nobody_from_splitting():
    run = broken_run(SPLITTING, partition_id=99)
    groups = {c: g for c, g in run.grouping.groups.items() if c < CLIENTS}
    assert partition(groups) == clusters_without(0)


def test_a_client_that_always_fails_to_train_keeps_nobody_from_splitting():
    def to_train_client_0(message):
        train = message.metadata.message_type == "train"
        return train and message.metadata.dst_node_id == 100

    config = RunConfig.parse(BASE | SPLITTING)
    grid = FailingGrid(make_app(config.dump()), CLIENTS, fails=to_train_client_0)
    (run,) = play(grid, replace(config, wait=0.0))
    groups = {c: g for c, g in run.grouping.groups.items() if c}
    assert partition(groups) == clusters_without(0)


@pytest.mark.parametrize("group", ["north", 1.0, -1])
def test_a_group_of_the_node_config_that_is_no_number_costs_that_client_only(group):
    run = broken_run({"method": "known-groups"}, lambda i: {} if i else {"group": group})
    assert run.by_client().keys() == set(range(1, CLIENTS))
    dropped = {(r.client, r.dropped) for r in run.reports if r.dropped}
    assert {client for client, _ in dropped} <= {0, 100}
    assert all(f"the node config's group is {group!r}" in words for _, words in dropped)
    groups = {c: g for c, g in run.grouping.groups.items() if g != NO_GROUP}
    assert partition(groups) == clusters_without(0)


def test_a_group_of_the_node_config_is_nothing_to_a_method_without_groups():
    config = {"group": "hospital-a"}
    run = broken_run({"method": "fedavg"}, lambda number: config if number == 0 else {})
    assert not any(report.dropped for report in run.reports)


def test_the_node_config_says_more_than_the_clusters_of_the_data():
    run = broken_run({"method": "known-groups"}, lambda i: {"group": 10 + i % 3})
    assert run.grouping.groups == {i: 10 + i % 3 for i in range(CLIENTS)}
    assert run.grouping.models.keys() == {10, 11, 12}


def test_without_declared_groups_everybody_gets_the_mean():
    run = broken_run({"method": "known-groups", "cluster-sizes": ""})
    (fedavg,) = simulate(BASE | {"method": "fedavg", "cluster-sizes": ""}, CLIENTS)
    assert run.grouping.groups == dict.fromkeys(range(CLIENTS), NO_GROUP)
    assert bits(run.arrays) == bits(fedavg.arrays)


@pytest.mark.parametrize("method", ["known-groups", "gradient-clusters", "ifca", "cfl"])
@pytest.mark.parametrize("count", [1, 2])
def test_one_and_two_clients_are_a_federation_too(method, count, tmp_path):
    options = {"method": method, "cluster-sizes": ""} | (
        {"clusters": 1} if method == "ifca" else {}
    )
    runs = simulate(BASE | options, count)
    assert len(runs[0].by_client()) == count
    if method == "gradient-clusters":
        write(tmp_path, runs)
        assert (tmp_path / "clients.png").exists()


# ---------------------------------------------------------------------- what is written


def rows(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


PICTURES = ("similarity.png", "dendrogram.png", "clients.png")


def test_groups_are_written_and_summarized(tmp_path):
    (run,) = runs = simulate(BASE | CLUSTERS | {"late": 0.3}, CLIENTS)
    write(tmp_path, runs)
    found = rows(tmp_path / "clusters.csv")
    assert [int(row["client"]) for row in found] == [p.client for p in run.grouping.assignments]
    assert {int(row["client"]): int(row["group"]) for row in found} == run.grouping.groups
    assert {row["method"] for row in found} == {"gradient-clusters"}
    assert [row["round"] for row in found] == ["1"] * 6 + ["3"] * 2
    assert all(0.4 < float(row["score"]) < 2 for row in found)
    table = rows(tmp_path / "similarity.csv")
    assert [int(row["client"]) for row in table] == list(range(CLIENTS))
    values = np.array([[float(row[str(c)]) for c in range(CLIENTS)] for row in table])
    np.testing.assert_allclose(values, run.grouping.similarity)
    np.testing.assert_allclose(np.diag(values), 1.0)
    stored = load_file(tmp_path / "groups.safetensors")
    assert {name.partition("/")[0] for name in stored} == {"0", "1"}
    for group, model in run.grouping.models.items():
        for name, array in model.items():
            np.testing.assert_array_equal(stored[f"{group}/{name}"], view(array))
    for name in PICTURES:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    reported = json.loads((tmp_path / "summary.json").read_text())["gradient-clusters"]["groups"]
    assert sorted(reported["sizes"].values()) == [3, 5]
    assert reported["in_none"] == 0
    assert reported["bytes_to_find"]["up"] == run.grouping.bytes_up > 0
    sizes = ", ".join(map(str, reported["sizes"].values()))
    assert f"the model of its group (there are 2, of {sizes} clients)" in describe(runs)[0]
    assert sorted(map(int, sizes.split(", "))) == [3, 5]
    assert {row["group"] for row in rows(tmp_path / "clients.csv")} == {"0", "1"}


@pytest.mark.integration
def test_a_client_in_none_is_summarized_too(tmp_path):
    run, _ = odd_run(lambda v: {"gradient": -v}, 0, **{"smallest-cluster": 2})
    assert run.grouping.groups[0] == NO_GROUP
    write(tmp_path, [run])
    found = {row["client"]: row for row in rows(tmp_path / "clusters.csv")}
    assert found["0"]["group"] == ""
    assert found["0"]["reason"] == "agrees with no cluster of 2 clients or more"
    assert "; 1 is in none and has the mean over everybody" in describe([run])[0]
    summary = json.loads((tmp_path / "summary.json").read_text())["gradient-clusters"]
    assert summary["groups"]["in_none"] == 1


@pytest.mark.integration
def test_groups_of_a_baseline_are_written_under_its_name(tmp_path):
    runs = simulate(BASE | {"method": "ifca", "baselines": "gradient-clusters,fedavg"}, CLIENTS)
    write(tmp_path, runs)
    methods = {row["method"] for row in rows(tmp_path / "clusters.csv")}
    assert methods == {"ifca", "gradient-clusters"}
    for name in ("similarity.csv", *PICTURES):
        assert (tmp_path / f"gradient-clusters-{name}").exists()
        assert not (tmp_path / name).exists()
    groups = {name.partition("/")[0] for name in load_file(tmp_path / "groups.safetensors")}
    assert groups == {str(group) for group in runs[0].grouping.models}


def test_a_method_without_groups_writes_nothing_of_them(tmp_path):
    runs = simulate(BASE | {"method": "fedavg"}, CLIENTS)
    write(tmp_path, runs)
    names = {path.name for path in tmp_path.iterdir()}
    assert not names & {"clusters.csv", "groups.safetensors", "similarity.csv", *PICTURES}
    assert "group" not in json.loads((tmp_path / "summary.json").read_text())["fedavg"]
    assert "the same model. " in describe(runs)[0]


def test_with_heads_of_their_own_clients_have_models_of_their_own():
    runs = simulate(BASE | CLUSTERS | {"personal": "head"}, CLIENTS)
    assert "has a model of its own" in describe(runs)[0]
