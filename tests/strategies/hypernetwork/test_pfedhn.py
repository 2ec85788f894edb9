"""The strategy that trains a hypernetwork, on clients that answer by a rule."""

import copy
import json
import logging
from functools import partial

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from clients import assign_scopes, client_app
from pfl_flower.grid import InProcessGrid
from strategies import PFedHN
from strategies.arrays import to_record
from strategies.errors import ArgumentError
from strategies.hypernetwork.metadata_encoder import Columns, encode_all
from tests.errors import refused
from tests.grids import RecordingGrid, ShuffledGrid
from tests.helpers import TinyNet, decoded, reply, tiny_client

START = {
    "w": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3),
    "b": np.zeros(3, np.float32),
    "n": np.zeros(2, np.float32),
}
NAMES = ("w", "b")
REPORTED = {c: {"size": float(c), "side": "left" if c % 2 else "right"} for c in range(6)}


def strategy_of(**options):
    sizes = {"embedding_size": 6, "hidden_size": 5}
    least = {"min_train_nodes": 1, "min_evaluate_nodes": 1, "min_available_nodes": 1}
    return PFedHN(**{"parameter_names": NAMES, **least, **sizes, **options})


def halfway(client, arrays):
    """A client's training: half of the way to a model of its own."""
    return {name: (values + client) / 2 for name, values in arrays.items()}


def app_of(reported=REPORTED, step=halfway, asked=None):
    """Clients that tell what they are to tell, and train by a rule."""
    app = ClientApp()

    @app.query()
    def query(message: Message, context) -> Message:
        number = context.node_config["partition-id"]
        wanted = str(message.content["config"]["properties"])
        answer = {"partition-id": number}
        if "metadata" in wanted:
            if asked is not None:
                asked.append(number)
            text = reported.get(number, {})
            answer["metadata"] = text if isinstance(text, str) else json.dumps(text)
        return Message(RecordDict({"properties": ConfigRecord(answer)}), reply_to=message)

    @app.train()
    def train(message: Message, context) -> Message:
        number = context.node_config["partition-id"]
        trained = step(number, decoded(message.content.array_records["arrays"]))
        metrics = MetricRecord({"num-examples": number + 1, "partition-id": number})
        content = RecordDict({"arrays": to_record(trained), "metrics": metrics})
        return Message(content, reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context) -> Message:
        number = context.node_config["partition-id"]
        metrics = MetricRecord({"num-examples": 1, "partition-id": number, "loss": 1.0})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


def grid_of(count=4, reported=REPORTED, step=halfway, asked=None):
    return InProcessGrid(app_of(reported, step, asked), count)


def play(strategy, grid, rounds=1, arrays=START, first=1, change=list):
    """Rounds by hand, so that replies can be changed; return the last arrays."""
    record = arrays if not isinstance(arrays, dict) else to_record(arrays)
    for server_round in range(first, first + rounds):
        messages = list(strategy.configure_train(server_round, record, ConfigRecord(), grid))
        replies = change(list(grid.send_and_receive(messages)))
        record = strategy.aggregate_train(server_round, replies)[0] or record
    return record


def sent(strategy, grid, server_round=1, arrays=START):
    messages = strategy.configure_train(server_round, to_record(arrays), ConfigRecord(), grid)
    return {m.metadata.dst_node_id - 100: decoded(m.content["arrays"]) for m in messages}


def bits(strategy):
    """Everything that the strategy carries, as bytes; about what, without the order of keys."""
    state = strategy.state_arrays()
    about = json.loads(state.pop("about").tobytes()) if state else {}
    return about, {name: (str(v.dtype), v.shape, v.tobytes()) for name, v in state.items()}


def network_bits(strategy):
    """The network's trained values, without the moments of its optimizer."""
    return {n: p.detach().numpy().tobytes() for n, p in strategy.network.named_parameters()}


def free_bits(strategy):
    return {
        client: own.detach().numpy().tobytes() for client, own in strategy.embeddings.free.items()
    }


def is_finite(strategy):
    """Whether everything is that the strategy carries, the moments of Adam too."""
    return all(np.isfinite(values).all() for values in strategy.state_arrays().values())


def changed(one, other):
    return {name for name in one if one[name] != other[name]}


