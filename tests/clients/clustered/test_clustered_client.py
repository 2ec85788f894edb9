import math

import numpy as np
import pytest
import torch
from flwr.app import Message, RecordDict
from torch import nn

from clients import (
    ClientDetails,
    ClusteredClient,
    PersonalState,
    Regression,
    assign_scopes,
    client_app,
    evaluate,
)
from clients.clustered.start_gradient import start_gradient
from clients.data.loaders import in_memory_loader
from pfl_flower.grid import InProcessGrid
from strategies.arrays import as_part, to_record
from strategies.clustered.projection import project
from strategies.errors import ArgumentError
from tests.errors import refused
from tests.helpers import TinyNet, config, decoded, examples, tiny_client

BODY = 4 * 8 + 8 + 8 + 8  # weights, biases, and the two of batch norm; no buffers


def grouped(personal="head", count=20, model=None, records=None, shuffle=False, **options):
    """A client of a TinyNet (or ``model``) on generated examples, in one batch."""
    model = model or TinyNet()
    scopes = assign_scopes(model, personal, "rest")
    loader = in_memory_loader(*examples(count), max(count, 1), shuffle)
    validation = options.pop("validation", in_memory_loader(*examples(12, seed=99), 5))
    state = PersonalState(RecordDict() if records is None else records)
    return ClusteredClient(model, scopes, loader, validation, state=state, **options)


def start(client):
    return client.get_parameters({})


def trained(records, personal="head"):
    """A client that has trained a round and kept its personal part in ``records``."""
    client = grouped(personal, records=records)
    client.fit(start(client), {"server-round": 1})
    return client


def gradient(client, parameters=None, **values):
    return client.gradient(start(client) if parameters is None else parameters, config(**values))


# --------------------------------------------------------------------------- gradients


def test_it_is_the_gradient_at_the_received_arrays():
    client, other = grouped("none"), TinyNet(seed=5)
    received = [other.state_dict()[name].numpy() for name in client.shared_names]
    vector, count, metrics = gradient(client, received)
    names = [name for name, _ in other.named_parameters()]
    expected = start_gradient(other, names, *examples(20), client.task)
    np.testing.assert_allclose(vector, expected, rtol=1e-5, atol=1e-7)
    assert vector.dtype == np.float32
    assert count == 20
    assert metrics.keys() == {"gradient-reliability"}


def test_it_tells_its_number_if_it_has_one():
    assert gradient(grouped(partition_id=3))[2]["partition-id"] == 3


def test_personal_parameters_have_no_part():
    vector, _, _ = gradient(grouped("head"))
    assert vector.shape == (BODY,)
    model = TinyNet()
    names = [name for name, _ in model.named_parameters() if "head" not in name]
    expected = start_gradient(model, names, *examples(20), grouped().task)
    np.testing.assert_allclose(vector, expected, rtol=1e-5, atol=1e-7)


def test_frozen_parameters_have_no_part():
    model = TinyNet()
    model.body.requires_grad_(False)
    assert gradient(grouped("head", model=model))[0].shape == (16,)


def test_what_a_client_keeps_has_no_influence():
    records = RecordDict()
    parameters = start(grouped())
    trained(records)
    assert records.array_records
    one, other = gradient(grouped(records=records), parameters), gradient(grouped(), parameters)
    assert np.array_equal(one[0], other[0])
    assert one[1:] == other[1:]


def test_nothing_is_kept():
    records = RecordDict()
    client = grouped(records=records)
    gradient(client)
    client.losses([start(client)], {})
    assert not records


def test_the_examples_can_be_limited():
    vector, count, _ = gradient(grouped(), adaptation_examples=7)
    assert count == 7
    assert np.array_equal(vector, gradient(grouped(), adaptation_examples=7)[0])
    assert not np.allclose(vector, gradient(grouped())[0])
    assert np.array_equal(gradient(grouped(), adaptation_examples=-1)[0], gradient(grouped())[0])
    assert gradient(grouped(), adaptation_examples=1000)[1] == 20


