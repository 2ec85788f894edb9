import numpy as np
import pytest
import torch
from flwr.app import RecordDict

from clients import FineTuning, PersonalState, Scope, in_memory_loader
from clients.local_training.adaptation import ALL, take_examples
from strategies.errors import ArgumentError
from tests.helpers import flat, tiny_client


def config(examples, steps=20):
    return {"adaptation-examples": examples, "adaptation-steps": steps, "server-round": 3}


def adapted(client, examples, steps=20):
    """The model's values after a client has adapted it."""
    client.evaluate(client.get_parameters({}), config(examples, steps))
    return {name: tensor.clone() for name, tensor in client.model.state_dict().items()}


def moved(client, examples, steps=20):
    before = {name: tensor.clone() for name, tensor in client.model.state_dict().items()}
    after = adapted(client, examples, steps)
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_only_the_personal_part_is_fitted():
    assert moved(tiny_client("head"), 5) == {"head.weight", "head.bias"}
    assert moved(tiny_client("norm"), 5) >= {"bn.weight", "bn.bias", "bn.running_mean"}
    assert "body.weight" not in moved(tiny_client("norm"), 5)


def test_without_examples_steps_or_a_personal_part_the_model_is_taken_as_it_is():
    assert not moved(tiny_client("head"), 0)
    assert not moved(tiny_client("head"), 5, steps=0)
    assert not moved(tiny_client("none"), 5)
    assert not moved(tiny_client("head", count=0), 5)


def test_a_method_that_fine_tunes_adapts_by_fine_tuning():
    everything = FineTuning(frozenset(Scope), (0, 1))
    assert "body.weight" in moved(tiny_client("none", fine_tuning=everything), 5)


def test_adaptation_leaves_nothing_behind():
    records = RecordDict()
    client = tiny_client("head", records=records)
    adapted(client, ALL)
    assert not records
    fresh = tiny_client("head", state=PersonalState(records))
    first = flat(fresh.fit(fresh.get_parameters({}), {"server-round": 1})[0])
    other = tiny_client("head")
    assert np.array_equal(first, flat(other.fit(other.get_parameters({}), {"server-round": 1})[0]))


def test_adaptation_is_the_same_every_time_and_more_examples_matter():
    few, again, more = (adapted(tiny_client("head"), n)["head.weight"] for n in (2, 2, 10))
    assert torch.equal(few, again)
    assert not torch.equal(few, more)


def test_all_examples_are_as_many_as_there_are():
    everything = adapted(tiny_client("head", count=20), ALL)
    for count in (20, 1000):
        assert torch.equal(
            adapted(tiny_client("head", count=20), count)["head.bias"], everything["head.bias"]
        )


def test_fewer_examples_are_among_more():
    inputs = torch.arange(30.0)

    def taken(count):
        torch.manual_seed(3)
        return take_examples(in_memory_loader(inputs, inputs, 8, shuffle=True), count)

    for count in (1, 5, 8, 9, 29):
        some, targets, batch = taken(count)
        assert len(some) == len(targets) == count
        assert batch == 8
        assert torch.equal(some, taken(ALL)[0][:count])
    assert len(taken(ALL)[0]) == 30
    with pytest.raises(ArgumentError) as raised:
        take_examples((), 3)
    assert (raised.value.argument, raised.value.value) == ("loader", [])


def test_what_an_earlier_run_kept_is_no_head_start_for_an_unseen_client():
    records = RecordDict()
    tiny_client("head", records=records).fit(tiny_client("head").get_parameters({}), {})
    fresh = adapted(tiny_client("head"), 5)["head.weight"]
    assert records
    assert torch.equal(adapted(tiny_client("head", records=records), 5)["head.weight"], fresh)
