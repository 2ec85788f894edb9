"""The networks of public libraries, built without weights: what the words of rules select there.

The numbers of entries were counted by hand from each library's definition of its layers.
"""

import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from clients import ScopeError, assign_scopes, entries_of, select
from pfl_flower.engines import simulate
from tests.errors import refused

pytestmark = pytest.mark.integration
HERE = "tests.clients.test_public_networks"
CLASSES = 7
TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 100,
    "num_labels": CLASSES,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
DECODER = TEXT | {"num_key_value_heads": 2}
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
PICTURE = TEXT | {"image_size": 32, "patch_size": 8}
STAGES = {"num_labels": CLASSES, "hidden_sizes": [8, 16], "depths": [1, 1], "embedding_size": 8}
CONVNEXT = {"num_labels": CLASSES, "hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1]}

SMALL_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 100, "pad_token_id": 0}
SMALL_GPT |= {"num_labels": CLASSES}
SMALL_T5 = {"d_model": 32, "d_ff": 64, "num_layers": 2, "num_heads": 2, "d_kv": 16}
SMALL_T5 |= {"num_labels": CLASSES}


def tv(name, **settings):
    return getattr(importlib.import_module("torchvision.models"), name)(
        num_classes=CLASSES, **settings
    )


def timm(name):
    library = pytest.importorskip("timm")
    return library.create_model(name, num_classes=CLASSES, pretrained=False)


def hf(name, settings):
    library = pytest.importorskip("transformers")
    for word in ("For", "Model"):
        config = getattr(library, f"{name.partition(word)[0]}Config", None)
        if config is not None:
            return getattr(library, name)(config(**settings))
    raise AssertionError(name)


def peft(kind, **settings):
    library = pytest.importorskip("peft")
    base = hf("BertForSequenceClassification", TEXT)
    return library.get_peft_model(base, getattr(library, kind)(task_type="SEQ_CLS", **settings))


def monai(name, **settings):
    library = pytest.importorskip("monai.networks.nets")
    return getattr(library, name)(spatial_dims=2, **settings)


def frozen_batch_norm():
    from torchvision.ops import FrozenBatchNorm2d

    return tv("resnet18", norm_layer=FrozenBatchNorm2d)


def lightning():
    library = pytest.importorskip("lightning")
    torchmetrics = pytest.importorskip("torchmetrics")
    model = library.LightningModule()
    model.model, model.loss = tv("resnet18"), nn.CrossEntropyLoss()
    model.accuracy = torchmetrics.Accuracy("multiclass", num_classes=CLASSES)
    model.forward = model.model.forward
    return model


def opacus():
    library = pytest.importorskip("opacus")
    fixed = library.validators.ModuleValidator.fix(timm("resnet18"))
    return library.GradSampleModule(fixed)


IMAGES = torch.zeros(2, 3, 64, 64)
SMALL = torch.zeros(2, 3, 32, 32)

