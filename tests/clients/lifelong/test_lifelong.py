import math

import numpy as np
import pytest
import torch
from flwr.app import RecordDict
from torch import nn

from clients import (
    ForeignStateError,
    Optimization,
    PersonalState,
    ProximalRule,
    Regression,
    Scope,
    assign_scopes,
    in_memory_loader,
    joint,
    train,
)
from clients.lifelong.lifelong import LOSSES, TASK, TASKS, LifelongClient, times
from strategies.errors import ArgumentError
from tests.errors import refused
from tests.helpers import TinyNet, examples, flat


def task(number, count=40, classes=(0, 1, 2)):
    """Examples of a task: the same inputs, other names of the classes."""
    inputs, targets = examples(count, seed=number)
    names = torch.tensor(classes).roll(number)
    return inputs, names[targets]


def make(records=None, data=None, announced=0, mu=0.0, validation=None, model=None, **options):
    model = model or TinyNet()
    data = task(0) if data is None else data
    loaders = [in_memory_loader(*data, 8, shuffle=True)]
    loaders += [in_memory_loader(*validation, 64) if validation else None]
    options.setdefault("state", PersonalState(records if records is not None else RecordDict()))
    pulls = (ProximalRule(Scope.SHARED, "received", mu),)
    return LifelongClient(
        model,
        assign_scopes(model, "none"),
        *loaders,
        in_memory_loader(*data, 64),
        proximal_rules=pulls,
        task_id=announced,
        **options,
    )


def kept(client):
    return client.state.load(client.spec)


def fit(client, server_round, arrays=None):
    arrays = client.get_parameters({}) if arrays is None else arrays
    return client.fit(arrays, {"server-round": server_round})


# ---------------------------------------------------------------------- identities


def test_without_pulls_it_is_plain_fine_tuning_bitwise():
    records, plain = RecordDict(), TinyNet()
    for server_round, number in enumerate([0, 0, 1, 1, 2], start=1):
        client = make(records, task(number), announced=number, lambda_=0.0)
        received = [
            np.asarray(values * 0 + 0.5, values.dtype) for values in client.get_parameters({})
        ]
        sent = fit(client, server_round, received if server_round > 1 else None)[0]
        with client.random(server_round, "train"):
            train(plain, client.train_loader, joint(1), client.scopes)
        for name, values in zip(client.shared_names, sent, strict=True):
            assert np.array_equal(values, plain.state_dict()[name].numpy()), name


@pytest.mark.parametrize(("strength", "mu"), [(0.0, 0.0), (2.0, 0.0), (0.0, 0.7), (2.0, 0.7)])
def test_the_fixed_point_is_the_closed_form(strength, mu):
    # h/2 (v - a)^2: F = 2 x^2 = h, which is 1 after normalization over the only parameter
    x = torch.tensor([[math.sqrt(0.5 * 3.0)]], dtype=torch.float64)
    old, new, group, h = -1.0, 2.0, 5.0, 3.0
    records = RecordDict()

    def client(goal, number):
        model = nn.Linear(1, 1, bias=False).double()
        return LifelongClient(
            model,
            assign_scopes(model, "none"),
            in_memory_loader(x, x[:, 0] * goal, 1),
            schedule=joint(0, 200),
            optimization=Optimization(learning_rate=0.1, momentum=0.5),
            proximal_rules=(ProximalRule(Scope.SHARED, "received", mu),) if number else (),
            task=Regression(),
            state=PersonalState(records),
            lambda_=strength,
            task_id=number,
        )

    received = [np.array([[group]])]
    fit(client(old, 0), 1, received)
    after = fit(client(new, 1), 2, received)[0][0].item()
    expected = (h * new + strength * old + mu * group) / (h + strength + mu)
    assert after == pytest.approx(expected, abs=1e-5)


