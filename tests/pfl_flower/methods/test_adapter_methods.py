"""Methods for low-rank adapters: what is frozen, shared and personal; what must hold exactly."""

import numpy as np
import pytest
import torch

from clients import Scope, low_rank_pairs
from clients.export.predict import build_network, predict
from clients.scopes import names_of
from clients.state.model_file import SUFFIX, read_model
from pfl_flower.client_app import make_app
from pfl_flower.config.errors import ConfigError
from pfl_flower.config.run_config import RunConfig
from pfl_flower.data.federation import Federation
from pfl_flower.engines import simulate
from pfl_flower.methods import adapters
from pfl_flower.model_setup import model_setup
from pfl_flower.server.run import play
from strategies.arrays import view
from tests.errors import refused
from tests.grids import RecordingGrid, leaks
from tests.helpers import assert_identical, metrics_of
from tests.tiers import quick_first

NETWORKS = "tests.pfl_flower.methods.lora_networks"
CONFIG = {
    "dataset": "breast-cancer",
    "model": f"{NETWORKS}:lora",
    "baselines": "",
    "num-server-rounds": 3,
    "local-epochs": 1,
    "batch-size": 8,
    "max-examples": 60,
    "learning-rate": 0.1,
    "wait": 0.0,
}
CLIENTS = 3
HALVES = {"A": "lora_A", "B": "lora_B"}
SCOPES = {
    "fedit": (Scope.SHARED, Scope.SHARED),
    "ffa-lora": (Scope.FROZEN, Scope.SHARED),
    "fedsa-lora": (Scope.SHARED, Scope.PERSONAL),
    "feddpa": (Scope.SHARED, Scope.SHARED),
}
"""Method -> the scopes of the halves A and B."""


@pytest.fixture(autouse=True)
def library():
    pytest.importorskip("peft")


def config_of(method, **options):
    return RunConfig.used(CONFIG | {"method": method} | options)


def recorded(config, clients=CLIENTS):
    """The run of a config, and the grid that has recorded its messages."""
    grid = RecordingGrid(make_app(config), clients)
    (run,) = play(grid, RunConfig.parse(config))
    assert not [report.dropped for report in run.reports if report.dropped]
    return run, grid


@pytest.mark.parametrize("method", SCOPES)
def test_what_is_shared_frozen_and_personal(method):
    run, grid = recorded(config_of(method))
    setup = model_setup(run.config)
    found = {half: set() for half in HALVES}
    for pair in low_rank_pairs(setup.model):
        found["A"].add(setup.scopes[pair.a])
        found["B"].add(setup.scopes[pair.b])
    assert tuple(found.values()) == tuple({scope} for scope in SCOPES[method])
    personal = names_of(setup.scopes, Scope.PERSONAL)
    assert {name for name in personal if "lora" not in name} == {
        f"base_model.model.head.modules_to_save.default.{end}" for end in ("weight", "bias")
    }
    frozen = names_of(setup.scopes, Scope.FROZEN)
    for exchange in grid.exchanges:
        assert leaks(exchange) == []
        for message in (exchange.message, exchange.reply):
            sent = {n for record in message.content.array_records.values() for n in record}
            assert not sent & {*personal, *frozen}
    assert {exchange.client for exchange in grid.exchanges if exchange.after} == set(range(CLIENTS))


def test_the_frozen_half_has_its_first_values_under_one_method_only():
    """A run of several methods has a network of each, which have the same first values."""
    (run, other) = simulate(config_of("ffa-lora", baselines="fedit"), CLIENTS)
    one, two = model_setup(run.config), model_setup(other.config)
    assert one.model is not two.model
    assert all(torch.equal(one.initial[name], two.initial[name]) for name in two.initial)
    pairs = low_rank_pairs(two.model)
    assert all(pair.a in other.arrays and pair.a not in run.arrays for pair in pairs)
    assert len(run.arrays) == len(pairs) < len(other.arrays)


def test_fedsa_lora_with_one_client_is_local_lora():
    (one,) = simulate(config_of("fedsa-lora"), 1)
    (alone,) = simulate(config_of("local"), 1)
    scores = [[m[:4] for m in metrics_of(run)] for run in (one, alone)]
    assert str(scores[0]) == str(scores[1])


def evaluations(run):
    """What every client's model scored, round by round."""
    numbers = ("partition-id", "group")
    return [
        (r.round, r.client, sorted((n, v) for n, v in r.metrics.items() if n not in numbers))
        for r in run.reports
        if r.phase == "evaluate"
    ]


