"""A frozen base under every method: bit for bit what it was, in no message, file or checkpoint."""

import csv
import shutil
import tracemalloc
from functools import partial

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord
from flwr.clientapp.mod import LocalDpMod
from safetensors import safe_open
from sklearn.linear_model import LogisticRegression

from clients import Scope, client_app
from clients.__main__ import main
from clients.entries import entries_of
from clients.scopes import MOVING, names_of
from clients.state.model_file import BASE_SUFFIX, SUFFIX, model_files, read_model, write_base
from clients.state.state_file import ForeignStateError, PersonalStateError
from pfl_flower.client_app import make_app
from pfl_flower.config.errors import ConfigError
from pfl_flower.config.run_config import RunConfig
from pfl_flower.data import federation
from pfl_flower.engines import simulate
from pfl_flower.methods import METHODS
from pfl_flower.methods.clustered import GroupKeys
from pfl_flower.model_setup import model_setup
from pfl_flower.results.files import summarize, write
from pfl_flower.results.shared_file import NAME, read_shared
from pfl_flower.server.discovery import FederationError, wait_for_clients
from pfl_flower.server.frozen_bases import base_difference
from pfl_flower.server.run import build_strategy, play
from pfl_flower.server.session import open_session
from strategies import PartialAveraging
from strategies.array_file import array_bytes
from strategies.arrays import to_record, view
from strategies.protocol import FROZEN_BASE, PROPERTIES
from tests.errors import SOME, refused
from tests.grids import RecordingGrid
from tests.helpers import assert_identical, data_for
from tests.pfl_flower.methods import frozen_networks
from tests.strategies.private_fleet import MODS, NORM, WRAPPERS
from tests.tiers import quick_first

NETWORKS = "tests.pfl_flower.methods.frozen_networks"
CONFIG = {
    "dataset": "breast-cancer",
    "heterogeneity": "taste",
    "cluster-sizes": "2,2",
    "model": f"{NETWORKS}:TableNetwork",
    "baselines": "",
    "num-server-rounds": 2,
    "local-epochs": 1,
    "batch-size": 8,
    "max-examples": 40,
    "learning-rate": 0.05,
    "fine-tuning-epochs": "0,1",
    "wait": 0.0,
}
CLIENTS = 4
PLAIN = {"heterogeneity": "none", "cluster-sizes": ""}
"""Clients whose examples are those of the data set, so that a file can be asked about them."""

LINEAR = {"hierarchical-linear", "errors-in-variables"}
"""Methods for one network without anything to freeze."""


def config_of(method, **options):
    data = data_for(method)
    graph = {"model": f"{NETWORKS}:NodeNetwork"} if data else {}
    return RunConfig.used(CONFIG | data | graph | {"method": method} | options)


class WatchingGrid(RecordingGrid):
    """A grid that looks at the network's frozen entries after every message."""

    def __init__(self, config, clients=CLIENTS, wrap=make_app):
        super().__init__(wrap(config), clients)
        self.base = {}
        self.network = None
        self.changed = set()

    def watch(self, setup):
        names = names_of(setup.scopes, Scope.FROZEN)
        self.network = setup.model
        self.base = {name: setup.initial[name].clone() for name in names}

    def answer(self, message):
        reply = super().answer(message)
        entries = entries_of(self.network) if self.network else {}
        self.changed |= {n for n in self.base if not torch.equal(entries[n], self.base[n])}
        return reply


def played(config, monkeypatch):
    """The runs of a config, on a grid that has watched them."""
    grid, setups = WatchingGrid(config), []
    monkeypatch.setattr(
        "pfl_flower.server.run.build_strategy", watching(grid, setups), raising=True
    )
    return list(play(grid, RunConfig.parse(config))), grid, setups


def watching(grid, setups):
    def build(setup):
        grid.watch(setup)
        setups.append(setup)
        return build_strategy(setup)

    return build


