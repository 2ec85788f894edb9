"""A small pretrained network with LoRA of ``peft``, and others that methods for LoRA refuse."""

from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pfl_flower.models import MLP

WIDTH, RANK = 16, 2


class Pretrained(nn.Module):
    """Two layers and a head; the layers are pretrained: the same whatever the run's seed."""

    def __init__(self, size: int, outputs: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(7)
        self.enter, self.middle = nn.Linear(size, WIDTH), nn.Linear(WIDTH, WIDTH)
        for layer in (self.enter, self.middle):
            nn.init.normal_(layer.weight, std=0.3, generator=draw)
            nn.init.zeros_(layer.bias)
        self.head = nn.Linear(WIDTH, outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.middle(self.enter(x.flatten(1)).relu()).tanh())
        return out


def lora(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """LoRA beside both layers, with dropout as it is usual; the head is trained, too."""
    peft: Any = import_module("peft")  # typed or not, as it is installed or not
    size = int(torch.Size(shape).numel())
    config = peft.LoraConfig(
        r=RANK, target_modules=["enter", "middle"], modules_to_save=["head"], lora_dropout=0.1
    )
    network: nn.Module = peft.get_peft_model(Pretrained(size, outputs), config)
    return network


def without_lora(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """The base frozen, the head trained, and no adapters."""
    network = Pretrained(int(torch.Size(shape).numel()), outputs)
    network.enter.requires_grad_(False)
    network.middle.requires_grad_(False)
    return network


def frozen_lora(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Low-rank adapters of which nobody trains anything."""
    network = MLP(shape, outputs, rank=2)
    assert network.low_rank is not None
    network.low_rank.requires_grad_(False)
    return network


def tokens(partition_id: int, num_partitions: int) -> dict[str, Any]:
    """Six tokens a text; the class is whether the first is in the upper half of the vocabulary."""
    x = np.random.default_rng(partition_id).integers(0, 20, size=(40, 6))
    return {"x_train": x, "y_train": (x[:, 0] >= 10).astype(int)}


class Tokens(nn.Module):
    """An embedding, a layer for every token, and a head on their mean."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.table = nn.Embedding(20, WIDTH)
        self.each, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.each(self.table(x)).relu().mean(dim=1))
        return out


def embedding_lora(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """LoRA of an embedding, whose halves are no modules, and of a layer."""
    peft: Any = import_module("peft")
    config = peft.LoraConfig(r=RANK, target_modules=["table", "each"], modules_to_save=["head"])
    network: nn.Module = peft.get_peft_model(Tokens(outputs), config)
    return network


def dora(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """DoRA: its layers call their halves on more than examples, for the norm of the weight."""
    peft: Any = import_module("peft")
    config = peft.LoraConfig(
        r=RANK, target_modules=["each"], modules_to_save=["head"], use_dora=True
    )
    network: nn.Module = peft.get_peft_model(Tokens(outputs), config)
    return network


class MaskedTokens(Tokens):
    """The head on every token; its mean over those that are no padding."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:  # type: ignore[override]
        mask = attention_mask.unsqueeze(-1)
        logits = self.head(self.each(self.table(input_ids)).relu())
        out: Tensor = (logits * mask).sum(dim=1) / mask.sum(dim=1)
        return out


def masked_lora(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """LoRA of a layer that sees a sequence of tokens, and a mask of padding."""
    peft: Any = import_module("peft")
    config = peft.LoraConfig(r=RANK, target_modules=["each"], modules_to_save=["head"])
    network: nn.Module = peft.get_peft_model(MaskedTokens(outputs), config)
    return network