def rewritten(client, values, replies):
    """Replies in which those of a client hold other values."""
    return [
        reply(100 + client, {n: np.full_like(a, values) for n, a in START.items()})
        if answer.metadata.src_node_id == 100 + client
        else answer
        for answer in replies
    ]


def explicit_row(network, reported, free):
    """The model that a network writes, spelled out."""
    vector = torch.from_numpy(encode_all(network.columns, [reported]))[0]
    embedding = network.encoder.weight @ vector + network.encoder.bias + free
    first = network.hidden[1]
    hidden = torch.relu(first.weight @ torch.tanh(embedding) + first.bias)
    return network.start + network.scale * (network.last.weight @ hidden + network.last.bias)


# ---------------------------------------------------------------------- the way down


def test_every_client_is_sent_what_the_network_writes_for_it_and_the_common_rest():
    strategy, grid = strategy_of(free_dropout=0.0), grid_of()
    play(strategy, grid, 3)
    with torch.no_grad():
        for own in strategy.embeddings.free.values():
            own += 0.5
    for client, arrays in sent(strategy, grid, 4).items():
        free = strategy.embeddings.free[client].detach()
        written = strategy.network.generate(REPORTED[client], free)
        assert list(arrays) == list(START)
        for name in NAMES:
            np.testing.assert_array_equal(arrays[name], written[name].numpy())
        row = explicit_row(strategy.network, REPORTED[client], free).detach()
        np.testing.assert_allclose(strategy.network.flat(arrays), row, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(arrays["n"], START["n"])


def test_evaluation_is_of_the_whole_embedding_even_where_training_dropped_its_free_part():
    strategy, grid = strategy_of(free_dropout=0.5), grid_of()
    record = play(strategy, grid, 4)
    assert 0 < len(strategy._left_out) < 4
    messages = strategy.configure_evaluate(4, record, ConfigRecord(), grid)
    for message in messages:
        client = message.metadata.dst_node_id - 100
        written = strategy.network.generate(
            REPORTED[client], strategy.embeddings.free[client].detach()
        )
        found = decoded(message.content["arrays"])
        np.testing.assert_array_equal(found["w"], written["w"].numpy())


def test_clients_are_asked_for_their_metadata_once():
    asked = []
    strategy, grid = strategy_of(fraction_train=0.5), grid_of(6, asked=asked)
    record = play(strategy, grid, 3)
    list(strategy.configure_evaluate(3, record, ConfigRecord(), grid))
    assert sorted(asked) == list(range(6))
    assert strategy.metadata == REPORTED


def test_what_is_reported_is_standardised_by_everybody_there_not_by_those_of_the_first_round():
    strategy = strategy_of(fraction_train=0.5)
    play(strategy, grid_of(6))
    assert len(trained_in(strategy, 1)) == 3
    assert strategy.network.columns == Columns.of(REPORTED.values())


def test_without_metadata_nobody_is_asked_and_embeddings_differ_from_the_start():
    asked = []
    strategy, grid = strategy_of(use_metadata=False), grid_of(asked=asked)
    found = sent(strategy, grid)
    assert asked == []
    assert strategy.metadata == {}
    assert strategy.network.encoder is None
    assert len({arrays["w"].tobytes() for arrays in found.values()}) == 4
    assert len({own.detach().numpy().tobytes() for own in strategy.embeddings.free.values()}) == 4


@pytest.mark.parametrize("text", ['{"size": NaN}', "no JSON", "[" * 100_000])
def test_a_client_whose_metadata_cannot_be_used_counts_as_one_without_metadata(text, caplog):
    strategy, grid = strategy_of(), grid_of(4, reported={**REPORTED, 2: text})
    logging.getLogger("flwr").addHandler(caplog.handler)
    try:
        play(strategy, grid, 2)
    finally:
        logging.getLogger("flwr").removeHandler(caplog.handler)
    assert "it counts as one without metadata" in caplog.text
    assert strategy.metadata == {0: REPORTED[0], 1: REPORTED[1], 2: {}, 3: REPORTED[3]}
    assert strategy.embeddings.free.keys() == {0, 1, 2, 3}


@pytest.mark.parametrize("number", [1e30, 1e38, 1e308, -1.7e308])
@pytest.mark.parametrize("corrupted_clients", [(2,), (2, 3)])
def test_clients_that_tell_absurd_numbers_leave_everybody_a_model(number, corrupted_clients):
    reported = REPORTED | {client: {"size": number} for client in corrupted_clients}
    strategy, grid = strategy_of(), grid_of(4, reported=reported)
    play(strategy, grid, 3)
    assert is_finite(strategy)
    for arrays in sent(strategy, grid, 4).values():
        assert all(np.isfinite(values).all() for values in arrays.values())


@pytest.mark.parametrize("number", [1e30, 1e39, 1e308])
def test_an_unseen_client_that_tells_an_absurd_number_is_sent_a_finite_model(number):
    strategy, grid = strategy_of(), grid_of()
    play(strategy, grid)
    for values in strategy.network.generate({"size": number}).values():
        assert bool(values.isfinite().all())


def test_a_client_whose_category_is_new_is_named(caplog):
    strategy, grid = strategy_of(), grid_of(3)
    play(strategy, grid)
    logging.getLogger("flwr").addHandler(caplog.handler)
    try:
        later = grid_of(4, reported={**REPORTED, 3: {"side": "above"}})
        play(strategy, later, first=2)
    finally:
        logging.getLogger("flwr").removeHandler(caplog.handler)
    assert "Node 103: side 'above' was never seen before" in caplog.text
    assert "Node 102" not in caplog.text


def test_clients_of_another_app_that_know_no_metadata_are_trained_all_the_same():
    def build(context, config):
        return tiny_client("none", partition_id=context.node_config["partition-id"])

    parameters = [name for name, _ in TinyNet().named_parameters()]
    strategy = strategy_of(parameter_names=parameters)
    grid = InProcessGrid(client_app(build), 3)
    start = {name: tensor.numpy() for name, tensor in TinyNet().state_dict().items()}
    play(strategy, grid, 2, start)
    assert not [report for report in strategy.reports if report.dropped]
    assert strategy.network.encoder is None
    assert strategy.embeddings.free.keys() == {0, 1, 2}


# ---------------------------------------------------------------------- the step


@pytest.mark.parametrize("weighting", ["examples", "uniform"])
@pytest.mark.parametrize("at_once", [1, 2**24])
def test_the_step_goes_along_the_gradient_at_the_weights_that_wrote_what_was_sent(
    monkeypatch, weighting, at_once
):
    monkeypatch.setattr("strategies.hypernetwork.updates.VALUES_AT_ONCE", at_once)
    strategy = strategy_of(free_dropout=0.5, free_decay=0.01, weighting=weighting)
    grid = grid_of(6)
    play(strategy, grid, 4)
    arrays = sent(strategy, grid, 5)
    dropped = set(strategy._left_out)
    assert 0 < len(dropped) < 6
    network = copy.deepcopy(strategy.network)
    free = {
        c: own.detach().clone().requires_grad_(True) for c, own in strategy.embeddings.free.items()
    }
    messages = [
        reply(100 + c, halfway(c, values), {"num-examples": c + 1}) for c, values in arrays.items()
    ]
    strategy.aggregate_train(5, messages)

    weights = {c: (c + 1) / 21 if weighting == "examples" else 1 / 6 for c in arrays}
    loss = torch.zeros(())
    for client, values in arrays.items():
        used = torch.zeros(6) if client in dropped else free[client]
        row = explicit_row(network, REPORTED[client], used)
        np.testing.assert_allclose(network.flat(values), row.detach(), rtol=1e-4, atol=1e-6)
        target = torch.from_numpy(network.flat(halfway(client, values)))
        loss = loss + weights[client] * (row - target).square().sum() / 2
        if client not in dropped:
            loss = loss + weights[client] * 0.01 * free[client].square().sum() / 2
    loss.backward()
    for name, parameter in strategy.network.named_parameters():
        expected = network.get_parameter(name).grad
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-3, atol=1e-5)
    for client, own in strategy.embeddings.free.items():
        assert (own.grad is None) == (client in dropped)
        if client not in dropped:
            torch.testing.assert_close(own.grad, free[client].grad, rtol=1e-3, atol=1e-6)


