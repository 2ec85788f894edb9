import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from pfl_flower.grid import InProcessGrid
from strategies import NO_GROUP, PartialAveraging, UpdateClusters
from strategies.arrays import to_record
from strategies.clustered.assignments import Assignment
from strategies.clustered.gradient_similarity import cosine_similarities
from strategies.errors import ArgumentError
from strategies.graphs.community_detection import (
    assign_to_communities,
    find_communities,
    reassignments,
)
from strategies.graphs.community_evidence import evidence, levels
from tests.errors import refused
from tests.helpers import decoded, error_reply, reply

SIZE = 40
SEED = 100  # a development seed
TRUE = np.repeat(np.arange(4), 4)
OPTIONS = {"group_names": ["adapter"], "parameter_names": ["encoder", "adapter"], "warm_up": 3}


def answering_app():
    app = ClientApp()

    @app.query()
    def query(message: Message, context) -> Message:
        answer = {"partition-id": context.node_config["partition-id"]}
        return Message(RecordDict({"properties": ConfigRecord(answer)}), reply_to=message)

    return app


class World:
    """Clients with quadratic losses ``1/2 ||theta - optimum||^2`` and noisy gradients.

    A client's model is encoder + adapter, which both get the gradient's step. The start is far
    off, so that all first changes are much alike.
    """

    def __init__(self, true=TRUE, noise=0.5, own=0.5, seed=SEED):
        draw = np.random.default_rng(seed)
        centres = draw.normal(size=(max(true) + 1, SIZE))
        self.true, self.noise, self.draw = true, noise, draw
        self.optima = 5 + centres[true] + own * draw.normal(size=(len(true), SIZE))
        self.grid = InProcessGrid(answering_app(), len(true))
        self.arrays = to_record({n: np.zeros(SIZE, np.float32) for n in ("encoder", "adapter")})

    def train(self, client, arrays):
        noise = self.noise * self.draw.normal(size=SIZE)
        step = 0.1 * (arrays["encoder"] + arrays["adapter"] - self.optima[client] + noise)
        after = {name: (array - step).astype(np.float32) for name, array in arrays.items()}
        return reply(100 + client, after)

    def play(self, strategy, rounds, only=None, reverse=False):
        for server_round in rounds:
            config = ConfigRecord()
            messages = strategy.configure_train(server_round, self.arrays, config, self.grid)
            sent = {m.metadata.dst_node_id - 100: decoded(m.content["arrays"]) for m in messages}
            taking_part = sorted(sent if only is None else sent.keys() & set(only))
            replies = [self.train(client, sent[client]) for client in taking_part]
            self.arrays, _ = strategy.aggregate_train(
                server_round, replies[:: -1 if reverse else 1]
            )


def partition(groups):
    """The sets of clients in one community."""
    found = {}
    for client, group in groups.items():
        found.setdefault(group, set()).add(client)
    return {frozenset(members) for group, members in found.items() if group != NO_GROUP}


def communities_of(true):
    return partition(dict(enumerate(true.tolist())))


def as_bytes(state):
    return {name: (str(a.dtype), a.shape, a.tobytes()) for name, a in sorted(state.items())}


def cosines(true, dimensions=1000, noise=2.5, seed=SEED):
    draw = np.random.default_rng(seed)
    directions = draw.normal(size=(max(true) + 1, dimensions))[true]
    directions = directions + noise * draw.normal(size=directions.shape)
    return cosine_similarities(list(directions - directions.mean(axis=0)))


# ---------------------------------------------------------------------- pure functions


def test_the_evidence_is_the_description_length_that_is_saved():
    similarity = np.array(
        [[1, 0.5, 0.1, 0.0], [0.5, 1, 0.0, 0.1], [0.1, 0, 1, 0.3], [0, 0.1, 0.3, 1]]
    )
    within, between = np.array([0.5, 0.3]), np.array([0.1, 0, 0, 0.1])
    every = np.concatenate([within, between])
    after = (len(within) * within.var() + len(between) * between.var()) / 6
    expected = 6 / 2 * np.log(every.var() / after) - 4 * np.log(2)
    labels = np.array([0, 0, 1, 1])
    assert evidence(similarity, labels) == pytest.approx(expected)
    assert levels(similarity, labels) == pytest.approx((0.4, 0.05))
    assert evidence(similarity, np.array([0, 1, 0, 1])) == -np.inf
    assert evidence(similarity, np.zeros(4, np.int64)) == -np.inf


