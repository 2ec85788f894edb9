import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from clients import Graph, Regression, in_memory_loader
from clients.inference import fisher as module
from clients.inference.fisher import fisher_diagonal, normalized
from pfl_flower.models.graph_networks import GNN
from tests.helpers import TinyNet, examples


def loader(inputs, targets, size=7):
    return in_memory_loader(inputs, targets, size)


def logistic(count=40, features=5, classes=2):
    torch.manual_seed(0)
    model = nn.Linear(features, classes).double()
    inputs = torch.randn(count, features, dtype=torch.float64)
    return model, inputs, torch.zeros(count, dtype=torch.int64)


def test_logistic_regression_has_the_analytic_fisher():
    model, inputs, targets = logistic()
    p = model(inputs).softmax(1)[:, 1].detach()
    expected = torch.diag(inputs.T @ torch.diag(p * (1 - p)) @ inputs) / len(inputs)
    found = fisher_diagonal(model, loader(inputs, targets))
    for row in found["weight"]:
        torch.testing.assert_close(row, expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(found["bias"], (p * (1 - p)).mean().expand(2), atol=1e-10, rtol=0)


@settings(max_examples=15)
@given(st.integers(2, 6), st.integers(1, 30), st.integers(0, 1000))
def test_softmax_regression_has_the_analytic_fisher(classes, count, seed):
    torch.manual_seed(seed)
    model = nn.Linear(3, classes, bias=False).double()
    inputs = torch.randn(count, 3, dtype=torch.float64)
    p = model(inputs).softmax(1).detach()
    expected = torch.einsum("nk,nj->kj", p * (1 - p), inputs.square()) / count
    found = fisher_diagonal(model, loader(inputs, torch.zeros(count, dtype=torch.int64)))
    torch.testing.assert_close(found["weight"], expected, atol=1e-10, rtol=0)


def test_linear_regression_has_the_analytic_fisher():
    # the loss (y - w x)^2 is the negative log of a Gaussian of variance 1/2: F = 2 mean x^2
    model = nn.Linear(3, 1).double()
    inputs = torch.randn(20, 3, dtype=torch.float64)
    targets = torch.zeros(20, dtype=torch.float64)
    found = fisher_diagonal(model, loader(inputs, targets), Regression())
    torch.testing.assert_close(found["weight"][0], 2 * inputs.square().mean(0))


def test_sampled_labels_come_from_the_model_and_not_from_the_data():
    model, inputs, _ = logistic(200)
    exact = fisher_diagonal(model, loader(inputs, torch.zeros(200, dtype=torch.int64)))
    torch.manual_seed(1)
    for label in (0, 1):  # whatever the labels are
        targets = torch.full((200,), label)
        found = fisher_diagonal(model, loader(inputs, targets), samples=200)
        torch.testing.assert_close(found["weight"], exact["weight"], rtol=0.05, atol=0)


def test_it_is_not_the_square_of_a_batchs_mean_gradient():
    model, inputs, _ = logistic()
    targets = model(inputs).argmax(1)
    cross_entropy(model(inputs), targets).backward()
    wrong = model.weight.grad.square()
    found = fisher_diagonal(model, loader(inputs, targets))
    assert (found["weight"] > 5 * wrong).all()


def test_memory_is_bounded_and_chunks_change_nothing(monkeypatch):
    model, inputs, targets = logistic(50)
    whole = fisher_diagonal(model, loader(inputs, targets, 50))
    sizes = []

    class Spy(module.ExampleGradients):
        def __call__(self, chunk, targets):
            sizes.append(len(chunk))
            return super().__call__(chunk, targets)

    monkeypatch.setattr(module, "ExampleGradients", Spy)
    monkeypatch.setattr(module, "GRADIENT_VALUES", 12 * 4)  # 12 parameters
    chunked = fisher_diagonal(model, loader(inputs, targets, 50))
    assert max(sizes) == 4
    torch.testing.assert_close(whole["weight"], chunked["weight"])


def test_eval_mode_frozen_parameters_and_nothing_left_behind():
    model = TinyNet()
    model.dropout = nn.Dropout(0.9)
    model.body.requires_grad_(False)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    one = fisher_diagonal(model, loader(*examples(20)))
    other = fisher_diagonal(model, loader(*examples(20), 20))
    assert one.keys() == {"bn.weight", "bn.bias", "head.weight", "head.bias"}
    for name, value in one.items():  # of batch statistics they would differ with the batch size
        torch.testing.assert_close(value, other[name])
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.grad is None for p in model.parameters())


