"""What is frozen: parameters by their builder, buffers by one rule, and digests of it all."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from clients import Scope, ScopeError, assign_scopes, frozen_entries, select, train
from clients.frozen import base_digests, base_fingerprint, copy_beside, modules_at_rest
from clients.local_training.training import EVERYTHING, Phase, joint, start_of_phase
from clients.scopes import MOVING, names_of
from tests.errors import refused
from tests.helpers import TinyNet, examples


def frozen(module):
    return module.requires_grad_(False)


class Table(nn.Module):
    """A layer with a table as a buffer, as Swin's relative positions are."""

    def __init__(self, trains):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(2), requires_grad=trains)
        self.register_buffer("places", torch.arange(3))
        self.register_buffer("cache", torch.zeros(1), persistent=False)
        self.inner = nn.Linear(2, 2)


CASES = {
    "nothing is frozen": (lambda: TinyNet(), set()),
    "a frozen parameter": (lambda: nn.ModuleDict({"a": frozen(nn.Linear(2, 2))}), "all"),
    "batch norm over frozen scales": (
        lambda: nn.Sequential(frozen(nn.BatchNorm1d(2)), nn.Linear(2, 2)),
        {f"0.{n}" for n in nn.BatchNorm1d(2).state_dict()},
    ),
    "batch norm of which one parameter is trained": (
        lambda: _half_frozen(),
        {"0.weight"},
    ),
    "batch norm without parameters in a frozen part": (
        lambda: nn.Sequential(
            frozen(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False))),
            nn.Linear(2, 2),
        ),
        {"0.0.weight", "0.0.bias", "0.1.running_mean", "0.1.running_var"}
        | {"0.1.num_batches_tracked"},
    ),
    "the same in a part that is not": (
        lambda: nn.Sequential(
            frozen(nn.Linear(2, 2)), nn.BatchNorm1d(2, affine=False), nn.Linear(2, 2)
        ),
        {"0.weight", "0.bias"},
    ),
    "a table beside a frozen parameter": (
        lambda: nn.ModuleDict({"a": Table(False)}),
        {"a.bias", "a.places"},
    ),
    "a table beside a trained parameter": (lambda: nn.ModuleDict({"a": Table(True)}), set()),
    "spectral norm of a frozen layer": (
        lambda: nn.Sequential(frozen(spectral_norm(nn.Linear(2, 2))), nn.Linear(2, 2)),
        {"0.bias", "0.parametrizations.weight.original"}
        | {f"0.parametrizations.weight.0._{side}" for side in "uv"},
    ),
    "a network without parameters": (lambda: nn.BatchNorm1d(2, affine=False), set()),
}


def _half_frozen():
    model = nn.Sequential(nn.BatchNorm1d(2))
    model[0].weight.requires_grad_(False)
    return model


@pytest.mark.parametrize("case", CASES)
def test_what_is_frozen(case):
    build, expected = CASES[case]
    model = build()
    expected = set(model.state_dict()) if expected == "all" else expected
    assert frozen_entries(model) == expected
    scopes = assign_scopes(model)
    assert list(scopes) == list(model.state_dict())
    assert {name for name, scope in scopes.items() if scope is Scope.FROZEN} == expected


def test_all_names_of_a_frozen_tensor_are_frozen_and_one_of_them_has_the_scope():
    model = nn.ModuleDict({"a": frozen(nn.Linear(2, 2)), "b": nn.Linear(2, 2)})
    model["b"].weight = model["a"].weight
    assert frozen_entries(model) == {"a.weight", "a.bias", "b.weight"}
    model.parts = {"head": ("b",)}
    frozen_ones = dict.fromkeys(("a.weight", "a.bias"), Scope.FROZEN)
    assert assign_scopes(model, personal="head") == frozen_ones | {"b.bias": Scope.PERSONAL}
    with refused(ScopeError, entries=("a.weight", "b.weight")):
        assign_scopes(model, personal="b")  # a path takes what is frozen, under one name of two


