import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchvision.models import resnet18

from clients import Scope, ScopeError, assign_scopes, components, select
from pfl_flower.models import MODELS, Architecture, build_model
from tests.errors import refused
from tests.helpers import TinyNet, run_alone

IMAGE = Architecture("cnn", (1, 8, 8), 10, "batch")


WITH_BODY = [name for name in MODELS if name != "linear"]  # which is nothing but a head


def nets():
    for name in WITH_BODY:
        shape = (3, 8, 8) if name == "se-cnn" else (1, 8, 8)
        shape = (1, 16, 16) if name == "large-cnn" else shape
        yield build_model(Architecture(name, shape, 10, "batch"), seed=0)


@pytest.mark.parametrize("model", list(nets()), ids=WITH_BODY)
def test_every_entry_has_exactly_one_scope_and_head_and_body_are_complements(model):
    head, body = select(model, "head"), select(model, "body")
    assert not head & body
    assert head | body == set(model.state_dict())
    scopes = assign_scopes(model, personal="head")
    assert list(scopes) == list(model.state_dict())
    swapped = assign_scopes(model, personal="body")
    for name in scopes:
        assert {scopes[name], swapped[name]} == {Scope.SHARED, Scope.PERSONAL}


def test_a_linear_model_is_all_head():
    model = build_model(Architecture("linear", (4,), 3), seed=0)
    assert select(model, "head") == set(model.state_dict())
    with pytest.raises(ScopeError):
        assign_scopes(model, personal="body")


def test_batch_norm_is_found_by_type_even_where_no_name_says_so():
    model = resnet18(num_classes=10)
    norm = select(model, "norm")
    by_type = {
        f"{path}.{entry}"
        for path, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for entry in module.state_dict()
    }
    assert norm == by_type
    assert "layer2.0.downsample.1.running_var" in norm


def test_names_are_never_searched_for_substrings():
    model = nn.ModuleDict({"subnet": nn.Linear(2, 2), "bn1": nn.BatchNorm1d(2)})
    model["bn10"] = nn.Linear(2, 2)
    assert select(model, "norm") == {f"bn1.{e}" for e in model["bn1"].state_dict()}
    assert select(model, "bn1") == select(model, "norm")


def test_rules_compose():
    model = TinyNet()
    assert select(model, "head, norm") == select(model, "head") | select(model, "norm")
    assert select(model, "all") == set(model.state_dict())
    assert select(model, "none") == frozenset()


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("layer4.*.bn1", 10),
        ("layer4.?.bn1.weight", 2),
        ("fc", 2),
        ("fc.bias", 1),
        ("layer1.0", 12),
    ],
)
def test_globs_match_module_paths_and_what_is_below(rule, expected):
    assert len(select(resnet18(), rule)) == expected


def test_components_of_the_models():
    se = components(build_model(Architecture("se-cnn", (3, 8, 8), 10, "none"), 0))
    assert se["se"] == {f"se.fc{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")}
    adapters = components(build_model(Architecture("adapter-cnn", (1, 8, 8), 10), 0))["adapter"]
    assert len(adapters) == 12
    assert all(name.startswith("adapter") for name in adapters)


@pytest.mark.parametrize("rule", ["se", "adapter", "bodyy", "conv*", "head,se", ""])
def test_a_rule_that_matches_nothing_lists_what_there_is(rule):
    with pytest.raises(ScopeError) as error:
        assign_scopes(TinyNet(), personal=rule)
    assert error.value.rule == rule.removeprefix("head,")
    assert error.value.choices == (("all", "body", "head", "norm") if rule else ())
    if rule:
        assert "norm (5)" in str(error.value)
        assert "head (2)" in str(error.value)
        assert " bn, body, head" in str(error.value)


def test_a_model_without_a_head_says_so():
    with refused(ScopeError, rule="head", choices=("0",)):
        assign_scopes(nn.Sequential(nn.Linear(2, 2)), personal="head")
    parts = {"head": ("1",)}
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert select(model, "head", parts) == {"1.weight", "1.bias"}
    with refused(ScopeError, rule="fc", choices=("0", "1")):
        components(model, {"head": ("fc",)})


def test_two_scopes_and_no_scope_are_errors():
    with pytest.raises(ScopeError) as raised:
        assign_scopes(TinyNet(), personal="head", group="head")
    assert raised.value.entries == ("head.weight",)
    assert raised.value.scopes == (Scope.GROUP, Scope.PERSONAL)
    with pytest.raises(ScopeError) as raised:
        assign_scopes(TinyNet(), personal="head", shared="norm")
    assert raised.value.entries == ("body.weight",)
    assert raised.value.scopes == ()


def test_tied_entries_need_one_scope():
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    model["b"].weight = model["a"].weight
    assign_scopes(model, personal="all")
    with pytest.raises(ScopeError) as raised:
        assign_scopes(model, personal="b")
    assert raised.value.entries == ("a.weight", "b.weight")
    assert raised.value.scopes == (Scope.SHARED, Scope.PERSONAL)


def test_entries_that_are_no_tensors_are_refused():
    class Odd(nn.Linear):
        def get_extra_state(self):
            return {"anything": 1}

        def set_extra_state(self, state):
            pass

    with refused(ScopeError, entries=("_extra_state",)):
        assign_scopes(Odd(2, 2))


@given(st.lists(st.sampled_from(["head", "norm", "body", "bn.weight", "all", "none"]), min_size=1))
def test_assignment_is_a_partition_for_every_rule(words):
    model = TinyNet()
    scopes = assign_scopes(model, personal=",".join(words))
    chosen = {name for name, scope in scopes.items() if scope is Scope.PERSONAL}
    assert chosen == set().union(*(select(model, word) for word in words))


def test_adapters_at_zero_are_the_core_bitwise():
    images = torch.randn(5, 1, 8, 8)
    for core, adapted in (("cnn", "adapter-cnn"), ("mlp", "adapter-mlp"), ("mlp", "low-rank-mlp")):
        plain = build_model(Architecture(core, (1, 8, 8), 10, "batch"), seed=3).eval()
        with_adapters = build_model(Architecture(adapted, (1, 8, 8), 10, "batch"), seed=3).eval()
        assert torch.equal(plain(images), with_adapters(images))


@pytest.mark.integration
def test_torchvision_is_not_imported_to_find_that_a_model_has_none_of_it():
    """A device pays for every import, for every message."""
    script = (
        "import sys\n"
        "from torch import nn\n"
        "from clients import components\n"
        "assert 'se' not in components(nn.Linear(2, 2))\n"
        "assert 'torchvision' not in sys.modules\n"
        "assert 'torch._dynamo' not in sys.modules\n"
        "from torchvision.ops import SqueezeExcitation\n"
        "assert len(components(SqueezeExcitation(4, 2))['se']) == 4\n"
    )
    run_alone(script)


@pytest.mark.parametrize(
    ("wrap", "path"),
    [
        (nn.DataParallel, "module."),
        (nn.Sequential, "0."),
        (lambda model: torch.compile(model, backend="eager"), "_orig_mod."),
        (lambda model: nn.Sequential(nn.DataParallel(model)), "0.module."),
    ],
)
def test_a_wrapped_network_has_the_parts_of_the_one_inside(wrap, path):
    bare = assign_scopes(TinyNet(), personal="head")
    wrapped = assign_scopes(wrap(TinyNet()), personal="head")
    assert wrapped == {f"{path}{name}": scope for name, scope in bare.items()}