def test_feddpa_with_the_personal_adapter_alone_is_local_lora():
    (one,) = simulate(config_of("feddpa", mixing=1.0, instances=0), CLIENTS)
    (alone,) = simulate(config_of("local"), CLIENTS)
    assert str(evaluations(one)) == str(evaluations(alone))


@pytest.mark.parametrize("instances", quick_first([0, 5]))
def test_feddpa_with_the_shared_adapter_alone_is_fedit_with_the_head_first(instances):
    (one,) = simulate(config_of("feddpa", mixing=0.0, instances=instances), CLIENTS)
    first = {"schedule": "head-then-body", "head-epochs": CONFIG["local-epochs"]}
    (other,) = simulate(config_of("fedit", **first), CLIENTS)
    assert str(evaluations(one)) == str(evaluations(other))
    for name, array in other.arrays.items():
        np.testing.assert_array_equal(view(one.arrays[name]), view(array))


def test_the_personal_adapter_of_feddpa_is_another_for_every_client_and_stays_there():
    run, grid = recorded(config_of("feddpa"))
    names = {half for p in low_rank_pairs(model_setup(run.config).model) for half in (p.a, p.b)}
    last = {e.client: e.after for e in grid.of_type("train")}
    for name in names:
        own = [view(last[client][f"feddpa/adapter/{name}"]) for client in range(CLIENTS)]
        assert not any(np.array_equal(own[0], other) for other in own[1:])
        assert not any(np.array_equal(view(run.arrays[name]), other) for other in own)
    assert run.parameters["personal"] == run.parameters["shared"] + 34


@pytest.mark.parametrize("steps", [0, 5])
def test_an_unseen_client_of_feddpa_trains_an_adapter_of_its_own(steps):
    options = {"unseen": 0.25, "adaptation-steps": steps}
    (run,) = simulate(config_of("feddpa", **options), 4)
    reports = [report for reports in run.unseen.values() for report in reports]
    assert reports
    assert all(np.isfinite(report.metrics["loss"]) for report in reports)


def test_an_exported_mixture_predicts_texts_as_it_was_judged(tmp_path):
    """Token ids with a mask: padded to the longest of all in a file, less in a batch of a run."""
    model = f"{NETWORKS}:masked_lora"
    options = {"dataset": "tests.pfl_flower.data.named_text:load", "model": model}
    (run,) = simulate(config_of("feddpa", **options, **{"personal-dir": str(tmp_path)}), 2)
    for client, loss in run.by_client("loss").items():
        inputs, labels = Federation(run.config.data, 2).client(client).test
        found = read_model(tmp_path / f"client-{client}{SUFFIX}")
        rows = predict(build_network(found, model), found, np.asarray(inputs))
        chances = [
            row[f"probability-{run.config.required_schema.labels[label]}"]
            for row, label in zip(rows, labels, strict=True)
        ]
        assert -np.log(chances).mean() == pytest.approx(loss, rel=1e-5)


def products(run, grid, number):
    """Mean of the clients' products B A after a round, and the product of the next round's."""
    setup = model_setup(run.config)
    replies = [e for e in grid.of_type("train") if e.config["server-round"] == number]
    after = next(e for e in grid.of_type("evaluate") if e.config["server-round"] == number)
    sizes = [float(e.reply.content["metrics"]["num-examples"]) for e in replies]

    def product(arrays, pair):
        values = {name: view(array).astype(np.float64) for name, array in arrays.items()}
        first = values.get(pair.a, setup.initial[pair.a].double().numpy())
        return values[pair.b] @ first

    for pair in low_rank_pairs(setup.model):
        own = [product(e.reply.content["arrays"], pair) for e in replies]
        yield np.average(own, axis=0, weights=sizes), product(after.message.content["arrays"], pair)


def differences(method, **options):
    """How far the product of means is from the mean of products, of every adapter and round."""
    run, grid = recorded(config_of(method, **options))
    return [
        np.linalg.norm(mean - found) / np.linalg.norm(mean)
        for number in (1, 2, 3)
        for mean, found in products(run, grid, number)
    ]


def test_the_mean_of_products_is_the_product_of_means_where_a_is_frozen():
    assert max(differences("ffa-lora")) < 1e-6
    assert max(differences("fedit")) > 1e-2  # where it is not


def test_the_exact_mean_is_nearer_to_the_mean_of_products():
    plain, exact = differences("fedit"), differences("fedit", **{"exact-mean": True})
    assert max(exact) < max(plain)
    assert np.mean(exact) < np.mean(plain) / 2


