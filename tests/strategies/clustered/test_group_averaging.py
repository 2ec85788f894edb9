import logging

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from safetensors.numpy import load, save

from pfl_flower.grid import GridWithout, InProcessGrid
from strategies import (
    CFL,
    IFCA,
    NO_GROUP,
    Assignment,
    GradientClusters,
    GroupAveraging,
    PartialAveraging,
)
from strategies.arrays import to_record
from strategies.clustered.gradient_signatures import Signature
from strategies.clustered.ifca import SPREAD
from strategies.errors import ArgumentError
from strategies.rounds import Round
from tests.errors import refused
from tests.grids import RecordingGrid
from tests.helpers import decoded, error_reply, reply

W = np.arange(6, dtype=np.float32).reshape(2, 3)
START = {"s": W, "w": W}
TWO = {0: 0, 1: 0, 2: 1, 3: 1}


def averaging(groups=TWO, **options):
    return GroupAveraging(group_names=["w"], groups=groups, **options)


def replies_of(values, **arrays):
    """A reply a client: client -> factor of its arrays, whose numbers of examples are 1, 2, ..."""
    return [
        reply(100 + c, {"s": x * W, "w": x * W, **arrays}, {"num-examples": c + 1})
        for c, x in values.items()
    ]


def aggregate(strategy, replies, server_round=1):
    arrays, _ = strategy.aggregate_train(server_round, replies)
    return None if arrays is None else decoded(arrays)


def of_group(strategy, group, name="w"):
    return decoded(strategy.models[group])[name]


def answering_app(reported=None, losses=None):
    """Clients that tell their numbers, perhaps their groups, and the losses of models."""
    app = ClientApp()

    @app.query()
    def query(message: Message, context) -> Message:
        number = context.node_config["partition-id"]
        answer = {"partition-id": number}
        if (
            reported
            and number in reported
            and "group" in str(message.content["config"]["properties"])
        ):
            answer["group"] = reported[number]
        return Message(RecordDict({"properties": ConfigRecord(answer)}), reply_to=message)

    @app.query("losses")
    def losses_of(message: Message, context) -> Message:
        number = context.node_config["partition-id"]
        found = {f"loss-{group}": loss for group, loss in enumerate(losses[number])}
        metrics = MetricRecord({"num-examples": 1, "partition-id": number, **found})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context) -> Message:
        number = context.node_config["partition-id"]
        metrics = MetricRecord({"num-examples": 1, "partition-id": number, "loss": 1.0})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


def sent(strategy, grid, arrays=START, server_round=1):
    """What each client is sent for training: client -> name -> values."""
    record = to_record(arrays)
    messages = strategy.configure_train(server_round, record, ConfigRecord(), grid)
    numbers = {node: c.node_config["partition-id"] for node, c in grid.contexts.items()}
    return {numbers[m.metadata.dst_node_id]: decoded(m.content["arrays"]) for m in messages}


def test_group_arrays_are_averaged_within_groups_and_the_others_over_everyone():
    strategy = averaging()
    arrays = aggregate(strategy, replies_of({0: 3, 1: 0, 2: 7, 3: 0}))  # examples: 1, 2, 3, 4
    np.testing.assert_allclose(of_group(strategy, 0), W, rtol=1e-6)
    np.testing.assert_allclose(of_group(strategy, 1), 3 * W, rtol=1e-6)
    for name in ("s", "w"):  # of group arrays everybody's mean is what clients in no group get
        np.testing.assert_allclose(arrays[name], 2.4 * W, rtol=1e-6)
    assert strategy.models[0].keys() == strategy.models[1].keys() == {"w"}


def test_uniform_weighting_holds_within_groups_and_between_them():
    strategy = averaging({0: 0, 1: 1, 2: 1}, weighting="uniform")
    arrays = aggregate(strategy, replies_of({0: 3, 1: 6, 2: 12}))
    np.testing.assert_allclose(of_group(strategy, 1), 9 * W, rtol=1e-6)
    np.testing.assert_allclose(arrays["w"], 7 * W, rtol=1e-6)