def test_no_examples_and_normalization():
    model = TinyNet()
    nothing = fisher_diagonal(model, loader(*examples(0)))
    assert all(not value.any() for value in nothing.values())
    assert all(not value.any() for value in normalized(nothing).values())
    found = normalized(fisher_diagonal(model, loader(*examples(30))))
    values = np.concatenate([value.numpy().ravel() for value in found.values()])
    assert values.mean() == pytest.approx(1.0, rel=1e-5)
    assert values.min() >= 0


@pytest.mark.parametrize("layer", ["gcn", "sage", "gat", "gin"])
@pytest.mark.parametrize("limit", [module.GRAPH_VALUES, 1])
def test_on_a_graph_it_is_the_sum_of_single_nodes_squares_however_many_at_once(
    monkeypatch, layer, limit
):
    monkeypatch.setattr(module, "GRAPH_VALUES", limit)
    torch.manual_seed(0)
    model = GNN(layer, 4, 3, adapter_size=2, hidden=8)
    edges = torch.randint(6, (2, 14))
    model.graph = Graph(torch.randn(6, 4), edges)
    nodes = torch.tensor([5, 0, 3])
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for node in nodes:
        chances = model(node[None]).detach().softmax(dim=1)[0]
        for target, chance in enumerate(chances):
            model.zero_grad()
            cross_entropy(model(node[None]), torch.tensor([target])).backward()
            for name, parameter in model.named_parameters():
                expected[name] += chance * parameter.grad.square() / len(nodes)
    found = fisher_diagonal(model, loader(nodes, nodes))
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=1e-4, atol=1e-7)


def test_of_a_large_graph_fewer_examples_are_looked_at_at_once():
    model = GNN("gcn", 4, 3)
    parameters = dict(model.named_parameters())
    assert module._at_once(model, parameters) == 256
    model.graph = Graph(torch.zeros(2000, 4), torch.randint(2000, (2, 40_000)))
    assert module._at_once(model, parameters) == 2**26 // (42_000 * 64)
    model.graph = Graph(torch.zeros(2_000_000, 4), torch.zeros(2, 0).long())
    assert module._at_once(model, parameters) == 1


class Sequences(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.r, self.o = kind(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.o(self.r(x)[0][:, -1])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_networks_have_the_fisher_of_their_single_examples(kind):
    torch.manual_seed(0)
    model, inputs = Sequences(kind).double(), torch.randn(6, 5, 3, dtype=torch.float64)
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for each in inputs:
        chances = model(each[None]).softmax(1)[0]
        for label in range(2):
            loss = cross_entropy(model(each[None]), torch.tensor([label]))
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            for name, gradient in zip(expected, gradients, strict=True):
                expected[name] += chances[label].detach() * gradient.square() / len(inputs)
    found = fisher_diagonal(model, loader(inputs, torch.zeros(6, dtype=torch.int64)))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_buffers_that_a_forward_pass_writes_in_stay_as_they_are():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.o = nn.Linear(3, 2)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls.add_(x.detach().sum())
            return self.o(x)

    model = Counts()
    inputs, targets = torch.randn(5, 3), torch.zeros(5, dtype=torch.int64)
    found = fisher_diagonal(model, loader(inputs, targets))
    expected = fisher_diagonal(model.o, loader(inputs, targets))
    torch.testing.assert_close(found["o.weight"], expected["weight"])