def arrays_in(content):
    return {n: a for record in content.array_records.values() for n, a in record.items()}


def mentions(names, wanted):
    """Names of arrays, such as ``own/base.enter.weight``, that are of what is wanted."""
    return {name for name in names if any(name.endswith(each) for each in wanted)}


FIRST = ["fedper", "ditto", "apfl", "ifca", "pfedhn", "fedavg-gnn"]
"""One of every kind of client and server that is quick."""

ROUNDS = 5


@pytest.mark.parametrize(
    "method", quick_first([*FIRST, *sorted(METHODS.keys() - LINEAR - {*FIRST})], quick=len(FIRST))
)
def test_the_base_is_what_it_was_and_is_nowhere(method, monkeypatch):
    config = config_of(method) | {"num-server-rounds": ROUNDS}
    runs, grid, (setup, *_) = played(config, monkeypatch)
    frozen = names_of(setup.scopes, Scope.FROZEN)
    of_method = {name for name in frozen if not name.startswith("base.")}
    assert of_method == ({"body.low_rank.down.weight"} if METHODS[method].freezes else set())
    assert len(frozen) == 11 + len(of_method)
    assert not [r.dropped for run in runs for r in run.reports if r.dropped]
    assert grid.changed == set()
    for exchange in grid.exchanges:
        for message in (exchange.message, exchange.reply):
            assert not mentions(arrays_in(message.content), frozen)
        assert not mentions(exchange.after, frozen)
    (run,) = runs
    assert not mentions(run.arrays, frozen)
    values = sum(setup.initial[name].numel() for name in frozen)
    assert run.parameters["frozen"] == values
    whole = sum(tensor.numel() for tensor in setup.initial.values())
    assert all(run.parameters[scope] <= whole - values for scope in ("shared", "personal"))
    asked = [e for e in grid.of_type("query") if e.config.get(PROPERTIES) == FROZEN_BASE]
    assert sorted(e.client for e in asked) == list(range(CLIENTS))


EVERYTHING_ELSE = {
    "fedper": {"unseen": 0.25, "safeguard": True, "threshold": "personal", "baselines": "fedavg"},
    "ditto": {"server-momentum": 0.9, "weight-decay": 0.1, "gradient-clip": 0.1, "unseen": 0.25},
    "apfl": {"mixing": 0.3, "schedule": "head-then-body"},
    "ifca": {"restart": 1, "unseen": 0.25},
    "mr-mtl": {"lambda": "auto", "fraction-train": 0.5},
}


@pytest.mark.integration
@pytest.mark.parametrize("method", quick_first(EVERYTHING_ELSE))
def test_nor_do_options_touch_it(method, monkeypatch):
    options = EVERYTHING_ELSE[method] | {"validation-fraction": 0.3}
    runs, grid, setups = played(config_of(method, **options), monkeypatch)
    assert runs
    frozen = names_of(setups[0].scopes, Scope.FROZEN)
    assert grid.changed == set()
    assert not any(mentions(arrays_in(e.message.content), frozen) for e in grid.exchanges)
    assert not any(mentions(e.after, frozen) for e in grid.exchanges)


# ---------------------------------------------------------------------- another base


def other_base(grid_kind, changes):
    """A grid on which client 2 has another base from the start."""

    class Grid(grid_kind):
        def answer(self, message):
            if message.metadata.dst_node_id != 102:
                return super().answer(message)
            with pytest.MonkeyPatch.context() as patch:
                changes(patch)
                return super().answer(message)

    return Grid


def built_otherwise(change):
    """Let the base of networks that are built be another one; nothing is cached meanwhile."""

    def changes(patch):
        init = frozen_networks.Base.__init__

        def other(self, size):
            init(self, size)
            with torch.no_grad():
                change(self)

        patch.setattr(frozen_networks.Base, "__init__", other)
        uncached(patch)

    return changes


