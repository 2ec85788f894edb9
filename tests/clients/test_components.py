"""Words of rules as components: layers by their type, and the head of a network that says nothing.

What the classes of timm, transformers, peft and MONAI look like is made up here;
`test_public_networks.py` has their own.
"""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils import spectral_norm as old_spectral_norm
from torchvision.models import googlenet, mobilenet_v3_small, resnet18, squeezenet1_1
from torchvision.ops import FrozenBatchNorm2d, SqueezeExcitation

from clients import ScopeError, assign_scopes, components, entries_of, select
from pfl_flower.models import BottleneckAdapter, LowRankAdapter
from tests.errors import refused
from tests.helpers import TinyNet, run_alone


def of_library(name, module, base=nn.Module, **tensors):
    """A layer of a class of this name, from this package, with parameters of its own."""
    kind: Any = type(name, (base,), {"__module__": module})
    layer = kind()
    for each, shape in tensors.items():
        layer.register_parameter(each, nn.Parameter(torch.ones(shape)))
    return layer


def between(layer):
    """A network with a layer in its middle."""
    return nn.ModuleDict({"first": nn.Linear(4, 4), "middle": layer, "last": nn.Linear(4, 2)})


def graph_layers():
    from torch_geometric.nn import norm

    types = {"node": ["a"], "edges": [("a", "to", "a")]}
    return [
        norm.BatchNorm(4),
        norm.InstanceNorm(4, affine=True, track_running_stats=True),
        norm.LayerNorm(4),
        norm.GraphNorm(4),
        norm.MessageNorm(learn_scale=True),
        norm.DiffGroupNorm(4, 2),
        norm.HeteroLayerNorm(4, num_types=len(types["node"])),
        norm.HeteroBatchNorm(4, num_types=2),
    ]


NORMS = [
    nn.BatchNorm2d(4),
    nn.SyncBatchNorm(4),
    nn.InstanceNorm1d(4, affine=True),
    nn.GroupNorm(2, 4),
    nn.LayerNorm(4),
    nn.RMSNorm(4),
    FrozenBatchNorm2d(4),
    of_library("LlamaRMSNorm", "transformers.models.llama.modeling_llama", weight=4),
    of_library("T5LayerNorm", "transformers.models.t5.modeling_t5", weight=4),
    of_library("FalconH1RMSNormGated", "transformers.models.falcon_h1", weight=4),
    of_library("ConvNextV2GRN", "transformers.models.convnextv2", weight=4, bias=4),
    of_library("NemotronLayerNorm1P", "transformers.models.nemotron", nn.Identity, weight=4),
    of_library("GlobalResponseNorm", "timm.layers.grn", weight=4, bias=4),
    of_library("EvoNorm2dS0", "timm.layers.evo_norm", weight=4, bias=4, v=4),
    of_library("FrozenBatchNormAct2d", "timm.layers.norm_act", weight=4, bias=4),
    of_library("LayerNorm2d", "anybody.network", weight=4),
    of_library("InstanceNormalization", "anybody.network", scale=4),
    *graph_layers(),
]


@pytest.mark.parametrize("layer", NORMS, ids=lambda layer: type(layer).__name__)
def test_normalization_is_found_by_type_whoever_made_it(layer):
    model = between(layer)
    expected = {f"middle.{name}" for name in layer.state_dict()}
    assert expected
    assert select(model, "norm") == expected


NOT_NORMS = [
    parametrizations.weight_norm(nn.Linear(4, 4)),
    parametrizations.spectral_norm(nn.Linear(4, 4)),
    old_spectral_norm(nn.Linear(4, 4)),
    of_library("NormalCell", "timm.models.nasnet", weight=4),
    of_library("NormFreeBlock", "timm.models.nfnet", skipinit_gain=()),
    of_library("NormedEmbedding", "transformers.models.inkling", weight=4),
    of_library("Polynormer", "torch_geometric.nn.models", betas=4),
    type("CosineNormLinear", (nn.Linear,), {})(4, 4),
    type("ConvNormActivation", (nn.Sequential,), {})(nn.Conv2d(1, 1, 1)),
]


@pytest.mark.parametrize("layer", NOT_NORMS, ids=lambda layer: type(layer).__name__)
def test_what_only_sounds_like_normalization_is_none(layer):
    with refused(ScopeError, rule="norm", choices=("all",)):
        select(between(layer), "norm")
    model = between(layer)
    model["bn"] = nn.BatchNorm1d(4)
    assert select(model, "norm") == {f"bn.{name}" for name in nn.BatchNorm1d(4).state_dict()}


