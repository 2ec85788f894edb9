import numpy as np
import pytest
from flwr.app import ConfigRecord

from pfl_flower.client_app import make_app
from pfl_flower.config.errors import ConfigError
from pfl_flower.config.run_config import RunConfig
from pfl_flower.engines import simulate
from pfl_flower.grid import InProcessGrid
from pfl_flower.results.files import write
from pfl_flower.server.checkpoint import Checkpoints
from pfl_flower.server.run import play
from strategies import HierarchicalLinear
from strategies.arrays import to_record, view
from strategies.errors import ArgumentError
from strategies.hierarchical.hierarchical_linear import first_prior
from strategies.hierarchical.linear_arrays import (
    NAMES,
    PROTOCOLS,
    check_declared,
    contribution_arrays,
    moments_arrays,
    prior_arrays,
    prior_of,
)
from strategies.hierarchical.mixed_effects import moments, stack
from strategies.hierarchical.mixed_effects_em import Contribution, centre, contribution, fit, spread
from tests.errors import refused
from tests.helpers import decoded, error_reply, reply

SIZE = 3
CLIENTS = 5
CONFIG = {
    "method": "hierarchical-linear",
    "dataset": "mixed-effects",
    "partition": "natural",
    "min-examples": 2,
    "max-examples": 200,
    "baselines": "",
    "num-server-rounds": 4,
    "seed": 100,
}


def examples(client):
    draw = np.random.default_rng(client)
    count = 3 + 2 * client
    inputs = np.column_stack([draw.normal(size=(count, SIZE - 1)), np.ones(count)])
    return inputs, inputs @ draw.normal(size=SIZE) + 0.3 * draw.normal(size=count)


DATA = [moments(*examples(client)) for client in range(CLIENTS)]
EVERYBODY = stack(DATA)
PRIOR = first_prior(np.zeros(SIZE))


def reported(client, prior=PRIOR, protocol="iterative", **changes):
    """What a client replies, with some of its arrays or metrics changed."""
    if protocol == "one-shot":
        arrays = moments_arrays(DATA[client])
    else:
        arrays = contribution_arrays(contribution(DATA[client], prior))
    arrays |= {name: values for name, values in changes.items() if name in NAMES}
    count = changes.get("examples", int(DATA[client].examples))
    return reply(100 + client, arrays, {"num-examples": count})


def stepped(strategy, replies, prior=PRIOR, server_round=1):
    """What a strategy makes of replies to a prior."""
    strategy.round.arrays = to_record(prior_arrays(prior))
    arrays, _ = strategy.aggregate_train(server_round, replies)
    return None if arrays is None else prior_of(decoded(arrays))


def assert_same(left, right):
    for name, values in prior_arrays(left).items():
        np.testing.assert_allclose(values, prior_arrays(right)[name], rtol=1e-10, atol=1e-13)


def mean_of(many):
    return Contribution(
        *(a.mean(axis=0) for a in (many.score, many.spread, many.information, many.noise))
    )


@pytest.mark.parametrize("restricted", [True, False])
def test_odd_rounds_are_centres_and_even_ones_spreads_all_clients_weighing_the_same(restricted):
    strategy = HierarchicalLinear(restricted=restricted, weighting="examples")
    replies = [reported(client) for client in range(CLIENTS)]
    first = stepped(strategy, replies)
    wanted = centre(PRIOR, mean_of(contribution(EVERYBODY, PRIOR)), CLIENTS, restricted)
    assert_same(first, wanted)
    assert first.uncertainty.any() == restricted
    again = stepped(strategy, [reported(c, first) for c in range(CLIENTS)], first, 2)
    assert_same(again, spread(first, mean_of(contribution(EVERYBODY, first))))


def test_a_resumed_strategy_goes_on_with_the_step_that_is_next():
    strategy = HierarchicalLinear()
    strategy.rounds_before = 1  # Flower counts from 1 again
    replies = [reported(client) for client in range(CLIENTS)]
    assert_same(stepped(strategy, replies), spread(PRIOR, mean_of(contribution(EVERYBODY, PRIOR))))


