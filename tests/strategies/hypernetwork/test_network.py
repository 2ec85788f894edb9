"""The hypernetwork, and the gradient that trains it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save
from torch import nn

from strategies.errors import ArgumentError
from strategies.hypernetwork import metadata_encoder, updates
from strategies.hypernetwork import network as network_module
from strategies.hypernetwork.metadata_encoder import Columns
from strategies.hypernetwork.network import Hypernetwork
from strategies.hypernetwork.updates import clip_updates, vector_jacobian_product
from tests.errors import refused
from tests.helpers import run_alone

EMBEDDING, HIDDEN, CLIENTS = 5, 7, 4
REPORTED = [
    {"age": 20.0, "region": "north"},
    {"age": 40.0, "region": "south"},
    {"region": "south"},
    {"age": 70.0, "region": "west"},
]
WEIGHTS = [0.5, 0.125, 0.25, 0.125]


def linear(seed=0):
    """A model of 3 features and 2 targets, as arrays by name."""
    draw = np.random.default_rng(seed)
    arrays = {"weight": draw.normal(size=(2, 3)), "bias": draw.normal(size=2)}
    return {name: values.astype(np.float32) for name, values in arrays.items()}


def network_of(metadata=REPORTED, start=None, **options):
    """A network whose last layer is far from zero."""
    sizes = {"embedding_size": EMBEDDING, "hidden_size": HIDDEN, **options}
    network = Hypernetwork(start or linear(), Columns.of(metadata), **sizes)
    nn.init.normal_(network.last.weight, generator=torch.Generator().manual_seed(1))
    return network


@pytest.fixture
def exact(monkeypatch):
    """A network in double precision, and free parts for its clients."""

    def encode_all(*arguments):
        return metadata_encoder.encode_all(*arguments).astype(np.float64)

    monkeypatch.setattr(network_module, "encode_all", encode_all)
    return network_of().double(), free_parts()


def free_parts(count=CLIENTS, dtype=torch.float64):
    draw = torch.Generator().manual_seed(2)
    return torch.randn(count, EMBEDDING, generator=draw, dtype=dtype).requires_grad_(True)


def data_of(client):
    draw = torch.Generator().manual_seed(10 + client)
    inputs = torch.randn(6, 3, generator=draw, dtype=torch.float64)
    return inputs, torch.randn(6, 2, generator=draw, dtype=torch.float64)


def loss_of(row, client):
    """The loss of a client as a function of its row of parameters."""
    inputs, targets = data_of(client)
    return ((inputs @ row[:6].reshape(2, 3).T + row[6:] - targets) ** 2).mean()


def after_training(row, client, rate, steps=1):
    """What plain SGD makes of a row of parameters, by torch's own optimizer."""
    own = row.detach().clone().requires_grad_(True)
    optimizer = torch.optim.SGD([own], lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(own, client).backward()
        optimizer.step()
    return own.detach()


def gradients_of(network, free, moved, weights=WEIGHTS, metadata=REPORTED):
    """The gradients that ``vector_jacobian_product`` adds, by name, and ``free``."""
    network.zero_grad(set_to_none=True)
    free.grad = None
    vector_jacobian_product(network, metadata, free, moved, weights)
    found = {name: p.grad.clone() for name, p in network.named_parameters()}
    return found | {"free": free.grad.clone()}


def gradient(network, free, function):
    """The gradient of a function of the generated rows, by autograd."""
    tensors = {**dict(network.named_parameters()), "free": free}
    value = function(network(network.embed(REPORTED, free)))
    return dict(zip(tensors, torch.autograd.grad(value, list(tensors.values())), strict=True))


def assert_close(found, expected, rtol=1e-9):
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert values.abs().max() > 0, name
        torch.testing.assert_close(found[name], values, rtol=rtol, atol=1e-12)


def rows_of(network, free):
    with torch.no_grad():
        return network(network.embed(REPORTED, free))


# ---------------------------------------------------------------------- the gradient


def test_after_one_step_it_is_the_rate_times_the_gradient_of_the_mean_loss(exact):
    network, free = exact
    rate = 0.3
    rows = rows_of(network, free)
    trained = torch.stack([after_training(row, c, rate) for c, row in enumerate(rows)])
    expected = gradient(
        network,
        free,
        lambda found: rate * sum(WEIGHTS[c] * loss_of(row, c) for c, row in enumerate(found)),
    )
    assert_close(gradients_of(network, free, (rows - trained).numpy()), expected)


def test_after_many_steps_it_is_the_gradient_of_half_the_squared_distance(exact):
    network, free = exact
    rows = rows_of(network, free)
    trained = torch.stack([after_training(row, c, 0.1, 7) for c, row in enumerate(rows)])
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    expected = gradient(
        network, free, lambda found: (weights @ (found - trained).square().sum(dim=1)) / 2
    )
    assert_close(gradients_of(network, free, (rows - trained).numpy()), expected)


def test_it_is_what_finite_differences_say(exact):
    network, free = exact
    rows = rows_of(network, free)
    moved = torch.randn(rows.shape, generator=torch.Generator().manual_seed(4), dtype=rows.dtype)
    found = gradients_of(network, free, moved.numpy())
    weights, trained = torch.tensor(WEIGHTS, dtype=torch.float64), rows - moved

    def distance():
        return (weights @ (rows_of(network, free) - trained).square().sum(dim=1)) / 2

    tensors = {**dict(network.named_parameters()), "free": free}
    for name, tensor in tensors.items():
        flat, step = tensor.data.view(-1), 1e-5
        for place in range(0, len(flat), max(1, len(flat) // 4)):
            before = float(flat[place])
            flat[place] = before + step
            above = distance()
            flat[place] = before - step
            slope = (above - distance()) / (2 * step)
            flat[place] = before
            assert float(found[name].view(-1)[place]) == pytest.approx(
                float(slope), rel=1e-6, abs=1e-8
            )


@settings(max_examples=20)
@given(
    st.lists(st.floats(0.01, 1), min_size=1, max_size=CLIENTS),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_in_single_precision_and_without_metadata_too(weights, with_metadata, seed):
    count = len(weights)
    metadata = REPORTED[:count] if with_metadata else [{}] * count
    network = network_of(REPORTED if with_metadata else [])
    free = free_parts(count, torch.float32)
    moved = np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)
    found = gradients_of(network, free, moved, weights, metadata)
    rows = network(network.embed(metadata, free))
    trained = rows.detach() - torch.from_numpy(moved)
    value = (torch.tensor(weights) @ (rows - trained).square().sum(dim=1)) / 2
    tensors = {**dict(network.named_parameters()), "free": free}
    expected = torch.autograd.grad(value, list(tensors.values()))
    for (name, values), other in zip(found.items(), expected, strict=True):
        torch.testing.assert_close(values, other, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("at_once", [1, 8, 17, 24, 1000])
def test_clients_a_few_at_a_time_give_the_same_gradient(exact, monkeypatch, at_once):
    network, free = exact
    moved = np.random.default_rng(3).normal(size=(CLIENTS, 8))
    whole = gradients_of(network, free, moved)
    sizes = []
    network.register_forward_hook(lambda module, inputs, rows: sizes.append(len(rows)))
    monkeypatch.setattr(updates, "VALUES_AT_ONCE", at_once)
    assert_close(gradients_of(network, free, moved), whole)
    assert max(sizes) == min(CLIENTS, max(1, at_once // 8))
    assert sum(sizes) == CLIENTS


def test_it_adds_to_what_is_there(exact):
    network, free = exact
    moved = np.random.default_rng(3).normal(size=(CLIENTS, 8))
    once = gradients_of(network, free, moved)
    vector_jacobian_product(network, REPORTED, free, moved, WEIGHTS)
    torch.testing.assert_close(network.last.bias.grad, 2 * once["last.bias"])
    torch.testing.assert_close(free.grad, 2 * once["free"])


# ---------------------------------------------------------------------- what it writes


def test_it_starts_close_to_the_common_start_in_units_of_each_tensor():
    start = {
        "narrow": np.linspace(-1e-3, 1e-3, 50, dtype=np.float32),
        "wide": np.linspace(-5, 5, 60, dtype=np.float32).reshape(6, 10),
        "bias": np.zeros(3, dtype=np.float32),
    }
    network = Hypernetwork(start, Columns.of(REPORTED))
    scale = network.arrays(network.scale.numpy())
    whole = np.concatenate([values.ravel() for values in start.values()]).std()
    for name, deviation in (("narrow", start["narrow"].std()), ("wide", start["wide"].std())):
        np.testing.assert_allclose(scale[name], np.full(start[name].shape, deviation), rtol=1e-5)
    np.testing.assert_allclose(scale["bias"], whole, rtol=1e-5)
    for name, values in network.generate(REPORTED[0]).items():
        assert 0 < np.abs(values.numpy() - start[name]).max() < 0.3 * scale[name].max()


def test_tensors_have_their_own_shapes_and_dtypes():
    start = {
        "half": np.ones((2, 1, 3), np.float16),
        "double": np.zeros((), np.float64),
        "none": np.zeros((0, 4), np.float32),
    }
    found = Hypernetwork(start, Columns.of(REPORTED)).generate(REPORTED[0])
    shapes = {name: (tuple(values.shape), values.dtype) for name, values in found.items()}
    assert shapes == {
        "half": ((2, 1, 3), torch.float16),
        "double": ((), torch.float64),
        "none": ((0, 4), torch.float32),
    }


def test_the_same_seed_writes_the_same_and_another_another():
    def generated(seed):
        return network_written(Hypernetwork(linear(), Columns.of(REPORTED), seed=seed))

    state = torch.get_rng_state()
    assert generated(3) == generated(3) != generated(4)
    assert torch.equal(torch.get_rng_state(), state)


def network_written(network):
    return [values.numpy().tobytes() for values in network.generate(REPORTED[0]).values()]


def test_metadata_decide_what_is_generated():
    network = network_of()
    one, other = (network.generate(metadata)["weight"] for metadata in REPORTED[:2])
    assert not torch.equal(one, other)
    assert torch.equal(one, network.generate(dict(REPORTED[0]))["weight"])
    free = torch.ones(EMBEDDING)
    assert not torch.equal(one, network.generate(REPORTED[0], free)["weight"])


def test_flags_never_set_in_training_mean_nothing():
    metadata = [{"a": 1.0, "b": 3.0, "c": "x"}, {"a": 5.0, "b": 4.0, "c": "y"}]
    network = network_of(metadata)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    free = torch.zeros(2, EMBEDDING)
    for seed in range(5):
        optimizer.zero_grad()
        moved = np.random.default_rng(seed).normal(size=(2, 8)).astype(np.float32)
        vector_jacobian_product(network, metadata, free, moved, [0.5, 0.5])
        optimizer.step()
    silent, average = network.generate({}), network.generate({"a": 3.0, "b": 3.5})
    for name, values in silent.items():
        torch.testing.assert_close(values, average[name], rtol=0, atol=0)
    assert not torch.equal(silent["weight"], network.generate(metadata[0])["weight"])


def test_an_unseen_client_is_at_zero_beside_metadata_and_at_the_centre_without():
    with_metadata, without = network_of(), network_of([])
    for network in (with_metadata, without):
        network.centre.copy_(torch.arange(EMBEDDING))
    assert with_metadata.unseen_client().tolist() == [0] * EMBEDDING
    assert without.unseen_client().tolist() == list(range(EMBEDDING))
    centre = torch.arange(EMBEDDING, dtype=torch.float32)
    assert torch.equal(without.generate()["bias"], without.generate({}, centre)["bias"])


@pytest.mark.parametrize(
    ("start", "options", "argument", "value"),
    [
        ({}, {}, "start", {}),
        ({"n": np.zeros(3, np.int64)}, {}, "start", {"n": "int64"}),
        (None, {"embedding_size": 0}, "embedding_size", 0),
        (None, {"hidden_size": -1}, "hidden_size", -1),
    ],
)
def test_what_cannot_be_generated_is_refused(start, options, argument, value):
    with pytest.raises(ArgumentError) as raised:
        Hypernetwork(linear() if start is None else start, Columns.of(REPORTED), **options)
    assert (raised.value.argument, raised.value.value) == (argument, value)


# ---------------------------------------------------------------------- fitting an unseen client


def train(values, steps=3):
    row = torch.cat([values["weight"].reshape(-1), values["bias"]]).double()
    trained = after_training(row, 0, 0.1, steps).float()
    return {"weight": trained[:6].reshape(2, 3), "bias": trained[6:]}


def own_loss(network, free):
    found = network.generate(REPORTED[0], free)
    row = torch.cat([found["weight"].reshape(-1), found["bias"]])
    return float(loss_of(row.double(), 0))


@pytest.mark.parametrize("metadata", [REPORTED, []])
def test_fitting_moves_the_free_part_alone_and_lowers_the_loss(metadata):
    network = network_of(metadata, embedding_size=16, hidden_size=32)
    network.centre.fill_(1.0)
    before = {name: values.clone() for name, values in network.state_dict().items()}
    start = network.unseen_client().clone()
    losses = [own_loss(network, network.fit(train, REPORTED[0], rounds=r)) for r in (0, 5, 40)]
    assert losses[0] == own_loss(network, start)
    assert losses[0] > losses[1] > losses[2]
    for name, values in network.state_dict().items():
        assert torch.equal(values, before[name]), name
    assert all(p.grad is None for p in network.parameters())


def test_fitting_no_round_gives_the_start_and_never_changes_it():
    network, start = network_of(), torch.ones(EMBEDDING)
    assert torch.equal(network.fit(train, REPORTED[0], start, rounds=0), start)
    found = network.fit(train, REPORTED[0], start, rounds=2)
    assert torch.equal(start, torch.ones(EMBEDDING))
    assert not torch.equal(found, start)
    assert not found.requires_grad


def test_the_first_step_of_fitting_goes_down_the_gradient():
    network, rate = network_of(), 1e-3
    free = torch.zeros(1, EMBEDDING, requires_grad=True)
    rows = network(network.embed(REPORTED[:1], free))
    (slope,) = torch.autograd.grad(loss_of(rows[0].double(), 0), free)
    found = network.fit(lambda values: train(values, 1), REPORTED[0], rounds=1, learning_rate=rate)
    torch.testing.assert_close(found, -rate * slope[0].sign(), rtol=1e-3, atol=0)


# ---------------------------------------------------------------------- files


@pytest.mark.parametrize("metadata", [REPORTED, []])
def test_a_network_comes_back_from_its_file_bit_for_bit(tmp_path, metadata):
    network = network_of(metadata)
    network.centre.copy_(torch.arange(EMBEDDING))
    path = tmp_path / "hypernetwork.safetensors"
    path.write_bytes(network.to_bytes())
    again = Hypernetwork.load(path)
    assert network_written(again) == network_written(network)
    for name, values in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], values), name
    assert again.about == network.about
    assert again.shapes == network.shapes
    assert again.columns == network.columns


def rewritten(network, **about):
    return save(network.state_dict(), metadata={**network.about, **about})


def without(network, name):
    values = {n: t for n, t in network.state_dict().items() if n != name}
    return save(values, metadata=network.about)


@pytest.mark.parametrize(
    "content",
    [
        lambda n: b"",
        lambda n: b"not a file of tensors at all",
        lambda n: n.to_bytes()[:-7],
        lambda n: save({"w": torch.zeros(3)}),
        lambda n: save(n.state_dict()),
        lambda n: without(n, "last.weight"),
        lambda n: without(n, "centre"),
        lambda n: rewritten(n, hidden_size="8"),
        lambda n: rewritten(n, hidden_size="many"),
        lambda n: rewritten(n, columns="{}"),
        lambda n: rewritten(n, columns=Columns.of([]).to_json()),
        lambda n: rewritten(n, shapes="{"),
        lambda n: rewritten(n, shapes="{}"),
        lambda n: rewritten(n, shapes="[]"),
        lambda n: rewritten(n, shapes='{"w": [[3], "no dtype"]}'),
        lambda n: rewritten(n, shapes='{"w": [[-3], "float32"]}'),
    ],
)
def test_a_damaged_or_foreign_file_is_a_value_error(tmp_path, content):
    path = tmp_path / "other.safetensors"
    path.write_bytes(content(network_of()))
    with pytest.raises(ArgumentError) as raised:
        Hypernetwork.load(path)
    assert (raised.value.argument, raised.value.value) == ("path", str(path))


def test_a_file_that_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        Hypernetwork.load(tmp_path / "nothing")


def test_what_makes_a_network_is_text_in_its_file(tmp_path):
    path = tmp_path / "h.safetensors"
    path.write_bytes(network_of().to_bytes())
    with safe_open(path, framework="np") as file:
        assert set(file.metadata()) == {"columns", "shapes", "hidden_size"}


# ---------------------------------------------------------------------- bounds, imports


def sizes_after(*sizes, scale=1.0):
    """What clipping leaves of the updates of clients, whose every value changed by so much."""
    moved = np.array(sizes, np.float32)[:, None] * np.ones((1, 4), np.float32)
    left, accepted = clip_updates(moved, np.full(4, scale, np.float32))
    return [value if honest else None for value, honest in zip(left[:, 0], accepted, strict=True)]


def test_a_change_counts_for_at_most_ten_times_the_median():
    assert sizes_after(1, 2, 3, 4, 290) == pytest.approx([1, 2, 3, 4, 30])
    assert sizes_after(1, 2, 3, 4, 310) == [1, 2, 3, 4, None]  # and beyond that for nothing
    assert sizes_after(500, 600, 400) == pytest.approx([500, 600, 400])  # they are the measure


def test_at_the_end_of_learning_a_deviation_is_no_giant():
    assert sizes_after(0.0, 0.0, 0.0, 0.9) == pytest.approx([0, 0, 0, 0.9])
    assert sizes_after(0.0, 0.0, 0.0, 29.0) == pytest.approx([0, 0, 0, 1.0])
    assert sizes_after(0.0, 0.0, 0.0, 31.0) == [0, 0, 0, None]


def test_of_two_nobody_knows_who_is_right_and_neither_is_endless():
    assert sizes_after(1e30, 2.0) == pytest.approx([30, 2])
    assert sizes_after(0.3, scale=0.001) == pytest.approx([0.03])


@pytest.mark.integration
def test_torch_is_not_imported_before_it_is_needed():
    script = (
        "import sys, strategies, strategies.hypernetwork.metadata_encoder\n"
        "assert 'torch' not in sys.modules\n"
        "from strategies import PFedHN, Hypernetwork\n"
        "assert 'torch' in sys.modules\n"
        "assert PFedHN.__module__ == 'strategies.hypernetwork.pfedhn'\n"
        "assert set(strategies.__all__) >= {'PFedHN', 'Hypernetwork'}\n"
    )
    run_alone(script)


def test_a_misspelt_name_is_refused():
    columns = Columns.of([{"region": "north"}, {"region": "south"}])
    network = Hypernetwork({"w": np.ones((2, 2), np.float32)}, columns)
    with refused(ArgumentError, argument="metadata", value=["regoin"]) as caught:
        network.generate({"regoin": "north"})
    assert "['region']" in caught.value.wanted


def test_every_place_of_an_embedding_can_learn():
    network = Hypernetwork({"w": np.ones((4, 4), np.float32)}, Columns.of([]), seed=1)
    free = torch.randn(5, network.embedding_size, requires_grad=True)
    network(free).square().sum().backward()
    assert (free.grad != 0).all()