def test_the_same_is_reported_every_time_whatever_torch_has_drawn():
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(gradient(grouped(shuffle=True, partition_id=2), adaptation_examples=9))
        assert torch.initial_seed() == seed
    assert np.array_equal(found[0][0], found[1][0])
    assert found[0][1:] == found[1][1:]


def test_it_is_projected_if_so_asked():
    whole, _, _ = gradient(grouped())
    vector, count, metrics = gradient(grouped(), projection_size=16, projection_seed=4)
    assert np.array_equal(vector, project(whole, 16, 4))
    assert (count, metrics) == gradient(grouped())[1:]
    assert gradient(grouped(), projection_size=BODY)[0].shape == (BODY,)


@pytest.mark.parametrize(("count", "values"), [(0, {}), (20, {"adaptation_examples": 0})])
def test_without_examples_there_is_no_gradient(count, values):
    with refused(ArgumentError, argument="loader", value=[]):
        gradient(grouped(count=count), **values)


def test_a_client_that_counts_as_one_without_examples_has_no_gradient():
    with refused(ArgumentError, argument="loader", value=[]):
        gradient(grouped(details=ClientDetails(num_examples=0)))


def test_a_gradient_of_zero_is_refused():
    model = TinyNet()
    nn.init.zeros_(model.head.weight)  # nothing that the body does has an effect
    with refused(ArgumentError, argument="length of the gradient", value=0.0):
        gradient(grouped("head", model=model))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_refused(value):
    client = grouped("none")
    parameters = start(client)
    parameters[0][:] = value
    with refused(ArgumentError, argument="length of the gradient", value=math.nan):
        gradient(client, parameters)


def test_where_everything_is_personal_there_is_no_gradient():
    with refused(ArgumentError, argument="shared_names", value=[]):
        gradient(grouped("all"))


def test_arrays_of_a_wrong_shape_are_refused():
    client = grouped()
    with refused(ArgumentError, argument="shape of body.weight", value=(2,)):
        gradient(client, [np.zeros(2)] * len(client.shared_names))
    with refused(ArgumentError, argument="number of arrays", value=1):
        client.losses([start(client)[:1]], {})


def test_the_reliability_is_near_one_for_many_examples_and_unknown_for_very_few():
    easy = gradient(grouped("none", count=1000))[2]["gradient-reliability"]
    assert 0.97 < easy <= 1.0
    few = [gradient(grouped("none", count=n))[2]["gradient-reliability"] for n in (4, 8)]
    assert all(-1.0 <= reliability < easy for reliability in few)
    for count in (2, 3):
        vector, reported, metrics = gradient(grouped("none", count=count))
        assert math.isnan(metrics["gradient-reliability"])
        assert reported == count
        assert np.isfinite(vector).all()
    limited = gradient(grouped("none", count=1000), adaptation_examples=3)[2]
    assert math.isnan(limited["gradient-reliability"])


def test_the_reliability_is_that_of_noise_where_labels_are_noise():
    inputs, _ = examples(40)
    targets = torch.arange(40) % 3
    model = nn.Sequential(nn.Linear(4, 3, bias=False))
    found = []
    for seed in range(20):
        client = ClusteredClient(
            model,
            assign_scopes(model, group="rest"),
            in_memory_loader(inputs, targets[torch.randperm(40)], 40),
            seed=seed,
        )
        found.append(gradient(client)[2]["gradient-reliability"])
    assert np.median(found) < 0.8


def test_numbers_have_gradients_too():
    inputs, _ = examples(30)
    model = nn.Linear(4, 1)
    scopes, loader = assign_scopes(model, group="rest"), in_memory_loader(inputs, inputs[:, 0], 30)
    client = ClusteredClient(model, scopes, loader, task=Regression())
    vector, count, metrics = gradient(client)
    errors = model(inputs).detach()[:, 0] - inputs[:, 0]
    expected = torch.cat([2 * errors @ inputs / 30, 2 * errors.mean()[None]])
    np.testing.assert_allclose(vector, expected, rtol=1e-4, atol=1e-6)
    assert count == 30
    assert metrics["gradient-reliability"] > 0.5


