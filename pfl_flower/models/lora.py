"""LoRA of peft in a network: low-rank corrections of layers, ``W + alpha / rank B A``.

Hu et al. 2022, LoRA, arXiv:2106.09685.
"""

import importlib.util
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from clients.model_components.layer_types import is_a
from clients.model_components.words import shortened
from pfl_flower.models.architecture import Architecture
from strategies.errors import ArgumentError


def require_peft() -> None:
    """Refuse LoRA where peft is not installed.

    Raises
    ------
    ArgumentError
        With the ways to install it.
    """
    if importlib.util.find_spec("peft") is None:
        wanted = (
            "all, head or blocks:<number>, as peft is not installed: pip install 'pfl-flower[hf]'. "
            "`flwr run` installs no extras, so there add peft to the dependencies in the "
            "pyproject.toml of your project"
        )
        raise ArgumentError("trainable", "lora", wanted)


def lora_layers(model: nn.Module, head: frozenset[str], architecture: Architecture) -> list[str]:
    """Return the paths of the layers that get LoRA.

    Parameters
    ----------
    model : nn.Module
        The network.
    head : frozenset of str
        Entries that are trained as a whole; their layers get no LoRA.
    architecture : Architecture
        Its ``lora_targets``: paths (``encoder.layer.0.attention.self.query``), ends of paths
        (``query``, ``self.query``) or patterns (``*.attention.*``). Empty: what peft takes for such
        a network of transformers; of others all linear layers, or where there are none but the
        head, all convolutions.

    Raises
    ------
    ArgumentError
        If a word matches no layer; ``choices`` are the ends of the paths of layers.
    """
    modules = dict(model.named_modules())
    layers = {
        path: module
        for path, module in modules.items()
        if _takes_lora(module)
        # attention of torch reads its projection's weight, and does not call it
        and not isinstance(modules[path.rpartition(".")[0]], nn.MultiheadAttention)
        and not head.intersection(f"{path}.{name}" for name, _ in module.named_parameters())
    }
    words = [word.strip() for word in architecture.lora_targets.split(",") if word.strip()]
    if not words:
        return _usual(model, layers)
    found: dict[str, None] = {}
    for word in words:
        mine = [path for path in layers if _matches(path, word)]
        if not mine:
            ends = list(dict.fromkeys(path.rpartition(".")[2] for path in layers))
            named = f"layers of {architecture.model}, such as {shortened(ends)}"
            raise ArgumentError(
                "lora_targets", word, f"the path, its end or a pattern of {named}", ends
            )
        found.update(dict.fromkeys(mine))
    return list(found)


def _takes_lora(module: nn.Module) -> bool:
    known = isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding)
    return known or is_a(type(module), "transformers", "Conv1D")


def _matches(path: str, word: str) -> bool:
    if any(sign in word for sign in "*?["):
        return fnmatchcase(path, word)
    return path == word or path.endswith(f".{word}")


def _usual(model: nn.Module, layers: Mapping[str, nn.Module]) -> list[str]:
    kind = getattr(getattr(model, "config", None), "model_type", "")
    if kind:
        from peft import utils

        words = utils.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(kind, ())
        if mine := [path for path in layers if any(_matches(path, word) for word in words)]:
            return mine
    for types in (nn.Linear, nn.Conv2d):
        if mine := [path for path, module in layers.items() if isinstance(module, types)]:
            return mine
    return []


def add_lora(model: nn.Module, layers: Sequence[str], architecture: Architecture) -> frozenset[str]:
    """Put LoRA into layers of a network, in place; return the names of its parameters.

    The network stays what it is, no wrapper: ``query`` becomes a layer with ``base_layer``,
    ``lora_A`` and ``lora_B``. B is zero, so its outputs are what they were.

    Parameters
    ----------
    model : nn.Module
        The network.
    layers : sequence of str
        Paths of the layers.
    architecture : Architecture
        Rank and alpha.

    Raises
    ------
    ArgumentError
        If there is no layer, or one that peft does not know.
    """
    if not layers:
        wanted = f"all or head: {architecture.model} has no layers but its head that take LoRA"
        raise ArgumentError("trainable", "lora", wanted)
    from peft import LoraConfig, inject_adapter_in_model

    before = {name for name, _ in model.named_parameters()}
    options: dict[str, Any] = {"r": architecture.lora_rank, "lora_alpha": architecture.lora_alpha}
    try:
        # names would be ends of paths to peft, which puts LoRA into other layers as well
        exactly = "|".join(map(re.escape, layers))
        inject_adapter_in_model(LoraConfig(target_modules=exactly, **options), model)
    except ValueError as error:
        wanted = f"layers of types that peft knows ({str(error).partition(chr(10))[0]})"
        raise ArgumentError("lora_targets", list(layers), wanted) from error
    after = {name for name, _ in model.named_parameters()}
    wrapped = {f"{path}.base_layer.{name}" for path in layers for name in ("weight", "bias")}
    return frozenset(after - before - wrapped)


def layers_with_lora(model: nn.Module) -> list[str]:
    """Return the paths of the layers that have LoRA of peft."""
    return [
        path for path, module in model.named_modules() if is_a(type(module), "peft", "LoraLayer")
    ]
