"""Whole runs of pfedhn: what clients tell, what they get, and what is left on disk."""

import csv
import json

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, RecordDict

from clients import Scope
from clients.local_training.adaptation import ALL
from clients.scopes import names_of
from pfl_flower.client.build import build_client
from pfl_flower.client_app import make_app
from pfl_flower.config.errors import ConfigError
from pfl_flower.config.run_config import RunConfig
from pfl_flower.data import Federation, federation
from pfl_flower.engines import simulate
from pfl_flower.grid import GridWithout, InProcessGrid
from pfl_flower.model_setup import initial_model, model_setup
from pfl_flower.results.files import describe, write
from pfl_flower.server.holdout import LOCAL_EXAMPLES, choose_unseen
from pfl_flower.server.run import play
from strategies.arrays import view
from strategies.errors import ArgumentError
from strategies.hypernetwork.network import Hypernetwork
from tests.errors import refused
from tests.grids import RecordingGrid, leaks
from tests.helpers import assert_identical, decoded
from tests.tiers import quick_first

CLIENTS = 6
BASE = {
    "dataset": "metadata-digits",
    "partition": "natural",
    "model": "mlp",
    "method": "pfedhn",
    "baselines": "",
    "num-server-rounds": 3,
    "local-steps": 3,
    "learning-rate": 0.05,
}


def run_of(clients=CLIENTS, **options):
    named = {name.replace("_", "-"): value for name, value in options.items()}
    return simulate(BASE | named, clients)[0]


def played(clients=CLIENTS, grid=InProcessGrid, node_config=None, **options):
    """The runs of a config on a grid of some kind, and the grid."""
    named = {name.replace("_", "-"): value for name, value in options.items()}
    config = RunConfig.parse(BASE | named | {"wait": 0.0})
    built = grid(make_app(config.dump()), clients, node_config=node_config)
    return list(play(built, config)), built


def values_of(network):
    return {name: tensor.numpy().tobytes() for name, tensor in network.state_dict().items()}


def assert_same(one, other):
    assert_identical([one], [other])
    assert one.metadata == other.metadata
    assert values_of(one.hypernetwork) == values_of(other.hypernetwork)
    assert one.hypernetwork.about == other.hypernetwork.about


def assert_arrays(arrays, values):
    for name, expected in values.items():
        np.testing.assert_array_equal(arrays[name], expected.numpy())


# ---------------------------------------------------------------------- the same bits


@pytest.mark.parametrize("use_metadata", [True, False])
def test_the_same_seed_gives_the_same_bits_and_another_others(use_metadata):
    options = {"use_metadata": use_metadata, "fraction_train": 0.5, "seed": 2}
    one = run_of(**options)
    assert_same(one, run_of(**options))
    other = run_of(**options | {"seed": 3})
    assert values_of(one.hypernetwork) != values_of(other.hypernetwork)
    assert bool(one.metadata) == use_metadata


class Interrupted(Exception):
    """Somebody pulled the plug."""


@pytest.mark.integration
@pytest.mark.parametrize(
    ("use_metadata", "stopped"), quick_first([(True, 3), (True, 1), (False, 2)])
)
def test_a_run_that_is_resumed_ends_as_one_never_stopped(tmp_path, use_metadata, stopped):
    config = BASE | {
        "use-metadata": use_metadata,
        "num-server-rounds": 4,
        "fraction-train": 0.5,
        "unseen": 0.2,
        "late": 0.3,
    }

    def stop(news):
        if news.round == stopped:
            raise Interrupted

    (whole,) = simulate(config, 10)
    with pytest.raises(Interrupted):
        simulate(config, 10, progress=stop, folder=tmp_path)
    seen = []
    resumed = config | {"resume": str(tmp_path)}
    (run,) = simulate(resumed, 10, progress=lambda news: seen.append(news.round))
    assert seen == list(range(stopped + 1, 5))
    assert_same(run, whole)
    for examples, reports in whole.unseen.items():
        again = run.unseen[examples]
        assert str([(r.client, r.metrics) for r in reports]) == str(
            [(r.client, r.metrics) for r in again]
        )
    (complete,) = simulate(resumed, 10)
    assert values_of(complete.hypernetwork) == values_of(whole.hypernetwork)


# ---------------------------------------------------------------------- what is reported


def reported_by(options, node_config=None, client=0, clients=CLIENTS):
    """What a client's app answers when it is asked for its metadata."""
    config = RunConfig.parse(BASE | options)
    node = {"partition-id": client, "num-partitions": clients, **(node_config or {})}
    built = build_client(config, Context(0, client, node, RecordDict(), {}), durable=False)
    return json.loads(built.get_properties({"properties": "metadata"})["metadata"])


