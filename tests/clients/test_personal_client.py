import math
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import RecordDict
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    SubsetRandomSampler,
    TensorDataset,
)

from clients import (
    ClientDetails,
    FineTuning,
    ForeignStateError,
    Optimization,
    PersonalClient,
    PersonalState,
    ProximalRule,
    Scope,
    TrainingDivergedError,
    assign_scopes,
    body_only,
    joint,
    train,
)
from clients.data.loaders import count_examples, in_memory_loader
from strategies.errors import ArgumentError
from tests.errors import refused
from tests.helpers import TinyNet, examples, flat, tiny_client

ROUND = {"server-round": 1, "num-server-rounds": 3}


def fit(client, **config):
    return client.fit(client.get_parameters({}), ROUND | config)


def test_shared_arrays_go_out_and_personal_ones_stay():
    records = RecordDict()
    client = tiny_client("head,norm", records=records)
    assert client.shared_names == ["body.weight", "body.bias"]
    arrays, count, metrics = fit(client)
    assert [array.shape for array in arrays] == [(8, 4), (8,)]
    assert count == 20
    assert metrics.keys() == {"train-loss"}
    kept = records.array_records["personal.personal"]
    assert set(kept) == {f"personal/{name}" for name in client.personal_names}
    assert "personal/bn.num_batches_tracked" in kept


def test_the_personal_part_comes_back_in_the_next_message():
    records = RecordDict()
    first = tiny_client(records=records)
    fit(first)
    trained = first.model.head.weight.clone()
    second = tiny_client(records=records)  # a new object with a new network, as Flower has it
    second.evaluate(second.get_parameters({}), ROUND)
    assert torch.equal(second.model.head.weight, trained)
    third = tiny_client(records=records)
    fit(third, **{"server-round": 2})
    assert not torch.equal(third.model.head.weight, trained)


def test_returned_arrays_are_no_views_of_the_model():
    client = tiny_client()
    arrays, _, _ = fit(client)
    before = flat(arrays).copy()
    with torch.no_grad():
        for parameter in client.model.parameters():
            parameter.zero_()
    np.testing.assert_array_equal(flat(arrays), before)


def test_the_same_seed_client_and_round_give_the_same_bits_whatever_happened_before():
    torch.manual_seed(1)
    one = flat(fit(tiny_client(seed=4))[0])
    torch.manual_seed(2)
    before = torch.get_rng_state()
    np.testing.assert_array_equal(one, flat(fit(tiny_client(seed=4))[0]))
    assert torch.equal(before, torch.get_rng_state())  # and leaves the user's generator alone
    assert not np.array_equal(one, flat(fit(tiny_client(seed=5))[0]))
    assert not np.array_equal(one, flat(fit(tiny_client(seed=4), **{"server-round": 2})[0]))


def test_an_ordinary_dataloader_works_and_is_deterministic():
    def client():
        model = TinyNet()
        loader = DataLoader(TensorDataset(*examples(21)), batch_size=4, shuffle=True)
        return PersonalClient(model, assign_scopes(model), loader)

    assert client().num_examples == 21
    np.testing.assert_array_equal(flat(fit(client())[0]), flat(fit(client())[0]))


def test_everything_personal_is_training_alone_bitwise():
    records = RecordDict()
    for server_round in (1, 2, 3):
        client = tiny_client("all", records=records, schedule=joint(2))
        arrays, _, _ = client.fit([], {"server-round": server_round})
        assert arrays == []
    model = TinyNet()
    alone = tiny_client("all", model=model, schedule=joint(2))
    for server_round in (1, 2, 3):
        with alone.random(server_round, "train"):
            train(model, alone.train_loader, joint(2), alone.scopes)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, client.model.state_dict()[name])