def test_the_first_step_of_adam_is_the_learning_rate():
    strategy, grid = strategy_of(server_learning_rate=0.02, free_dropout=0.0), grid_of()
    sent(strategy, grid)
    before = strategy.network.last.bias.detach().clone()
    play(strategy, grid)
    step = (strategy.network.last.bias.detach() - before).abs()
    np.testing.assert_allclose(step, 0.02, rtol=1e-3)


def test_clients_get_better_models():
    strategy, grid = strategy_of(server_learning_rate=0.05), grid_of()

    def distance(found):
        return np.mean([np.abs(arrays["w"] - client).mean() for client, arrays in found.items()])

    before = distance(sent(strategy, grid))
    record = play(strategy, grid, 60)
    assert distance(sent(strategy, grid, 61, decoded(record))) < before / 2


def test_buffers_are_averaged_and_parameters_generated():
    strategy, grid = strategy_of(free_dropout=0.0), grid_of(3)
    arrays = decoded(play(strategy, grid, 1))
    expected = sum((c + 1) * c / 2 for c in range(3)) / 6
    np.testing.assert_allclose(arrays["n"], expected, rtol=1e-6)
    network = strategy.network
    with torch.no_grad():
        reported = [REPORTED[client] for client in range(3)]
        free = torch.stack([strategy.embeddings.free[client] for client in range(3)])
        row = network(network.embed(reported, free).mean(0, keepdim=True))[0].numpy()
    for name, values in network.arrays(row).items():
        np.testing.assert_array_equal(arrays[name], values)


