import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from clients import (
    Classification,
    FineTuning,
    Optimization,
    Phase,
    ProximalTerm,
    Scope,
    TrainingDivergedError,
    assign_scopes,
    body_only,
    evaluate,
    fine_tune,
    head_then_body,
    in_memory_loader,
    joint,
    train,
)
from clients.data.loaders import count_examples, merge_lone_examples
from strategies.errors import ArgumentError
from tests.errors import refused
from tests.helpers import TinyNet, examples


def loader(count=20, batch_size=8, shuffle=False):
    return in_memory_loader(*examples(count), batch_size, shuffle)


def state(model):
    return copy.deepcopy(model.state_dict())


def changed(before, model):
    after = model.state_dict()
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_a_full_batch_step_is_gradient_descent():
    model, twin = TinyNet(), TinyNet()
    inputs, targets = examples(20)
    settings = Optimization(learning_rate=0.3, momentum=0.0)
    train(model, loader(20, 20), joint(1), assign_scopes(model), optimization=settings)
    twin.train()
    cross_entropy(twin(inputs), targets).backward()
    for (name, moved), start in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(moved, start - 0.3 * start.grad, msg=name)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_frozen_part_is_unchanged_bitwise_in_spite_of_momentum_and_weight_decay(optimizer):
    settings = Optimization(optimizer, 0.05, momentum=0.9, weight_decay=0.1)
    model = TinyNet()
    scopes = assign_scopes(model, personal="head")
    head = {"head.weight", "head.bias"}
    before = state(model)
    train(model, loader(), body_only(3), scopes, optimization=settings)
    assert changed(before, model) == set(before) - head
    before = state(model)
    train(model, loader(), head_then_body(0, head_epochs=3), scopes, optimization=settings)
    assert changed(before, model) == head  # not even the statistics of the body's batch norm


def test_head_then_body_moves_both_and_leaves_everything_trainable():
    model = TinyNet()
    before = state(model)
    result = train(model, loader(), head_then_body(1), assign_scopes(model, "head"))
    assert changed(before, model) == set(before)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert result.steps == 6
    assert not model.training


def test_steps_instead_of_epochs():
    model = TinyNet()
    result = train(model, loader(20, 8), (Phase(steps=7),), assign_scopes(model))
    assert result.steps == 7
    assert model.bn.num_batches_tracked == 7


def test_strength_zero_is_no_tether_bitwise_and_a_strong_one_holds():
    plain, tethered, held = TinyNet(), TinyNet(), TinyNet()
    settings = Optimization(learning_rate=0.01, momentum=0.0)
    scopes = assign_scopes(plain)
    centre = {name: p.detach().clone() for name, p in held.named_parameters()}
    train(plain, loader(), joint(5), scopes, optimization=settings)
    for model, strength in ((tethered, 0.0), (held, 90.0)):
        proximal_terms = [ProximalTerm(centre, strength)]
        train(
            model, loader(), joint(5), scopes, optimization=settings, proximal_terms=proximal_terms
        )
    assert not changed(state(plain), tethered)
    far = (plain.head.weight - centre["head.weight"]).norm()
    near = (held.head.weight - centre["head.weight"]).norm()
    assert near < 0.2 * far


def test_gradient_clipping_bounds_the_step():
    model = TinyNet()
    before = state(model)
    settings = Optimization(learning_rate=1.0, momentum=0.0, gradient_clip=1e-3)
    train(model, loader(20, 20), joint(1), assign_scopes(model), optimization=settings)
    step = sum((before[n] - p).square().sum() for n, p in model.named_parameters()).sqrt()
    assert step.item() == pytest.approx(1e-3, rel=1e-2)


def test_what_the_user_froze_stays_frozen():
    model = TinyNet()
    model.body.requires_grad_(False)
    before = state(model)
    train(model, loader(), joint(2), assign_scopes(model))
    assert not {"body.weight", "body.bias"} & changed(before, model)
    assert not model.body.weight.requires_grad
    assert model.head.weight.requires_grad


def test_accuracy_is_for_classification_only():
    model = nn.Linear(4, 1)
    inputs, _ = examples(10)
    regression = in_memory_loader(inputs, torch.randn(10, 1), 5)
    found = evaluate(model, regression, Classification(nn.functional.mse_loss))
    assert math.isfinite(found.loss)
    assert math.isnan(found.scores["accuracy"])