def uncached(patch):
    from pfl_flower import client_app, engines, model_setup

    patch.setattr(engines, "forget_networks", lambda: None)  # nothing is kept to be forgotten

    for module, name in (
        (model_setup, "_new_model"),
        (model_setup, "_scopes"),
        (client_app, "_config_of"),
    ):
        patch.setattr(module, name, getattr(module, name).__wrapped__)


def one_value(base):
    base.enter.weight[0, 0] += 1e-7 + base.enter.weight[0, 0].abs() * 1e-6


def another_type(base):
    base.enter.double()


def another_file(base):
    base.enter.weight.normal_()
    base.norm.running_mean.zero_()


def missing(base):
    raise FileNotFoundError("no such file: base.safetensors")


@pytest.mark.parametrize(
    ("change", "words"),
    quick_first(
        [
            (one_value, "'base.enter.weight' has other values"),
            (another_type, "float64 (30, 30)"),
            (another_file, "'base.norm.running_mean'"),
            (missing, "no such file"),
        ],
        quick=4,
    ),
)
def test_a_client_with_another_base_is_left_out_by_name(change, words):
    config = config_of("fedper")
    grid = other_base(RecordingGrid, built_otherwise(change))(make_app(config), CLIENTS)
    (run,) = play(grid, RunConfig.parse(config))
    (reason,) = run.left_out
    assert reason.startswith("client 2: ")
    assert words in reason
    assert {r.client for r in run.reports} == {0, 1, 3}
    assert not any(r.dropped for r in run.reports)
    assert 2 not in {e.client for e in grid.of_type("train")}


def test_where_everybody_has_another_base_the_run_ends_before_round_1():
    config = config_of("fedavg") | {"cluster-sizes": "", "heterogeneity": "none"}

    class Everybody(RecordingGrid):
        def answer(self, message):
            with pytest.MonkeyPatch.context() as patch:
                built_otherwise(one_value)(patch)
                return super().answer(message)

    found = Everybody(make_app(config), 2)
    with refused(FederationError, key="model", clients=(0, 1), reason=SOME):
        list(play(found, RunConfig.parse(config)))
    assert not found.of_type("train")


def test_a_client_that_comes_later_with_another_base_is_dropped_with_the_reason():
    """It was not there to be asked before round 1; it sees the fingerprint in the schema."""
    config = config_of("fedavg")

    class Late(RecordingGrid):
        """Client 2 answers the question for its base with what the server wants to hear."""

        def answer(self, message):
            asks = PROPERTIES in message.content.config_records.get("config", {})
            if message.metadata.dst_node_id != 102 or asks:
                return super().answer(message)
            with pytest.MonkeyPatch.context() as patch:
                built_otherwise(one_value)(patch)
                self.contexts[102].state.pop(FROZEN_BASE, None)
                return super().answer(message)

    (run,) = play(Late(make_app(config), CLIENTS), RunConfig.parse(config))
    dropped = {r.client: r.dropped for r in run.reports if r.dropped}
    assert dropped.keys() == {2}
    assert "fingerprint" in dropped[2]
    assert {r.client for r in run.reports if not r.dropped} == {0, 1, 3}


def test_nothing_to_train_is_an_error_before_anybody_is_asked():
    model = f"{NETWORKS}:OnlyBase"
    rounds = []
    with refused(ConfigError, key="model", value=model):
        simulate(config_of("fedavg", model=model), CLIENTS, progress=rounds.append)
    assert not rounds


@pytest.mark.parametrize(
    "method", [n for n, row in METHODS.items() if issubclass(row.keys, GroupKeys)]
)
def test_groups_without_anything_to_train_are_refused_by_what_is_personal(method):
    config = config_of(method, personal="body,head", group="rest")
    with refused(ConfigError, key="personal", value="body,head"):
        simulate(config, CLIENTS)