def test_what_the_node_config_names_is_reported_and_nothing_else():
    node = {"age": 61, "clinic": "north", "insured": True, "secret": "x", "metadata": "age,insured"}
    assert reported_by({}, node) == {"age": 61, "insured": True}
    assert reported_by({}, node | {"metadata": " clinic , age "}) == {"clinic": "north", "age": 61}
    assert reported_by({}, node | {"metadata": ""}) == {}


def test_a_name_that_the_node_config_does_not_have_is_an_error_that_says_so():
    with refused(ConfigError, key="metadata", value="hight", choices=("height",)):
        reported_by({}, {"height": 180, "metadata": "hight"})


def test_by_default_generated_clients_report_their_description_and_others_nothing():
    data = Federation(RunConfig.parse(BASE).data, CLIENTS)
    for client in range(CLIENTS):
        assert reported_by({}, client=client) == data.client_metadata(client)
    assert reported_by({"dataset": "digits", "partition": "iid"}) == {}


def test_a_method_that_asks_for_no_metadata_has_none_to_tell():
    with refused(ArgumentError, argument="properties", value=["metadata"]):
        reported_by({"method": "fedper"}, {"age": 3, "metadata": "age"})
    assert run_of(method="fedper").hypernetwork is None
    assert run_of(method="fedper").metadata == {}


def queries(grid):
    return [
        (e.client, e.config["properties"])
        for e in grid.of_type("query")
        if "metadata" in str(e.config["properties"])
    ]


def test_everybody_is_asked_once_and_reported_metadata_are_those_of_the_node_config():
    def node_config(client):
        return {"age": 20 + client, "name": f"ward-{client}", "metadata": "age"}

    (run,), grid = played(grid=RecordingGrid, node_config=node_config)
    assert run.metadata == {client: {"age": 20.0 + client} for client in range(CLIENTS)}
    assert run.hypernetwork.columns.names == ["age"]
    assert sorted(client for client, _ in queries(grid)) == list(range(CLIENTS))
    everything = b"".join(
        repr(sorted(record.items())).encode()
        for e in grid.exchanges
        for records in (e.reply.content.config_records, e.reply.content.metric_records)
        for record in records.values()
    )
    assert b"ward" not in everything


def test_use_metadata_false_asks_nobody():
    (run,), grid = played(grid=RecordingGrid, use_metadata=False)
    assert queries(grid) == []
    assert run.metadata == {}
    assert run.hypernetwork.encoder is None


def test_clients_without_metadata_have_learned_embeddings():
    (run,), _ = played(dataset="digits", partition="iid")
    assert run.hypernetwork.encoder is None
    assert run.metadata == {client: {} for client in range(CLIENTS)}


def test_a_node_whose_metadata_are_a_mistake_is_logged_and_does_not_end_it():
    def node_config(client):
        return {"metadata": "nothing"} if client == 2 else {}

    (run,), _ = played(node_config=node_config)
    assert 2 not in run.by_client()
    assert set(run.by_client()) == set(range(CLIENTS)) - {2}
    reasons = {report.dropped for report in run.reports if report.client == 2}
    assert all("metadata names ['nothing']" in reason for reason in reasons)


# ---------------------------------------------------------------------- who gets which model


def test_every_client_is_sent_its_own_parameters_and_everybodys_buffers():
    (run,), grid = played(grid=RecordingGrid, norm="batch", model="cnn")
    scopes = model_setup(run.config).scopes
    parameters = set(run.hypernetwork.shapes)
    buffers = set(scopes) - parameters
    assert buffers
    by_client = {
        e.client: decoded(e.message.content["arrays"])
        for e in grid.of_type("evaluate", server_round=3)
    }
    first = by_client[0]
    for client, arrays in by_client.items():
        assert set(arrays) == set(scopes)
        for name in buffers:
            np.testing.assert_array_equal(arrays[name], first[name])
            np.testing.assert_array_equal(arrays[name], view(run.arrays[name]))
        if client:
            assert not np.array_equal(arrays["head.weight"], first["head.weight"])