def test_a_layer_around_normalization_is_not_all_normalization():
    layer = type("EncoderStableLayerNorm", (nn.Module,), {})()
    layer.conv, layer.layer_norm = nn.Conv1d(4, 4, 1), nn.LayerNorm(4)
    expected = {"middle.layer_norm.weight", "middle.layer_norm.bias"}
    assert select(between(layer), "norm") == expected


@pytest.mark.parametrize("name", ["ZayaQKNorm", "NoNorm", "TimestepNorm", "Normalizer", "my_norm"])
def test_a_layer_that_says_norm_and_is_unknown_has_to_be_declared(name):
    model = between(of_library(name, "anybody.network", weight=4))
    model["bn"] = nn.BatchNorm1d(4)
    with refused(ScopeError, rule="norm", choices=("middle",)) as caught:
        select(model, "norm")
    assert f"{name}.component = 'norm'" in str(caught.value)
    assert "norm" not in components(model)
    assert select(model, "all") == set(model.state_dict())  # nobody asked for normalization
    kind: Any = type(model["middle"])
    others = {f"bn.{each}" for each in nn.BatchNorm1d(4).state_dict()}
    kind.component = "norm"
    assert select(model, "norm") == {"middle.weight"} | others
    kind.component = "none"
    assert select(model, "norm") == others


def test_an_adaptive_norm_whose_scales_a_layer_inside_it_makes_has_to_be_declared():
    layer = type("AdaptiveLayerNorm", (nn.Module,), {})()
    layer.scales = nn.Linear(4, 8)
    with refused(ScopeError, rule="norm", choices=("middle",)):
        select(between(layer), "norm")


class Deep(nn.Module):
    """As transformers' LlamaModel: its last normalization is called `norm`."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.RMSNorm(4), nn.RMSNorm(4)])
        self.norm = nn.RMSNorm(4)


def test_a_word_is_a_component_and_never_a_path_of_that_name():
    model = Deep()
    assert select(model, "norm") == {"blocks.0.weight", "blocks.1.weight", "norm.weight"}
    assert select(model, "./norm") == select(model, "norm.*") == {"norm.weight"}
    model.se = nn.Linear(4, 4)
    with refused(ScopeError, rule="se") as caught:
        select(model, "se")
    assert "./se" in str(caught.value)
    assert select(model, "./se") == {"se.weight", "se.bias"}


@pytest.mark.parametrize("word", ["norm", "se", "adapter", "adapter.A", "adapter.B"])
def test_a_component_that_is_not_there_is_refused(word):
    with refused(ScopeError, rule=word, choices=("all",)):
        select(nn.Sequential(nn.Linear(2, 2)), word)


def test_a_declared_part_or_component_is_what_it_says():
    model = between(nn.BatchNorm1d(4))
    model["middle"].component = "adapter"
    assert "norm" not in components(model)
    assert select(model, "adapter") == {f"middle.{each}" for each in model["middle"].state_dict()}
    assert select(model, "norm", {"norm": ("last",)}) == {"last.weight", "last.bias"}
    model["last"].component = "head"
    assert select(model, "head") == {"last.weight", "last.bias"}


@pytest.mark.parametrize("name", ["parts", "component"])
def test_a_submodule_called_parts_or_component_declares_nothing(name):
    model = between(nn.ModuleDict({name: nn.BatchNorm1d(4)}))
    model[name] = nn.Linear(2, 2)
    nested = nn.Sequential(model)
    for each in (model, nested):
        assert all(f"middle.{name}." in entry for entry in select(each, "norm"))
        with refused(ScopeError, rule="wrong", choices=("all", "norm")):
            select(each, "wrong")


SQUEEZES = [
    SqueezeExcitation(4, 2),
    of_library("SqueezeExcite", "timm.models._efficientnet_blocks", weight=4),
    of_library("SEModule", "timm.layers.squeeze_excite", weight=4),
    of_library("EffectiveSEModule", "timm.layers.squeeze_excite", weight=4),
    of_library("ChannelSELayer", "monai.networks.blocks.squeeze_and_excitation", weight=4),
    of_library("RegNetSELayer", "transformers.models.regnet.modeling_regnet", weight=4),
]


@pytest.mark.parametrize("layer", SQUEEZES, ids=lambda layer: type(layer).__name__)
def test_squeeze_and_excitation_is_found_by_type(layer):
    expected = {f"middle.{name}" for name in layer.state_dict()}
    assert select(between(layer), "se") == expected
    theirs = of_library("SEModule", "anybody.network", weight=4)
    with refused(ScopeError, rule="se"):
        select(between(theirs), "se")


def tuner_layer():
    """As peft's `lora.Linear`."""
    kind: Any = type("BaseTunerLayer", (), {"__module__": "peft.tuners.tuners_utils"})
    layer: Any = type("Linear", (nn.Module, kind), {"__module__": "peft.tuners.lora.layer"})()
    layer.base_layer = nn.Linear(4, 4)
    layer.lora_A = nn.ModuleDict({"default": nn.Linear(4, 2, bias=False)})
    layer.lora_B = nn.ModuleDict({"default": nn.Linear(2, 4, bias=False)})
    return layer


