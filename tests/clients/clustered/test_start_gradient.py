import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from clients import Classification, Regression
from clients.clustered import start_gradient as module
from clients.clustered.start_gradient import balanced_loss, halves, start_gradient
from tests.helpers import TinyNet, examples

CLASSES = Classification()


def linear(classes=3, features=4, seed=0):
    torch.manual_seed(seed)
    return nn.Linear(features, classes).double()


def names_of(model):
    return [name for name, _ in model.named_parameters()]


def gradient(model, inputs, targets, task=CLASSES, names=None):
    return start_gradient(model, names or names_of(model), inputs, targets, task)


def uneven(count=30, classes=3, seed=0):
    """Inputs and labels, of which some are far more frequent than others."""
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 4, generator=draw, dtype=torch.float64)
    targets = (torch.rand(count, generator=draw).square() * classes).long()
    return inputs, targets


def by_hand(model, inputs, targets):
    """Weights, then biases: mean over classes of the mean of (p - y) x^T over their examples."""
    x, y = inputs.numpy(), targets.numpy()
    w, b = (p.detach().numpy() for p in model.parameters())
    logits = x @ w.T + b
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    errors = p - np.eye(len(b))[y]
    parts = [
        (errors[y == c].T @ x[y == c] / (y == c).sum(), errors[y == c].mean(axis=0))
        for c in np.unique(y)
    ]
    weight, bias = (np.mean(part, axis=0) for part in zip(*parts, strict=True))
    return np.concatenate([weight.ravel(), bias])


@settings(max_examples=25)
@given(st.integers(2, 5), st.integers(1, 40), st.integers(0, 1000))
def test_of_softmax_regression_it_is_the_gradient_by_hand(classes, count, seed):
    model, (inputs, targets) = linear(classes, seed=seed), uneven(count, classes, seed)
    found = gradient(model, inputs, targets)
    assert found.dtype == torch.float32
    assert found.shape == (5 * classes,)
    np.testing.assert_allclose(found, by_hand(model, inputs, targets), atol=1e-6)


def test_the_loss_is_the_mean_over_classes_of_their_mean_losses():
    outputs, targets = torch.tensor([[0.0, 0.0], [0.0, 0.0], [3.0, 0.0]]), torch.tensor([0, 0, 1])
    one = torch.log(torch.tensor(2.0))
    other = torch.log1p(torch.exp(torch.tensor(3.0)))
    torch.testing.assert_close(balanced_loss(outputs, targets, CLASSES), (one + other) / 2)


def test_how_frequent_classes_are_does_not_matter():
    model, (inputs, targets) = linear(), uneven()
    found = gradient(model, inputs, targets)
    for label in range(3):
        again = targets == label
        more = (
            torch.cat([inputs] + [inputs[again]] * 4),
            torch.cat([targets] + [targets[again]] * 4),
        )
        torch.testing.assert_close(gradient(model, *more), found, atol=1e-7, rtol=1e-6)


def test_blocks_of_equal_size_are_averaged(monkeypatch):
    model, (inputs, targets) = linear(), uneven(30)
    whole = gradient(model, inputs, targets)
    monkeypatch.setattr(module, "BLOCK", 12)  # 30 examples: 3 blocks of 10
    found = gradient(model, inputs, targets)
    parts = [gradient(model, inputs[i : i + 10], targets[i : i + 10]) for i in (0, 10, 20)]
    torch.testing.assert_close(found, torch.stack(parts).mean(0), atol=1e-7, rtol=1e-6)
    assert not torch.allclose(found, whole)


def test_examples_of_uneven_blocks_weigh_the_same(monkeypatch):
    model, inputs = linear(1), torch.randn(11, 4, dtype=torch.float64)
    targets = torch.randn(11, dtype=torch.float64)
    whole = gradient(model, inputs, targets, Regression())
    monkeypatch.setattr(module, "BLOCK", 3)
    found = gradient(model, inputs, targets, Regression())
    torch.testing.assert_close(found, whole, atol=1e-6, rtol=1e-6)


def test_no_more_than_a_block_is_in_memory_at_a_time(monkeypatch):
    sizes = []
    model = linear()
    model.register_forward_hook(lambda _, given, __: sizes.append(len(given[0])))
    monkeypatch.setattr(module, "BLOCK", 7)
    gradient(model, *uneven(50))
    assert sum(sizes) == 50
    assert max(sizes) <= 7
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("block", [512, 8])
def test_the_model_stays_as_it_is_buffers_included(monkeypatch, block):
    monkeypatch.setattr(module, "BLOCK", block)
    model = TinyNet()
    gradient(model, *examples(3))
    model.bn.running_mean += 0.5
    before = {name: value.clone() for name, value in model.state_dict().items()}
    one = gradient(model, *examples(20))
    assert one.any()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(gradient(model, *examples(20)), one)