def test_unseen_clients_get_what_the_network_generates_from_what_they_tell():
    options = {"unseen": 0.3, "num_server_rounds": 4}
    (run,), grid = played(8, grid=RecordingGrid, **options)
    unseen = choose_unseen(run.config, range(8))
    assert len(unseen) == 2
    assert tuple(run.unseen) == LOCAL_EXAMPLES
    assert {report.client for report in run.unseen[0]} == unseen
    assert run.metadata.keys() == set(range(8)) - unseen  # as if they had never been there
    data = Federation(run.config.data, 8)
    for examples in (0, ALL):
        asked = {
            e.client: e.message for e in grid.of_type("evaluate", adaptation_examples=examples)
        }
        assert asked.keys() == unseen
        for client, message in asked.items():
            arrays = decoded(message.content["arrays"])
            values = run.hypernetwork.generate(data.client_metadata(client))
            assert values.keys() == run.hypernetwork.shapes.keys()
            assert_arrays(arrays, values)
    one, other = (run.hypernetwork.generate(data.client_metadata(c))["head.weight"] for c in unseen)
    assert not torch.equal(one, other)


def test_unseen_clients_leave_the_run_as_it_was():
    seen = run_of(8, unseen=0.3)
    unseen = choose_unseen(seen.config, range(8))
    config = RunConfig.parse(BASE | {"wait": 0.0})
    grid = InProcessGrid(make_app(config.dump()), 8)
    (alone,) = play(GridWithout(grid, {100 + client for client in unseen}), config)
    assert values_of(seen.hypernetwork) == values_of(alone.hypernetwork)
    assert seen.metadata == alone.metadata


@pytest.mark.parametrize("method", ["pfedhn", "fedper"])
def test_an_unseen_client_that_may_train_fits_its_whole_model(method):
    config = RunConfig.parse(BASE | {"method": method})
    node = {"partition-id": 0, "num-partitions": CLIENTS}
    context = Context(0, 0, node, RecordDict(), {})
    client = build_client(config, context, durable=False, private_copy=True)
    before = {name: tensor.clone() for name, tensor in client.model.named_parameters()}
    client.evaluate(client.get_parameters({}), {"adaptation-examples": ALL, "adaptation-steps": 3})
    moved = {n for n, tensor in client.model.named_parameters() if not tensor.equal(before[n])}
    assert moved == (set(before) if method == "pfedhn" else {"head.weight", "head.bias"})


def test_a_personal_head_stays_at_home():
    config = RunConfig.parse(BASE | {"personal": "head", "wait": 0.0})
    grid = RecordingGrid(make_app(config.dump()), 3)
    (run,) = play(grid, config)
    scopes = model_setup(config).scopes
    personal = set(names_of(scopes, Scope.PERSONAL))
    assert personal == {"head.weight", "head.bias"}
    assert set(run.hypernetwork.shapes) == set(scopes) - personal
    assert set(run.arrays) == set(scopes) - personal
    assert not [leak for exchange in grid.exchanges for leak in leaks(exchange)]
    assert all(exchange.after for exchange in grid.of_type("train"))


def test_under_a_safeguard_a_client_chooses_among_its_own_model_and_the_fallbacks():
    runs, grid = played(grid=RecordingGrid, safeguard=True, num_server_rounds=4)
    own, *others, chosen = runs
    assert [run.config.method for run in others] == ["fedavg", "local"]
    last = {
        e.client: decoded(e.message.content["arrays"])
        for e in grid.of_type("evaluate", server_round=4, method="pfedhn")
        if "safeguard" not in e.config
    }
    choosing = grid.of_type("evaluate", safeguard="pfedhn,fedavg,local")
    asked = {e.client: e.message for e in choosing}
    assert asked.keys() == set(range(CLIENTS))
    for client, place in chosen.by_client("chosen").items():
        run = (own, *others)[int(place)]
        assert chosen.by_client()[client] == run.by_client()[client]
    for client, message in asked.items():
        arrays = decoded(message.content["arrays"])
        for name, values in last[client].items():
            np.testing.assert_array_equal(arrays[f"pfedhn/{name}"], values)


def test_a_client_that_comes_late_is_trained_from_then_on():
    run = run_of(10, late=0.3, num_server_rounds=4)
    rounds = {}
    for report in run.reports:
        if report.phase == "train":
            rounds.setdefault(report.client, []).append(report.round)
    assert {len(found) for found in rounds.values()} == {2, 4}
    assert run.metadata.keys() == set(range(10))


def test_a_regression_runs_too():
    run = run_of(dataset="metadata-regression", local_steps=10, learning_rate=0.01)
    assert run.score == "rmse"
    assert np.isfinite(run.values()).all()