@pytest.mark.parametrize("protocol", ["iterative", "one-shot"])
def test_the_order_of_replies_changes_no_bit(protocol):
    replies = [reported(client, protocol=protocol) for client in range(CLIENTS)]
    forward = stepped(HierarchicalLinear(protocol=protocol), replies)
    backward = stepped(HierarchicalLinear(protocol=protocol), replies[::-1])
    for name, values in prior_arrays(forward).items():
        assert values.tobytes() == prior_arrays(backward)[name].tobytes()


BAD = {
    "not finite": {"mean": np.array([0.0, np.nan, 0.0])},
    "infinite": {"noise": np.array([np.inf, 3.0])},
    "a negative count": {"noise": np.array([1.0, -3.0])},
    "half an example": {"noise": np.array([1.0, 2.5])},
    "more examples than it says": {"noise": np.array([1.0, 1e6])},
    "a negative sum of squares": {"noise": np.array([-1.0, 3.0])},
    "not positive semidefinite": {"covariance": -np.eye(SIZE)},
    "not symmetric": {"covariance": np.triu(np.ones((SIZE, SIZE)))},
    "another shape": {"covariance": np.eye(SIZE + 1)},
    "another dtype": {"mean": np.zeros(SIZE, dtype=np.float32)},
}


@pytest.mark.parametrize("protocol", ["iterative", "one-shot"])
@pytest.mark.parametrize("what", BAD)
def test_a_reply_that_cannot_be_is_dropped_and_the_others_count(what, protocol):
    good = [reported(client, protocol=protocol) for client in range(1, CLIENTS)]
    bad = reported(0, protocol=protocol, **BAD[what])
    strategy = HierarchicalLinear(protocol=protocol)
    assert_same(
        stepped(strategy, [*good, bad, error_reply(190)]),
        stepped(HierarchicalLinear(protocol=protocol), good),
    )
    dropped = [report for report in strategy.reports if report.dropped]
    assert [report.node_id for report in dropped] == [100, 190]


def test_moments_that_do_not_belong_together_are_refused():
    arrays = moments_arrays(DATA[2])
    check_declared(arrays, 7.0, "one-shot")
    for change, argument in (
        ({"noise": np.array([0.1, 7.0])}, "least eigenvalue of moments"),  # less than explained
        ({"noise": np.array([float(DATA[2].square), 5.0])}, "gram[-1, -1]"),  # not all the ones
        ({"mean": 100 * arrays["mean"]}, "least eigenvalue of moments"),
    ):
        with refused(ArgumentError, argument=argument):
            check_declared(arrays | change, 7.0, "one-shot")
    with refused(ArgumentError, argument="arrays", value=["mean"]):
        check_declared({"mean": np.zeros(3)}, 7.0)


def test_without_a_good_reply_the_prior_stays():
    for protocol in ("iterative", "one-shot"):
        strategy = HierarchicalLinear(protocol=protocol)
        assert stepped(strategy, [reported(0, protocol=protocol, **BAD["not finite"])]) is None
        assert stepped(strategy, []) is None


@pytest.mark.integration
def test_one_shot_is_the_fit_of_everybody_who_has_reported_whenever_that_was():
    strategy = HierarchicalLinear(protocol="one-shot")
    stepped(strategy, [reported(client, protocol="one-shot") for client in (4, 1)])
    late = stepped(strategy, [reported(client, protocol="one-shot") for client in (0, 3, 2)])
    assert_same(late, fit(EVERYBODY))
    at_once = HierarchicalLinear(protocol="one-shot")
    whole = stepped(at_once, [reported(client, protocol="one-shot") for client in range(CLIENTS)])
    for name, values in prior_arrays(whole).items():
        assert prior_arrays(late)[name].tobytes() == values.tobytes()
    resumed = HierarchicalLinear(protocol="one-shot")
    resumed.load_state_arrays(strategy.state_arrays())
    assert sorted(resumed.moments) == list(range(CLIENTS))
    assert_same(stepped(resumed, [reported(0, protocol="one-shot")]), late)


class Nodes:
    """A grid that only has nodes."""

    def get_node_ids(self):
        return [100 + client for client in range(CLIENTS)]