@pytest.mark.parametrize("seed", range(100, 105))
@pytest.mark.parametrize("number", [0, 4])
def test_communities_are_found_in_directions_with_cosines_of_a_tenth(seed, number):
    similarity = cosines(TRUE, seed=seed)
    assert levels(similarity, TRUE)[0] < 0.15
    assert find_communities(similarity, number).tolist() == TRUE.tolist()


@pytest.mark.parametrize("seed", range(100, 110))
def test_in_noise_there_are_no_communities(seed):
    similarity = cosines(np.zeros(16, np.int64), seed=seed)
    assert set(find_communities(similarity).tolist()) == {NO_GROUP}
    assert len(set(find_communities(similarity, 3).tolist())) == 3


@pytest.mark.integration
@settings(max_examples=20, deadline=None)
@given(st.permutations(range(16)))
def test_the_order_of_clients_does_not_matter(order):
    found = find_communities(cosines(TRUE)[np.ix_(order, order)])
    assert partition(dict(zip(order, found.tolist(), strict=True))) == communities_of(TRUE)


def test_a_client_joins_what_it_agrees_with_or_founds_a_new_community():
    labels = np.where(TRUE == 3, NO_GROUP, TRUE)
    labels[0] = NO_GROUP
    similarity = cosines(TRUE)
    least = sum(levels(similarity, TRUE)) / 2
    found = assign_to_communities(similarity, labels, least, 7)
    assert found.tolist() == np.where(TRUE == 3, 7, TRUE).tolist()
    assert assign_to_communities(similarity, labels, least, None).tolist()[-4:] == [NO_GROUP] * 4


def test_only_the_misplaced_move_and_no_community_ends():
    labels = np.array([0, 0, 0, 1, 1, 2, NO_GROUP])
    recent = np.zeros((7, 7))
    recent[2, 3:5] = 0.3  # pulled to community 1
    recent[3, :3] = 0.05  # hardly
    recent[5, :3] = recent[6, :3] = 0.9  # the one is alone, the other nowhere
    found = reassignments(recent, labels, range(7), 0.1)
    assert found == {2: (1, pytest.approx(0.3))}
    assert reassignments(recent, labels, [0, 1, 3], 0.1) == {}
    both = np.zeros((7, 7))
    both[3:5, :3] = 0.5
    assert reassignments(both, labels, range(7), 0.1) == {3: (0, pytest.approx(0.5))}


# ---------------------------------------------------------------------- the strategy


@pytest.mark.parametrize("number", [0, 4])
@pytest.mark.parametrize("seed", range(100, 103))
def test_communities_are_found_after_warming_up_and_are_stable(number, seed):
    strategy, world = UpdateClusters(clusters=number, **OPTIONS), World(seed=seed)
    world.play(strategy, range(1, 4))
    assert set(strategy.groups.values()) == {NO_GROUP}
    assert strategy.models == {}
    world.play(strategy, range(4, 40))
    assert partition(strategy.groups) == communities_of(TRUE)
    assert {p.round for p in strategy.assignments if p.group != NO_GROUP} == {4}
    assert all(0 < p.score < 1 for p in strategy.assignments if p.group != NO_GROUP)
    similarity = strategy.grouping.similarity
    assert similarity.shape == (16, 16)
    assert strategy.grouping.clients == list(range(16))


def test_one_community_is_plain_averaging_bit_for_bit():
    one = np.zeros(8, np.int64)
    strategy, world = UpdateClusters(**OPTIONS), World(one)
    plain, other = PartialAveraging(), World(one)
    world.play(strategy, range(1, 13))
    other.play(plain, range(1, 13))
    assert set(strategy.groups.values()) == {NO_GROUP}
    for name, array in decoded(other.arrays).items():
        np.testing.assert_array_equal(decoded(world.arrays)[name], array)