# ---------------------------------------------------------------------- what is left on disk


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A run with unseen_clients, and its folder of results."""
    folder = tmp_path_factory.mktemp("results")
    run = run_of(8, unseen=0.3)
    write(folder, [run])
    return run, folder


def test_the_network_that_is_left_writes_models_that_fit(written):
    run, folder = written
    network = Hypernetwork.load(folder / "hypernetwork.safetensors")
    assert values_of(network) == values_of(run.hypernetwork)
    model, initial = initial_model(run.config.architecture, run.config.seed)
    parameters = {name for name, _ in model.named_parameters()}
    description = federation(run.config.data, 8).client_metadata(0)
    for reported in (
        {},
        {"region": "region-1"},
        {"region": "the moon", "battery": 3.0},
        description,
    ):
        values = network.generate(reported)
        assert set(values) == parameters
        missing, unexpected = model.load_state_dict(values, strict=False)
        assert not unexpected
        assert set(missing) == set(initial) - parameters
        for name, expected in run.hypernetwork.generate(reported).items():
            assert torch.equal(values[name], expected)
            assert torch.equal(model.state_dict()[name], expected)
    model.load_state_dict(initial)


def test_what_is_left_on_disk_is_a_whole_model(written):
    run, folder = written
    from safetensors.torch import load_file

    model, initial = initial_model(run.config.architecture, run.config.seed)
    shared = load_file(folder / "shared.safetensors")
    network = Hypernetwork.load(folder / "hypernetwork.safetensors")
    model.load_state_dict(shared | network.generate({"region": "region-0"}), strict=True)
    assert set(shared) == set(initial)
    model.load_state_dict(initial)


def test_what_every_client_reported_is_left_as_a_table(written):
    run, folder = written
    rows = list(csv.DictReader((folder / "metadata.csv").open()))
    assert [int(row["client"]) for row in rows] == sorted(run.metadata)
    for row in rows:
        reported = run.metadata[int(row["client"])]
        assert row["method"] == "pfedhn"
        assert row["metadata.region"] == reported["region"]
        assert float(row["metadata.battery"]) == reported["battery"]


@pytest.mark.parametrize("name", ["client", "method"])
def test_a_column_of_metadata_may_have_any_name(tmp_path, name):
    def node_config(client):
        return {name: f"x{client}", "metadata": name}

    (run,), _ = played(3, node_config=node_config, num_server_rounds=1)
    write(tmp_path, [run])
    rows = list(csv.DictReader((tmp_path / "metadata.csv").open()))
    assert [row["client"] for row in rows] == ["0", "1", "2"]
    assert [row["method"] for row in rows] == ["pfedhn"] * 3


def test_odd_text_in_metadata_does_not_keep_the_results_from_being_written(tmp_path):
    class Odd(InProcessGrid):
        """Client 1 reports a text that UTF-8 cannot hold, escaped as JSON allows."""

        def answer(self, message: Message) -> Message:
            reply = super().answer(message)
            properties = reply.content.config_records.get("properties")
            if message.metadata.dst_node_id == 101 and properties and "metadata" in properties:
                properties["metadata"] = '{"region": "\\ud800"}'
            return reply

    (run,), _ = played(3, grid=Odd, num_server_rounds=1)
    write(tmp_path, [run])
    assert (tmp_path / "metadata.csv").exists()


def test_methods_without_a_network_leave_none(tmp_path):
    write(tmp_path, [run_of(method="fedavg", num_server_rounds=1)])
    assert not (tmp_path / "hypernetwork.safetensors").exists()
    assert not (tmp_path / "metadata.csv").exists()


def test_a_later_run_cannot_start_from_the_mean_of_what_was_written(written):
    with refused(ConfigError, key="initial", value=str(written[1])):
        run_of(num_server_rounds=1, initial=str(written[1]))


@pytest.mark.parametrize("personal", ["all", "*"])
def test_something_must_be_left_to_write(personal):
    with refused(ConfigError, key="personal", value=personal):
        run_of(num_server_rounds=1, personal=personal)


def test_words_on_the_run_say_that_everybody_has_a_model_of_its_own(written):
    assert "a model of its own" in describe([written[0]])[0]


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("method", "key", "value", "choices"),
    [
        ("fedavg", "use-metadata", True, ("pfedhn",)),
        ("fedavg", "embedding-size", 8, ("pfedhn",)),
        ("fedavg", "server-learning-rate", 0.1, ("pfedhn",)),
        ("pfedhn", "server-learning-rate", 0.0, ()),
        ("pfedhn", "embedding-size", 0, ()),
        ("pfedhn", "server-momentum", 0.5, ()),
        ("pfedhn", "client-metadata", "wrong", ("own", "shuffled")),
    ],
)
def test_keys_that_do_not_fit_are_refused(method, key, value, choices):
    with refused(ConfigError, key=key, value=value, choices=choices):
        simulate(BASE | {"method": method, key: value}, 3)