def test_a_difference_of_bases_is_said_in_few_words():
    base = {f"layer{i}": f"float32 (3,) {i:016x}" for i in range(9)}
    assert base_difference(base, base) == ""
    assert base_difference(base, {**base, "layer0": "float16 (3,) 0"}) == (
        "'layer0' is float16 (3,), not float32 (3,)"
    )
    assert "and 6 more" in base_difference(base, {})
    assert "'x' is frozen, too" in base_difference(base, {**base, "x": ""})


# ---------------------------------------------------------------------- files


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    """A personal directory after a run of Ditto, and the run."""
    folder = tmp_path_factory.mktemp("device")
    config = config_of("ditto", **{"personal-dir": str(folder)}, **PLAIN)
    (run,) = simulate(config, CLIENTS)
    return folder, run


BY_PATH = "base.norm,head"
"""A rule that makes a frozen entry personal, by its path."""


def test_files_go_by_what_is_frozen_under_their_method_whatever_the_other_methods(tmp_path):
    """The base of all methods of a run has more than that of one where a path is personal."""
    options = {"personal": BY_PATH, "personal-dir": str(tmp_path), **PLAIN}
    simulate(config_of("fedper", baselines="fedavg", **options), CLIENTS)
    (again,) = simulate(config_of("fedper", **options), CLIENTS)
    assert not [r.dropped for r in again.reports if r.dropped]
    for path in tmp_path.glob("client-*"):
        path.unlink()
    options.pop("personal")
    (run,) = simulate(config_of("fedper", **options), CLIENTS)
    everything = set(model_setup(run.config).initial)
    found = [read_model(path).entries.keys() for path in model_files(tmp_path).values()]
    assert found == [everything] * CLIENTS
    assert len(list(tmp_path.glob(f"*{BASE_SUFFIX}"))) == 2


def names_in(path):
    with safe_open(path, "numpy") as file:
        return set(file.keys()), dict(file.metadata())


def test_personal_files_hold_the_fingerprint_and_nothing_of_the_base(device):
    folder, run = device
    setup = model_setup(run.config)
    frozen, moving = (names_of(setup.scopes, *s) for s in ((Scope.FROZEN,), MOVING))
    (base,) = folder.glob(f"*{BASE_SUFFIX}")  # once for all clients
    assert names_in(base)[0] == {f"model/{name}" for name in frozen}
    fingerprint = base.name.removesuffix(BASE_SUFFIX)
    for client in range(CLIENTS):
        names, about = names_in(folder / f"client-{client}.safetensors")
        assert names == {f"own/{name}" for name in moving}
        assert about["base"] == fingerprint == run.config.required_schema.base
        names, _ = names_in(folder / f"client-{client}{SUFFIX}")
        assert not mentions(names, frozen)
        assert read_model(folder / f"client-{client}{SUFFIX}").entries.keys() == set(setup.initial)


def test_the_next_run_goes_on_from_them_and_on_another_base_they_are_refused(device, tmp_path):
    folder = shutil.copytree(device[0], tmp_path / "device")  # the next run trains on
    again = config_of("ditto", **{"personal-dir": str(folder)}, **PLAIN)
    (second,) = simulate(again, CLIENTS)
    assert not any(r.dropped for r in second.reports)
    before = (folder / "client-1.safetensors").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        built_otherwise(one_value)(patch)
        with pytest.raises(FederationError) as caught:
            simulate(again, CLIENTS)  # the server has that other base as well
    assert "base" in caught.value.reason
    assert ForeignStateError.__name__ in caught.value.reason
    assert (folder / "client-1.safetensors").read_bytes() == before