def test_a_peft_layer_is_an_adapter_but_for_the_layer_it_is_about():
    model = between(tuner_layer())
    halves = {"middle.lora_A.default.weight"}, {"middle.lora_B.default.weight"}
    assert (select(model, "adapter.A"), select(model, "adapter.B")) == halves
    assert select(model, "adapter") == halves[0] | halves[1]


def test_own_adapters_and_their_halves():
    model = between(LowRankAdapter(4, 4, 2))
    assert select(model, "adapter.A") == {"middle.down.weight"}
    assert select(model, "adapter.B") == {"middle.up.weight"}
    assert select(model, "adapter") == {"middle.down.weight", "middle.up.weight"}
    assert select(nn.Sequential(LowRankAdapter(4, 4, 2)), "adapter.A") == {"0.down.weight"}
    model = between(BottleneckAdapter(4, 2))
    assert len(select(model, "adapter")) == 4
    with refused(ScopeError, rule="adapter.A"):
        select(model, "adapter.A")


# ---------------------------------------------------------------------- the head


IMAGES = torch.zeros(2, 3, 32, 32)


@pytest.mark.parametrize(
    ("build", "paths"),
    [
        (resnet18, ["fc"]),
        (mobilenet_v3_small, ["classifier.3"]),
        (squeezenet1_1, ["classifier.1"]),  # a convolution
        (lambda **k: googlenet(**k, init_weights=False), ["fc"]),
    ],
)
def test_the_head_is_what_makes_the_outputs(build, paths):
    model = build(num_classes=7)
    modules = dict(model.named_modules())
    expected = {f"{path}.{name}" for path in paths for name in modules[path].state_dict()}
    assert select(model, "head", example=IMAGES) == expected
    assert select(model, "body", example=IMAGES) == model.state_dict().keys() - expected
    scopes = assign_scopes(model, personal="head", example=IMAGES)
    assert {name for name, scope in scopes.items() if scope == "personal"} == expected


class Distilled(nn.Module):
    """Two heads, whose outputs are averaged."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.head_dist = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, inputs):
        hidden = self.body(inputs).relu()
        return (self.head(hidden) + self.head_dist(hidden)) / 2


class Prototypes(nn.Module):
    """Logits are scaled cosines of features and of one parameter."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.prototypes = nn.Parameter(torch.randn(3, 6))
        self.body = nn.Linear(4, 6)

    def forward(self, inputs):
        features = nn.functional.normalize(self.body(inputs).relu())
        return self.scale * (features @ nn.functional.normalize(self.prototypes).T)


class Recurrent(nn.Module):
    """Its last layer is a normalization, before it a recurrent one."""

    def __init__(self):
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(9, 4), nn.LSTM(4, 3, batch_first=True)
        self.norm = nn.LayerNorm(3)

    def forward(self, inputs):
        return self.norm(self.lstm(self.embedding(inputs))[0][:, -1])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.into, self.attention = nn.Linear(4, 4), nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, inputs):
        hidden = self.into(inputs[:, None])
        return self.attention(hidden, hidden, hidden)[0][:, 0]


class Tied(nn.Module):
    """Its last layer has the weight of its first one."""

    def __init__(self):
        super().__init__()
        self.enter, self.leave = nn.Linear(4, 4), nn.Linear(4, 4)
        self.leave.weight = self.enter.weight

    def forward(self, inputs):
        return self.leave(self.enter(inputs).relu())


class Output:
    def __init__(self, logits, others):
        self.logits, self.hidden_states = logits, others


