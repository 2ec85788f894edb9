"""Networks of torchvision, timm and transformers by name, their weights, and what is trained."""

import importlib.util
import pickle
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from clients import Scope, assign_scopes
from clients.model_components.token_ids import check_token_ids, vocabulary_of
from pfl_flower.config.errors import ConfigError
from pfl_flower.config.run_config import RunConfig
from pfl_flower.engines import simulate
from pfl_flower.models import Architecture, build_model
from pfl_flower.models.libraries import LIBRARIES
from pfl_flower.models.lora import layers_with_lora
from pfl_flower.models.pretrained_weights import read_weights
from pfl_flower.models.trainable import blocks_of, keep_trainable
from strategies.errors import ArgumentError
from tests.pfl_flower.data.named_text import VOCABULARY

TINY = "torchvision:shufflenet_v2_x0_5"
SHAPE = (3, 32, 32)
HERE = "tests.pfl_flower.data.named_text"
TEXT = {"inputs": ("input_ids", "attention_mask")}


def needs(*libraries):
    missing = [name for name in libraries if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{missing} not installed")


def architecture(model=TINY, shape=SHAPE, classes=3, **others):
    return Architecture(model, shape, classes, **others)


def trained(model):
    return {name for name, each in model.named_parameters() if each.requires_grad}


def refused(**arguments):
    with pytest.raises(ArgumentError) as error:
        build_model(architecture(**arguments), 0)
    return error.value


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A folder with a small BERT for two classes, as save_pretrained writes it."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=6,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
        num_labels=2,
    )
    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("bert")
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(build_model(architecture(classes=7), 3).state_dict(), file)
    return file


def test_a_network_by_name_depends_on_the_seed_alone():
    one, same, other = (build_model(architecture(), seed).state_dict() for seed in (0, 0, 1))
    assert one["fc.weight"].shape[0] == 3
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["fc.weight"], other["fc.weight"])


@needs("timm")
def test_a_network_of_timm_takes_the_channels_and_the_size_of_the_data():
    model = build_model(architecture("timm:test_vit", (1, 32, 32)), 0)
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_a_file_of_weights_is_put_in_but_for_the_head(weights, ending, tmp_path):
    file, found = weights, read_weights(weights)
    if ending == ".pth":
        file = tmp_path / "tiny.pth"
        torch.save({"state_dict": found, "epoch": 3}, file)
    model = build_model(architecture(pretrained=str(file)), 0)
    for name, values in model.state_dict().items():
        assert torch.equal(values, found[name]) or name.startswith("fc.")
    assert model.fc.weight.shape[0] == 3


def test_weights_that_do_not_fit_are_refused(weights, tmp_path):
    found = read_weights(weights)
    shaped = found | {"conv1.0.weight": torch.zeros(24, 1, 3, 3)}
    torn = {name: each for name, each in found.items() if name != "conv5.1.bias"}
    others = {f"module.{name}": each for name, each in found.items()}
    for number, bad in enumerate((shaped, torn, others)):
        file = tmp_path / f"{number}.safetensors"
        save_file(bad, file)
        assert refused(pretrained=str(file)).argument == "pretrained"


class Thing:
    pass


def test_files_that_are_no_weights_are_refused(tmp_path):
    objects, text, pickled = (tmp_path / n for n in ("o.pth", "t.safetensors", "p.pth"))
    torch.save(SimpleNamespace(a=1), objects)
    text.write_text("no tensors")
    pickled.write_bytes(pickle.dumps([1, 2]))
    for file in (objects, text, pickled, tmp_path / "absent.pth"):
        assert refused(pretrained=str(file)).value == str(file)