@pytest.mark.parametrize(
    ("method", "options", "key"),
    [
        ("fedit", {"server-momentum": 0.5}, "server-momentum"),
        ("fedit", {"personal": "head,adapter.A"}, "exact-mean"),
        ("feddpa", {"personal": "head,adapter.B"}, "exact-mean"),
    ],
)
def test_an_exact_mean_of_nothing_is_refused(method, options, key):
    config = CONFIG | {"method": method, "exact-mean": True} | options
    value = options.get(key, True)
    with refused(ConfigError, key=key, value=value):
        model_setup(RunConfig.parse(config)).check()


@pytest.mark.parametrize("network", ["embedding_lora", "dora"])
def test_adapters_without_an_output_for_each_example_are_not_mixed(network):
    model = f"{NETWORKS}:{network}"
    options = {"dataset": f"{NETWORKS}:tokens", "model": model}
    simulate(config_of("fedit", **options), 2)
    with refused(ConfigError, key="model", value=model):
        simulate(config_of("feddpa", **options), 2)


COMMUNITY = {"personal": "head", "group": "adapter"}
CLUSTERED = ("ifca", "gradient-clusters", "cfl", "known-groups")


@pytest.mark.parametrize("method", quick_first(CLUSTERED))
def test_adapters_of_a_cluster_are_those_of_its_clients(method):
    options = COMMUNITY | {"clusters": 2, "heterogeneity": "taste", "cluster-sizes": "2,2"}
    options = {k: v for k, v in options.items() if k != "clusters" or method in CLUSTERED[:2]}
    run, grid = recorded(config_of(method, **options), 4)
    setup = model_setup(run.config)
    halves = {half for pair in low_rank_pairs(setup.model) for half in (pair.a, pair.b)}
    assert set(names_of(setup.scopes, Scope.GROUP)) == halves
    assert not names_of(setup.scopes, Scope.SHARED)
    assert not any(leaks(exchange) for exchange in grid.exchanges)
    assert all(report.metrics["group"] in range(4) for report in run.reports)


def test_one_cluster_is_fedit():
    (one,) = simulate(config_of("ifca", **COMMUNITY, clusters=1), CLIENTS)
    (other,) = simulate(config_of("fedit"), CLIENTS)
    assert str(evaluations(one)) == str(evaluations(other))


def test_models_of_adapters_alone_start_as_different_functions():
    """All B begin at zero, so that other draws of A alone would have the same losses."""
    run, grid = recorded(config_of("ifca", **COMMUNITY, clusters=3), CLIENTS)
    setup = model_setup(run.config)
    one, two, again = (setup.another_draw(0, number) for number in (1, 2, 1))
    for pair in low_rank_pairs(setup.model):
        assert one[pair.b].any()
        assert not np.array_equal(one[pair.b], two[pair.b])
        np.testing.assert_array_equal(one[pair.b], again[pair.b])
        assert one[pair.b].std() == pytest.approx(0.1 * one[pair.a].std(), rel=0.5)
    for exchange in grid.of_type("query.losses")[:CLIENTS]:
        (metrics,) = exchange.reply.content.metric_records.values()
        assert len({metrics[f"loss-{number}"] for number in range(3)}) == 3


@pytest.mark.parametrize("network", ["without_lora", "frozen_lora"])
@pytest.mark.parametrize("method", adapters.METHODS)
def test_a_network_without_adapters_to_train_is_refused_before_round_1(method, network):
    model = f"{NETWORKS}:{network}"
    rounds = []
    with refused(ConfigError, key="model", value=model, choices=("low-rank-cnn", "low-rank-mlp")):
        simulate(config_of(method, model=model), CLIENTS, progress=rounds.append)
    assert not rounds


def test_so_is_one_of_the_library():
    with refused(ConfigError, key="model", value="cnn", choices=("low-rank-cnn", "low-rank-mlp")):
        simulate({"method": "fedit", "model": "cnn", "baselines": ""}, CLIENTS)


@pytest.mark.parametrize("method", quick_first(adapters.METHODS))
def test_a_run_that_is_resumed_has_the_same_numbers(method, tmp_path):
    whole = simulate(config_of(method, **{"personal-dir": str(tmp_path / "whole")}), CLIENTS)

    class StopError(Exception):
        pass

    def stop(news):
        if news.round == 2:
            raise StopError

    options = {"personal-dir": str(tmp_path / "device")}
    folder = tmp_path / "results"
    with pytest.raises(StopError):
        simulate(config_of(method, **options), CLIENTS, progress=stop, folder=folder)
    resumed = config_of(method, **options, resume=str(folder))
    assert_identical(whole, simulate(resumed, CLIENTS, folder=folder))
