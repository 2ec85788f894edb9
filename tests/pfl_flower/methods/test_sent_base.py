"""A frozen base that only the server has: sent once, kept by its fingerprint, counted."""

import json

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping

from clients import Scope
from clients.scopes import names_of
from clients.state.model_file import BASE_SUFFIX, read_base
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


def frozen(run):
    """The entries of a run's base."""
    return set(names_of(model_setup(run.config).scopes, Scope.FROZEN))


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
    arrays = sent[0].message.content["arrays"]
    assert set(arrays) == frozen(run)
    assert run.base_bytes == summarize(run)["base_bytes"] == CLIENTS * num_bytes(arrays)
    assert sum(setup.initial[name].nbytes for name in arrays) <= num_bytes(arrays)
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
    for path in files:
        assert read_base(path, first.base, "").keys() == set(read_shared(body)[0]) & frozen(first)


class Forgetful(RecordingGrid):
    """A grid on which client 1 is restarted before it trains in round 2."""

    restarts = 0

    def answer(self, message):
        config = message.content.config_records.get(CONFIG, {})
        asked = message.metadata.message_type, message.metadata.dst_node_id
        if asked == ("train", FIRST_NODE + 1) and config.get("server-round") == 2:
            self.restarts += 1
            if self.restarts == 1:
                self.contexts[FIRST_NODE + 1].state = RecordDict()
                forget_networks()  # and all that was made of their configs
        return super().answer(message)


def test_a_device_that_restarts_is_sent_it_again_or_finds_it_on_its_disk(body, tmp_path):
    config = config_of("fedavg", body)
    undisturbed, _ = played(config)
    run, grid = played(config, Forgetful)
    assert receivers(grid) == [0, 1, 1, 2]
    assert_identical([undisturbed], [run])
    run, grid = played(config, Forgetful, node_config=own_directories(tmp_path))
    assert receivers(grid) == [0, 1, 2]
    assert_identical([undisturbed], [run])


def test_under_a_privacy_wrapper_a_missing_base_is_no_failure(body):
    """Which would be answered with the arrays as they came, and never be asked for again."""
    config = RunConfig.parse(config_of("fedavg", body))
    grid = Forgetful(make_app(config.dump()), CLIENTS)
    session = open_session(grid, config, wait_for_clients(grid, config), None)
    setup = model_setup(session.config)
    strategy = build_strategy(setup)
    outer = DifferentialPrivacyServerSideFixedClipping(
        strategy, noise_multiplier=0.1, clipping_norm=1.0, num_sampled_clients=CLIENTS
    )
    first = to_record({name: setup.initial[name].numpy() for name in setup.shared_names})
    about = ConfigRecord(session.about("fedavg"))
    outer.start(session.grid, first, num_rounds=3, train_config=about, evaluate_config=about)
    assert receivers(grid) == [0, 1, 1, 2]
    assert not any(report.dropped for report in strategy.reports)
    assert grid.restarts == 2 + 1  # without schema, without base, and whole


def test_a_resumed_run_sends_it_to_nobody_that_has_it(body, tmp_path):
    class StopError(Exception):
        pass

    def stop(news):
        if news.round == 2:
            raise StopError

    config = config_of("fedper", body)
    whole = simulate(config, CLIENTS)
    config = config | {"personal-dir": str(tmp_path / "devices")}
    with pytest.raises(StopError):
        simulate(config, CLIENTS, progress=stop, folder=tmp_path)
    sent_bases._bases.clear()
    resumed = config | {"resume": str(tmp_path)}
    grid = RecordingGrid(make_app(resumed), CLIENTS)
    runs = list(play(grid, RunConfig.parse(resumed), folder=tmp_path))
    assert receivers(grid) == []
    assert_identical(whole, runs)
    for path in (tmp_path / "checkpoint").glob("*.safetensors"):
        assert not [name for name in read_shared(path)[0] if "base." in name]


def test_a_run_on_another_file_is_not_resumed(body, tmp_path):
    config = config_of("fedavg", tmp_path / NAME)
    (tmp_path / NAME).write_bytes((body / NAME).read_bytes())
    (run,) = simulate(config, CLIENTS, folder=tmp_path / "run")
    arrays, about = read_shared(body)
    arrays["base.0.bias"] = arrays["base.0.bias"] + 1
    (tmp_path / NAME).write_bytes(array_bytes(arrays, about))
    with refused(FederationError, key="base", value=SOME, reason=SOME) as caught:
        simulate(config | {"resume": str(tmp_path / "run")}, CLIENTS, folder=tmp_path / "run")
    assert run.base in caught.value.reason