def test_nothing_is_downloaded_unless_asked(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert refused(pretrained=True).argument == "pretrained"


def test_an_unknown_name_is_refused_with_near_ones():
    error = refused(model="torchvision:resnet19")
    assert "torchvision:resnet18" in error.choices
    if importlib.util.find_spec("timm"):
        assert "timm:resnet18" in refused(model="timm:resnet18x").choices


@needs("transformers")
def test_an_unknown_folder_is_refused_with_near_ones(bert):
    wrong = bert.parent / f"{bert.name}s"
    assert refused(model=f"hf:{wrong}", shape=(8,), **TEXT).choices == (f"hf:{bert}",)


@pytest.mark.parametrize("library", ["timm", "hf"])
def test_a_missing_library_is_named_with_the_way_to_it(monkeypatch, library):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    error = refused(model=f"{library}:some")
    assert LIBRARIES[library].module in error.wanted
    assert "pyproject.toml" in error.wanted


def test_missing_peft_is_named_with_the_way_to_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    error = refused(model="mlp", shape=(4,), trainable="lora")
    assert (error.argument, error.value) == ("trainable", "lora")


@pytest.mark.parametrize("shape", [(1, 32, 32), (64,)])
def test_examples_that_a_network_does_not_take_are_refused(shape, weights):
    for pretrained in ("", str(weights)):
        assert refused(shape=shape, pretrained=pretrained).argument == "model"


@needs("transformers")
def test_a_folder_of_transformers_keeps_its_weights_but_for_the_head(bert):
    found = read_weights(bert / "model.safetensors")
    options = {"pretrained": True, **TEXT}
    model = build_model(architecture(f"hf:{bert}", (12,), 3, **options), 0)
    body = {n: each for n, each in model.state_dict().items() if not n.startswith("classifier")}
    same = {name for name, each in body.items() if torch.equal(each, found[name])}
    assert same == {name for name in found if not name.startswith("classifier")}
    assert model.classifier.weight.shape[0] == 3
    fresh = build_model(architecture(f"hf:{bert}", (12,), 3, **TEXT), 0)
    assert not torch.equal(fresh.bert.pooler.dense.weight, found["bert.pooler.dense.weight"])


@needs("transformers")
def test_what_is_trained(bert):
    options = {"pretrained": True, **TEXT}
    every = trained(build_model(architecture(f"hf:{bert}", (12,), **options), 0))
    head = {"classifier.weight", "classifier.bias"}
    for number in (1, 2, 6):
        model = build_model(
            architecture(f"hf:{bert}", (12,), trainable=f"blocks:{number}", **options), 0
        )
        last = tuple(f"bert.encoder.layer.{5 - place}." for place in range(number))
        after = head | {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
        assert trained(model) == after | {name for name in every if name.startswith(last)}
    model = build_model(architecture(f"hf:{bert}", (12,), trainable="head", **options), 0)
    assert trained(model) == head
    scopes = assign_scopes(model)
    assert {name for name, scope in scopes.items() if scope is not Scope.FROZEN} == head
    error = refused(model=f"hf:{bert}", shape=(12,), trainable="blocks:9", **options)
    assert error.choices == tuple(f"blocks:{number}" for number in range(1, 7))


@pytest.mark.parametrize(
    ("name", "first", "count"),
    [
        ("resnet18", "layer1.0", 8),
        ("mobilenet_v3_small", "features.1", 11),
        ("vit_b_32", "encoder.layers.encoder_layer_0", 12),
        ("vgg11", None, 0),
    ],
)
def test_blocks_are_the_modules_that_repeat(name, first, count):
    from torchvision import models

    with torch.device("meta"):
        found = blocks_of(models.get_model(name, weights=None))
    assert len(found) == count
    assert first is None or found[0] == first


class TiedHead(nn.Module):
    """A head whose weight is that of the first layer."""

    parts = {"head": ("fc",)}

    def __init__(self):
        super().__init__()
        self.embed, self.middle = nn.Linear(8, 8, bias=False), nn.Linear(8, 8)
        self.fc = nn.Linear(8, 8)
        self.fc.weight = self.embed.weight

    def forward(self, x):
        return self.fc(self.middle(self.embed(x)).relu())


class UndeclaredTiedHead(TiedHead):
    """The same, where the head has to be found."""

    parts = {}


@pytest.mark.parametrize("kind", [TiedHead, UndeclaredTiedHead])
@pytest.mark.parametrize("word", ["head", pytest.param("lora", marks=needs("peft"))])
def test_a_tied_head_is_trained_under_all_its_names(kind, word):
    model = kind()
    keep_trainable(model, (), architecture("own:net", (8,), 8, trainable=word))
    lora = {f"middle.lora_{half}.default.weight" for half in "AB"} if word == "lora" else set()
    assert trained(model) == {"embed.weight", "fc.bias"} | lora


@pytest.mark.parametrize(
    ("name", "first", "count"),
    [
        ("test_convnext", "stages.0.blocks.0", 9),
        ("swin_tiny_patch4_window7_224", "layers.0.blocks.0", 12),
        ("regnety_002", "s1.b1", 13),
        ("test_vit", "blocks.0", 6),
    ],
)
def test_stages_of_timm_hold_blocks_and_are_none(name, first, count):
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        found = blocks_of(timm.create_model(name))
    assert (found[0], len(found)) == (first, count)


@needs("transformers")
def test_nor_are_those_of_transformers():
    import transformers

    config = transformers.SwinConfig(embed_dim=8, depths=[1, 2], num_heads=[1, 2])
    with torch.device("meta"):
        found = blocks_of(transformers.SwinForImageClassification(config))
    places = [(0, 0), (1, 0), (1, 1)]
    assert found == [f"swin.encoder.layers.{stage}.blocks.{i}" for stage, i in places]


@needs("transformers")
def test_an_input_that_only_kwargs_would_take_is_refused_by_its_name(bert):
    names = ("input_ids", "attention_mask", "loudness")
    error = refused(model=f"hf:{bert}", shape=(12,), inputs=names)
    assert error.argument == "model"
    assert "takes loudness;" in error.wanted
    assert {"input_ids", "token_type_ids"} <= set(error.choices)
    assert "kwargs" not in error.choices
    build_model(architecture(f"hf:{bert}", (12,), inputs=(*names[:2], "token_type_ids")), 0)


@needs("transformers", "peft")
def test_lora_leaves_outputs_as_they_were_and_trains_the_head(bert):
    options = {"pretrained": True, **TEXT}
    plain = build_model(architecture(f"hf:{bert}", (12,), 2, **options), 0).eval()
    settings = {"trainable": "lora", "lora_rank": 3, "lora_alpha": 6.0, **options}
    model = build_model(architecture(f"hf:{bert}", (12,), 2, **settings), 0).eval()
    inputs = {"input_ids": torch.tensor([[3, 4, 5]]), "attention_mask": torch.ones(1, 3).long()}
    torch.testing.assert_close(model(inputs), plain(inputs))
    own = trained(model)
    layers = [
        f"bert.encoder.layer.{i}.attention.self.{n}" for i in range(6) for n in ("query", "value")
    ]
    lora = {f"{layer}.lora_{half}.default.weight" for layer in layers for half in "AB"}
    assert own == lora | {"classifier.weight", "classifier.bias"}
    layer = model.bert.encoder.layer[0].attention.self.query
    assert layer.lora_A["default"].weight.shape == (3, 16)
    assert layer.scaling["default"] == 2.0


@needs("transformers", "peft")
def test_targets_are_paths_their_ends_or_patterns(bert):
    def layers(targets):
        model = build_model(
            architecture(f"hf:{bert}", (12,), trainable="lora", lora_targets=targets, **TEXT), 0
        )
        return {name.partition(".lora_")[0] for name in trained(model) if ".lora_" in name}

    prefix = "bert.encoder.layer"
    assert layers("query") == layers("self.query") == layers("*.query")
    assert layers(f"{prefix}.2.attention.self.key") == {f"{prefix}.2.attention.self.key"}
    assert len(layers("query, *.4.*.dense")) == 6 + 3
    error = refused(
        model=f"hf:{bert}", shape=(12,), trainable="lora", lora_targets="query,values", **TEXT
    )
    assert (error.argument, error.value) == ("lora_targets", "values")
    assert "value" in error.choices


@needs("peft")
def test_the_projection_inside_of_attention_of_torch_gets_no_lora():
    class Net(nn.Module):
        def __init__(self, shape, outputs):
            super().__init__()
            self.attention, self.fc = nn.MultiheadAttention(4, 1), nn.Linear(4, outputs)

    from pfl_flower.models.lora import lora_layers

    net = Net((4,), 2)
    assert lora_layers(net, frozenset(), architecture()) == ["fc"]


class SameEnds(nn.Module):
    def __init__(self, shape, outputs):
        super().__init__()
        self.out_proj, self.attention = nn.Linear(4, 4), nn.MultiheadAttention(4, 1)
        self.head = nn.ModuleDict({"out_proj": nn.Linear(4, outputs)})
        self.parts = {"head": ("head",)}


@needs("peft")
def test_lora_is_in_the_layers_that_were_chosen_whatever_the_ends_of_others():
    net = SameEnds((4,), 2)
    keep_trainable(net, (), architecture("some:net", trainable="lora"))
    assert layers_with_lora(net) == ["out_proj"]
    lora = {f"out_proj.lora_{half}.default.weight" for half in "AB"}
    assert trained(net) == lora | {"head.out_proj.weight", "head.out_proj.bias"}


@needs("peft")
def test_a_network_with_nothing_for_lora_is_refused():
    error = refused(model="linear", shape=(4,), trainable="lora")
    assert (error.argument, error.value) == ("trainable", "lora")


class Frozen(nn.Module):
    def __init__(self, shape, outputs):
        super().__init__()
        self.out = nn.Linear(shape[0], outputs)
        self.requires_grad_(False)

    def forward(self, x):
        return self.out(x)


def test_a_network_with_nothing_to_train_is_refused():
    with pytest.raises(ConfigError) as error:
        simulate(
            {
                "dataset": "digits",
                "method": "fedavg",
                "baselines": "",
                "num-server-rounds": 1,
                "model": f"{__name__}:flat_frozen",
                "trainable": "head",
            },
            num_clients=2,
        )
    assert error.value.key == "model"


def flat_frozen(shape, outputs):
    return nn.Sequential(nn.Flatten(), Frozen((64,), outputs))


@pytest.mark.parametrize("value", ["blocks", "blocks:0", "blocks:-1", "tail", "head:2"])
def test_a_word_for_what_is_trained_is_checked(value):
    with pytest.raises(ConfigError) as error:
        RunConfig.parse({"trainable": value})
    assert error.value.key == "trainable"


@pytest.mark.parametrize("keys", [{"pretrained": True}, {"lora-rank": 4}])
def test_keys_without_an_effect_are_refused(keys):
    with pytest.raises(ConfigError) as error:
        RunConfig.parse({"model": "cnn", **keys})
    assert error.value.key in keys


def test_token_ids_beyond_the_embedding_are_refused():
    model = nn.Sequential(nn.Embedding(VOCABULARY, 4))
    assert vocabulary_of(model) == VOCABULARY
    assert vocabulary_of(nn.Linear(2, 2)) is None
    both = nn.ModuleList([nn.EmbeddingBag(90, 4), nn.Embedding(5, 4)])  # of words, of places
    assert vocabulary_of(both) is None
    check_token_ids({"input_ids": torch.tensor([[0, VOCABULARY - 1]])}, VOCABULARY)
    for odd in (VOCABULARY, -1):
        with pytest.raises(ArgumentError) as error:
            check_token_ids({"input_ids": torch.tensor([[0, odd]])}, VOCABULARY)
        assert error.value.value == odd


@needs("transformers", "peft")
@pytest.mark.parametrize(
    ("method", "rules"), [("fedavg", {}), ("fedper", {"personal": "adapter,head"})]
)
def test_a_run_over_a_frozen_base_sends_what_is_trained(bert, method, rules):
    (run,) = simulate(
        {
            "dataset": f"{HERE}:load",
            "model": f"hf:{bert}",
            "pretrained": True,
            "trainable": "lora",
            "lora-rank": 2,
            "lora-targets": "query",
            "method": method,
            "baselines": "",
            "num-server-rounds": 1,
            **rules,
        },
        num_clients=2,
    )
    own = 6 * 2 * 2 * 16 + 2 * 16 + 2
    assert sum(run.parameters[scope] for scope in ("shared", "personal")) == own
    assert run.parameters["frozen"] > own


@needs("transformers")
def test_a_client_with_a_tokenizer_of_another_vocabulary_says_so(bert):
    settings = {"model": f"hf:{bert}", "pretrained": True, "baselines": "", "method": "fedavg"}
    settings |= {"dataset": f"{HERE}:other_vocabulary", "num-server-rounds": 1}
    (run,) = simulate(settings, num_clients=3)
    assert sorted(run.by_client()) == [0, 2]


def test_a_network_of_the_app_starts_from_the_arrays_of_an_earlier_run(tmp_path):
    plain = Architecture("cnn", (1, 8, 8), 3)
    trained = {name: torch.full_like(each, 0.5) for name, each in state(plain).items()}
    save_file(trained, tmp_path / "whole.safetensors")
    body = {name: each for name, each in trained.items() if not name.startswith("head.")}
    save_file(body, tmp_path / "body.safetensors")
    for file in ("whole", "body"):
        path = str(tmp_path / f"{file}.safetensors")
        model = build_model(replace(plain, pretrained=path, trainable="head"), 0)
        for name, each in model.named_parameters():
            new = file == "body" and name.startswith("head.")
            assert each.requires_grad == name.startswith("head.")
            assert torch.equal(each, state(plain)[name] if new else trained[name])
    other = replace(plain, model="mlp", pretrained=str(tmp_path / "whole.safetensors"))
    for wrong in (other, replace(plain, pretrained=True)):
        with pytest.raises(ArgumentError) as error:
            build_model(wrong, 0)
        assert error.value.argument == "pretrained"


def state(architecture):
    return build_model(architecture, 0).state_dict()