def test_one_group_and_no_group_arrays_are_plain_averaging_bit_for_bit():
    values = {c: np.float32(x) for c, x in enumerate(np.random.default_rng(0).normal(size=5))}
    expected = aggregate(PartialAveraging(), replies_of(values))
    one = aggregate(averaging(dict.fromkeys(range(5), 0)), replies_of(values))
    none = aggregate(GroupAveraging(group_names=(), groups=TWO), replies_of(values))
    for name, array in expected.items():
        np.testing.assert_array_equal(one[name], array)
        np.testing.assert_array_equal(none[name], array)


def test_a_group_alone_is_plain_averaging_of_its_members_bit_for_bit():
    values = {c: np.float32(x) for c, x in enumerate(np.random.default_rng(1).normal(size=4))}
    strategy = averaging()
    aggregate(strategy, replies_of(values)[::-1])
    for group, members in ((0, (0, 1)), (1, (2, 3))):
        alone = aggregate(PartialAveraging(), replies_of({c: values[c] for c in members}))
        np.testing.assert_array_equal(of_group(strategy, group), alone["w"])


def test_counters_of_a_group_stay_integers():
    strategy = GroupAveraging(group_names=["n"], groups=TWO)
    replies = [reply(100 + c, {"n": np.array(4 * c)}) for c in range(4)]
    arrays = aggregate(strategy, replies)
    found = [of_group(strategy, group, "n") for group in (0, 1)]
    assert [(int(n), n.dtype, n.shape) for n in found] == [(4, np.int64, ()), (12, np.int64, ())]
    assert arrays["n"] == 12


def test_a_group_of_which_nobody_took_part_keeps_its_arrays():
    strategy, grid = averaging(), InProcessGrid(answering_app(), 4)
    sent(strategy, grid)
    first = aggregate(strategy, replies_of({0: 1, 1: 1, 2: 5, 3: 5}))
    before = strategy.models[1]
    sent(strategy, grid, first, 2)
    arrays = aggregate(strategy, replies_of({0: 2, 1: 2}), 2)
    assert strategy.models[1] is before
    np.testing.assert_allclose(arrays["w"], 2 * W, rtol=1e-6)  # of those who took part
    np.testing.assert_allclose(of_group(strategy, 0), 2 * W, rtol=1e-6)


def test_a_round_without_a_good_reply_changes_no_group():
    strategy = averaging()
    aggregate(strategy, replies_of({0: 1, 2: 5}))
    before = dict(strategy.models)
    assert aggregate(strategy, [error_reply(100), error_reply(102)], 2) is None
    assert strategy.models == before


def test_each_client_is_sent_its_groups_arrays_and_one_in_no_group_the_mean():
    strategy, grid = averaging(TWO), InProcessGrid(answering_app(reported={}), 6)
    for arrays in sent(strategy, grid).values():
        np.testing.assert_array_equal(arrays["w"], W)  # the start: no group has learned anything
    means = aggregate(strategy, replies_of({0: 2, 1: 2, 2: 4, 3: 4, 4: 9, 5: 9}))
    found = sent(strategy, grid, means, 2)
    expected = {0: 2 * W, 1: 2 * W, 2: 4 * W, 3: 4 * W, 4: means["w"], 5: means["w"]}
    for client, arrays in found.items():
        np.testing.assert_allclose(arrays["w"], expected[client], rtol=1e-6)
        np.testing.assert_array_equal(arrays["s"], means["s"])
    assert strategy.models.keys() == {0, 1}
    assert [strategy.groups[c] for c in (4, 5)] == [NO_GROUP, NO_GROUP]


def test_the_mean_over_everybody_includes_those_in_no_group():
    strategy = averaging({0: 0, 1: 0}, weighting="uniform")
    strategy.groups[2] = NO_GROUP
    arrays = aggregate(strategy, replies_of({0: 1, 1: 1, 2: 7}))
    np.testing.assert_allclose(arrays["w"], 3 * W, rtol=1e-6)
    np.testing.assert_allclose(of_group(strategy, 0), W, rtol=1e-6)