def test_misplaced_clients_are_moved_and_the_others_are_not():
    strategy, world = UpdateClusters(**OPTIONS), World()
    world.play(strategy, range(1, 5))
    right = dict(strategy.groups)
    strategy.groups[0], strategy.groups[5] = right[5], right[0]
    before = len(strategy.assignments)
    world.play(strategy, range(5, 20))
    assert strategy.groups == right
    moved = strategy.assignments[before:]
    assert sorted(p.client for p in moved) == [0, 5]
    assert min(p.round for p in moved) >= 4 + 3  # it has to be there for some rounds first
    assert {p.reason for p in moved} == {"goes with another community"}


def test_nobody_is_moved_without_revisions():
    strategy, world = UpdateClusters(revise_every=0, **OPTIONS), World()
    world.play(strategy, range(1, 5))
    strategy.groups[0] = strategy.groups[5]
    groups = dict(strategy.groups)
    world.play(strategy, range(5, 12))
    assert strategy.groups == groups


def test_a_client_that_comes_later_has_the_mean_and_then_joins():
    strategy, world = UpdateClusters(**OPTIONS), World()
    world.play(strategy, range(1, 6), only=range(1, 16))
    assert strategy.groups[0] == NO_GROUP
    world.play(strategy, range(6, 9))
    assert strategy.groups[0] == NO_GROUP
    world.play(strategy, range(9, 10))
    assert partition(strategy.groups) == communities_of(TRUE)
    assert strategy.assignments[-1][:2] == (9, 0)
    assert strategy.assignments[-1].reason == "joined by its update directions"


@pytest.mark.parametrize("fraction", [0.125, 0.25, 0.5])
def test_a_few_of_the_clients_a_round_are_enough(fraction):
    strategy, world = UpdateClusters(fraction_train=fraction, **OPTIONS), World()
    world.play(strategy, range(1, int(20 / fraction)))
    assert partition(strategy.groups) == communities_of(TRUE)


@pytest.mark.parametrize(("fraction", "seed"), [(1.0, 100), (1.0, 101), (1.0, 102), (0.25, 100)])
def test_clients_that_all_differ_are_in_no_community(fraction, seed):
    strategy = UpdateClusters(fraction_train=fraction, **(OPTIONS | {"warm_up": 5}))
    world = World(np.zeros(16, np.int64), seed=seed)
    world.play(strategy, range(1, int(30 / fraction**0.5)))
    assert set(strategy.groups.values()) == {NO_GROUP}


def test_that_nothing_is_found_is_reported_once(caplog):
    strategy, world = UpdateClusters(**OPTIONS), World(np.zeros(8, np.int64))
    with caplog.at_level("WARNING"):
        world.play(strategy, range(1, 8))
    reported = [r.message for r in caplog.records if "no communities are evident" in r.message]
    assert len(reported) == 1
    assert "Before round 4" in reported[0]
    assert "8 of 8 clients" in reported[0]


def test_late_clients_without_strong_evidence_found_no_community():
    labels = np.where(TRUE == 3, NO_GROUP, TRUE)
    similarity = cosines(TRUE)
    assert assign_to_communities(similarity, labels, 0.0, 7).tolist().count(NO_GROUP) == 0
    alone = cosines(np.array([0] * 4 + [1] * 4 + [2, 3, 4, 5]), seed=SEED)  # four that all differ
    few = np.array([0] * 4 + [1] * 4 + [NO_GROUP] * 4)
    off = alone[8:, 8:][np.triu_indices(4, k=1)]
    assert off.max() > -0.05  # some agree as much as is asked for here
    assert assign_to_communities(alone, few, float(off.max()) - 1e-9, 7).tolist().count(7) == 0


def test_the_order_of_replies_does_not_matter():
    states = []
    for reverse in (False, True):
        strategy, world = UpdateClusters(**OPTIONS), World()
        world.play(strategy, range(1, 8), reverse=reverse)
        states.append(as_bytes(strategy.state_arrays()))
    assert states[0] == states[1]


def test_bad_replies_have_no_say():
    strategy, world = UpdateClusters(**OPTIONS), World()
    world.play(strategy, range(1, 2))
    before = as_bytes(strategy.state_arrays())
    nan = {"encoder": np.full(SIZE, np.nan, np.float32), "adapter": np.zeros(SIZE, np.float32)}
    strategy.aggregate_train(2, [reply(100, nan), error_reply(101)])
    assert as_bytes(strategy.state_arrays()) == before
    same = decoded(world.arrays)  # it changed nothing, so that it directions nowhere
    strategy.round.arrays = world.arrays
    strategy.aggregate_train(2, [reply(100, same), reply(101, same)])
    assert strategy.rounds[0] == strategy.rounds[1] == 1