def test_fedbabus_head_never_trains_but_is_fine_tuned_for_evaluation():
    fine_tuning = FineTuning(frozenset({Scope.PERSONAL}), (5,), every_round=True)
    options = {"schedule": body_only(1), "fine_tuning": fine_tuning, "records": RecordDict()}
    options["optimization"] = Optimization(momentum=0.9, weight_decay=0.1)
    first = TinyNet().head.weight
    for server_round in (1, 2, 3):
        config = ROUND | {"server-round": server_round}
        client = tiny_client(**options)
        client.fit(client.get_parameters({}), config)
        assert torch.equal(client.model.head.weight, first)
        _, _, metrics = client.evaluate(client.get_parameters({}), config)
        assert metrics["fine-tuning-epochs"] == 5
        assert not torch.equal(client.model.head.weight, first)
    kept = client.state.load(client.spec)
    assert torch.equal(kept.part("personal")["head.weight"], first)
    assert torch.equal(kept.part("fine-tuned")["head.weight"], client.model.head.weight)


def test_fine_tuning_after_the_last_round_only():
    def epochs(server_round):
        client = tiny_client("none", fine_tuning=FineTuning(epochs=(3,)))
        config = ROUND | {"server-round": server_round}
        return client.evaluate(client.get_parameters({}), config)[2]["fine-tuning-epochs"]

    assert [epochs(r) for r in (1, 2, 3)] == [0, 0, 3]


def test_zero_fine_tuning_epochs_are_fedavg():
    plain = tiny_client("none")
    tuned = tiny_client("none", fine_tuning=FineTuning(epochs=(0,)))
    config = ROUND | {"server-round": 3}
    expected = plain.evaluate(plain.get_parameters({}), config)
    loss, count, metrics = tuned.evaluate(tuned.get_parameters({}), config)
    metrics.pop("fine-tuning-epochs")
    assert (loss, count, metrics) == expected


def test_mu_zero_is_fedavg_bitwise_and_a_pull_holds_every_step():
    plain = fit(tiny_client("none", schedule=joint(5)))[0]
    zero = fit(
        tiny_client(
            "none", schedule=joint(5), proximal_rules=[ProximalRule(Scope.SHARED, "received", 0.0)]
        )
    )
    np.testing.assert_array_equal(flat(plain), flat(zero[0]))
    settings = Optimization(learning_rate=0.05, momentum=0.0)
    start = TinyNet().state_dict()["body.weight"].numpy()
    distance = []
    for mu in (0.0, 1.0, 10.0):
        pulls = [ProximalRule(Scope.SHARED, "received", mu)]
        client = tiny_client(
            "none", schedule=joint(20), proximal_rules=pulls, optimization=settings
        )
        distance.append(np.linalg.norm(fit(client)[0][0] - start))
    assert distance[0] > distance[1] > distance[2] > 0


def test_a_client_without_examples_returns_what_it_got():
    client = tiny_client(count=0)
    sent = client.get_parameters({})
    arrays, count, metrics = client.fit(sent, ROUND)
    assert count == 0
    assert math.isnan(metrics["train-loss"])
    np.testing.assert_array_equal(flat(arrays), flat(sent))


def test_a_diverging_client_keeps_its_old_state():
    records = RecordDict()
    fit(tiny_client(records=records))
    before = tiny_client(records=records).state.load(tiny_client().spec)
    with pytest.raises(TrainingDivergedError):
        fit(tiny_client(records=records, optimization=Optimization(learning_rate=1e20)))
    after = tiny_client(records=records).state.load(tiny_client().spec)
    for name, tensor in before.arrays.items():
        assert torch.equal(tensor, after.arrays[name])


class Stream(IterableDataset[Any]):
    """Six examples, one after another."""

    def __iter__(self):
        inputs, targets = examples(6)
        return iter(list(zip(inputs, targets, strict=True)))