def test_a_network_with_batch_norm_is_generated_but_for_its_counters():
    def build(context, config):
        return tiny_client("none", partition_id=context.node_config["partition-id"])

    parameters = [name for name, _ in TinyNet().named_parameters()]
    strategy = strategy_of(parameter_names=parameters)
    grid = InProcessGrid(client_app(build), 3)
    start = {name: tensor.numpy() for name, tensor in TinyNet().state_dict().items()}
    arrays = decoded(play(strategy, grid, 2, start))
    assert list(arrays) == list(start)
    assert set(strategy.network.shapes) == set(parameters)
    assert arrays["bn.num_batches_tracked"].dtype == np.int64
    assert int(arrays["bn.num_batches_tracked"]) == 2 * 3  # batches of 8 among 20 examples
    assert (arrays["bn.running_var"] > 0).all()
    assert not np.array_equal(arrays["bn.running_mean"], start["bn.running_mean"])
    assert not np.array_equal(arrays["body.weight"], start["body.weight"])


# ---------------------------------------------------------------------- who moves


def trained_in(strategy, server_round):
    return {r.client for r in strategy.reports if (r.round, r.phase) == (server_round, "train")}


@pytest.mark.parametrize("use_metadata", [True, False])
def test_free_parts_of_clients_not_in_the_round_stay_bit_for_bit(use_metadata):
    strategy = strategy_of(fraction_train=0.5, free_dropout=0.0, use_metadata=use_metadata)
    grid = grid_of(6)
    record = play(strategy, grid, 6)  # Adam has moments of everybody by now
    assert strategy.embeddings.free.keys() == set(range(6))
    for server_round in range(7, 13):
        before = free_bits(strategy)
        record = play(strategy, grid, 1, record, server_round)
        took_part = trained_in(strategy, server_round)
        assert len(took_part) == 3
        assert changed(before, free_bits(strategy)) == took_part


def test_a_client_whose_free_part_was_dropped_does_not_move_either():
    strategy, grid = strategy_of(free_dropout=0.5), grid_of(6)
    record = play(strategy, grid, 3)
    counts = []
    for server_round in range(4, 10):
        before = free_bits(strategy)
        record = play(strategy, grid, 1, record, server_round)
        assert changed(before, free_bits(strategy)) == set(range(6)) - strategy._left_out
        counts.append(len(strategy._left_out))
    assert 0 < sum(counts) < 36


def test_free_parts_are_never_dropped_without_metadata():
    strategy, grid = strategy_of(free_dropout=0.9, use_metadata=False), grid_of(6)
    for server_round in range(1, 5):
        sent(strategy, grid, server_round)
        assert strategy._left_out == set()