def test_clients_are_asked_for_their_groups_once():
    strategy = averaging({})
    grid = RecordingGrid(answering_app({0: 3, 1: 0, 2: "north", 3: -4}), 5)
    strategy.clients.update({100 + client: client for client in range(5)})
    for server_round in (1, 2):
        sent(strategy, grid, server_round=server_round)
    asked = [(e.client, e.config["properties"]) for e in grid.exchanges]
    assert asked == [(client, "partition-id,group") for client in range(5)]
    assert strategy.groups == {0: 3, 1: 0, 2: NO_GROUP, 3: NO_GROUP, 4: NO_GROUP}
    assert {p.reason for p in strategy.assignments if p.group == NO_GROUP} == {
        "the client has no group"
    }


def test_a_new_group_starts_from_the_mean_and_then_has_arrays_of_its_own():
    strategy, grid = averaging({0: 0, 1: 0}), InProcessGrid(answering_app(), 2)
    sent(strategy, grid)
    means = aggregate(strategy, replies_of({0: 2, 1: 6}))
    strategy.assign_client(2, 1, 7, 0.5, "moved")
    found = sent(strategy, grid, means, 2)
    np.testing.assert_array_equal(found[1]["w"], means["w"])
    aggregate(strategy, replies_of({0: 2, 1: 6}), 2)
    np.testing.assert_array_equal(of_group(strategy, 7), 6 * W)
    np.testing.assert_array_equal(of_group(strategy, 0), 2 * W)
    assert [tuple(p) for p in strategy.assignments[-1:]] == [(2, 1, 7, 0.5, "moved")]
    strategy.assign_client(3, 1, 7, 0.9, "the same again")
    assert len(strategy.assignments) == 3


@pytest.mark.parametrize("where", ["s", "w"])
def test_what_is_not_finite_in_one_array_drops_the_client_from_every_mean(where):
    strategy = averaging()
    replies = replies_of({0: 1, 2: 3, 3: 3})
    broken = {"s": 100 * W, "w": 100 * W, where: W + np.float32(np.nan)}
    arrays = aggregate(strategy, [*replies, reply(101, broken)])
    expected = averaging()
    clean = aggregate(expected, replies)
    for name in ("s", "w"):
        np.testing.assert_array_equal(arrays[name], clean[name])
    np.testing.assert_array_equal(of_group(strategy, 0), W)
    (dropped,) = [report for report in strategy.reports if report.dropped]
    assert dropped.client == 1
    assert f"not finite in ['{where}']" in dropped.dropped


def test_a_group_whose_only_member_is_broken_keeps_its_arrays():
    strategy = averaging({0: 0, 1: 1})
    aggregate(strategy, replies_of({0: 1, 1: 5}))
    before = strategy.models[1]
    aggregate(strategy, [*replies_of({0: 2}), reply(101, {"s": W, "w": W + np.float32(np.inf)})], 2)
    assert strategy.models[1] is before


@pytest.mark.parametrize("groups", [{0: -1}, {0: 0, 1: -1}])
def test_given_groups_are_numbered_from_zero(groups):
    with refused(ArgumentError, argument="groups", value=[-1]):
        averaging(groups)


def test_every_group_has_momentum_of_its_own():
    options = {"server_momentum": 0.5, "parameter_names": ["w"]}
    strategy, grid = averaging({0: 0, 1: 1}, **options), InProcessGrid(answering_app(), 2)
    alone = {
        group: (PartialAveraging(min_train_nodes=1, min_available_nodes=1, **options), START)
        for group in (0, 1)
    }
    means = START
    for server_round, values in enumerate(({0: 2, 1: -3}, {0: 3, 1: -8}, {0: 1, 1: 9}), start=1):
        sent(strategy, grid, means, server_round)
        means = aggregate(strategy, replies_of(values), server_round)
        for group, (other, arrays) in alone.items():
            node = GridWithout(grid, {101 - group})
            list(other.configure_train(server_round, to_record(arrays), ConfigRecord(), node))
            after = aggregate(other, replies_of({group: values[group]}), server_round)
            alone[group] = other, after
            np.testing.assert_array_equal(of_group(strategy, group), after["w"])
    assert not np.array_equal(of_group(strategy, 0), W)  # momentum carried it past what was sent


def stored(strategy):
    """The state of a strategy after a way through a checkpoint's file."""
    return load(save(strategy.state_arrays()))


