"""A tiny BERT with random values and a corpus to go with it, for tests without a network."""

import json

WORDS = ["please", "do", "my", "way", "now", "bill", "card", "song", "flight", "in", "a", "the"]


def write_encoder(folder, layers=3, width=16):
    """Write a BERT and its tokenizer, whose vocabulary is letters and some words."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir()
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)] + list("0123456789")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*special, *WORDS, *letters, *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizerFast(vocab_file=str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    return folder


def write_corpus(folder, domains=4, intents=7, texts=8):
    """Write generated texts in the form of CLINC150."""
    (folder / "clinc150").mkdir(parents=True)
    names = {f"d{d}": [f"d{d}i{i}" for i in range(intents)] for d in range(domains)}
    said = {"train": "please do my {} way {}", "test": "now do the {} in a way {}"}
    written = {
        split: [[form.format(i, n), i] for own in names.values() for i in own for n in range(texts)]
        for split, form in said.items()
    }
    (folder / "clinc150" / "data_small.json").write_text(json.dumps(written))
    (folder / "clinc150" / "domains.json").write_text(json.dumps(names))
    return folder
