"""Every method on graphs: nodes, links, unseen clients, safeguards, a resumed run, and Ray."""

import numpy as np
import pytest
from flwr.app import Context, RecordDict

from clients import Scope, ScopeError
from pfl_flower.client.build import build_client
from pfl_flower.config.errors import ConfigError
from pfl_flower.config.run_config import RunConfig
from pfl_flower.engines import simulate
from pfl_flower.methods import METHODS, adapters
from pfl_flower.model_setup import model_setup
from pfl_flower.results.files import describe, write
from strategies.arrays import view
from tests.errors import refused
from tests.helpers import assert_identical
from tests.pfl_flower.methods.graph_helpers import SMALL, metrics_of
from tests.tiers import quick_first

REFUSED = {
    "fedbn": (ScopeError, {"rule": "norm"}),
    "personal-se": (ScopeError, {"rule": "se"}),
    **dict.fromkeys(adapters.METHODS, (ConfigError, {"key": "model", "value": "gcn"})),
    "hierarchical-linear": (ConfigError, {"key": "method", "value": "hierarchical-linear"}),
    "errors-in-variables": (ConfigError, {"key": "method", "value": "errors-in-variables"}),
}
"""Method -> why it is for no graph; known before any client is asked to train."""

OPTIONS = {
    "l2gd": {"optimizer": "sgd"},
    "lifelong": {"fisher-samples": 1},  # exact is a gradient for every class of every node
}

TASKS = pytest.mark.parametrize("task", quick_first(["auto", "link-prediction"]))


@TASKS
@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_on_graphs_or_says_why_not(method, task):
    config = SMALL | {"method": method, "task": task, "local-epochs": 1} | OPTIONS.get(method, {})
    if method in REFUSED:
        kind, attributes = REFUSED[method]
        with refused(kind, **attributes):
            simulate(config, 4)
        return
    (run,) = simulate(config, 4)
    assert run.left_out == ()
    assert {(r.client, r.round) for r in run.reports if r.phase == "evaluate"} == {
        (client, number) for client in range(4) for number in (1, 2)
    }
    for report in run.reports:
        assert not report.dropped
        reported = ["loss", run.score] if report.phase == "evaluate" else ["num-examples"]
        assert np.isfinite([report.metrics[name] for name in reported]).all()


@pytest.mark.parametrize("method", REFUSED)
def test_what_is_refused_as_a_method_is_refused_as_a_baseline(method):
    kind, attributes = REFUSED[method]
    with refused(kind, **attributes):
        simulate(SMALL | {"method": "fedavg-gnn", "baselines": method}, 4)


@pytest.mark.parametrize(
    ("values", "key", "choices"),
    [
        ({"method": "fedavg-gnn"}, "method", ("social",)),
        ({"method": "local-gnn"}, "method", ("social",)),
        ({"model": "gcn"}, "model", ("mlp",)),
        ({"dataset": "social", "model": "mlp"}, "model", ("adapter-gat",)),
        ({"dataset": "social", "model": "cnn"}, "model", ("adapter-gat",)),
        ({"method": "community-adapters", "clusters": 2}, "clusters", ()),
        (
            {"method": "community-adapters", "communities": "guessed"},
            "communities",
            ("declared", "gradients", "updates"),
        ),
        ({"method": "community-adapters", "group-decay": -1.0}, "group-decay", ()),
        ({"method": "community-adapters", "personal": "all"}, "personal", ()),
        ({"method": "community-adapters", "personal": "adapter,head"}, "personal", ()),
        ({"whole-graph": -1}, "whole-graph", ()),
        ({"fanout": 0}, "fanout", ()),
    ],
)
def test_bad_settings_are_refused_with_what_would_be_right(values, key, choices):
    with refused(ConfigError, key=key, value=values[key], choices=choices):
        RunConfig.parse(values)


@pytest.mark.parametrize("model", ["sage", "gat", "gin"])
@pytest.mark.parametrize("method", ["lifelong", "hierarchical-bayes", "gradient-clusters"])
def test_gradients_of_single_nodes_are_those_of_every_layer(method, model):
    config = SMALL | {"method": method, "model": model, "num-server-rounds": 1, "local-epochs": 1}
    (run,) = simulate(config | OPTIONS.get(method, {}), 2)
    assert not [report.dropped for report in run.reports if report.dropped]
    assert np.isfinite(run.values("loss")).all()