def as_bytes(state):
    return {name: (str(a.dtype), a.shape, a.tobytes()) for name, a in sorted(state.items())}


NAMES = {"group_names": ["w", "n"], "parameter_names": ["w"], "server_momentum": 0.5}


@pytest.mark.parametrize("kind", [GroupAveraging, GradientClusters, IFCA, CFL])
def test_a_strategy_that_is_stored_goes_on_as_if_it_had_not_been(kind):
    first, grid = kind(**NAMES), InProcessGrid(answering_app(), 4)
    first.groups.update(TWO)
    first.assignments += [Assignment(1, c, g, np.nan, "given") for c, g in TWO.items()]
    first.clients.update({100 + client: client for client in range(4)})
    counter = {"n": np.array(3)}
    first.round = Round(1, "train", to_record(START | counter), ConfigRecord(), grid, [100, 102])
    assert len(first.messages(first.round)) == 2
    means = aggregate(first, replies_of({0: 1, 1: 2, 2: 3, 3: 4}, **counter))
    first.assign_client(2, 4, NO_GROUP, -0.25, "agrees with no cluster: ü")
    first.assign_client(2, 1, 12, np.inf, "")
    first.query_bytes[:] = [123, 2**40]
    second = kind(**NAMES)
    second.load_state_arrays(stored(first))
    assert as_bytes(second.state_arrays()) == as_bytes(first.state_arrays())
    assert second.groups == first.groups
    assert repr(second.assignments) == repr(first.assignments)
    assert second.grouping.bytes_up == 2**40
    for strategy in (first, second):
        strategy.clients.update({100 + client: client for client in range(4)})
        record = to_record(means)
        strategy.round = Round(2, "train", record, ConfigRecord(), grid, list(grid.contexts))
        strategy.messages(strategy.round)
    replies = replies_of({0: 5, 1: 1, 2: 7, 3: 2}, **counter)
    one, other = (aggregate(strategy, replies, 2) for strategy in (first, second))
    assert as_bytes(one) == as_bytes(other)
    assert as_bytes(second.state_arrays()) == as_bytes(first.state_arrays())


@pytest.mark.parametrize("kind", [GradientClusters, IFCA, CFL])
def test_groups_that_are_found_cannot_be_given(kind):
    with refused(ArgumentError, argument="groups", value=TWO):
        kind(**NAMES, groups=TWO)


def test_node_ids_of_64_bits_survive_a_checkpoint():
    first = GradientClusters(**NAMES)
    node = 2**63 + 2**10 + 1
    first.assign_client(1, node, 0, 1.0, "found by its gradient")
    first.signatures[node] = Signature(np.ones(3, np.float32), 7, 0.5)
    second = GradientClusters(**NAMES)
    second.load_state_arrays(stored(first))
    assert second.groups == {node: 0}
    assert second.assignments == first.assignments
    assert second.signatures[node].examples == 7


@pytest.mark.parametrize("kind", [GroupAveraging, GradientClusters, IFCA, CFL])
def test_a_strategy_that_has_done_nothing_can_be_stored_too(kind):
    second = kind(**NAMES)
    second.load_state_arrays(stored(kind(**NAMES)))
    assert second.groups == {}
    assert second.assignments == []
    assert second.models == {}
    second.load_state_arrays({})  # as at the start of a run


def test_reports_say_in_which_group_a_client_is():
    strategy = averaging({0: 2})
    aggregate(strategy, replies_of({0: 1, 1: 1}))
    assert [(r.client, r.metrics["group"]) for r in strategy.reports] == [(0, 2), (1, NO_GROUP)]


def test_the_grouping_is_a_copy():
    strategy = averaging()
    grouping = strategy.grouping
    strategy.assign_client(2, 0, 1, np.nan, "moved")
    assert grouping.groups == TWO
    assert [tuple(p)[:3] for p in grouping.assignments] == [(1, c, g) for c, g in TWO.items()]