def test_free_parts_are_pulled_to_zero_beside_metadata():
    def stay(client, arrays):
        return arrays

    for use_metadata in (True, False):
        options = {"free_decay": 0.1, "free_dropout": 0.0, "use_metadata": use_metadata}
        strategy, grid = strategy_of(**options), grid_of(3, step=stay)
        sent(strategy, grid)
        with torch.no_grad():
            for own in strategy.embeddings.free.values():
                own.copy_(torch.ones(6))
        play(strategy, grid, 3)
        for own in strategy.embeddings.free.values():
            assert bool((own < 1).all()) == use_metadata
            assert bool((own == 1).all()) != use_metadata


# ---------------------------------------------------------------------- replies


@pytest.mark.parametrize("use_metadata", [True, False])
def test_the_order_of_replies_does_not_matter(use_metadata):
    options = {"use_metadata": use_metadata, "fraction_train": 0.7}
    one, other = strategy_of(**options), strategy_of(**options)
    play(one, grid_of(5), 4)
    play(other, grid_of(5), 4, change=lambda replies: replies[::-1])
    assert bits(one) == bits(other)


def test_the_ids_of_nodes_do_not_matter():
    one, other = (strategy_of(fraction_train=0.6) for _ in range(2))
    play(one, grid_of(5), 4)
    play(other, ShuffledGrid(app_of(), 5), 4)
    assert bits(one) == bits(other)


def test_of_two_nodes_that_are_one_client_only_the_first_counts():
    options = {"free_dropout": 0.0}
    one, other = strategy_of(**options), strategy_of(**options)
    play(one, grid_of(3))
    grid = grid_of(4)
    grid.contexts[103].node_config["partition-id"] = 2
    play(other, grid)
    assert [report.node_id for report in other.reports if report.dropped] == [103]
    assert "node 102 is client 2 too" in next(r.dropped for r in other.reports if r.dropped)
    assert bits(one) == bits(other)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", list(START))
def test_a_reply_that_is_not_finite_is_dropped_and_everything_else_goes_on(value, name):
    def step(client, arrays):
        found = halfway(client, arrays)
        if client == 1:
            found[name].flat[0] = value
        return found

    strategy, grid = strategy_of(free_dropout=0.0), grid_of(4, step=step)
    sent(strategy, grid)
    before = free_bits(strategy)
    arrays = decoded(play(strategy, grid))
    (dropped,) = [report for report in strategy.reports if report.dropped]
    assert dropped.client == 1
    assert f"not finite in ['{name}']" in dropped.dropped
    assert changed(before, free_bits(strategy)) == {0, 2, 3}
    assert is_finite(strategy)
    assert all(np.isfinite(values).all() for values in arrays.values())


def absurd(value, client, arrays):
    found = halfway(client, arrays)
    return {n: np.full_like(a, value) for n, a in found.items()} if client == 1 else found


PARAMETERS = {name: START[name] for name in NAMES}  # a mean of buffers is drowned easily


def distance_of_honest(strategy, record, server_round):
    found = sent(strategy, grid_of(), server_round, decoded(record))
    return np.mean([np.abs(found[client]["w"] - client).mean() for client in (0, 2, 3)])


@pytest.mark.parametrize("value", [1e30, -1e30, 3e38])
def test_a_client_that_returns_absurd_values_once_is_got_over(value):
    strategy = strategy_of(server_learning_rate=0.05, weighting="uniform")
    record = play(strategy, grid_of(), 20, PARAMETERS)
    before = distance_of_honest(strategy, record, 21)
    record = play(strategy, grid_of(step=partial(absurd, value)), 1, record, 21)
    assert is_finite(strategy)
    assert distance_of_honest(strategy, record, 22) < 2 * before
    record = play(strategy, grid_of(), 20, record, 22)
    assert distance_of_honest(strategy, record, 42) < before


@pytest.mark.parametrize("value", [1e30, -1e30, 3e38])
def test_a_client_that_returns_absurd_values_always_does_not_drown_the_others(value):
    strategy = strategy_of(server_learning_rate=0.05, weighting="uniform")
    before = np.mean([np.abs(START["w"] - client).mean() for client in (0, 2, 3)])
    record = play(strategy, grid_of(step=partial(absurd, value)), 30, PARAMETERS)
    assert is_finite(strategy)
    assert distance_of_honest(strategy, record, 31) < before


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("value", [1e25, 1e30])
def test_absurd_values_in_a_small_round_are_forgotten_in_the_next(count, value):
    grid = InProcessGrid(app_of(step=partial(absurd, value)), 2)
    strategy = strategy_of(use_metadata=False)
    if count == 1:
        del grid.contexts[100]  # the only client of the round
    play(strategy, grid, 1, PARAMETERS)
    assert is_finite(strategy)
    before = network_bits(strategy)
    play(strategy, grid_of(4), 20, PARAMETERS, 2)
    assert changed(before, network_bits(strategy)) == before.keys()


