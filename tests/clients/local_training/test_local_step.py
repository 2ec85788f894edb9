"""The local step: torch's own optimizers, purity, and clients stacked along a new axis."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.func import stack_module_state, vmap
from torch.nn.functional import cross_entropy

from clients import (
    Optimization,
    ProximalTerm,
    assign_scopes,
    gradient,
    in_memory_loader,
    joint,
    train,
)
from clients.local_training.local_step import LocalState, clipped, local_step, stackable_gradient
from clients.local_training.proximal import anchors_of
from strategies.errors import ArgumentError
from tests.helpers import TinyNet, examples

OPTIMIZERS = [
    Optimization("sgd", 0.1, 0.0),
    Optimization("sgd", 0.1, 0.9, 0.01),
    Optimization("sgd", 0.05, 0.9, 0.0, 0.3),
    Optimization("adam", 0.01, 0.0, 0.01),
]


def state_of(model):
    parameters = {n: p.detach().clone() for n, p in model.named_parameters()}
    return LocalState(parameters, {n: b.clone() for n, b in model.named_buffers()})


def steps(model, optimization, count, anchors=None, state=None):
    (inputs, targets), state = examples(20), state or state_of(model)
    for _ in range(count):
        step = local_step(
            *(state, inputs, targets),
            model=model,
            criterion=cross_entropy,
            optimization=optimization,
            anchors=anchors or {},
        )
        state = step.state
    return state


def torch_steps(model, settings, count):
    inputs, targets = examples(20)
    make = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.SGD
    options = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    options |= {"momentum": settings.momentum} if settings.optimizer == "sgd" else {}
    optimizer = make(model.parameters(), **options)
    for _ in range(count):
        optimizer.zero_grad()
        cross_entropy(model(inputs), targets).backward()
        if settings.gradient_clip:
            nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clip)
        optimizer.step()
    return model.state_dict()


@pytest.mark.parametrize("optimization", OPTIMIZERS, ids=repr)
def test_the_steps_are_those_of_torch(optimization):
    found = steps(TinyNet().train(), optimization, 5)
    expected = torch_steps(TinyNet().train(), optimization, 5)
    assert {*found.parameters, *found.buffers} == expected.keys()
    for name, value in {**found.parameters, **found.buffers}.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("optimization", OPTIMIZERS, ids=repr)
def test_nothing_is_changed_in_place(optimization):
    model = TinyNet().train()
    anchors = anchors_of([ProximalTerm({"head.bias": torch.ones(3)}, 0.5)], ["head.bias"])
    state = steps(model, optimization, 2, anchors)
    pairs = [(state.parameters, "p"), (state.buffers, "b"), (state.first, "f"), (state.second, "s")]
    before = {f"{where}{n}": t.clone() for values, where in pairs for n, t in values.items()}
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    steps(model, optimization, 1, anchors, state)
    after = {f"{where}{n}": t for values, where in pairs for n, t in values.items()}
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(torch.equal(own[name], tensor) for name, tensor in model.state_dict().items())


class Smooth(nn.Module):
    """A network without normalization, in double precision."""

    def __init__(self, seed):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.hidden, self.head = nn.Linear(4, 6).double(), nn.Linear(6, 3).double()

    def forward(self, inputs):
        return self.head(torch.tanh(self.hidden(inputs)))


@pytest.mark.parametrize("optimization", OPTIMIZERS, ids=repr)
def test_clients_stacked_along_an_axis_take_the_same_steps(optimization):
    models = [Smooth(seed) for seed in range(3)]
    data = [examples(12, seed) for seed in range(3)]
    inputs = torch.stack([x for x, _ in data]).double()
    targets = torch.stack([y for _, y in data])
    centre = {"head.weight": torch.zeros(3, 6, dtype=torch.float64)}
    anchors = anchors_of([ProximalTerm(centre, 0.3)], centre)
    settings = {"criterion": cross_entropy, "optimization": optimization, "anchors": anchors}
    parameters, _ = stack_module_state(models)
    stacked = LocalState({n: p.detach() for n, p in parameters.items()}, {})

    def step(parameters, first, second, count, inputs, targets):
        state = LocalState(parameters, {}, first, second, count)
        after = local_step(
            *(state, inputs, targets), model=models[0], differentiate=stackable_gradient, **settings
        ).state
        return after.parameters, after.first, after.second

    for count in range(4):
        mapped = vmap(lambda *state, n=count: step(*state[:3], n, *state[3:]))
        found = mapped(stacked.parameters, stacked.first, stacked.second, inputs, targets)
        stacked = LocalState(found[0], {}, *found[1:], count + 1)
    for place, model in enumerate(models):
        state = state_of(model)
        for _ in range(4):
            state = local_step(state, inputs[place], targets[place], model=model, **settings).state
        for name, value in state.parameters.items():
            torch.testing.assert_close(stacked.parameters[name][place], value, rtol=1e-9, atol=0)


@given(st.floats(0.01, 100.0))
def test_clipped_gradients_are_at_most_so_long_and_keep_their_direction(largest):
    gradients = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[4.0]])}
    found = clipped(gradients, largest)
    factor = min(1.0, largest / (5.0 + 1e-6))
    torch.testing.assert_close(found["a"], gradients["a"] * factor)
    torch.testing.assert_close(found["b"], gradients["b"] * factor)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("optimizer", "lion"), ("learning_rate", 0.0), ("momentum", 1.0), ("weight_decay", -1.0)],
)
def test_settings_that_make_no_sense_are_refused(argument, value):
    with pytest.raises(ArgumentError) as error:
        Optimization(**{argument: value})
    assert (error.value.argument, error.value.value) == (argument, value)


class Counting(nn.Module):
    """A network that puts a new tensor in the place of a buffer, as custom layers do."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, inputs):
        if self.training:
            self.mean = 0.5 * self.mean + 0.5 * inputs.mean(dim=0)
        return self.linear(inputs - self.mean)


@pytest.mark.parametrize("differentiate", [gradient, stackable_gradient])
def test_a_buffer_that_the_network_replaces_is_the_one_that_it_put_there(differentiate):
    model, (inputs, targets) = Counting().train(), examples(20)
    own, given = model.mean, {"mean": torch.zeros(4)}
    parameters = state_of(model).parameters
    _, _, after = differentiate(model, cross_entropy, parameters, given, inputs, targets)
    torch.testing.assert_close(after["mean"], 0.5 * inputs.mean(dim=0))
    assert not after["mean"].requires_grad
    assert model.mean is own
    assert not own.any()
    assert not given["mean"].any()


def test_a_trained_network_has_the_buffers_that_it_replaced():
    model, (inputs, targets) = Counting(), examples(20)
    loader = in_memory_loader(inputs, targets, 20)
    train(model, loader, joint(2), assign_scopes(model))
    torch.testing.assert_close(model.mean, 0.75 * inputs.mean(dim=0))