def test_each_model_is_picked_by_the_clients_that_it_fits_best():
    losses = {0: [1.0, 2.0], 1: [2.0, 1.0], 2: [1.0, 1.0], 3: [float("nan"), 5.0]}
    strategy = IFCA(group_names=["w"], parameter_names=["w"], clusters=2)
    found = sent(strategy, InProcessGrid(answering_app(losses=losses), 4))
    assert strategy.groups == {0: 0, 1: 1, 2: 0, 3: 1}
    np.testing.assert_array_equal(found[0]["w"], W)
    moved = found[1]["w"] - W
    assert moved.all()
    assert np.abs(moved).max() < 5 * SPREAD * W.std()


def test_models_start_as_they_are_drawn_and_where_nothing_is_drawn_anew_they_are_perturbed():
    """An array that is the same in every draw is pretrained: only the others start differently."""
    start = {"base": W, "head": W, "count": np.array(3)}

    def starts(restart, number):
        return {"base": W, "head": W + 10 * restart + number}

    for restart, drawn in ((0, starts), (2, starts), (0, lambda *_: {"base": W, "head": W})):
        strategy = IFCA(
            group_names=start,
            parameter_names=["base", "head"],
            clusters=2,
            restart=restart,
            starts=drawn,
        )
        found = sent(
            strategy, InProcessGrid(answering_app(losses={0: [1.0, 2.0], 1: [2.0, 1.0]}), 2), start
        )
        if drawn is starts:
            np.testing.assert_array_equal(found[0]["head"], W + 10 * restart)
            np.testing.assert_array_equal(found[1]["head"], W + 10 * restart + 1)
            np.testing.assert_array_equal(found[1]["base"], W)
        else:
            assert (found[1]["base"] != W).all()
            assert (found[1]["head"] != W).all()
        assert found[1]["count"] == 3


def collapsed(losses):
    """Two models of which clients 0 and 1 picked the first; and all nodes there are."""
    strategy = IFCA(group_names=["w"], parameter_names=["w"], clusters=2)
    strategy.models = {0: to_record({"w": W}), 1: to_record({"w": 10 * W})}
    strategy.groups.update({0: 0, 1: 0})
    return strategy, InProcessGrid(answering_app(losses=losses), len(losses))


def test_a_model_that_nobody_picks_is_reinitialised_at_whom_the_models_fit_worst():
    strategy, grid = collapsed({0: [1.0, 9.0], 1: [2.0, 9.0]})
    found = sent(strategy, grid)
    assert strategy.groups == {0: 0, 1: 1}
    np.testing.assert_array_equal(found[1]["w"], W)


def test_a_model_that_is_reinitialised_in_vain_is_given_up_even_if_the_run_is_resumed():
    strategy, grid = collapsed({0: [1.0, 9.0], 1: [2.0, 9.0]})
    found = []
    for server_round in (1, 2, 3, 4, 5):
        sent(strategy, grid, server_round=server_round)
        found.append(strategy.groups[1])
        resumed = IFCA(group_names=["w"], parameter_names=["w"], clusters=2)
        resumed.load_state_arrays(stored(strategy))
        strategy = resumed
    assert found == [1, 1, 1, 0, 0]


def test_clients_without_a_finite_loss_are_no_crowd_to_be_split():
    nan = float("nan")
    strategy, grid = collapsed({0: [1.0, 9.0], 1: [nan, nan], 2: [nan, nan]})
    sent(strategy, grid)
    assert strategy.groups == {0: 0, 1: NO_GROUP, 2: NO_GROUP}


def test_a_reply_without_a_number_is_of_the_client_that_the_node_was_known_as():
    app = ClientApp()

    @app.query("losses")
    def losses_of(message: Message, context) -> Message:
        number = context.node_config["partition-id"]
        found = {"loss-0": float(number), "loss-1": 0.5}
        metrics = MetricRecord({"num-examples": 1, **found})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    strategy = IFCA(group_names=["w"], parameter_names=["w"], clusters=2)
    strategy.clients.update({100: 0, 101: 1})
    sent(strategy, InProcessGrid(app, 2))
    assert strategy.groups == {0: 0, 1: 1}