def test_a_round_without_a_reply_leaves_everything_as_it_was():
    strategy, grid = strategy_of(), grid_of()
    record = play(strategy, grid, 3)
    before = bits(strategy)
    assert play(strategy, grid, 1, record, 4, change=lambda replies: []) is record
    assert bits(strategy) == before
    broken = partial(rewritten, 0, np.nan)
    only = InProcessGrid(app_of(), 1)
    assert play(strategy, only, 1, record, 5, change=broken) is record
    assert bits(strategy) == before


def test_a_round_in_which_every_client_fails_leaves_everything_as_it_was():
    def step(client, arrays):
        raise RuntimeError("out of memory")

    strategy = strategy_of()
    record = play(strategy, grid_of(), 3)
    before = network_bits(strategy), free_bits(strategy)
    assert play(strategy, grid_of(step=step), 1, record, 4) is record
    assert (network_bits(strategy), free_bits(strategy)) == before


@pytest.mark.parametrize("kept", [("b", "n"), ("n",), ("w",)])
def test_clients_that_send_back_a_part_of_what_they_were_sent_end_no_run(kept):
    def step(client, arrays):
        return {name: values for name, values in halfway(client, arrays).items() if name in kept}

    strategy = strategy_of()
    arrays = decoded(play(strategy, grid_of(step=step), 2))
    assert list(arrays) == list(START)
    assert is_finite(strategy)


def test_one_client_that_sends_back_a_part_is_dropped():
    def step(client, arrays):
        found = halfway(client, arrays)
        return {"b": found["b"]} if client == 2 else found

    strategy = strategy_of()
    play(strategy, grid_of(step=step))
    (dropped,) = [report for report in strategy.reports if report.dropped]
    assert dropped.client == 2
    assert "missing ['n', 'w']" in dropped.dropped


# ---------------------------------------------------------------------- unseen_clients, checkpoints


def test_an_unseen_client_is_sent_a_model_from_its_metadata_and_leaves_no_trace():
    strategy = strategy_of()
    record = play(strategy, grid_of(4), 5)
    before, state = dict(strategy.metadata), bits(strategy)
    everybody = RecordingGrid(app_of(), 6)
    reports = strategy.evaluate_nodes(everybody, 5, record, ConfigRecord(), [105, 104], 10.0)
    assert [report.client for report in reports] == [4, 5]
    got = {e.client: decoded(e.message.content["arrays"]) for e in everybody.of_type("evaluate")}
    assert got.keys() == {4, 5}
    for client, arrays in got.items():
        for name, values in strategy.network.generate(REPORTED[client]).items():
            np.testing.assert_array_equal(arrays[name], values.numpy())
    assert strategy.metadata == before
    assert bits(strategy) == state