def test_no_examples_is_no_step():
    model = TinyNet()
    before = state(model)
    for empty in (loader(0), (), DataLoader(TensorDataset(*examples(0)))):
        result = train(model, empty, (Phase(epochs=2), Phase(steps=3)), assign_scopes(model))
        assert result.steps == 0
        assert math.isnan(result.loss)
    assert not changed(before, model)


def test_a_single_example_trains_with_the_running_statistics():
    model = TinyNet()
    before = state(model)
    train(model, loader(1), joint(2), assign_scopes(model))
    moved = changed(before, model)
    assert "body.weight" in moved
    assert not {"bn.running_mean", "bn.running_var", "bn.num_batches_tracked"} & moved


class Sizes(nn.Identity):
    """A layer that remembers the sizes of the batches it is trained on."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, inputs):
        if self.training:
            self.seen.append(len(inputs))
        return inputs


def sizes_of(batches, *layers):
    """The sizes of the batches that a network with these layers is trained on in an epoch."""
    sizes = Sizes()
    model = nn.Sequential(nn.Linear(4, 3), sizes, *layers)
    train(model, batches, joint(1), assign_scopes(model))
    return sizes.seen


@pytest.mark.parametrize("count", [33, 34, 47, 66])
def test_under_batch_norm_a_small_last_batch_shares_evenly_with_the_one_before(count):
    first, rest = [32] * (count // 32 - 1), 32 + count % 32
    found = sizes_of(loader(count, 32, shuffle=True), nn.BatchNorm1d(3))
    assert found == [*first, rest - rest // 2, rest // 2]


@pytest.mark.parametrize("count", [20, 32, 48, 63, 64])
def test_batches_of_half_the_size_and_more_stay_as_they_are(count):
    assert sizes_of(loader(count, 32), nn.BatchNorm1d(3)) == sizes_of(loader(count, 32))


def test_small_last_batches_stay_without_batch_norm_and_in_a_loader_of_the_users():
    assert sizes_of(loader(34, 32)) == [32, 2]
    own = DataLoader(TensorDataset(*examples(34)), batch_size=32)
    assert sizes_of(own, nn.BatchNorm1d(3)) == [32, 2]


def test_examples_have_the_same_order_however_the_last_batches_are_shared():
    data = loader(34, 32, shuffle=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = torch.cat([inputs for inputs, _ in data])
        torch.manual_seed(0)
        shared = torch.cat([inputs for inputs, _ in data.batches(evenly=True)])
    assert torch.equal(plain, shared)


class Watch(nn.BatchNorm1d):
    """Batch norm that remembers the batches it normalised by their own statistics."""

    def forward(self, inputs):
        if self.training:
            self.sizes.append(len(inputs))
        return super().forward(inputs)


@pytest.mark.parametrize("count", range(1, 20))
@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_batch_norm_never_sees_a_batch_of_one_and_every_example_is_used(count, batch_size):
    model = TinyNet()
    model.bn = Watch(8)
    model.bn.sizes = []
    plain = DataLoader(TensorDataset(*examples(count)), batch_size=batch_size)
    for batches in (loader(count, batch_size), plain):
        model.bn.sizes.clear()
        train(model, batches, joint(1), assign_scopes(model))
        assert 1 not in model.bn.sizes
        assert sum(model.bn.sizes) >= count - 1
        if batch_size > 1 and count > 1:
            assert sum(model.bn.sizes) == count


def test_lone_examples_join_a_neighbour():
    batches = [(torch.zeros(size), torch.zeros(size)) for size in (1, 3, 3, 1)]
    assert [len(batch[0]) for batch in merge_lone_examples(batches)] == [4, 4]


def test_training_that_diverges_says_so():
    model = TinyNet()
    settings = Optimization(learning_rate=1e20)
    with pytest.raises(TrainingDivergedError, match="learning rate 1e\\+20"):
        train(model, loader(), joint(3), assign_scopes(model), optimization=settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("optimizer", "lion"),
        ("learning_rate", 0.0),
        ("momentum", 1.0),
        ("weight_decay", -1.0),
        ("gradient_clip", -1.0),
    ],
)
def test_bad_settings_are_refused(name, value):
    with refused(ArgumentError, argument=name, value=value):
        Optimization(**{name: value})


@pytest.mark.parametrize(("name", "value"), [("epochs", -1), ("steps", -1), ("repeats", 0)])
def test_bad_phases_are_refused(name, value):
    with refused(ArgumentError, argument=name, value=value):
        Phase(**{name: value})


def test_evaluation_is_the_mean_over_examples_whatever_the_batches():
    model = TinyNet().eval()
    whole, parts = evaluate(model, loader(21, 21)), evaluate(model, loader(21, 4))
    assert whole.examples == parts.examples == 21
    assert whole.scores == parts.scores
    assert whole.loss == pytest.approx(parts.loss, abs=1e-6)
    assert math.isnan(evaluate(model, None).scores["accuracy"])


def test_the_shuffled_loader_yields_every_example_once():
    inputs = torch.arange(10.0)
    batches = list(in_memory_loader(inputs, inputs, 4, shuffle=True))
    assert [len(batch[0]) for batch in batches] == [4, 4, 2]
    assert sorted(torch.cat([batch[0] for batch in batches]).tolist()) == inputs.tolist()


def test_zero_epochs_of_fine_tuning_change_nothing():
    model = TinyNet()
    before = state(model)
    chosen = fine_tune(
        model, loader(), loader(), FineTuning(epochs=(0,)), assign_scopes(model)
    ).epochs
    assert chosen == 0
    assert not changed(before, model)


def test_fine_tuning_takes_the_epochs_that_validate_best():
    model = TinyNet()
    scopes = assign_scopes(model, "head")
    inputs, targets = examples(60)
    wrong = in_memory_loader(inputs, (targets + 1) % 3, 60)
    spec = FineTuning(frozenset({Scope.PERSONAL}), (0, 5, 20))
    train(model, loader(60), joint(20), scopes)
    before = state(model)
    # Fine-tuning on wrong labels while validation has the right ones: 0 epochs are best.
    assert fine_tune(model, wrong, loader(60, 60), spec, scopes).epochs == 0
    assert not changed(before, model)
    # Validation agrees with the fine-tuning data: more is better, and only the head moves.
    assert fine_tune(model, wrong, wrong, spec, scopes).epochs > 0
    assert changed(before, model) == {"head.weight", "head.bias"}


def test_without_validation_the_last_candidate_counts():
    model = TinyNet()
    tuned = fine_tune(model, loader(), None, FineTuning(epochs=(1, 3)), assign_scopes(model))
    assert tuned.epochs == 3
    assert math.isnan(tuned.validation.loss)


def test_without_a_notion_of_accuracy_the_loss_decides():
    model = nn.Linear(4, 1)
    inputs, _ = examples(30)
    data = in_memory_loader(inputs, inputs.sum(dim=1, keepdim=True), 10)
    scopes = assign_scopes(model)
    options = {
        "task": Classification(nn.functional.mse_loss),
        "optimization": Optimization(learning_rate=0.01),
    }
    assert fine_tune(model, data, data, FineTuning(epochs=(3, 9)), scopes, **options).epochs == 9


@pytest.mark.parametrize("epochs", [(), (3, 1), (-1, 2), (1, 1)])
def test_bad_candidates_are_refused(epochs):
    with refused(ArgumentError, argument="epochs", value=epochs):
        FineTuning(epochs=epochs)


def test_fine_tuning_that_diverges_keeps_the_epochs_before():
    model = TinyNet()
    options = {"optimization": Optimization(learning_rate=1e12, momentum=0.0)}
    scopes = assign_scopes(model)
    before = state(model)
    tuned = fine_tune(model, loader(), loader(), FineTuning(epochs=(0, 5)), scopes, **options)
    assert tuned.epochs == 0
    assert not changed(before, model)
    with pytest.raises(TrainingDivergedError):
        fine_tune(model, loader(), loader(), FineTuning(epochs=(5,)), scopes, **options)


def test_a_last_batch_that_is_not_full_is_left_out_unless_it_is_the_only_one():
    inputs = torch.arange(10.0)
    dropped = in_memory_loader(inputs, inputs, 4, shuffle=True, drop_last=True)
    assert [len(batch[0]) for batch in dropped] == [4, 4]
    assert len(dropped) == 2
    assert count_examples(dropped) == 8
    only = in_memory_loader(inputs[:3], inputs[:3], 4, drop_last=True)
    assert [len(batch[0]) for batch in only] == [3]