def test_of_two_nodes_that_are_one_client_the_lower_one_chooses():
    app = ClientApp()

    @app.query("losses")
    def losses_of(message: Message, context) -> Message:
        number = {100: 0, 101: 1, 102: 0}[context.node_id]
        found = {"loss-0": float(context.node_id != 100), "loss-1": 0.5}
        metrics = MetricRecord({"num-examples": 1, "partition-id": number, **found})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    strategy = IFCA(group_names=["w"], parameter_names=["w"], clusters=2)
    strategy.clients.update({100: 0, 101: 1, 102: 0})
    sent(strategy, InProcessGrid(app, 3))
    assert strategy.groups == {0: 0, 1: 1}
    assert {p.reason for p in strategy.assignments} == {"the lowest training loss"}


@pytest.mark.parametrize(("examples", "reported"), [(0.5, False), (1, True)])
def test_a_gradient_is_that_of_at_least_one_example(examples, reported):
    app = ClientApp()

    @app.query()
    def query(message: Message, context) -> Message:
        answer = {"partition-id": context.node_config["partition-id"]}
        return Message(RecordDict({"properties": ConfigRecord(answer)}), reply_to=message)

    @app.query("gradient")
    def gradient(message: Message, context) -> Message:
        number = context.node_config["partition-id"]
        count = examples if number == 1 else 20
        metrics = MetricRecord({"num-examples": count, "partition-id": number})
        arrays = to_record({"gradient": np.ones(3, np.float32)})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    strategy = GradientClusters(group_names=["w"])
    sent(strategy, InProcessGrid(app, 2))
    assert (1 in strategy.signatures) == reported


def test_a_model_that_is_reinitialised_has_no_momentum():
    strategy, grid = collapsed({0: [1.0, 9.0], 1: [2.0, 9.0]})
    strategy._velocity = {"group-0/w": W, "group-1/w": W, "group-11/w": W}
    sent(strategy, grid)
    assert strategy._velocity.keys() == {"group-0/w", "group-11/w"}


def test_unseen_clients_that_are_evaluated_leave_models_as_they_were():
    strategy, grid = collapsed({c: [1.0 + c, 9.0] for c in range(4)})
    before = as_bytes(stored(strategy))
    unseen_clients = [102, 103]
    reports = strategy.evaluate_nodes(
        grid, 5, to_record(START), ConfigRecord(), unseen_clients, 1.0
    )
    assert [(r.client, r.metrics["group"]) for r in reports] == [(2, 0), (3, 0)]
    assert strategy.groups == {0: 0, 1: 0}
    assert strategy.assignments == []
    after = as_bytes(stored(strategy))
    after["queries/bytes"] = before["queries/bytes"]
    assert after == before


def test_clients_that_cannot_be_asked_are_sent_the_mean(caplog):
    logging.getLogger("flwr").addHandler(caplog.handler)
    strategy = averaging({})
    for arrays in sent(strategy, InProcessGrid(ClientApp(), 2)).values():
        np.testing.assert_array_equal(arrays["w"], W)
    logging.getLogger("flwr").removeHandler(caplog.handler)
    assert "does not report its partition-id,group" in caplog.text


def test_a_silent_member_does_not_hold_up_a_split_and_is_placed_anew():
    strategy = CFL(parameter_names=["w"])
    strategy.groups = dict.fromkeys(range(8), 0)
    strategy.models = {0: to_record({"w": np.zeros(2, np.float32)})}
    strategy.scale = 1.0
    strategy.updates = {c: np.array([1.0 if c < 4 else -1.0, 0.1 * c]) for c in range(7)}
    strategy._split(0)
    assert {c for c, g in strategy.groups.items() if g == 0} == {0, 1, 2, 3}
    assert {c for c, g in strategy.groups.items() if g == 1} == {4, 5, 6}
    assert strategy.assignments[-1][1:3] == (7, NO_GROUP)
    strategy.updates = {c: np.ones(2) for c in range(2)}
    strategy._split(0)  # of two of four nothing is known
    assert set(strategy.groups.values()) == {0, 1}


def test_names_of_arrays_that_are_not_there_are_refused():
    grid = InProcessGrid(lambda message, context: message, 2)
    arrays = to_record({"w": np.zeros(2, np.float32)})
    strategy = GradientClusters(group_names=["nope"])
    with refused(ArgumentError, argument="group_names", value=["nope"]):
        strategy.configure_train(1, arrays, ConfigRecord(), grid)
    with refused(ArgumentError, argument="group_names", value="w"):
        GradientClusters(group_names="w")