def test_without_metadata_an_unseen_client_is_sent_the_mean_embeddings_model():
    strategy = strategy_of(use_metadata=False)
    record = play(strategy, grid_of(4), 5)
    centre = torch.stack([strategy.embeddings.free[client].detach() for client in range(4)]).mean(0)
    torch.testing.assert_close(strategy.network.unseen_client(), centre)
    for name, values in strategy.network.generate().items():
        np.testing.assert_allclose(decoded(record)[name], values.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("use_metadata", [True, False])
@pytest.mark.parametrize("stopped", [0, 1, 4])
def test_what_goes_on_from_a_checkpoint_ends_as_what_was_never_stopped(use_metadata, stopped):
    options = {"use_metadata": use_metadata, "fraction_train": 0.5, "seed": 5}
    whole, first, later = (strategy_of(**options) for _ in range(3))
    play(whole, grid_of(12, reported={c: {"size": float(c)} for c in range(12)}), 7)
    grid = grid_of(12, reported={c: {"size": float(c)} for c in range(12)})
    record = play(first, grid, stopped)
    state = {name: np.array(values) for name, values in first.state_arrays().items()}
    play(first, grid, 1, record, stopped + 1)  # what was saved must not move with it
    later.load_state_arrays(state)
    later.rounds_before = stopped
    record = record if stopped else START
    fresh = grid_of(12, reported={c: {"size": float(c)} for c in range(12)})
    play(later, fresh, 7 - stopped, record)
    assert bits(later) == bits(whole)


def test_a_checkpoint_does_not_move_with_the_strategy():
    strategy, grid = strategy_of(), grid_of()
    record = play(strategy, grid, 2)
    state = strategy.state_arrays()
    before = {name: values.tobytes() for name, values in state.items()}
    play(strategy, grid, 2, record, 3)
    assert {name: values.tobytes() for name, values in state.items()} == before
    assert strategy_of().state_arrays() == {}


def test_the_same_seed_gives_the_same_bits_and_another_others():
    found = []
    for seed in (3, 3, 4):
        strategy = strategy_of(seed=seed)
        torch.rand(1)  # the global generator has no say
        play(strategy, grid_of(), 3)
        found.append(bits(strategy))
    assert found[0] == found[1] != found[2]


def test_it_runs_under_flowers_own_start_and_keeps_personal_parts_at_home():
    def build(context, config):
        number = context.node_config["partition-id"]
        return tiny_client("head", partition_id=number, records=context.state)

    scopes = assign_scopes(TinyNet(), "head")
    shared = [name for name, scope in scopes.items() if scope.value == "shared"]
    start = {name: TinyNet().state_dict()[name].numpy() for name in shared}
    parameters = [name for name, _ in TinyNet().named_parameters() if name in shared]
    strategy = strategy_of(parameter_names=parameters)
    result = strategy.start(InProcessGrid(client_app(build), 3), to_record(start), num_rounds=2)
    assert set(result.arrays) == set(shared)
    assert set(strategy.network.shapes) == set(parameters)
    assert not [report for report in strategy.reports if report.dropped]


@pytest.mark.parametrize("use_metadata", [True, False])
def test_adapting_moves_the_embeddings_of_unseen_clients_and_nothing_else(use_metadata):
    strategy = strategy_of(use_metadata=use_metadata, server_learning_rate=0.03)
    record = play(strategy, grid_of(4), 30)
    network, free = network_bits(strategy), free_bits(strategy)
    centre, arrays = strategy.network.centre.clone(), to_record(decoded(record))

    def distance():
        written = strategy.embeddings.write(5, strategy.metadata.get(5, {}))
        return np.abs(strategy.network.arrays(written)["w"] - 5).mean()

    about = (grid_of(6), 30, record, ConfigRecord(), [105, 104], 10.0)
    strategy.adapt(*about, rounds=0)
    before = distance()
    strategy.adapt(*about, rounds=30)
    assert distance() < before
    assert network_bits(strategy) == network
    assert torch.equal(strategy.network.centre, centre)
    assert decoded(record).keys() == decoded(arrays).keys()
    found = free_bits(strategy)
    assert found.keys() == set(range(6))
    assert {client: found[client] for client in range(4)} == free


def test_adapting_without_metadata_starts_at_the_unseen_clients_embedding():
    strategy = strategy_of(use_metadata=False)
    record = play(strategy, grid_of(4), 5)
    strategy.adapt(grid_of(6), 5, record, ConfigRecord(), [104], 10.0, rounds=0)
    torch.testing.assert_close(
        strategy.embeddings.free[4].detach(), strategy.network.unseen_client()
    )


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("server_momentum", 0.5),
        ("server_learning_rate", 0.0),
        ("server_learning_rate", float("nan")),
        ("server_learning_rate", float("inf")),
        ("weight_decay", -1.0),
        ("weight_decay", 101.0),
        ("free_dropout", 1.0),
        ("free_dropout", -0.1),
        ("free_decay", -1.0),
        ("free_decay", float("nan")),
        ("embedding_size", 0),
        ("hidden_size", 0),
        ("fraction_train", 1.5),
    ],
)
def test_bad_arguments_are_refused_before_anything_starts(name, value):
    with refused(ArgumentError, argument=name, value=value):
        strategy_of(**{name: value})


def test_arrays_without_a_parameter_are_refused():
    with refused(ArgumentError, argument="parameter_names", value=["other"]):
        sent(strategy_of(parameter_names=["other"]), grid_of())
