"""Flower's own differential privacy around our strategies and clients: its promised effect."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideFixedClipping,
)

from pfl_flower.grid import InProcessGrid
from strategies import GroupAveraging, PartialAveraging
from strategies.arrays import to_record
from strategies.errors import ArgumentError
from strategies.hierarchical.hierarchical_bayes import positive_variance
from strategies.privacy import privacy_around
from tests.errors import refused
from tests.helpers import decoded, reply
from tests.strategies.private_fleet import (
    CASES,
    CLIENTS,
    COUNTERS,
    COUNTING,
    COUNTING_GROUPS,
    GROUPS,
    HEAD,
    NORM,
    REFUSED,
    WRAPPERS,
    build,
    play,
    table,
)

NOISE = 2.0
QUICK = ["PartialAveraging, personal head", "GroupAveraging", "PFedHN"]
EVERY_CASE = [n if n in QUICK else pytest.param(n, marks=pytest.mark.integration) for n in CASES]
OWN_MODELS = ["GroupAveraging", "IFCA", "PFedHN"]
GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "privacy.md"


def local_noise(epsilon=1e4):
    """A mod whose noise is 0.05 of the clipping norm times 1e4 / epsilon."""
    return LocalDpMod(clipping_norm=NORM, sensitivity=NORM, epsilon=epsilon, delta=1e-5)


# ---------------------------------------------------------------------- what every cell promises


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", EVERY_CASE)
def test_updates_are_clipped_around_what_was_sent_and_noise_reaches_clients(name, wrapper):
    run = play(name, wrapper, NOISE)
    assert run.dropped() == []
    for server_round in (1, 2):
        lengths = run.lengths(server_round)
        assert len(lengths) == CLIENTS
        np.testing.assert_allclose(list(lengths.values()), NORM, rtol=1e-3)
        assert all(set(found) & set(HEAD) == set() for found in run.sent(1).values()) == (
            CASES[name].personal == "head"
        )
    if name == "PFedHN":  # what is sent is what the network makes of the noise: see below
        return
    for client in range(CLIENTS):
        noise, members = run.noise(client)
        wanted = NOISE * NORM / members
        assert np.sqrt(np.mean(noise**2)) == pytest.approx(wanted, rel=0.3)


@pytest.mark.parametrize("name", EVERY_CASE)
def test_clients_may_add_noise_themselves(name):
    run = play(name, mods=[local_noise()])
    assert run.dropped() == []
    found = play(name).seen[1]
    for client, arrays in run.seen[1].items():
        assert any((arrays[n] != found[client][n]).any() for n in arrays)


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_what_is_no_model_is_refused_at_the_start(name, wrapper):
    strategy = REFUSED[name]()
    outer = WRAPPERS[wrapper](strategy, noise_multiplier=NOISE)
    first = strategy.first_arrays(to_record({"w": np.zeros((2, 3)), "b": np.zeros(2)}))
    with refused(ArgumentError, argument="wrapper", value=type(outer).__name__):
        # One node is too few: it is refused before waiting for more.
        outer.configure_train(1, first, ConfigRecord(), InProcessGrid(ClientApp(), 1))
    noisy = reply(100, decoded(first), {"num-examples": 4})
    noisy.content["notes"] = ConfigRecord({"local-noise": True})
    strategy.aggregate_train(1, [noisy])
    assert strategy.refuses_privacy in strategy.reports[-1].dropped


def test_nothing_to_protect_is_refused_at_the_start():
    outer = WRAPPERS["client, fixed"](PartialAveraging(), noise_multiplier=NOISE)
    with refused(ArgumentError, argument="wrapper", value=type(outer).__name__):
        outer.configure_train(1, to_record({}), ConfigRecord(), InProcessGrid(ClientApp(), 2))


def test_the_guide_has_the_table_of_what_is_tested_here():
    assert table() in GUIDE.read_text()


@pytest.mark.integration
@pytest.mark.parametrize("wrapper", ["client, fixed", "server, fixed"])
@pytest.mark.parametrize("name", CASES)
def test_with_little_noise_clients_learn_as_without(name, wrapper):
    free, private = play(name, rounds=15), play(name, wrapper, 0.05, rounds=15)
    assert private.dropped() == []
    assert private.accuracy() > free.accuracy() - 0.06


# ---------------------------------------------------------------------- several models


@pytest.mark.integration
@pytest.mark.parametrize("name", OWN_MODELS)
def test_little_and_much_noise_make_different_messages(name):
    runs = [play(name, "client, fixed", noise) for noise in (0.0, 0.0, 100.0)]
    for phase in ("train", "evaluate"):
        one, same, noisy = (run.sent(2, phase) for run in runs)
        for client in range(CLIENTS):
            for array, values in one[client].items():
                np.testing.assert_array_equal(values, same[client][array])
                assert (values != noisy[client][array]).all()


def test_a_hypernetwork_learns_from_changes_with_the_noise_of_one_client(monkeypatch):
    seen = []

    def step(self, clients, metadata, moved, *rest):
        seen.append(moved)

    monkeypatch.setattr("strategies.hypernetwork.embeddings.Embeddings.step", step)
    run = play("PFedHN", "server, fixed", 0.5, rounds=1)
    sent, found = run.sent(1), run.seen[0]
    network = run.strategy.network
    changes = [network.flat(sent[c]) - network.flat(found[c]) for c in range(CLIENTS)]
    noise = seen[0] - np.stack(changes)
    assert noise.std() == pytest.approx(0.5 * NORM, rel=0.1)
    assert abs(np.corrcoef(noise)[0, 1:]).max() < 0.4  # a client's noise is its own


def test_a_group_of_one_has_the_noise_of_one():
    few = dict(GROUPS) | {0: 2}
    run = play("GroupAveraging", "server, fixed", NOISE, groups=few)
    for client, members in ((0, 1), (1, 1), (2, 4)):
        noise, found = run.noise(client)
        assert found == members
        assert np.sqrt(np.mean(noise**2)) == pytest.approx(NOISE * NORM / members, rel=0.3)


def test_clients_of_another_app_that_send_no_changes_are_dropped_with_the_reason():
    def without_notes(message, context, call_next):
        answer = call_next(message, context)
        answer.content.pop("notes", None)
        return answer

    run = play("GroupAveraging", "server, fixed", mods=[without_notes])
    assert [report.dropped for report in run.strategy.reports if report.round == 1] == [""] * 12
    late = [r.dropped for r in run.strategy.reports if r.round == 2 and r.phase == "train"]
    assert len(late) == CLIENTS
    assert all("client_app" in reason for reason in late)


def test_changes_that_a_mod_of_the_client_has_clipped_as_arrays_are_dropped():
    run = play("GroupAveraging", "server, fixed", mods=[local_noise()])
    late = [r.dropped for r in run.strategy.reports if r.round == 2 and r.phase == "train"]
    assert len(late) == CLIENTS
    assert all("LocalDpMod" in reason for reason in late)


def test_the_wrapper_is_found_among_the_callers_and_only_there():
    found = []

    class Looking(PartialAveraging):
        def prepare(self, current):
            found.append(current.privacy)

    def ask(strategy):
        least = {"min_train_nodes": 1, "min_available_nodes": 1}
        inner = Looking(**least)
        grid = InProcessGrid(ClientApp(), 1)
        first = to_record({"w": np.zeros(2, np.float32)})
        strategy(inner).configure_train(1, first, ConfigRecord(), grid)
        return found[-1]

    assert ask(lambda inner: inner) is None
    for wrapper in (
        DifferentialPrivacyClientSideFixedClipping,
        DifferentialPrivacyServerSideFixedClipping,
    ):
        privacy = ask(partial(_wrapped, wrapper))
        assert isinstance(privacy.wrapper, wrapper)
        assert (privacy.noise_multiplier, privacy.clipping_norm) == (3.0, 0.5)
        assert privacy.deviation(6) == 0.25
    assert privacy_around(GroupAveraging()) is None


def _wrapped(wrapper, inner):
    return wrapper(inner, noise_multiplier=3.0, clipping_norm=0.5, num_sampled_clients=1)


def test_momentum_carries_no_update_without_its_noise_on():
    run = play(
        "PartialAveraging",
        "client, fixed",
        NOISE,
        server_momentum=0.5,
        parameter_names=["out.bias"],
    )
    first, second = (run.sent(number)[0]["out.bias"] for number in (1, 2))
    mean = np.mean([found["out.bias"] for found in run.seen[1].values()], axis=0)
    wanted = 0.5 * (first - second) + (second - mean)
    kept = run.strategy.state_arrays()["velocity/out.bias"]
    last = decoded(run.result.arrays)["out.bias"]
    np.testing.assert_allclose(kept, second - last, atol=1e-6)
    assert np.abs(kept - wanted).max() < 6 * NOISE * NORM / CLIENTS


# ---------------------------------------------------------------------- failures, and no examples


def failing(case, examples, context, config):
    if config.get("server-round") == 2 and context.node_config["partition-id"] == 1:
        raise MemoryError("no memory left")
    return build(case, examples, context, config)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize(
    "name",
    [
        "PartialAveraging",
        *(
            pytest.param(n, marks=pytest.mark.integration)
            for n in ["HierarchicalBayes", "QualityWeighted", "CFL", *OWN_MODELS]
        ),
    ],
)
def test_a_client_that_fails_counts_as_unchanged_and_is_reported(name, wrapper):
    run = play(name, wrapper, build=failing, rounds=3)
    bad = [r for r in run.strategy.reports if r.dropped and r.phase == "train"]
    assert [(r.round, r.client) for r in bad] == [(2, 1)]
    assert "no memory left" in bad[0].dropped
    assert set(run.lengths(2)) == set(range(CLIENTS))
    assert run.lengths(2).pop(1) == 0.0
    np.testing.assert_allclose(list(run.lengths(3).values()), NORM, rtol=1e-3)
    if name == "PartialAveraging":
        for array, values in run.sent(3)[0].items():
            mean = np.mean([run.seen[1][c][array] for c in range(CLIENTS)], axis=0)
            np.testing.assert_allclose(values, mean, atol=1e-6)


def test_where_all_clients_fail_nothing_moves():
    def all_failing(case, examples, context, config):
        if config.get("server-round") == 2:
            raise MemoryError("no memory left")
        return build(case, examples, context, config)

    run = play("GroupAveraging", "client, fixed", NOISE, build=all_failing, rounds=3)
    for client, arrays in run.sent(2).items():
        for name, values in arrays.items():
            np.testing.assert_array_equal(values, run.sent(3)[client][name])


def test_without_a_wrapper_a_failure_that_is_noted_is_dropped():
    strategy = PartialAveraging()
    failed, trained = (reply(100 + number, {"w": np.full(2, number)}) for number in (0, 1))
    failed.content["notes"] = ConfigRecord({"failure": "no memory left"})
    arrays, _ = strategy.aggregate_train(1, [failed, trained])
    assert [report.dropped for report in strategy.reports] == [
        "the client failed: no memory left",
        "",
    ]
    np.testing.assert_array_equal(decoded(arrays)["w"], [1, 1])


def test_without_a_wrapper_a_failure_is_an_error():
    run = play("PartialAveraging", build=failing)
    assert 1 not in run.seen[1]


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_client_without_examples_is_not_asked_to_train(wrapper):
    run = play("PartialAveraging", wrapper, examples=lambda number: 40 * (number != 3))
    for server_round in (1, 2):
        assert set(run.sent(server_round)) == {0, 1, 2, 4, 5}
        assert set(run.lengths(server_round)) == {0, 1, 2, 4, 5}
        assert set(run.sent(server_round, "evaluate")) == set(range(CLIENTS))
    asked = run.grid.of_type("query")
    assert [e.client for e in asked if "num-examples" in str(e.config["properties"])].count(0) == 1


# ---------------------------------------------------------------------- noise on variances


@pytest.mark.parametrize(
    "wrapper", ["client, fixed", pytest.param("server, fixed", marks=pytest.mark.integration)]
)
def test_variances_stay_above_zero_under_noise(wrapper):
    run = play("HierarchicalBayes", wrapper, 5.0, rounds=6)
    assert run.dropped() == []
    for server_round in range(1, 7):
        for arrays in run.sent(server_round).values():
            for name in HEAD:
                assert (arrays[f"prior-variance/{name}"] > 0).all()
    last = decoded(run.strategy.valid(run.result.arrays))
    assert all((last[f"prior-variance/{name}"] > 0).all() for name in HEAD)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ([0.5, 0.25], [0.5, 0.25]),
        ([4.0, -1.0], [4.0, 1.5]),
        ([1.0, -3.0], [1.0, 7.0]),
        ([], []),
    ],
)
def test_a_variance_below_zero_becomes_the_mean_of_its_tensor(given, wanted):
    found = positive_variance(np.array(given, np.float32), otherwise=7.0)
    np.testing.assert_array_equal(found, np.array(wanted, np.float32))
    assert found.dtype == np.float32


# ---------------------------------------------------------------------- what is not learned


@pytest.mark.parametrize("case", [COUNTING, COUNTING_GROUPS], ids=["one", "groups"])
@pytest.mark.parametrize("wrapper", [*WRAPPERS, "LocalDpMod"])
def test_integers_take_nothing_of_the_clipping_norm(wrapper, case):
    mods = [local_noise(1e9)] if wrapper == "LocalDpMod" else None
    run = play(case, wrapper if mods is None else "", mods=mods)
    assert run.dropped() == []
    for server_round in (1, 2):
        sent, seen = run.sent(server_round), run.seen[server_round - 1]
        for client in range(CLIENTS):
            assert integers(seen[client]) == integers(sent[client]) == integers(run.sent(1)[client])
        np.testing.assert_allclose(list(run.lengths(server_round).values()), NORM, rtol=1e-3)


@pytest.mark.parametrize("case", [COUNTING, COUNTING_GROUPS], ids=["one", "groups"])
@pytest.mark.parametrize("wrapper", [*WRAPPERS, "LocalDpMod"])
def test_much_noise_changes_no_integers(wrapper, case):
    mods = [local_noise(1.0)] if wrapper == "LocalDpMod" else None
    run = play(case, wrapper if mods is None else "", 1e3, mods=mods)
    first = integers(run.sent(1)[0])
    assert set(first) == set(COUNTERS)
    for phase in ("train", "evaluate"):
        assert all(integers(arrays) == first for arrays in run.sent(2, phase).values())
    assert integers(decoded(run.strategy.valid(run.result.arrays))) == first


def test_a_new_start_takes_the_integers_that_it_is_given():
    run = play(COUNTING, "client, fixed")
    outer = WRAPPERS["client, fixed"](run.strategy, noise_multiplier=0.0)
    given = {**decoded(run.result.arrays), "seen": np.array([7, 8, 9])}
    outer.start(run.grid, to_record(given), num_rounds=1)
    assert integers(run.sent(1)[0])["seen"] == ("int64", [7, 8, 9])


def integers(arrays):
    """Name -> dtype and values, of those that are integers or booleans."""
    return {n: (str(v.dtype), v.tolist()) for n, v in arrays.items() if v.dtype.kind in "ib"}


def test_everything_that_a_client_is_sent_is_answered_with_the_same_names():
    """Counters and parameters without dimensions arrive as they were."""
    run = play("PartialAveraging", "server, adaptive")
    shapes = {n: v.shape for n, v in run.sent(1)[0].items()}
    assert shapes["scale"] == ()
    assert {n: v.shape for n, v in run.sent(2)[0].items()} == shapes
    assert run.sent(2)[0]["scale"] != run.sent(1)[0]["scale"]
