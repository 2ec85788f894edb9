"""A second adapter at each layer, mixed for each example: closed forms and ends of the range."""

import copy

import pytest
import torch
from torch import nn

from clients import PersonalClient, PersonalState, Scope, assign_scopes, in_memory_loader
from clients.adapters.feddpa import FedDPAClient
from clients.adapters.mixed_adapters import MixedAdapters, weights_by_similarity
from clients.data.inputs import spread_inputs
from clients.entries import entries_of
from pfl_flower.models import LowRankAdapter
from strategies.errors import ArgumentError
from tests.errors import refused


class Net(nn.Module):
    """Two layers with low-rank adapters, and a head."""

    parts = {"head": ("head",)}

    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.one, self.two, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
            self.beside_one, self.beside_two = LowRankAdapter(4, 6, 2), LowRankAdapter(6, 6, 2)
            for adapter in (self.beside_one, self.beside_two):
                nn.init.normal_(adapter.up.weight)

    def hidden(self, x):
        x = (self.one(x) + self.beside_one(x)).relu()
        return self.two(x) + self.beside_two(x)

    def forward(self, x):
        return self.head(self.hidden(x))


def both(mixing, references=None, seed=1):
    """A network, a mixture with another adapter, and the network with that adapter alone."""
    network, other = Net(), Net(seed)
    mixed = MixedAdapters(network, mixing, references).eval()
    values = {name: entries_of(other)[name] for name in mixed.names.values()}
    mixed.put(values)
    alone = copy.deepcopy(network)
    alone.load_state_dict({**network.state_dict(), **values})
    return network, mixed, alone


X = torch.randn(5, 4, generator=torch.Generator().manual_seed(3))


def test_at_both_ends_it_is_one_of_the_two_bit_for_bit():
    network, mixed, _ = both(0.0)
    assert torch.equal(mixed(X), network(X))
    _, mixed, alone = both(1.0)
    assert torch.equal(mixed(X), alone(X))


def test_between_them_corrections_are_mixed_at_every_layer():
    network, mixed, alone = both(0.3)
    first = 0.7 * network.beside_one(X) + 0.3 * alone.beside_one(X)
    hidden = (network.one(X) + first).relu()
    second = 0.7 * network.beside_two(hidden) + 0.3 * alone.beside_two(hidden)
    torch.testing.assert_close(mixed(X), network.head(network.two(hidden) + second))