def test_an_exported_model_is_whole_and_predicts_what_was_judged(device, tmp_path):
    folder, run = device
    model = tmp_path / "model.safetensors"
    command = ["export", "--personal-dir", str(folder), "--client", "client-1"]
    assert main([*command, "--out", str(model)]) == 0
    names, about = names_in(model)
    assert {f"model/{name}" for name in model_setup(run.config).initial} <= names
    assert about["base"] == run.config.required_schema.base
    inputs, targets = federation(run.config.data, CLIENTS)._load(1).test
    np.savez(tmp_path / "x.npz", x=inputs)
    out = tmp_path / "answers.csv"
    paths = ["--model", str(model), "--inputs", str(tmp_path / "x.npz"), "--out", str(out)]
    assert main(["predict", *paths, "--network", run.config.model]) == 0
    with out.open() as stream:
        rows = list(csv.DictReader(stream))
    right = [int(row["prediction"]) == y for row, y in zip(rows, targets.tolist(), strict=True)]
    assert np.mean(right) == pytest.approx(run.by_client()[1], abs=1e-9)


def test_a_model_without_its_base_is_refused(device, tmp_path):
    folder, _ = device
    path = tmp_path / f"client-1{SUFFIX}"
    path.write_bytes(model_files(folder)["client-1"].read_bytes())
    (base,) = folder.glob(f"*{BASE_SUFFIX}")
    with refused(PersonalStateError, path=tmp_path / base.name):
        read_model(path)
    other = folder / f"client-2{SUFFIX}"
    (tmp_path / base.name).write_bytes(other.read_bytes())
    with refused(ForeignStateError, key="format", path=tmp_path / base.name):
        read_model(path)
    write_base(tmp_path, "another", {})
    (tmp_path / f"another{BASE_SUFFIX}").rename(tmp_path / base.name)
    with refused(ForeignStateError, key="base", path=tmp_path / base.name):
        read_model(path)


def _another_base(path):
    write_base(path.parent, "another", {})
    (path.parent / f"another{BASE_SUFFIX}").rename(path)