def test_loaders_are_counted_by_what_they_train_on():
    data = TensorDataset(*examples(20))
    assert count_examples(DataLoader(data, 8)) == 20
    assert count_examples(DataLoader(data, 8, drop_last=True)) == 16
    assert count_examples(DataLoader(data, 30, drop_last=True)) == 0
    assert count_examples(DataLoader(data, 8, sampler=SubsetRandomSampler(range(5)))) == 5
    assert count_examples([examples(3), examples(4)]) == 7
    batches = BatchSampler(SubsetRandomSampler(range(5)), 2, drop_last=False)
    assert count_examples(DataLoader(data, batch_sampler=batches)) == 5
    assert count_examples(DataLoader(Stream(), 4)) == 6
    assert count_examples(in_memory_loader(*examples(9), 4)) == 9
    with refused(ArgumentError, argument="loader"):
        count_examples(iter([examples(3)]))


def test_evaluation_and_queries_leave_the_users_generator_alone():
    model = TinyNet()
    loader = DataLoader(TensorDataset(*examples(9)), 4, shuffle=True)
    client = PersonalClient(model, assign_scopes(model), loader, loader, loader)
    before = torch.get_rng_state()
    client.evaluate(client.get_parameters({}), ROUND)
    client.get_properties({})
    assert torch.equal(before, torch.get_rng_state())


def test_fine_tuning_is_deterministic():
    def loss():
        client = tiny_client("none", fine_tuning=FineTuning(epochs=(3,), every_round=True))
        return client.evaluate(client.get_parameters({}), ROUND)[0]

    torch.manual_seed(1)
    first = loss()
    torch.manual_seed(2)
    assert loss() == first


def test_the_file_of_another_model_is_refused_even_where_nothing_is_personal(tmp_path):
    def tuned(model):
        state = PersonalState(RecordDict(), "fedavg-ft", "client-0", tmp_path)
        options = {"fine_tuning": FineTuning(epochs=(1,)), "state": state}
        client = tiny_client("none", model=model, **options)
        config = ROUND | {"server-round": 3}
        return client.evaluate(client.get_parameters({}), config)

    tuned(TinyNet())
    with refused(ForeignStateError, key="fingerprint"):
        tuned(torch.nn.Linear(4, 3))


def test_bfloat16_is_refused_by_name():
    with refused(ArgumentError, argument="dtype of body.weight", value="bfloat16"):
        tiny_client(model=TinyNet().to(torch.bfloat16))


def test_wrong_arrays_are_refused_by_name():
    client = tiny_client()
    sent = client.get_parameters({})
    with refused(ArgumentError, argument="number of arrays", value=1):
        client.fit(sent[:1], ROUND)
    sent[0] = sent[0].T
    with refused(ArgumentError, argument="shape of body.weight", value=(4, 8), wanted="(8, 4)"):
        client.fit(sent, ROUND)


def test_scopes_of_another_model_are_refused():
    with refused(ArgumentError, argument="scopes"):
        PersonalClient(TinyNet(), {"body.weight": Scope.SHARED}, [])


def test_queries():
    client = tiny_client(partition_id=3, details=ClientDetails(properties={"region": "north"}))
    answers = client.get_properties({})
    assert answers["partition-id"] == 3
    assert answers["num-examples"] == 20
    assert answers["classes"] == "0,1,2"
    assert answers["personal"] == "head.weight,head.bias"
    assert client.get_properties({"properties": "region,num-examples"}) == {
        "region": "north",
        "num-examples": 20,
    }
    with refused(ArgumentError, argument="properties", value=["age"], choices=("region",)):
        client.get_properties({"properties": "age"})


def test_evaluation_reports_test_and_validation():
    loss, count, metrics = tiny_client().evaluate(tiny_client().get_parameters({}), ROUND)
    assert count == 12
    assert metrics["validation-loss"] == pytest.approx(loss)
    assert 0 <= metrics["accuracy"] <= 1


def test_the_files_of_a_personal_directory_survive_the_context(tmp_path):
    def state():
        return PersonalState(RecordDict(), "fedper", "client-0", tmp_path)

    first = tiny_client(state=state())
    fit(first)
    second = tiny_client(state=state())
    second.evaluate(second.get_parameters({}), ROUND)
    assert torch.equal(second.model.head.weight, first.model.head.weight)
