"""LoRA of ``peft`` over a BERT of ``transformers`` of 10 million parameters, and texts for it."""

from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

VOCABULARY = 8000


def texts(partition_id: int, num_partitions: int) -> dict[str, Any]:
    """Eight tokens a text; a client's classes are told apart by the first of them."""
    draw = np.random.default_rng(partition_id)
    x = draw.integers(0, VOCABULARY, size=(24, 8))
    return {"x_train": x, "y_train": (x[:, 0] > VOCABULARY // 2).astype(int)}


class LoraBert(nn.Module):
    """The network with its logits; the base is drawn, as it would be read from a file."""

    def __init__(self, shape: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        peft: Any = import_module("peft")  # typed or not, as they are installed or not
        transformers: Any = import_module("transformers")
        config = transformers.BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            num_hidden_layers=10,
            num_attention_heads=4,
            intermediate_size=1024,
            max_position_embeddings=64,
            num_labels=outputs,
        )
        bert = transformers.BertForSequenceClassification(config)
        lora = peft.LoraConfig(task_type="SEQ_CLS", r=8)
        self.network = peft.get_peft_model(bert, lora)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.network(input_ids=x, attention_mask=torch.ones_like(x)).logits
        return out