# ---------------------------------------------------------------------- bad input


class Tampering(RecordingGrid):
    """A grid on which client 2 receives another base than was sent."""

    def answer(self, message):
        kind, node = message.metadata.message_type, message.metadata.dst_node_id
        if (kind, node) != (BASE_QUERY, FIRST_NODE + 2):
            return super().answer(message)
        arrays = {name: view(array) for name, array in message.content["arrays"].items()}
        arrays["base.0.bias"] = arrays["base.0.bias"] + np.float32(1e-6)
        content = RecordDict({**message.content, "arrays": to_record(arrays)})
        return super().answer(Message(metadata=message.metadata, content=content))


def test_a_base_of_another_fingerprint_is_refused_with_the_reason(body):
    run, grid = played(config_of("fedper", body), Tampering)
    (reason,) = run.left_out
    assert reason.startswith("client 2: ")
    assert run.base in reason  # the fingerprint that it should have
    assert {report.client for report in run.reports} == {0, 1}
    assert not any(report.dropped for report in run.reports)
    assert not any(key.startswith("sent-base") for key in grid.contexts[FIRST_NODE + 2].state)


class OtherNetwork(RecordingGrid):
    """A grid on which client 2 builds a wider network."""

    def __init__(self, app, clients):
        super().__init__(app, clients)
        self.other = make_app({**json.loads(self.config), "model": f"{NETWORKS}:Wide"})

    config = ""

    def answer(self, message):
        usual = self.client_app
        if message.metadata.dst_node_id == FIRST_NODE + 2:
            self.client_app = self.other
        try:
            return super().answer(message)
        finally:
            self.client_app = usual


def test_a_client_with_another_network_is_left_out_by_what_differs(body, monkeypatch):
    config = config_of("fedavg", body)
    monkeypatch.setattr(OtherNetwork, "config", json.dumps(config))
    run, _ = played(config, OtherNetwork)
    (reason,) = run.left_out
    assert reason.startswith("client 2: ")
    assert "'base.0.weight' is float32 (16, 30) instead of float32 (24, 30)" in reason
    assert {report.client for report in run.reports} == {0, 1}


def test_a_file_that_does_not_fit_is_refused(body, tmp_path):
    for change, words in (
        (lambda arrays: arrays | {"base.0.bias": np.zeros(7, np.float32)}, "'base.0.bias' is"),
        (lambda arrays: arrays | {"base.0.bias": arrays["base.0.bias"].astype(float)}, "float64"),
        (lambda arrays: arrays | {"tail.weight": np.zeros(7, np.float32)}, "tail.weight"),
        (lambda arrays: arrays | {"head.bias": np.zeros(7, np.float32)}, "'head.bias' is"),
    ):
        (tmp_path / NAME).write_bytes(array_bytes(change(read_shared(body)[0])))
        with refused(FederationError, key="initial", value=str(tmp_path), reason=SOME) as caught:
            simulate(config_of("fedavg", tmp_path), CLIENTS)
        assert words in caught.value.reason
    with refused(FederationError, key="initial", value=str(tmp_path / "none"), reason=SOME):
        simulate(config_of("fedavg", tmp_path / "none"), CLIENTS)


def test_a_part_of_the_base_is_taken_on_what_it_was_trained_on(body, tmp_path):
    """What is not in the file is as the builder makes it, if that was frozen before, too."""
    arrays, about = read_shared(body)
    part = {name: values for name, values in arrays.items() if not name.startswith("base.0.")}
    (tmp_path / NAME).write_bytes(array_bytes(part, about))  # all of it was trained
    run, _ = played(config_of("fedavg", tmp_path))
    setup = model_setup(run.config)
    np.testing.assert_array_equal(setup.initial["base.3.bias"], arrays["base.3.bias"])
    (tmp_path / NAME).write_bytes(array_bytes(part, about | {"base": '"0123456789abcdef"'}))
    with refused(FederationError, key="initial", value=str(tmp_path), reason=SOME):
        simulate(config_of("fedavg", tmp_path), CLIENTS)


# ---------------------------------------------------------------------- further