class WithOutput(nn.Module):
    """As transformers' models: logits are one of several outputs."""

    def __init__(self):
        super().__init__()
        self.body, self.classifier = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, inputs):
        hidden = self.body(inputs)
        return Output(self.classifier(hidden), hidden)


def stack(last):
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Dropout(), last)


FLOATS = torch.zeros(2, 4)
HEADS: list[tuple[Any, Any, set[str]]] = [
    (stack(nn.Linear(6, 3)), FLOATS, {"3"}),
    (nn.Sequential(stack(nn.Linear(6, 3)), nn.BatchNorm1d(3), nn.Softmax(1)), FLOATS, {"0.3", "1"}),
    (stack(parametrizations.weight_norm(nn.Linear(6, 3))), FLOATS, {"3"}),
    (stack(parametrizations.spectral_norm(nn.Linear(6, 3))), FLOATS, {"3"}),
    (stack(old_spectral_norm(nn.Linear(6, 3))), FLOATS, {"3"}),
    (nn.Sequential(nn.Linear(4, 3)), FLOATS, {"0"}),
    (Distilled(), FLOATS, {"head", "head_dist"}),
    (Prototypes(), FLOATS, {"prototypes", "scale"}),
    (Recurrent(), torch.zeros(2, 5, dtype=torch.int64), {"lstm", "norm"}),
    (Attention(), FLOATS, {"attention.out_proj"}),
    (Tied(), FLOATS, {"enter.weight", "leave.bias"}),
    (WithOutput(), FLOATS, {"classifier"}),
]


@pytest.mark.parametrize(
    ("model", "example", "paths"),
    HEADS,
    ids=[f"{i}-{type(h[0]).__name__}" for i, h in enumerate(HEADS)],
)
def test_heads_of_own_networks_are_found(model, example, paths):
    expected = {
        name
        for name in model.state_dict()
        if any(name == path or name.startswith(f"{path}.") for path in paths)
    }
    assert select(model, "head", example=example) == expected


@pytest.mark.integration
@given(
    st.lists(st.sampled_from(["linear", "relu", "dropout", "norm"]), max_size=6),
    st.sampled_from([nn.Identity(), nn.Softmax(1), nn.LayerNorm(3), nn.BatchNorm1d(3)]),
    st.booleans(),
)
def test_the_head_of_a_stack_is_its_last_linear_layer_and_what_follows(layers, tail, compiled):
    made = {
        "linear": lambda: nn.Linear(4, 4),
        "relu": nn.ReLU,
        "dropout": nn.Dropout,
        "norm": lambda: nn.LayerNorm(4),
    }
    model: nn.Module = nn.Sequential(*[made[each]() for each in layers], nn.Linear(4, 3), tail)
    places = (len(layers), len(layers) + 1)
    prefix = ""
    if compiled:
        model, prefix = torch.compile(model, backend="eager"), "_orig_mod."
    expected = {
        n for n in model.state_dict() if n.startswith(tuple(f"{prefix}{p}." for p in places))
    }
    assert select(model, "head", example=FLOATS) == expected


class Skip(nn.Module):
    """Its outputs are the first features of a sum over a skip connection."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, inputs):
        hidden = self.a(inputs)
        return (hidden + self.c(self.b(hidden).relu()))[:, :3]


@pytest.mark.parametrize("word", ["head", "body"])
def test_an_ambiguous_head_names_the_candidates_and_the_line_to_write(word):
    model = Skip()
    with refused(ScopeError, rule="head", choices=("a", "c")) as caught:
        assign_scopes(model, personal=word, example=FLOATS)
    assert 'net.parts = {"head": ("c",)}' in str(caught.value)
    assert len(str(caught.value)) < 400
    assert components(model, example=FLOATS).keys() == {"all", "none"}
    model.parts = {"head": ("c",)}
    assert select(model, "head") == {"c.weight", "c.bias"}


@pytest.mark.parametrize("example", [None, torch.zeros(2, 99)])
def test_a_head_that_nothing_tells_is_asked_for(example):
    with refused(ScopeError, rule="head", choices=("0", "3")):
        select(stack(nn.Linear(6, 3)), "head", example=example)
    model = resnet18()
    with pytest.raises(ScopeError) as caught:
        select(model, "wrong")
    assert len(str(caught.value)) < 600


def test_looking_for_the_head_leaves_the_network_as_it_was():
    model = nn.Sequential(resnet18(num_classes=3), nn.Dropout(), nn.Linear(3, 3))
    model[0].bn1.eval()
    model[0].conv1.weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in entries_of(model).items()}
    modes = [module.training for module in model.modules()]
    asks = [parameter.requires_grad for parameter in model.parameters()]
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    with torch.no_grad():
        select(model, "head", example=IMAGES)
    assert torch.equal(torch.rand(1), expected)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == asks
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], each) for name, each in entries_of(model).items())


class Timm(nn.Module):
    """As timm's networks."""

    def __init__(self, distilled):
        super().__init__()
        self.head = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3))
        self.head_dist = nn.Linear(4, 3)
        self.distilled = distilled

    def get_classifier(self):
        return (self.head[1], self.head_dist) if self.distilled else self.head[1]