def test_at_infinity_what_matters_stays_and_the_rest_is_free():
    records = RecordDict()
    inputs, targets = task(0)
    inputs[:, 3] = 0.0  # the last feature never mattered
    fit(make(records, (inputs, targets), lambda_=math.inf), 1)
    before = kept(make(records, lambda_=math.inf)).part("own")
    fit(make(records, task(1), announced=1, lambda_=math.inf), 2)
    after = kept(make(records, lambda_=math.inf))
    fisher = after.part("fisher")
    assert (fisher["body.weight"][:, 3] == 0).all()
    for name, value in fisher.items():
        held = value > 0
        assert torch.equal(after.part("own")[name][held], before[name][held]), name
    free = after.part("own")["body.weight"][:, 3] != before["body.weight"][:, 3]
    assert free.any()


def test_infinity_times_zero_is_zero():
    fisher = torch.tensor([0.0, 1e-30, 2.0])
    assert times(math.inf, fisher).tolist() == [0.0, math.inf, math.inf]
    assert times(3.0, fisher)[2] == 6.0
    assert times(math.inf, fisher.double()).dtype is torch.float64


def test_batch_norm_keeps_the_statistics_under_which_the_memory_was_taken():
    records = RecordDict()
    fit(make(records, lambda_=1.0), 1)
    before = kept(make(records)).part("own")
    assert before["bn.running_mean"].any()
    inputs, targets = task(1)
    fit(make(records, (inputs + 3.0, targets), announced=1, lambda_=1.0), 2)
    after = kept(make(records)).part("own")
    for name in ("bn.running_mean", "bn.running_var", "bn.num_batches_tracked"):
        assert torch.equal(after[name], before[name])
    assert not torch.equal(after["body.weight"], before["body.weight"])


def test_fisher_information_of_an_older_model_is_not_kept():
    records = RecordDict()
    fit(make(records, lambda_=1.0), 1)
    assert kept(make(records)).part("recent")
    fit(make(records, lambda_=0.0), 2)
    assert not any(t.any() for t in kept(make(records)).part("recent").values())
    fit(make(records, task(1), announced=1, lambda_=1.0), 3)  # nothing to consolidate
    assert not any(t.any() for t in kept(make(records)).part("fisher").values())


def accuracy(client, data):
    inputs, targets = data
    client.model.eval()
    return float((client.model(inputs).argmax(1) == targets).float().mean())


def test_the_fisher_pull_preserves_the_old():
    losses = {}
    for strength in (0.0, 1.0, 30.0):
        records = RecordDict()
        for server_round in range(1, 21):
            number = int(server_round > 10)
            client = make(records, task(number), announced=number, lambda_=strength)
            fit(client, server_round)
        losses[strength] = accuracy(client, task(0))
    assert losses[0.0] < losses[30.0] - 0.2
    assert losses[0.0] <= losses[1.0] + 0.05


# ---------------------------------------------------------------------- task changes


def test_an_announced_change_makes_the_last_task_part_of_the_memory():
    records = RecordDict()
    fit(make(records), 1)
    first = kept(make(records))
    assert not first.part("anchor")
    assert (int(first.arrays[TASK]), int(first.arrays[TASKS])) == (0, 1)
    fit(make(records), 2)
    second = kept(make(records))
    assert not second.part("anchor")
    client = make(records, task(1), announced=1, fisher_decay=0.5)
    fit(client, 3)
    third = kept(client)
    for name, value in second.part("recent").items():
        assert torch.equal(third.part("fisher")[name], value)
        assert torch.equal(third.part("anchor")[name], second.part("own")[name])
    assert (int(third.arrays[TASK]), int(third.arrays[TASKS])) == (1, 2)
    fit(make(records, task(2), announced=2, fisher_decay=0.5), 4)
    fourth = kept(make(records))
    for name, value in third.part("recent").items():
        torch.testing.assert_close(
            fourth.part("fisher")[name], 0.5 * third.part("fisher")[name] + value
        )
    client = make(records)
    assert client.evaluate(client.get_parameters({}), {})[2]["tasks"] == 3


@pytest.mark.parametrize("held_out", [False, True])
def test_a_client_finds_a_change_by_itself_and_raises_no_false_alarm(held_out):
    records = RecordDict()
    tasks = []
    for server_round in range(1, 25):
        number = int(server_round > 12)
        validation = task(number, 30) if held_out else None
        client = make(records, task(number), announced=None, validation=validation)
        fit(client, server_round)
        tasks.append(int(kept(client).arrays[TASKS]))
    assert tasks == [1] * 12 + [2] * 12