# --------------------------------------------------------------------------- losses


def candidates(client):
    """Three models, by the seeds of their values."""
    models = [TinyNet(seed) for seed in (0, 5, 6)]
    return models, [[m.state_dict()[n].numpy() for n in client.shared_names] for m in models]


def loss_of(model, head, loader):
    model.head.load_state_dict(head.state_dict())
    return evaluate(model, loader).loss


def test_every_candidate_has_the_loss_that_evaluate_finds():
    client = grouped("none", partition_id=4)
    models, arrays = candidates(client)
    losses, count, metrics = client.losses(arrays, {})
    expected = [evaluate(model, client.train_loader).loss for model in models]
    assert losses == pytest.approx(expected, rel=1e-5)
    assert len(set(losses)) == 3
    assert (count, metrics) == (20, {"partition-id": 4})


def test_candidates_have_the_clients_own_personal_part():
    records = RecordDict()
    own = trained(records)
    client = grouped(records=records)
    models, arrays = candidates(client)
    losses, _, _ = client.losses(arrays, {"server-round": 2})
    expected = [loss_of(model, own.model.head, own.train_loader) for model in models]
    assert losses == pytest.approx(expected, rel=1e-5)
    assert losses != pytest.approx(grouped().losses(arrays, {})[0], rel=1e-3)


def test_with_a_limit_of_examples_it_is_the_first_personal_part():
    records = RecordDict()
    trained(records)
    client = grouped(records=records)
    models, arrays = candidates(client)
    losses, count, _ = client.losses(arrays, {"adaptation-examples": 6})
    few = in_memory_loader(*(part[:6] for part in examples(20)), 6)
    expected = [loss_of(model, TinyNet().head, few) for model in models]
    assert count == 6
    assert losses == pytest.approx(expected, rel=1e-5)


def test_they_are_on_validation_examples_if_so_asked():
    client = grouped("none")
    models, arrays = candidates(client)
    losses, count, _ = client.losses(arrays, {"loss-examples": "validation"})
    expected = [evaluate(model, client.validation_loader).loss for model in models]
    assert losses == pytest.approx(expected, rel=1e-5)
    assert count == 12
    assert client.losses(arrays, {"loss-examples": "train"}) == client.losses(arrays, {})


def test_another_word_is_refused():
    client = grouped()
    with refused(ArgumentError, argument="loss-examples", value="test", choices=("train",)):
        client.losses([start(client)], {"loss-examples": "test"})


@pytest.mark.parametrize(
    ("options", "values"),
    [
        ({"count": 0}, {}),
        ({}, {"adaptation-examples": 0}),
        ({"validation": None}, {"loss-examples": "validation"}),
    ],
)
def test_without_examples_there_are_no_losses(options, values):
    client = grouped(**options)
    with refused(ArgumentError, argument="loader", value=[]):
        client.losses([start(client)], values)


def test_a_client_that_joins_is_asked_about_the_examples_it_joins_with():
    drawn = []

    class Recording:
        def __iter__(self):
            order = torch.randperm(20)
            drawn.append(order.tolist())
            inputs, targets = examples(20)
            return iter([(inputs[order], targets[order])])

    model = TinyNet()
    client = ClusteredClient(
        model,
        assign_scopes(model, "head", "rest"),
        Recording(),
        details=ClientDetails(num_examples=20),
        partition_id=1,
    )
    joins = {"adaptation-examples": 6, "adaptation-steps": 1, "server-round": 3}
    client.evaluate(start(client), joins)
    gradient(client, adaptation_examples=6)
    client.losses([start(client)], joins)
    assert len(drawn) == 3
    assert drawn[0] == drawn[1] == drawn[2]


# --------------------------------------------------------------------------- messages