def test_the_head_is_what_get_classifier_returns():
    one, other = {"head.1.weight", "head.1.bias"}, {"head_dist.weight", "head_dist.bias"}
    assert select(Timm(distilled=False), "head") == one
    assert select(Timm(distilled=True), "head") == one | other
    wrapped = nn.Sequential(Timm(distilled=True), nn.Softmax(dim=1))
    assert select(wrapped, "head") == {f"0.{name}" for name in one | other}


def test_features_of_a_library_without_a_classifier_are_looked_at_as_any_network():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = Timm(distilled=False)
            self.features.head[1] = nn.Identity()
            self.out = nn.Linear(4, 3)

        def forward(self, inputs):
            return self.out(self.features.head(inputs))

    assert select(Own(), "head", example=FLOATS) == {"out.weight", "out.bias"}


@pytest.mark.parametrize(
    ("layers", "found"),
    [
        ({"classifier": 3}, {"classifier"}),
        ({"pre_classifier": 4, "classifier": 3}, {"classifier"}),
        ({"head": 4, "score": 3}, {"score"}),
        (
            {"cls_classifier": 3, "distillation_classifier": 3},
            {"cls_classifier", "distillation_classifier"},
        ),
    ],
)
def test_the_classifier_of_transformers_is_its_last_layer_and_those_like_it(layers, found):
    origin = {"__module__": "transformers.models.own", "base_model_prefix": "encoder"}
    model: Any = type("OwnForSequenceClassification", (nn.Module,), origin)()
    model.encoder = nn.Linear(4, 4)
    for name, width in layers.items():
        model.add_module(name, nn.Linear(4, width))
    model.dropout = nn.Dropout()
    expected = {f"{name}.{kind}" for name in found for kind in ("weight", "bias")}
    assert select(model, "head") == expected


def test_a_wrapper_with_metrics_and_losses_beside_its_network_is_one():
    class Lightning(nn.Module):
        def __init__(self):
            super().__init__()
            self.loss, self.model = nn.CrossEntropyLoss(), TinyNet()

    assert select(Lightning(), "head") == {f"model.{name}" for name in select(TinyNet(), "head")}


def test_an_adapter_around_the_head_is_part_of_it():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    layer = tuner_layer()
    kind: Any = type(layer)
    kind.forward = lambda own, x: (
        own.base_layer(x) + own.lora_B["default"](own.lora_A["default"](x))
    )
    model.append(layer)
    expected = {f"2.{name}" for name in layer.state_dict()}
    assert select(model, "head", example=FLOATS) == expected


def test_what_was_found_is_one_line_of_the_log_once_it_is_not_quiet(caplog):
    with caplog.at_level("WARNING", logger="flwr"):  # a quiet run does not use the line up
        select(Distilled(), "head", example=FLOATS)
    with caplog.at_level("INFO", logger="flwr"):
        for _ in range(2):
            select(Distilled(), "head", example=FLOATS)
            select(TinyNet(), "head")  # declared
    (said,) = [each.getMessage() for each in caplog.records]
    assert "head, head_dist" in said


def test_layers_without_a_shape_are_refused():
    with refused(ScopeError, entries=("1.weight", "1.bias")):
        assign_scopes(nn.Sequential(nn.Flatten(), nn.LazyLinear(3)))


@pytest.mark.integration
def test_no_library_is_imported_to_find_that_a_network_has_none_of_it():
    run_alone(
        "import sys\n"
        "from torch import nn\n"
        "from clients import components\n"
        "components(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))\n"
        "libraries = {'torchvision', 'timm', 'transformers', 'peft', 'monai', 'torch_geometric'}\n"
        "assert not libraries & set(sys.modules), libraries & set(sys.modules)\n"
    )