def test_clients_change_at_times_of_their_own():
    states = [RecordDict(), RecordDict()]
    for server_round in range(1, 6):
        for start, records in zip((2, 4), states, strict=True):
            number = int(server_round >= start)
            fit(make(records, task(number), announced=number), server_round)
    found = [int(kept(make(records)).arrays[TASKS]) for records in states]
    assert found == [2, 2]
    assert not torch.equal(
        kept(make(states[0])).part("anchor")["head.weight"],
        kept(make(states[1])).part("anchor")["head.weight"],
    )


# ---------------------------------------------------------------------- odd data


def test_a_task_without_examples_changes_nothing():
    records = RecordDict()
    fit(make(records), 1)
    before = kept(make(records)).arrays
    client = make(records, examples(0), announced=1)
    _, count, metrics = fit(client, 2)
    assert count == 0
    assert math.isnan(metrics["train-loss"])
    after = kept(client).arrays
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    fit(make(records, task(2), announced=2), 3)  # and the next one is a change as ever
    assert int(kept(make(records)).arrays[TASKS]) == 2
    fresh = make(RecordDict(), examples(0))
    fit(fresh, 1)
    assert kept(fresh) is None


def test_a_class_that_the_old_head_never_saw_is_learnt():
    records = RecordDict()
    old, new = task(0, 60), task(1, 60)
    old = tuple(part[old[1] != 2] for part in old)
    for server_round in range(1, 11):
        fit(make(records, old, lambda_=1.0), server_round)
    memory = kept(make(records)).part("recent")["head.bias"]
    assert memory[2] < memory[:2].min()  # what it never saw it is freest to change
    only = tuple(part[new[1] == 2] for part in new)
    client = make(records, old)
    client.evaluate(client.get_parameters({}), {})
    assert accuracy(client, only) == 0.0
    for server_round in range(11, 31):
        client = make(records, new, announced=1, lambda_=1.0)
        fit(client, server_round)
    assert accuracy(client, only) > 0.6


@pytest.mark.parametrize(
    ("options", "name", "value"),
    [
        ({"lambda_": -0.1}, "lambda_", -0.1),
        ({"lambda_": math.nan}, "lambda_", math.nan),
        ({"fisher_decay": 1.1}, "fisher_decay", 1.1),
        ({"mu": -1.0}, "strength", -1.0),
        ({"mu": math.inf}, "strength", math.inf),
    ],
)
def test_bad_settings(options, name, value):
    with refused(ArgumentError, argument=name, value=value):
        make(**options)


def test_no_strength_is_too_large_for_a_learning_rate():
    records = RecordDict()
    big = Optimization(learning_rate=0.5)
    for server_round in (1, 2):
        client = make(
            records,
            task(server_round),
            announced=server_round,
            lambda_=1e6,
            mu=1e6,
            optimization=big,
        )
        sent = fit(client, server_round)[0]
        assert np.isfinite(flat(sent)).all()


# ---------------------------------------------------------------------- state


def test_memory_survives_a_restart_and_is_refused_by_another_objective(tmp_path):
    def state(method="lifelong"):
        return PersonalState(RecordDict(), method, client="c", directory=tmp_path)

    fit(make(state=state()), 1)
    fit(make(data=task(1), announced=1, state=state()), 2)
    snapshot = kept(make(state=state()))
    parts = {name.partition("/")[0] for name in snapshot.arrays}
    assert parts == {"own", "anchor", "fisher", "recent", "clock"}
    assert snapshot.arrays[LOSSES].dtype is torch.float64
    with pytest.raises(ForeignStateError):
        fit(make(state=state("ditto")), 3)


def test_an_unseen_client_takes_the_shared_model_near_the_group():
    client = make(mu=1e9)
    before = client.get_parameters({})
    client.evaluate(before, {"adaptation-examples": 8, "adaptation-steps": 5})
    trained = dict(client.model.named_parameters())
    for name, values in zip(client.shared_names, before, strict=True):
        if name in trained:
            np.testing.assert_allclose(trained[name].detach().numpy(), values, atol=1e-6)
