"""The same run on both engines, and what leaves a client."""

import numpy as np
import pytest

from clients import Scope
from clients.scopes import names_of
from pfl_flower.client_app import initial_model, make_app, scopes_of
from pfl_flower.config import RunConfig
from pfl_flower.engines import simulate
from pfl_flower.federation import play
from pfl_flower.grid import InProcessGrid
from pfl_flower.methods import METHODS
from tests.helpers import decoded

SMALL = {"num-server-rounds": 3, "local-epochs": 1, "baselines": "", "fine-tuning-epochs": "0,1"}


def metrics_of(run):
    return [
        (r.round, r.phase, r.client, dict(r.metrics), r.bytes_down, r.bytes_up, r.dropped)
        for r in run.reports
    ]


def assert_identical(one, other):
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        assert str(metrics_of(left)) == str(metrics_of(right))  # as text: NaN equals NaN
        arrays, others = decoded(left.arrays), decoded(right.arrays)
        assert arrays.keys() == others.keys()
        for name, values in arrays.items():
            np.testing.assert_array_equal(values, others[name])


def test_the_same_numbers_on_ray_bit_for_bit():
    config = SMALL | {
        "method": "fedrep",
        "baselines": "fedavg,fedbabu",
        "personal": "head,norm",
        "fraction-train": 0.5,
        "seed": 3,
    }
    here = simulate(config, 6)
    ray = simulate(config, 6, engine="ray")
    assert_identical(here, ray)
    assert {r.client for r in here[0].reports if r.phase == "evaluate"} == set(range(6))
    trained = [r.client for r in here[0].reports if r.phase == "train" and r.round == 1]
    assert len(trained) == 3


def test_the_same_seed_twice_and_another_seed():
    config = SMALL | {"method": "fedper"}
    assert_identical(simulate(config, 4), simulate(config, 4))
    other = simulate(config | {"seed": 1}, 4)
    assert metrics_of(other[0]) != metrics_of(simulate(config, 4)[0])


class Inspected(InProcessGrid):
    """A grid that keeps every message."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.seen = []

    def _process(self, message):
        reply = super()._process(message)
        self.seen += [message, reply]
        return reply


@pytest.mark.parametrize("method", METHODS)
def test_no_personal_array_is_in_any_message(method):
    config = RunConfig.parse(SMALL | {"method": method})
    grid = Inspected(make_app(config.dump()), 3)
    play(grid, config)
    scopes = scopes_of(config)
    personal, shared = names_of(scopes, Scope.PERSONAL), names_of(scopes, Scope.SHARED)
    assert len(grid.seen) == 2 * (1 + 3 * 3 * 2)
    secrets = [
        array.data[128:]  # the content behind the header of the NumPy format
        for context in grid.contexts.values()
        for record in context.state.array_records.values()
        for name, array in record.items()
        if len(array.data) >= 128 + 16
    ]
    assert bool(secrets) == bool(personal or config.fine_tuning)
    for message in grid.seen:
        assert not message.has_error()
        for record in message.content.array_records.values():
            assert list(record) == shared
            for array in record.values():
                assert not any(secret in array.data for secret in secrets)
        text = str([dict(r) for r in message.content.metric_records.values()])
        assert not any(name in text for name in personal)


def test_everything_personal_is_local():
    local = simulate(SMALL | {"method": "local"}, 4)[0]
    fedper = simulate(SMALL | {"method": "fedper", "personal": "all"}, 4)[0]
    assert metrics_of(local) == metrics_of(fedper)


def test_no_personal_part_is_fedavg():
    fedavg = simulate(SMALL | {"method": "fedavg"}, 4)[0]
    fedper = simulate(SMALL | {"method": "fedper", "personal": "none"}, 4)[0]
    assert metrics_of(fedavg) == metrics_of(fedper)


def test_mu_zero_is_fedavg():
    fedavg = simulate(SMALL | {"method": "fedavg"}, 4)[0]
    fedprox = simulate(SMALL | {"method": "fedprox", "mu": 0.0}, 4)[0]
    assert metrics_of(fedavg) == metrics_of(fedprox)
    assert metrics_of(fedavg) != metrics_of(simulate(SMALL | {"method": "fedprox"}, 4)[0])


def test_untrained_adapters_are_the_core_bitwise():
    rules = {"local-epochs": 0, "schedule": "body-only", "heterogeneity": "none"}
    core = simulate(SMALL | rules | {"method": "fedavg", "model": "cnn"}, 3)[0]
    adapted = simulate(SMALL | rules | {"method": "adapters"}, 3)[0]
    np.testing.assert_array_equal(core.by_client("loss"), adapted.by_client("loss"))


def test_every_method_learns_more_than_chance_on_plain_digits():
    for method in METHODS:
        config = SMALL | {"method": method, "heterogeneity": "none", "num-server-rounds": 6}
        (run,) = simulate(config, 3)
        assert run.by_client().mean() > 0.5, method


def test_two_and_a_hundred_nodes():
    for count in (2, 100):
        (run,) = simulate(SMALL | {"num-server-rounds": 1}, count)
        assert len(run.by_client()) == count


def test_a_grid_reports_nodes_it_does_not_have():
    from flwr.app import Message, RecordDict

    grid = InProcessGrid(make_app({}), 1)
    (reply,) = grid.send_and_receive([Message(RecordDict(), 5, "train")])
    assert "node 5 is not part" in reply.error.reason
    with pytest.raises(ValueError, match="at least one node"):
        InProcessGrid(make_app({}), 0)


def test_the_networks_are_made_once_a_process():
    config = RunConfig.parse(SMALL)
    assert initial_model(config.architecture, 0)[0] is initial_model(config.architecture, 0)[0]