def test_who_has_reported_its_moments_is_not_asked_again():
    strategy = HierarchicalLinear(protocol="one-shot", min_available_nodes=1)
    strategy.clients.update({100 + client: client for client in range(CLIENTS)})
    stepped(strategy, [reported(client, protocol="one-shot") for client in (1, 3)])
    sent = to_record(prior_arrays(PRIOR))
    asked = strategy.configure_train(2, sent, ConfigRecord(), Nodes())
    assert [m.metadata.dst_node_id for m in asked] == [100, 102, 104]
    iterative = HierarchicalLinear(min_available_nodes=1)
    assert len(list(iterative.configure_train(2, sent, ConfigRecord(), Nodes()))) == CLIENTS


def test_the_first_prior_is_around_the_models_own_coefficients():
    weight, bias = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([7.0, 8.0], np.float32)
    record = to_record({"head.weight": weight, "head.bias": bias})
    found = prior_of(decoded(HierarchicalLinear().first_arrays(record)))
    assert found.mean.tolist() == [0, 1, 2, 7, 3, 4, 5, 8]
    np.testing.assert_array_equal(found.covariance, np.eye(8))
    for odd in ({"head.weight": weight}, {"a": weight, "b": weight}, {"b": bias, "a": weight}):
        with refused(ArgumentError, argument="shapes of the shared arrays"):
            HierarchicalLinear().first_arrays(to_record(odd))


def test_arguments_that_make_no_sense_are_refused():
    with refused(ArgumentError, argument="protocol", value="twice", choices=PROTOCOLS):
        HierarchicalLinear(protocol="twice")
    with refused(ArgumentError, argument="covariance", value="auto", choices=("full",)):
        HierarchicalLinear(covariance="auto")
    with refused(ArgumentError, argument="server_momentum", value=0.5):
        HierarchicalLinear(server_momentum=0.5, parameter_names=["mean"])


# ---------------------------------------------------------------------- whole runs


def final(run):
    return prior_of({name: view(array) for name, array in run.arrays.items()})


@pytest.mark.integration
def test_both_protocols_end_with_the_same_prior_and_models():
    # with so many examples each step comes much nearer
    many = {**CONFIG, "min-examples": 100, "partition": "natural"}
    (once,) = simulate(many | {"protocol": "one-shot", "num-server-rounds": 1}, 12)
    (steps,) = simulate(many | {"num-server-rounds": 51}, 12)
    for name, values in prior_arrays(final(once)).items():
        if name != "noise":
            np.testing.assert_allclose(prior_arrays(final(steps))[name], values, atol=1e-8)
    assert final(once).noise == pytest.approx(final(steps).noise, rel=1e-8)
    np.testing.assert_allclose(once.values(), steps.values(), rtol=1e-6)


@pytest.mark.integration
@pytest.mark.parametrize("protocol", ["iterative", "one-shot"])
def test_a_run_that_is_resumed_ends_as_one_never_interrupted(tmp_path, protocol):
    config = CONFIG | {"protocol": protocol, "late": 0.3}
    (whole,) = simulate(config, 8, folder=tmp_path / "whole")

    class StopError(Exception):
        pass

    def stop(news):
        if news.round == 3:
            raise StopError

    with pytest.raises(StopError):
        simulate(config, 8, folder=tmp_path / "run", progress=stop)
    at = Checkpoints.__new__(Checkpoints)
    at.folder = tmp_path / "run" / "checkpoint"
    assert at.load("hierarchical-linear").round == 3
    (resumed,) = simulate(config | {"resume": str(tmp_path / "run")}, 8)
    assert decoded(resumed.arrays).keys() == set(NAMES)
    for name, values in decoded(whole.arrays).items():
        assert decoded(resumed.arrays)[name].tobytes() == values.tobytes()
    texts = [[repr(r) for r in run.reports] for run in (resumed, whole)]
    assert texts[0] == texts[1]


@pytest.mark.deployment
@pytest.mark.parametrize("protocol", ["iterative", "one-shot"])
def test_the_same_numbers_on_ray_bit_for_bit(protocol):
    config = CONFIG | {"protocol": protocol, "unseen": 0.25, "late": 0.3}
    (here,), (ray,) = (simulate(config, 8, engine) for engine in ("in-process", "ray"))
    for name, values in decoded(here.arrays).items():
        assert decoded(ray.arrays)[name].tobytes() == values.tobytes()
    reported = [
        [(r.round, r.phase, r.client, str(r.metrics)) for r in run.reports] for run in (here, ray)
    ]
    assert reported[0] == reported[1]