@TASKS
@pytest.mark.parametrize("method", ["community-adapters", "hierarchical-bayes", "ditto"])
def test_unseen_clients_late_clients_and_safeguards(method, task, tmp_path):
    extras = {"unseen": 0.2, "late": 0.2, "fraction-train": 0.6, "safeguard": True}
    config = SMALL | {"method": method, "task": task, "local-epochs": 1, "adaptation-steps": 5}
    runs = simulate(config | extras, 5)
    assert [run.label or run.method for run in runs] == [
        *(method, "fedavg", "local", f"{method} safeguarded"),
    ]
    for run in runs:
        assert len(run.by_client()) == 4
        assert np.isfinite(run.values()).all()
    for run in runs[:3]:
        joined = {count: [r.client for r in reports] for count, reports in run.unseen.items()}
        (unseen_client,) = joined[0]
        assert joined == {count: [unseen_client] for count in (0, 1, 5, 20, -1)}
        for (report,) in run.unseen.values():
            assert not report.dropped
            assert np.isfinite([report.metrics["loss"], report.metrics[run.score]]).all()
        assert unseen_client not in run.by_client()
    write(tmp_path, runs)
    lines = describe(runs)
    assert all(any(run.method in line for line in lines) for run in runs)


class StoppedError(Exception):
    """The run was interrupted."""


@pytest.mark.integration
@pytest.mark.parametrize(
    "options",
    [
        {"method": "community-adapters", "personal": "head", "group": "adapter"},
        {"method": "community-adapters", "communities": "gradients", "server-momentum": 0.5},
        {"method": "local-gnn", "task": "link-prediction", "whole-graph": 50},
    ],
)
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(tmp_path, options):
    config = SMALL | {"num-server-rounds": 3, "local-epochs": 1, "fraction-train": 0.7} | options

    def stop(news):
        if news.round == 2:
            raise StoppedError

    (whole,) = simulate(config | {"personal-dir": str(tmp_path / "whole")}, 4)
    config["personal-dir"] = str(tmp_path / "devices")
    with pytest.raises(StoppedError):
        simulate(config, 4, progress=stop, folder=tmp_path / "run")
    played = []
    resumed = simulate(
        config | {"resume": str(tmp_path / "run")}, 4, progress=lambda n: played.append(n.round)
    )
    assert played == [3]
    assert metrics_of(resumed[0], without=()) == metrics_of(whole, without=())
    for name, array in whole.arrays.items():
        np.testing.assert_array_equal(view(resumed[0].arrays[name]), view(array))
    if whole.grouping:
        assert resumed[0].grouping.groups == whole.grouping.groups
        # as text: NaN equals NaN
        assert str(resumed[0].grouping.assignments) == str(whole.grouping.assignments)


@pytest.mark.deployment
def test_the_same_numbers_on_ray_bit_for_bit():
    found = {"communities": "gradients", "fraction-train": 0.6, "unseen": 0.2}
    config = SMALL | {"method": "community-adapters", "baselines": "fedavg-gnn,local-gnn"} | found
    for extra in ({}, {"task": "link-prediction", "whole-graph": 50, "num-server-rounds": 1}):
        assert_identical(simulate(config | extra, 6), simulate(config | extra, 6, engine="ray"))


def test_what_is_personal_is_not_the_communitys():
    config = RunConfig.parse(
        {"dataset": "social", "partition": "natural", "method": "community-adapters"}
        | {"personal": "head"}
    )
    scopes = model_setup(config).scopes
    assert {scopes[n] for n in scopes if n.startswith("head")} == {Scope.PERSONAL}
    assert {scopes[n] for n in scopes if n.startswith("adapter")} == {Scope.GROUP}


@pytest.mark.parametrize(("communities", "declared"), [("declared", True), ("gradients", False)])
def test_a_client_declares_its_community_only_where_it_is_asked_for(communities, declared):
    config = RunConfig.parse(
        {"dataset": "social", "partition": "natural", "method": "community-adapters"}
        | {"communities": communities}
    )
    context = Context(0, 0, {"partition-id": 0, "num-partitions": 4}, RecordDict(), {})
    assert ("group" in build_client(config, context).get_properties({})) == declared


@pytest.mark.parametrize("communities", quick_first(["declared", "gradients", "updates"]))
def test_results_of_communities_are_written_whatever_found_them(tmp_path, communities):
    config = {"dataset": "social", "partition": "natural", "method": "community-adapters"}
    config |= {"communities": communities, "num-server-rounds": 7, "baselines": ""}
    runs = simulate(config | {"optimizer": "adam", "learning-rate": 0.01}, 8)
    write(tmp_path, runs)
    assert (tmp_path / "accuracy.png").exists()
    assert (tmp_path / "clusters.csv").exists()


def test_a_layer_comes_with_its_adapters_where_the_method_has_some():
    config = {"dataset": "social", "partition": "natural", "model": "sage"}
    run = RunConfig.parse(config | {"method": "fedavg-gnn"})
    assert run.architecture.model == "sage"
    assert run.for_method("community-adapters").architecture.model == "adapter-sage"


def test_a_network_that_cannot_look_at_graphs_ends_the_run_before_it_starts():
    config = {"dataset": "social", "partition": "natural", "baselines": "", "method": "fedavg"}
    with refused(ConfigError, key="model", value="tests.helpers:flat_network"):
        simulate(config | {"model": "tests.helpers:flat_network"}, 4)