def test_the_network_is_left_as_it_was():
    network, mixed, _ = both(0.5)
    before, values = network(X), copy.deepcopy(network.state_dict())
    mixed(X)
    mixed.representations(X)
    assert torch.equal(network(X), before)
    assert all(torch.equal(values[name], value) for name, value in network.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_a_forward_pass_that_fails_leaves_no_hooks():
    network, mixed, _ = both(0.5)
    with pytest.raises(RuntimeError):
        mixed(torch.zeros(5, 3))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_weights_are_mean_cosines_and_never_negative():
    references = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    examples = torch.tensor([[3.0, 0.0], [1.0, 1.0], [-1.0, -1.0], [0.0, 0.0]])
    found = weights_by_similarity(examples, references, 0.8)
    torch.testing.assert_close(found, 0.8 * torch.tensor([0.5, 0.5**0.5, 0.0, 0.0]))


def test_an_example_is_what_the_last_layer_gets_of_it_with_the_second_adapter_alone():
    _, mixed, alone = both(0.3)
    torch.testing.assert_close(mixed.representations(X), alone.hidden(X))


def test_every_example_has_its_own_weight():
    """In a batch as alone: no prediction depends on which examples are asked for together."""
    _, mixed, alone = both(0.9)
    mixed.references = alone.hidden(X[:2]).detach()
    weights = weights_by_similarity(alone.hidden(X), mixed.references, 0.9).detach()
    assert len({round(float(weight), 4) for weight in weights}) > 1
    outputs = mixed(X)
    for place, weight in enumerate(weights.tolist()):
        _, single, _ = both(weight)
        torch.testing.assert_close(outputs[place], single(X[place : place + 1])[0])


def test_an_example_that_the_references_are_not_like_has_the_networks_own_adapter():
    network, mixed, _ = both(1.0)
    mixed.references = -mixed.representations(X[:1])
    torch.testing.assert_close(mixed(X[:1]), network(X[:1]))


def test_layers_that_see_the_parts_of_an_example_have_its_weight():
    network, mixed, alone = both(1.0)
    sequences = torch.randn(3, 4, 4)
    torch.testing.assert_close(mixed.representations(sequences), alone.hidden(sequences).mean(1))
    mixed.references = mixed.representations(sequences)[:1]
    assert mixed(sequences).shape == network(sequences).shape


class MaskedNet(Net):
    """A head on every element of a sequence; the mean of their logits, padding left out."""

    def forward(self, x, attention_mask):
        mask = attention_mask.unsqueeze(-1)
        return (super().forward(x) * mask).sum(dim=1) / mask.sum(dim=1)


def test_padding_is_no_part_of_what_an_example_is_like():
    """A text has one prediction, whatever the longest one is that it is padded to."""
    network = MaskedNet()
    spread_inputs(network)
    mixed = MixedAdapters(network, 0.9).eval()
    other = Net(1)
    mixed.put({name: entries_of(other)[name] for name in mixed.names.values()})
    lengths = torch.tensor([2, 3, 3])
    inputs = {
        "x": torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(4)),
        "attention_mask": (torch.arange(6) < lengths[:, None]).long(),
    }
    short = {"x": inputs["x"][:, :3], "attention_mask": inputs["attention_mask"][:, :3]}
    mixed.references = mixed.representations(short)[:2]
    torch.testing.assert_close(mixed.representations(inputs), mixed.representations(short))
    torch.testing.assert_close(mixed(inputs), mixed(short))
    alone = {"x": inputs["x"][:1, :2], "attention_mask": inputs["attention_mask"][:1, :2]}
    torch.testing.assert_close(mixed(inputs)[:1], mixed(alone))


def test_it_is_made_again_from_its_tensors():
    network, mixed, alone = both(0.4)
    mixed.references = alone.hidden(X[:2]).detach()
    again = MixedAdapters.from_tensors(network, mixed.tensors()).eval()
    assert torch.equal(again(X), mixed(X))
    with pytest.raises(KeyError):
        MixedAdapters.from_tensors(network, {"mixing": torch.tensor(0.5)})


def client(kind=FedDPAClient, examples=16, **options):
    network = Net()
    draw = torch.Generator().manual_seed(5)
    x = torch.randn(examples, 4, generator=draw)
    loader = in_memory_loader(x, x[:, :3].argmax(dim=1), 8, shuffle=True)
    scopes = assign_scopes(network, "head")
    return kind(network, scopes, loader, loader, loader, state=PersonalState(), **options)


@pytest.mark.parametrize(("name", "value"), [("mixing", 1.5), ("mixing", -0.1), ("instances", -1)])
def test_an_argument_out_of_range_is_refused(name, value):
    with refused(ArgumentError, argument=name, value=value):
        client(**{name: value})


def test_what_is_sent_is_what_is_shared():
    one, other = client(), client(PersonalClient)
    assert one.shared_names == other.shared_names
    sent, examples, metrics = one.fit(one.get_parameters({}), {"server-round": 1})
    assert len(sent) == len(one.shared_names)
    assert examples == 16
    assert metrics.keys() == {"train-loss"}
    assert all(one.scopes[name] is Scope.SHARED for name in one.shared_names)


def test_a_client_that_has_trained_nothing_predicts_with_the_shared_adapter():
    one, other = client(), client(PersonalClient)
    arrays = one.get_parameters({})
    assert one.evaluate(arrays, {}) == other.evaluate(arrays, {})
    empty = client(examples=0)
    empty.fit(arrays, {"server-round": 1})
    assert empty.predictor() is empty.model