def build(context, message_config):
    number = context.node_config["partition-id"]
    records = context.state
    return grouped("head", count=20 + number, records=records, partition_id=number)


def build_plain(context, message_config):
    return tiny_client(partition_id=context.node_config["partition-id"])


def named(seed=0):
    model = TinyNet(seed).state_dict()
    return {name: model[name].numpy() for name in grouped().shared_names}


def ask(kind, arrays, make=build, **values):
    grid = InProcessGrid(client_app(make), 2)
    content = {"arrays": to_record(arrays), "config": config(server_round=1, **values)}
    messages = [Message(RecordDict(dict(content)), node, kind) for node in grid.get_node_ids()]
    return list(grid.send_and_receive(messages))


def kinds(reply):
    content = reply.content
    return [list(content.array_records), list(content.metric_records), list(content.config_records)]


def test_a_gradient_query_is_answered_with_one_vector_and_metrics():
    for number, reply in enumerate(ask("query.gradient", named(), projection_size=32)):
        assert kinds(reply) == [["arrays"], ["metrics"], []]
        vectors = decoded(reply.content["arrays"])
        client = grouped(count=20 + number, partition_id=number)
        expected, count, metrics = gradient(client, projection_size=32)
        assert vectors.keys() == {"gradient"}
        assert np.array_equal(vectors["gradient"], expected)
        assert dict(reply.content["metrics"]) == {"num-examples": count, **metrics}


def test_a_losses_query_is_answered_with_a_loss_a_group():
    own = {2: named(0), 5: named(5)}
    shared = {name: own[2].pop(name) for name in list(own[2]) if name.startswith("bn.")}
    arrays = as_part("shared", shared) | as_part("2", own[2]) | as_part("5", own[5])
    for number, reply in enumerate(ask("query.losses", arrays, loss_groups="2,5")):
        assert kinds(reply) == [[], ["metrics"], []]
        client = grouped(count=20 + number, partition_id=number)
        models = [{**shared, **own[group]} for group in (2, 5)]
        expected, count, _ = client.losses(
            [[model[name] for name in client.shared_names] for model in models], {}
        )
        assert dict(reply.content["metrics"]) == {
            "num-examples": count,
            "partition-id": number,
            "loss-2": expected[0],
            "loss-5": expected[1],
        }


def test_arrays_of_one_group_that_are_missing_are_named():
    arrays = as_part("0", named()) | as_part("1", named())
    del arrays["1/body.bias"]
    for reply in ask("query.losses", arrays, loss_groups="0,1"):
        assert "missing ['body.bias']" in reply.error.reason


@pytest.mark.parametrize("kind", ["query.gradient", "query.losses"])
def test_a_plain_client_says_what_is_needed(kind):
    for reply in ask(kind, named(), build_plain, loss_groups="0"):
        assert reply.has_error()
        assert "PersonalClient" in reply.error.reason
        assert "ClusteredClient" in reply.error.reason


def test_a_client_without_examples_answers_with_an_error():
    def nothing(context, message_config):
        return grouped(count=0)

    for reply in ask("query.gradient", named(), nothing):
        assert reply.has_error()
        assert "loader" in reply.error.reason


def test_queries_leave_no_trace_in_training():
    def rounds(asks):
        grid = InProcessGrid(client_app(build), 1)
        found = []
        for server_round in (1, 2):
            for kind in (*asks, "train"):
                arrays = as_part("0", named()) if kind == "query.losses" else named()
                values = config(server_round=server_round, loss_groups="0")
                content = RecordDict({"arrays": to_record(arrays), "config": values})
                (reply,) = grid.send_and_receive([Message(content, 100, kind)])
                assert not reply.has_error()
            found.append(decoded(reply.content["arrays"]))
        return found

    quiet, asked = rounds(()), rounds(("query.gradient", "query.losses"))
    for one, other in zip(quiet, asked, strict=True):
        for name in one:
            assert np.array_equal(one[name], other[name])