def test_normalization_uses_the_statistics_of_the_examples():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3))
    inputs, targets = examples(40)
    found = gradient(model, inputs, targets)
    torch.testing.assert_close(gradient(model, inputs + 5, targets), found, atol=1e-5, rtol=1e-3)
    model[0].running_mean += 7
    model[0].running_var *= 3
    assert torch.equal(gradient(model, inputs, targets), found)


def test_dropout_is_off():
    model = TinyNet()
    found = gradient(model, *examples(20))
    model.head = nn.Sequential(nn.Dropout(0.9), model.head)
    model.train()
    assert torch.equal(gradient(model, *examples(20)), found)


def test_it_is_of_the_named_parameters_in_their_order():
    model = TinyNet()
    whole = gradient(model, *examples(20))
    assert whole.shape == (4 * 8 + 8 + 8 + 8 + 8 * 3 + 3,)
    head = gradient(model, *examples(20), names=["head.weight", "head.bias"])
    assert torch.equal(head, whole[-27:])
    turned = gradient(model, *examples(20), names=["head.bias", "head.weight"])
    assert torch.equal(turned, torch.cat([head[24:], head[:24]]))


def test_frozen_parameters_can_be_left_out():
    model = TinyNet()
    whole = gradient(model, *examples(20))
    model.body.requires_grad_(False)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert torch.equal(gradient(model, *examples(20), names=names), whole[40:])


def test_normalization_of_a_frozen_base_keeps_its_own_statistics():
    model, others = TinyNet(), TinyNet()
    for network in (model, others):
        network.bn.running_mean.fill_(0.3)
        network.bn.running_var.fill_(4.0)
    model.bn.requires_grad_(False)
    as_layer = nn.Linear(8, 8)  # what batch norm is in eval mode
    with torch.no_grad():
        scale = (4.0 + others.bn.eps) ** -0.5
        as_layer.weight.copy_(scale * torch.eye(8))
        as_layer.bias.fill_(-0.3 * scale)
    others.bn = as_layer
    head = ["head.weight", "head.bias"]
    found, expected = (gradient(each, *examples(20), names=head) for each in (model, others))
    torch.testing.assert_close(found, expected)


def test_a_parameter_without_influence_has_a_gradient_of_zero():
    model = linear()
    model.unused = nn.Parameter(torch.ones(2, dtype=torch.float64))
    found = gradient(model, *uneven(), names=["unused", "weight", "bias"])
    assert not found[:2].any()
    assert found[2:].any()


def test_of_numbers_it_is_the_gradient_of_the_mean_loss():
    model, inputs = linear(1), torch.randn(25, 4, dtype=torch.float64)
    targets = torch.randn(25, dtype=torch.float64)
    errors = (model(inputs).detach()[:, 0] - targets).numpy()
    expected = np.append(2 * errors @ inputs.numpy() / 25, 2 * errors.mean())
    found = gradient(model, inputs, targets, Regression())
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(0, 1000))
def test_halves_are_disjoint_cover_all_and_divide_every_class_evenly(labels, seed):
    targets = torch.tensor(labels)
    one, other = halves(targets, np.random.default_rng(seed))
    assert sorted(torch.cat([one, other]).tolist()) == list(range(len(labels)))
    for label in set(labels):
        counts = [int((targets[half] == label).sum()) for half in (one, other)]
        assert abs(counts[0] - counts[1]) <= 1


def test_halves_of_numbers_are_disjoint_cover_all_and_are_of_one_size():
    one, other = halves(torch.linspace(0, 1, 21), np.random.default_rng(0))
    assert (len(one), len(other)) == (11, 10)
    assert sorted(torch.cat([one, other]).tolist()) == list(range(21))


def test_halves_are_drawn():
    targets = torch.arange(40) % 2
    drawn = {tuple(sorted(halves(targets, np.random.default_rng(s))[0].tolist())) for s in range(9)}
    assert len(drawn) == 9
    same = [halves(targets, np.random.default_rng(3))[0] for _ in range(2)]
    assert torch.equal(*same)