# what builds it, an example where no library names the head; entries of it, and of norm, head, se
NETWORKS: dict[str, tuple[Any, Any, int, int, int, int]] = {
    "tv resnet18": (lambda: tv("resnet18"), IMAGES, 122, 100, 2, 0),
    "tv frozen": (frozen_batch_norm, IMAGES, 102, 80, 2, 0),
    "tv densenet121": (lambda: tv("densenet121"), IMAGES, 727, 605, 2, 0),
    "tv mobilenet_v3": (lambda: tv("mobilenet_v3_small"), IMAGES, 244, 170, 2, 36),
    "tv efficientnet_b0": (lambda: tv("efficientnet_b0"), IMAGES, 360, 245, 2, 64),
    "tv convnext_tiny": (lambda: tv("convnext_tiny"), IMAGES, 182, 46, 2, 0),
    "tv vit_b_16": (
        lambda: tv("vit_b_16", image_size=32),
        SMALL,
        152,
        50,
        2,
        0,
    ),
    "tv swin_t": (lambda: tv("swin_t"), IMAGES, 185, 58, 2, 0),
    "tv squeezenet": (lambda: tv("squeezenet1_0"), IMAGES, 52, 0, 2, 0),
    "tv regnet": (lambda: tv("regnet_y_400mf"), IMAGES, 384, 265, 2, 64),
    "tv vgg11_bn": (lambda: tv("vgg11_bn"), IMAGES, 62, 40, 2, 0),
    "tv shufflenet": (lambda: tv("shufflenet_v2_x0_5"), IMAGES, 338, 280, 2, 0),
    "tv inception": (
        lambda: tv("inception_v3", init_weights=False),
        torch.zeros(2, 3, 96, 96),
        *(580, 480, 2, 0),
    ),
    "timm resnet18": (lambda: timm("resnet18"), None, 122, 100, 2, 0),
    "timm seresnet18": (lambda: timm("seresnet18"), None, 154, 100, 2, 32),
    "timm vit_tiny": (lambda: timm("vit_tiny_patch16_224"), None, 152, 50, 2, 0),
    "timm efficientnet_b0": (lambda: timm("efficientnet_b0"), None, 360, 245, 2, 64),
    "timm mobilenetv3": (lambda: timm("mobilenetv3_small_100"), None, 244, 170, 2, 36),
    "timm convnextv2_atto": (lambda: timm("convnextv2_atto"), None, 140, 58, 2, 0),
    "timm nf_resnet50": (lambda: timm("nf_resnet50"), None, 161, 0, 2, 0),
    "timm eca_nfnet_l0": (lambda: timm("eca_nfnet_l0"), None, 185, 0, 2, 12),
    "timm levit_128s": (lambda: timm("levit_128s"), None, 325, 260, 14, 0),
    "timm deit distilled": (lambda: timm("deit_tiny_distilled_patch16_224"), None, 155, 50, 4, 0),
    "timm efficientvit_b0": (lambda: timm("efficientvit_b0"), None, 197, 132, 2, 0),
    "timm mambaout": (lambda: timm("mambaout_femto"), None, 172, 50, 2, 0),
    "hf bert": (lambda: hf("BertForSequenceClassification", TEXT), None, 41, 10, 2, 0),
    "hf roberta": (
        lambda: hf("RobertaForSequenceClassification", TEXT),
        None,
        41,
        10,
        4,
        0,
    ),
    "hf distilbert": (
        lambda: hf(
            "DistilBertForSequenceClassification",
            {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "num_labels": CLASSES},
        ),
        *(None, 40, 10, 2, 0),
    ),
    "hf modernbert": (
        lambda: hf("ModernBertForSequenceClassification", TEXT | SPECIAL),
        *(None, 18, 6, 2, 0),
    ),
    "hf vit": (lambda: hf("ViTForImageClassification", PICTURE), None, 40, 10, 2, 0),
    "hf resnet": (
        lambda: hf("ResNetForImageClassification", STAGES | {"layer_type": "basic"}),
        *(None, 38, 30, 2, 0),
    ),
    "hf regnet": (
        lambda: hf("RegNetForImageClassification", STAGES | {"groups_width": 8}),
        *(None, 64, 45, 2, 8),
    ),
    "hf convnext": (
        lambda: hf("ConvNextForImageClassification", CONVNEXT),
        None,
        56,
        18,
        2,
        0,
    ),
    "hf convnextv2": (
        lambda: hf("ConvNextV2ForImageClassification", CONVNEXT),
        *(None, 60, 26, 2, 0),
    ),
    "hf deit": (
        lambda: hf("DeiTForImageClassificationWithTeacher", PICTURE),
        *(None, 43, 10, 4, 0),
    ),
    "hf llama": (
        lambda: hf("LlamaForSequenceClassification", DECODER),
        None,
        21,
        5,
        1,
        0,
    ),
    "hf mistral": (
        lambda: hf("MistralForSequenceClassification", DECODER),
        None,
        21,
        5,
        1,
        0,
    ),
    "hf gemma2": (
        lambda: hf("Gemma2ForSequenceClassification", DECODER | {"head_dim": 16}),
        *(None, 25, 9, 1, 0),
    ),
    "hf qwen3": (
        lambda: hf("Qwen3ForSequenceClassification", DECODER | {"head_dim": 16}),
        *(None, 25, 9, 1, 0),
    ),
    "hf gpt2": (
        lambda: hf(
            "GPT2ForSequenceClassification",
            SMALL_GPT,
        ),
        *(None, 29, 10, 1, 0),
    ),
    "hf t5": (
        lambda: hf(
            "T5ForSequenceClassification",
            {
                "d_model": 32,
                "d_ff": 64,
                "num_layers": 2,
                "num_heads": 2,
                "d_kv": 16,
                "num_labels": 7,
            },
        ),
        *(None, 53, 12, 4, 0),
    ),
    "monai densenet": (
        lambda: monai("DenseNet121", in_channels=3, out_channels=CLASSES),
        *(IMAGES, 727, 605, 2, 0),
    ),
    "monai seresnet": (
        lambda: monai("SEResNet50", in_channels=3, num_classes=CLASSES),
        *(IMAGES, 384, 265, 2, 64),
    ),
    "lightning": (lightning, IMAGES, 122, 100, 2, 0),
    "opacus": (opacus, None, 62, 40, 2, 0),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_what_the_words_select_in_a_public_network(name):
    build, example, everything, norm, head, squeezes = NETWORKS[name]
    model = build()
    assert len(model.state_dict()) == everything
    for word, expected in {"norm": norm, "se": squeezes, "adapter": 0, "head": head}.items():
        if expected:
            assert len(select(model, word, example=example)) == expected, word
        else:
            with refused(ScopeError, rule=word, choices=("all",)):
                select(model, word)
    body = select(model, "body", example=example)
    assert body == model.state_dict().keys() - select(model, "head", example=example)


@pytest.mark.parametrize(
    ("kind", "settings", "entries", "adapter", "halves"),
    [
        ("LoraConfig", {"r": 4, "target_modules": ["query", "value"]}, 51, 8, (4, 4)),
        ("LoraConfig", {"r": 4, "target_modules": ["query", "word_embeddings"]}, 49, 6, (3, 3)),
        (
            "IA3Config",
            {"target_modules": ["query", "value"], "feedforward_modules": []},
            *(47, 4, (0, 0)),
        ),
        ("PrefixTuningConfig", {"num_virtual_tokens": 3}, 45, 1, (0, 0)),
    ],
)
def test_peft_layers_are_adapters(kind, settings, entries, adapter, halves):
    model = peft(kind, **settings)
    assert len(model.state_dict()) == entries
    found = select(model, "adapter")
    assert len(found) == adapter
    trained = {name for name, each in model.named_parameters() if each.requires_grad}
    assert trained == found | select(model, "head")
    with refused(ScopeError, rule="norm"):  # all of it is frozen
        select(model, "norm")
    for half, count in zip(("adapter.A", "adapter.B"), halves, strict=True):
        if count:
            assert len(select(model, half)) == count
        else:
            with refused(ScopeError, rule=half):
                select(model, half)
    if any(halves):
        assert found == select(model, "adapter.A,adapter.B")


def test_every_normalization_of_transformers_is_found_or_asked_about():
    """Of all layers of the library that seem to normalize by their name, each by itself."""
    library = pytest.importorskip("transformers")
    simple = {}
    for path in sorted(Path(library.__file__).parent.glob("models/*/modeling_*.py")):
        for name in re.findall(r"^class (\w+(?:RMSNorm|LayerNorm))\b", path.read_text(), re.M):
            simple[name] = f"transformers.models.{path.parent.name}.{path.stem}"
    assert len(simple) > 150
    for name, module in simple.items():
        kind: Any = type(name, (nn.Module,), {"__module__": module})
        layer = kind()
        layer.weight = nn.Parameter(torch.ones(4))
        assert select(nn.Sequential(nn.Linear(4, 4), layer), "norm") == {"1.weight"}, name


# ------------------------------------------------------------------ one round


def pictures(partition_id, num_partitions):
    draw = np.random.default_rng(partition_id)
    return {
        "x_train": draw.normal(size=(14, 3, 32, 32)).astype("float32"),
        "y_train": np.arange(14) % CLASSES,
    }


def tokens(partition_id, num_partitions):
    draw = np.random.default_rng(partition_id)
    return {"x_train": draw.integers(1, 100, (14, 6)), "y_train": np.arange(14) % CLASSES}


RUNS = {
    "tv resnet18": "pictures",
    "tv squeezenet": "pictures",
    "timm convnextv2_atto": "pictures",
    "hf convnextv2": "pictures",
    "hf deit": "pictures",
    "hf bert": "tokens",
    "hf distilbert": "tokens",
    "hf llama": "tokens",
    "hf gpt2": "tokens",
    "lora": "tokens",
}


def model_of(name):
    """A function for the run key `model`."""

    def build(shape, num_outputs):
        assert num_outputs == CLASSES
        if name == "lora":
            return peft("LoraConfig", r=4, target_modules=["query", "value"])
        return NETWORKS[name][0]()

    return build


for _name in RUNS:
    globals()[f"model_{_name.replace(' ', '_')}"] = model_of(_name)


@pytest.mark.parametrize("name", RUNS)
def test_a_round_of_personal_heads_and_of_personal_norms(name):
    settings: dict[str, Any] = {
        "model": f"{HERE}:model_{name.replace(' ', '_')}",
        "dataset": f"{HERE}:{RUNS[name]}",
        "baselines": "",
        "num-server-rounds": 1,
        "local-steps": 1,
        "batch-size": 7,
        "learning-rate": 0.01,
    }
    model = model_of(name)((), CLASSES)
    example = torch.zeros(2, 3, 32, 32)
    for method, rule in {"fedper": "head", "fedbn": "norm"}.items():
        if method == "fedbn" and name in ("tv squeezenet", "lora"):  # none, or none that is trained
            with refused(ScopeError, rule="norm"):
                simulate(settings | {"method": method}, num_clients=2)
            continue
        (run,) = simulate(settings | {"method": method}, num_clients=2)
        assert all(np.isfinite(list(run.by_client().values())))
        personal = select(model, rule, example=example)
        assert not personal & run.arrays.keys()
        scopes = assign_scopes(model, personal=rule, example=example)
        shared = {each for each, scope in scopes.items() if scope in ("shared", "group")}
        assert run.arrays.keys() == shared
        assert shared <= entries_of(model).keys()