def test_a_later_run_starts_from_the_results_of_one_that_was_given_its_base(body, tmp_path):
    (first,) = simulate(config_of("fedavg", body), CLIENTS)
    write(tmp_path, [first])
    assert (tmp_path / BASE_NAME).is_file()
    run, grid = played(config_of("fedavg", tmp_path, **{"num-server-rounds": 1}))
    assert run.base == first.base
    assert receivers(grid) == list(range(CLIENTS))
    sent = {n: view(a) for n, a in grid.of_type("train")[0].message.content["arrays"].items()}
    for name, array in first.arrays.items():
        np.testing.assert_array_equal(sent[name], view(array))


def test_a_personal_head_of_the_file_is_not_taken(body):
    run, grid = played(config_of("fedper", body))
    setup = model_setup(run.config)
    assert "head.bias" not in grid.of_type("train")[0].message.content["arrays"]
    assert (setup.initial["head.bias"].numpy() != read_shared(body)[0]["head.bias"]).any()


def test_a_head_for_other_classes_is_new(body, tmp_path):
    """A body may serve for other classes; a head that is frozen may not."""
    arrays, about = read_shared(body)
    other = about | {"labels": '["ham", "spam", "other"]'}
    wider = {
        n: np.zeros((3, *v.shape[1:]), np.float32) if "head" in n else v for n, v in arrays.items()
    }
    (tmp_path / NAME).write_bytes(array_bytes(wider, other))
    run, grid = played(config_of("fedavg", tmp_path))
    first = grid.of_type("train")[0].message.content["arrays"]
    setup = model_setup(run.config)
    for name in ("head.weight", "head.bias"):
        np.testing.assert_array_equal(view(first[name]), setup.initial[name])
    np.testing.assert_array_equal(
        view(first["low_rank.down.weight"]), arrays["low_rank.down.weight"]
    )
    (tmp_path / NAME).write_bytes(array_bytes(arrays, other))
    with refused(FederationError, key="initial", value=str(tmp_path), reason=SOME) as caught:
        simulate(config_of("fedavg", tmp_path, "FrozenHead"), CLIENTS)
    assert "labels" in caught.value.reason


@pytest.mark.integration
def test_lora_of_peft_finds_the_base_by_the_names_that_it_was_trained_with(tmp_path):
    pytest.importorskip("peft")
    start = CONFIG_OF_ALL | {"method": "fedavg", "model": f"{NETWORKS}:Body"}
    write(tmp_path, simulate(start, CLIENTS))
    options = {"trainable": "lora", "lora-rank": 2, "initial": str(tmp_path)}
    run, grid = played(start | options)
    assert [exchange.client for exchange in grid.of_type(BASE_QUERY)] == list(range(CLIENTS))
    setup = model_setup(run.config)
    trained = read_shared(tmp_path)[0]
    np.testing.assert_array_equal(
        setup.initial["base.0.base_layer.weight"], trained["base.0.weight"]
    )
    np.testing.assert_array_equal(
        setup.initial["base.1.running_mean"], trained["base.1.running_mean"]
    )
    assert not any(report.dropped for report in run.reports)


# ---------------------------------------------------------------------- the delivery by itself


class Asking(InProcessGrid):
    """Nodes that ask for a base whatever they are sent."""

    wanted = "known"

    def answer(self, message):
        self.kinds = [*getattr(self, "kinds", []), message.metadata.message_type]
        if message.metadata.message_type == BASE_QUERY:
            return Message(RecordDict(), reply_to=message)
        missing = ConfigRecord({FROZEN_BASE: self.wanted})
        return Message(RecordDict({MISSING_BASE: missing}), reply_to=message)


@pytest.mark.parametrize(
    ("wanted", "kinds"), [("known", ["train", BASE_QUERY, "train"]), ("unknown", ["train"])]
)
def test_who_asks_again_or_for_a_base_that_is_not_there_gets_an_error(wanted, kinds):
    sent_bases.hold_base("known", {"w": torch.ones(3)})
    grid = Asking(make_app(), 1)
    grid.wanted = wanted
    delivery = BaseDelivery(grid)
    config = ConfigRecord({DATA_SCHEMA: "{}"})
    message = Message(RecordDict({CONFIG: config}), FIRST_NODE, "train")
    (reply,) = delivery.send_and_receive([message])
    assert reply.has_error()
    assert reply.metadata.reply_to_message_id == message.metadata.message_id
    assert grid.kinds == kinds
    assert bool(delivery.take_base_bytes()) == (wanted == "known")
    assert delivery.take_base_bytes() == 0