DAMAGES = {
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "another": _another_base,
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_base_file_is_written_again_and_an_intact_one_is_not(tmp_path, damage):
    base = {"base.weight": torch.randn(5, 3)}
    path = tmp_path / f"fingerprint{BASE_SUFFIX}"
    write_base(tmp_path, "fingerprint", base)
    written, content = path.stat(), names_in(path)  # the metadata have a checksum
    write_base(tmp_path, "fingerprint", base)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (written.st_ino, written.st_mtime_ns)
    DAMAGES[damage](path)
    write_base(tmp_path, "fingerprint", base)
    assert names_in(path) == content


@pytest.mark.integration
@pytest.mark.parametrize("method", ["fedper", "gradient-clusters", "pfedhn"])
def test_a_resumed_run_has_the_same_numbers_and_no_base_in_its_checkpoints(method, tmp_path):
    options = {"personal-dir": str(tmp_path / "whole"), "num-server-rounds": 3}
    whole = simulate(config_of(method, **options), CLIENTS)

    class StopError(Exception):
        pass

    def stop(news):
        if news.round == 2:
            raise StopError

    options["personal-dir"] = str(tmp_path / "device")
    folder = tmp_path / "results"
    with pytest.raises(StopError):
        simulate(config_of(method, **options), CLIENTS, progress=stop, folder=folder)
    for path in folder.rglob("*.safetensors"):
        assert not {name for name in names_in(path)[0] if "base." in name}
    options["resume"] = str(folder)
    resumed = simulate(config_of(method, **options), CLIENTS, folder=folder)
    assert_identical(whole, resumed)


@pytest.mark.integration
def test_ray_gives_the_same_numbers():
    config = config_of("fedper", baselines="ditto,ifca", wait=60.0)
    assert_identical(simulate(config, CLIENTS), simulate(config, CLIENTS, engine="ray"))


@pytest.mark.integration
def test_shared_arrays_are_a_start_on_the_base_they_were_trained_on_only(tmp_path):
    """By whatever rule: what is personal does not make the network's base another one."""
    write(tmp_path, simulate(config_of("fedper", personal=BY_PATH, baselines="fedavg"), CLIENTS))
    again = config_of("fedper", initial=str(tmp_path))
    (run,) = simulate(again, CLIENTS)
    assert not [r.dropped for r in run.reports if r.dropped]
    with pytest.MonkeyPatch.context() as patch:
        built_otherwise(one_value)(patch)
        with refused(FederationError, key="initial", value=str(tmp_path), reason=SOME):
            simulate(again, CLIENTS)
    path = tmp_path / NAME
    path.write_bytes(array_bytes(read_shared(path)[0]))  # an earlier version's
    with pytest.MonkeyPatch.context() as patch:
        built_otherwise(one_value)(patch)
        assert simulate(again, CLIENTS)


def test_a_run_on_another_base_is_not_resumed_and_the_base_is_named(tmp_path):
    config = config_of("fedavg")
    (run,) = simulate(config, CLIENTS, folder=tmp_path)
    resumed = config | {"resume": str(tmp_path)}
    assert simulate(resumed, CLIENTS, folder=tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        built_otherwise(one_value)(patch)
        with refused(FederationError, key="base", value=SOME, reason=SOME) as caught:
            simulate(resumed, CLIENTS, folder=tmp_path)
    assert caught.value.value != run.base
    assert run.base in caught.value.reason


# ---------------------------------------------------------------------- bytes

ADAPTERS = {"model": f"{NETWORKS}:Transformer", "max-examples": 8, **PLAIN}


def nbytes(setup, *scopes):
    return sum(setup.initial[name].nbytes for name in names_of(setup.scopes, *scopes))


@pytest.mark.integration
@pytest.mark.parametrize("method", quick_first(["ditto", "fedavg", "fedper"]))
def test_a_round_takes_the_bytes_of_what_is_trained_and_a_file_those_of_what_is_personal(
    method, tmp_path
):
    personal = {"personal": "adapter,head"} if method == "fedper" else {}
    options = {**ADAPTERS, **personal, "personal-dir": str(tmp_path)}
    (run,) = simulate(config_of(method, **options), 2)
    setup = model_setup(run.config)
    assert nbytes(setup, Scope.FROZEN) > 40 * nbytes(setup, *MOVING)
    travels = nbytes(setup, Scope.SHARED)
    found = summarize(run)["bytes_per_round"]
    assert 2 * travels <= found["down"] <= 1.02 * 2 * travels  # to train and to evaluate
    assert travels <= found["up"] <= 1.02 * travels
    if method == "fedavg":
        assert not list(tmp_path.glob("client-0.safetensors"))
        return
    kept = nbytes(setup, *(MOVING if method == "ditto" else (Scope.PERSONAL,)))
    for path in (tmp_path / "client-0.safetensors", tmp_path / "client-0.safetensors.previous"):
        assert kept <= path.stat().st_size <= 1.05 * kept
    whole = tmp_path / f"client-0{SUFFIX}"
    assert whole.stat().st_size < 1.05 * nbytes(setup, *MOVING) + 10_000  # and a model card


def peak_of_aggregation(model, monkeypatch):
    """The most bytes that averaging takes beyond the replies, in a run."""
    peaks = []
    average = PartialAveraging.aggregate_train

    def measured(self, *arguments):
        tracemalloc.start()
        try:
            return average(self, *arguments)
        finally:
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()

    with monkeypatch.context() as patch:
        patch.setattr(PartialAveraging, "aggregate_train", measured)
        simulate(config_of("fedavg", **ADAPTERS | {"model": f"{NETWORKS}:{model}"}), 2)
    return min(peaks)


@pytest.mark.integration
def test_averaging_takes_no_memory_for_the_base(monkeypatch):
    small, large = (
        peak_of_aggregation(model, monkeypatch) for model in ("Transformer", "LargeTransformer")
    )
    assert large == pytest.approx(small, rel=0.05)
    assert large < 2e6  # the base has 110 MB


# ---------------------------------------------------------------------- noise, and an identity


PRIVATE = ["fedavg", "fedper", "ditto", "known-groups", "ifca", "pfedhn"]
NOISE = 2.0
NOISY = {**MODS, "LocalDpMod": [LocalDpMod(NORM, NORM, epsilon=4.8, delta=1e-5)]}
"""Who adds noise -> the mods of clients. That of the last one has about the deviation of the others
on the mean of all clients: it is drawn for each of them, sensitivity * sqrt(2 ln 1.25/delta) /
epsilon."""


@pytest.mark.parametrize(
    ("wrapper", "method"),
    quick_first([(wrapper, m) for wrapper in [*WRAPPERS, "LocalDpMod"] for m in PRIVATE]),
)
def test_noise_for_privacy_does_not_land_on_it(wrapper, method, monkeypatch):
    app = partial(client_app, mods=NOISY.get(wrapper))
    monkeypatch.setattr("pfl_flower.client_app.client_app", app)
    config = RunConfig.parse(config_of(method) | {"num-server-rounds": ROUNDS})
    grid = WatchingGrid(config.dump())
    session = open_session(grid, config, wait_for_clients(grid, config), None)
    setup = model_setup(session.config)
    grid.watch(setup)
    inner = build_strategy(setup)
    start = {name: setup.initial[name].numpy() for name in setup.shared_names}
    outer = inner
    if wrapper in WRAPPERS:
        sampled = {"num_sampled_clients": CLIENTS}
        outer = WRAPPERS[wrapper](inner, noise_multiplier=NOISE, **sampled)
    about = ConfigRecord(session.about(method))
    first, rounds = inner.first_arrays(to_record(start)), {"num_rounds": ROUNDS}
    outer.start(session.grid, first, **rounds, train_config=about, evaluate_config=about)
    assert not [report.dropped for report in inner.reports if report.dropped]
    assert grid.changed == set()
    frozen = names_of(setup.scopes, Scope.FROZEN)
    assert not any(mentions(arrays_in(e.message.content), frozen) for e in grid.exchanges)
    last = grid.of_type("train", server_round=ROUNDS)
    assert len(last) == CLIENTS
    for exchange in last if method != "pfedhn" else ():  # there it is on what makes the models
        sent = {n: view(array) for n, array in arrays_in(exchange.message.content).items()}
        moved = np.concatenate([np.ravel(sent[name] - start[name]) for name in start])
        assert (moved != 0).all()
        # without noise each round goes no further than the clipping norm
        assert np.linalg.norm(moved) > 3 * ROUNDS * NORM


@pytest.mark.integration
def test_all_frozen_but_the_head_is_regularised_multinomial_regression():
    """One full-batch step a round is gradient descent on everybody's examples together."""
    decay = 0.05
    options = {
        "dataset": "digits",
        "model": f"{NETWORKS}:Features",
        "num-server-rounds": 150,
        "batch-size": 10_000,
        "local-steps": 1,
        "momentum": 0.0,
        "weight-decay": decay,
        "learning-rate": 0.7,
        "max-examples": 60,
        **PLAIN,
    }
    (run,) = simulate(config_of("fedavg", **options), 3)
    network = model_setup(run.config).model
    everybody = [federation(run.config.data, 3).client(i, run.config.schema) for i in range(3)]
    inputs, targets = (torch.cat([each.train[part] for each in everybody]) for part in (0, 1))
    features = network.features(inputs).double().numpy()
    # scikit-learn: sum of losses + |w|^2 / (2 C); ours: their mean + decay / 2 |w|^2
    fitted = LogisticRegression(
        C=1 / (decay * len(targets)), fit_intercept=False, tol=1e-10, max_iter=10_000
    ).fit(features, targets.numpy())

    def loss(weight):
        logits = torch.from_numpy(features @ weight.T)
        mean = float(torch.nn.functional.cross_entropy(logits, targets))
        return mean + decay / 2 * float(np.square(weight).sum())

    best, found = loss(fitted.coef_), loss(view(run.arrays["head.weight"]).astype(float))
    assert best - 1e-9 <= found <= best + 1e-4
    assert loss(np.zeros_like(fitted.coef_)) > best + 0.1