def test_one_shot_asks_once_and_late_ones_when_they_come():
    (run,) = simulate(CONFIG | {"protocol": "one-shot", "late": 0.3}, 8)
    trained = [(r.round, r.client) for r in run.reports if r.phase == "train"]
    assert len(trained) == len({client for _, client in trained}) == 8
    assert {server_round for server_round, _ in trained} == {1, 3}
    assert len(run.by_client()) == 8


def test_unseen_clients_do_better_the_more_examples_they_have(tmp_path):
    (run,) = simulate(CONFIG | {"unseen": 0.25, "protocol": "one-shot"}, 24)
    errors = {k: np.mean([r.metrics["rmse"] for r in v]) for k, v in run.unseen.items()}
    assert errors[-1] < errors[5] < errors[0]
    write(tmp_path, [run])
    for name in ("shrinkage.png", "shrinkage.csv", "unseen.csv", "shared.safetensors"):
        assert (tmp_path / name).exists()


def test_a_safeguard_chooses_among_linear_models():
    config = CONFIG | {"safeguard": True, "num-server-rounds": 2, "learning-rate": 0.02}
    runs = simulate(config, 5)
    assert {run.config.architecture.model for run in runs} == {"linear"}
    assert runs[-1].label == "hierarchical-linear safeguarded"
    assert len(runs[-1].by_client()) == 5


def test_one_client_is_a_federation_too():
    for protocol in ("iterative", "one-shot"):
        (run,) = simulate(CONFIG | {"protocol": protocol, "min-examples": 20}, 1)
        assert np.isfinite(run.values()).all()


def test_classes_have_no_one_shot_and_a_diagonal_covariance():
    classes = {"method": "hierarchical-linear", "dataset": "breast-cancer", "baselines": ""}
    classes |= {"heterogeneity": "none", "num-server-rounds": 3}
    with refused(ConfigError, key="protocol", value="one-shot"):
        RunConfig.parse(classes | {"protocol": "one-shot"})
    (run,) = simulate(classes, 4)
    assert run.values().mean() > 0.9
    covariance = final(run).covariance
    assert not (covariance - np.diag(np.diag(covariance))).any()
    assert final(run).noise == 1.0


def test_configs_that_make_no_sense_are_refused(tmp_path):
    wrong = {"model": "mlp", "server-momentum": 0.5, "personal": "head", "mu": 0.1}
    for key, value in wrong.items():
        with pytest.raises(ConfigError) as error:
            RunConfig.parse(CONFIG | {key: value})
        assert (error.value.key, error.value.value) == (key, value)
    for key in ("protocol", "covariance"):
        value = {"protocol": "iterative", "covariance": "full"}[key]
        with refused(ConfigError, key=key, value=value):
            RunConfig.parse({"method": "fedavg", key: value})
    own = CONFIG | {"model": f"{__name__}:deep"}
    with refused(ConfigError, key="model", value=own["model"]):
        simulate(own, 2)


def deep(shape, outputs):
    from torch import nn

    return nn.Sequential(nn.Linear(shape[0], 4), nn.ReLU(), nn.Linear(4, outputs))


def test_a_node_that_lies_ends_nothing():
    config = RunConfig.parse(CONFIG | {"num-server-rounds": 2})
    grid = Lying(make_app(config.dump()), 4)
    (run,) = play(grid, config)
    assert [r.client for r in run.reports if r.phase == "train" and r.dropped] == [2, 2]
    assert np.isfinite(run.values()).all()
    assert len(run.by_client()) == 4


class Lying(InProcessGrid):
    """A grid on which client 2 reports a negative number of examples."""

    def answer(self, message):
        reply = super().answer(message)
        if message.metadata.message_type == "train" and message.metadata.dst_node_id == 102:
            arrays = decoded(reply.content["arrays"])
            reply.content["arrays"] = to_record(arrays | {"noise": np.array([1.0, -5.0])})
        return reply