def test_a_wild_client_does_not_hide_the_communities():
    strategy, world = UpdateClusters(**OPTIONS), World()
    honest = world.train

    def train(client, arrays):
        if client:
            return honest(client, arrays)
        far = {n: (a + 1e3).astype(np.float32) for n, a in arrays.items()}
        return reply(100, far)

    world.train = train
    messages = list(strategy.configure_train(1, world.arrays, ConfigRecord(), world.grid))
    assert len(messages) == 16
    sent = decoded(world.arrays)
    for server_round in (1, 2, 3):  # the others' arrays are as they were, so only directions count
        strategy.round.arrays = world.arrays
        strategy.aggregate_train(server_round, [train(c, sent) for c in range(16)])
    found = find_communities(cosine_similarities([strategy.directions[c] for c in range(1, 16)]))
    assert found.tolist() == TRUE[1:].tolist()


def test_a_run_that_is_stored_goes_on_as_if_it_had_not_been():
    for stop in (3, 6):
        first, world = UpdateClusters(**OPTIONS), World()
        world.play(first, range(1, stop))
        second = UpdateClusters(**OPTIONS)
        second.load_state_arrays(load(save(first.state_arrays())))
        other = World()
        other.arrays, other.draw.bit_generator.state = world.arrays, world.draw.bit_generator.state
        world.play(first, range(stop, stop + 5))
        other.play(second, range(stop, stop + 5))
        assert as_bytes(first.state_arrays()) == as_bytes(second.state_arrays())
        assert second.groups == first.groups
        for client, direction in first.recent.items():
            np.testing.assert_array_equal(second.recent[client], direction)
        assert {n: a.data for n, a in world.arrays.items()} == {
            n: a.data for n, a in other.arrays.items()
        }


def test_unseen_clients_are_evaluated_with_the_mean_and_leave_no_trace():
    strategy, world = UpdateClusters(**OPTIONS), World()
    world.play(strategy, range(1, 6), only=range(14))
    for client in (14, 15):
        strategy.groups.pop(client)
    placed: list[Assignment] = list(strategy.assignments)
    strategy.evaluate_nodes(world.grid, 6, world.arrays, ConfigRecord(), [114, 115], 1.0)
    assert strategy.assignments == placed
    assert not {14, 15} & strategy.groups.keys()


def test_arrays_to_compare_can_be_named_and_group_arrays_are_the_last_resort():
    strategy, world = UpdateClusters(compared_names=["adapter"], **OPTIONS), World()
    world.play(strategy, range(1, 5))
    assert partition(strategy.groups) == communities_of(TRUE)
    alone = UpdateClusters(warm_up=3)
    world = World()
    world.play(alone, range(1, 5))
    assert partition(alone.groups) == communities_of(TRUE)


def test_directions_are_projected():
    strategy, world = UpdateClusters(projection_size=16, **OPTIONS), World()
    world.play(strategy, range(1, 2))
    assert {direction.shape for direction in strategy.directions.values()} == {(16,)}
    assert {direction.dtype for direction in strategy.directions.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("clusters", -1),
        ("warm_up", 0),
        ("revise_every", -1),
        ("projection_size", -1),
        ("margin", -0.1),
        ("margin", float("nan")),
        ("memory", 0.0),
        ("compared_names", "encoder"),
        ("groups", {0: 0}),
    ],
)
def test_what_is_out_of_range_is_refused(name, value):
    with refused(ArgumentError, argument=name, value=value):
        UpdateClusters(**{name: value})


@pytest.mark.parametrize(
    ("options", "argument", "value"),
    [
        ({"clusters": 17}, "clusters", 17),
        ({"compared_names": ["nope"]}, "compared_names", ["nope"]),
    ],
)
def test_what_does_not_fit_the_run_is_refused_in_round_1(options, argument, value):
    strategy, world = UpdateClusters(**OPTIONS, **options), World()
    with pytest.raises(ArgumentError) as error:
        world.play(strategy, range(1, 2))
    assert (error.value.argument, error.value.value) == (argument, value)