class Adapted(TinyNet):
    """A frozen body with a trained head and a trained layer in the body."""

    def __init__(self):
        super().__init__()
        frozen(self.body)
        frozen(self.bn)
        self.adapter = nn.Linear(4, 4)
        self.adapter.component = "adapter"

    def forward(self, inputs):
        return super().forward(self.adapter(inputs))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("all", {"head.weight", "head.bias", "adapter.weight", "adapter.bias"}),
        ("*", {"head.weight", "head.bias", "adapter.weight", "adapter.bias"}),
        ("*.weight", {"head.weight", "adapter.weight"}),
        ("head", {"head.weight", "head.bias"}),
        ("body.weight", {"body.weight"}),
        ("bn", {f"bn.{name}" for name in nn.BatchNorm1d(1).state_dict()}),
    ],
)
def test_words_and_patterns_take_nothing_frozen_and_a_path_does(rule, expected):
    assert select(Adapted(), rule) == expected
    scopes = assign_scopes(Adapted(), personal=rule)
    assert {name for name, scope in scopes.items() if scope is Scope.PERSONAL} == expected


@pytest.mark.parametrize("rule", ["norm", "bn.*", "bod?"])
def test_a_word_for_what_is_frozen_alone_is_refused(rule):
    with refused(ScopeError, rule=rule):
        assign_scopes(Adapted(), personal=rule)


def test_the_rest_of_a_group_is_not_frozen_either():
    scopes = assign_scopes(Adapted(), personal="head", group="rest")
    assert {scopes["body.weight"], scopes["bn.running_var"]} == {Scope.FROZEN}
    assert scopes["adapter.weight"] is Scope.GROUP


def test_a_frozen_module_that_a_path_makes_personal_is_at_rest_too():
    model = Adapted()
    scopes = assign_scopes(model, personal="bn")
    assert scopes["bn.running_mean"] is Scope.PERSONAL
    before = {name: tensor.clone() for name, tensor in model.bn.state_dict().items()}
    train(model, [examples(20, 0)], joint(2), scopes)
    assert all(torch.equal(tensor, before[n]) for n, tensor in model.bn.state_dict().items())


def test_a_frozen_value_that_is_not_finite_is_not_diverged_training():
    model = Adapted()
    with torch.no_grad():
        model.bn.running_var[0] = torch.inf  # that feature is 0, as under a mask
    train(model, [examples(20, 0)], joint(1), assign_scopes(model))


def test_nothing_frozen_moves_in_training_whatever_the_phase_says():
    assert Scope.FROZEN not in EVERYTHING
    assert Phase(frozenset(Scope)).trains == MOVING
    model = Adapted()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    scopes = assign_scopes(model)
    train(model, [examples(20, seed) for seed in range(2)], joint(3), scopes)
    moved = {n for n, tensor in model.state_dict().items() if not torch.equal(tensor, before[n])}
    assert moved == {"head.weight", "head.bias", "adapter.weight", "adapter.bias"}
    start_of_phase(model, Phase(), scopes)
    assert [module.training for module in (model, model.bn, model.head)] == [True, False, True]
    assert modules_at_rest(model) == [model.bn]


def test_a_copy_beside_shares_the_base_and_nothing_else():
    model = Adapted()
    for personal in ("none", "bn"):  # what is personal is each copy's own
        scopes = assign_scopes(model, personal=personal)
        base = names_of(scopes, Scope.FROZEN)
        copied = copy_beside(model, base)
        own, others = model.state_dict(keep_vars=True), copied.state_dict(keep_vars=True)
        assert {name for name in own if own[name] is others[name]} == set(base)
        assert (set(base) == frozen_entries(model)) == (personal == "none")
    assert all(torch.equal(own[name], others[name]) for name in own)


def test_a_fingerprint_tells_names_shapes_dtypes_and_values_apart():
    base = {"a": torch.zeros(2, 3), "b": torch.tensor(1), "c": torch.zeros(0)}
    others = [
        {**base, "a": torch.zeros(3, 2)},
        {**base, "a": torch.zeros(2, 3, dtype=torch.float64)},
        {**base, "a": torch.zeros(2, 3, dtype=torch.int32)},  # the same bytes
        {**base, "a": base["a"].index_fill(0, torch.tensor([1]), 1e-38)},
        {**base, "a": -base["a"]},  # negative zeros
        {**base, "b": torch.tensor(2)},
        {"a": base["a"], "b": base["b"]},
        {"x": base["a"], "b": base["b"], "c": base["c"]},
        {name: base[name].to(torch.bfloat16) for name in base},
        {name: base[name].to(torch.complex64) for name in base},
    ]
    found = [base_fingerprint(base_digests(each, each)) for each in (base, *others)]
    assert len(set(found)) == len(found)
    assert found[0] == base_fingerprint(base_digests(base, reversed(base)))
    assert found[0] == base_fingerprint(base_digests({**base, "a": torch.zeros(3, 2).T}, base))
    assert base_fingerprint({}) == ""
