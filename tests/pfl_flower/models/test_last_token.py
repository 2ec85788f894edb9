"""Networks that classify by the last token find it, however much padding is behind it."""

import pytest
import torch

from pfl_flower.models import Architecture, build_model

VOCABULARY = 20
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 32}
GPT = {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}


def padded(ids, columns):
    rest = columns - len(ids)
    return {
        "input_ids": torch.tensor([ids + [0] * rest]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * rest]),
    }


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("BertConfig", SIZES),
        ("RobertaConfig", SIZES),
        ("LlamaConfig", {**SIZES, "pad_token_id": 19}),
        ("GPT2Config", {**GPT, "pad_token_id": 19, "eos_token_id": 19, "bos_token_id": 19}),
    ],
)
def test_padding_changes_nothing(tmp_path, kind, sizes):
    transformers = pytest.importorskip("transformers")
    getattr(transformers, kind)(**sizes).save_pretrained(tmp_path)
    names = ("input_ids", "attention_mask")
    model = build_model(Architecture(f"hf:{tmp_path}", (8,), 2, inputs=names), 0).eval()
    short, long = padded([5, 0, 7], 3), padded([5, 0, 7], 6)
    torch.testing.assert_close(model(short), model(long), atol=1e-6, rtol=1e-5)
    assert not long["input_ids"][0, 3:].any()  # what the caller has stays as it is
