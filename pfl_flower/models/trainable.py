"""What of a network is trained: all, its head, its last blocks, or LoRA; the rest is frozen."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

from torch import nn

from clients.entries import canonical_names
from clients.logs import info_once, warn_once
from clients.model_components.errors import ScopeError
from clients.model_components.layer_types import is_a
from clients.model_components.words import Components, shortened
from clients.scopes import select
from pfl_flower.models.architecture import Architecture
from pfl_flower.models.input_type import has_embedding, trial_inputs
from pfl_flower.models.libraries import is_of_library
from pfl_flower.models.lora import add_lora, lora_layers, require_peft
from pfl_flower.utils.text import split_words
from strategies.errors import ArgumentError

CONTAINERS = (nn.ModuleList, nn.Sequential, nn.ModuleDict)
"""Modules that only hold others. A block is directly in one of them."""

STAGES = (("timm", ".*Stage|NestLevel"), ("transformers", ".*Stage"))
"""Package and names of classes that hold the blocks of one resolution, and are no blocks."""


def keep_trainable(model: nn.Module, new: Iterable[str], architecture: Architecture) -> None:
    """Freeze what is not to be trained, in place.

    The head is always trained, and so is what has no pretrained weights besides it.

    Parameters
    ----------
    model : nn.Module
        The network; with LoRA it gets adapters.
    new : iterable of str
        Entries that are new in a network with pretrained weights.
    architecture : Architecture
        Its ``trainable``, and what LoRA needs.

    Raises
    ------
    ArgumentError
        If there are not as many blocks, or LoRA has no layers.
    ScopeError
        If the head cannot be told.
    """
    word, _, number = architecture.trainable.partition(":")
    before = [name for name, each in model.named_parameters() if each.requires_grad]
    if word == "all" or not before:
        return
    there = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    if is_of_library(architecture.model) and not architecture.weights:
        warn_once(
            f"trainable={architecture.trainable} freezes random values of {architecture.model}: "
            "pretrained=true starts from those of its library"
        )
    head = _with_tied(model, _head(model, architecture))
    head |= frozenset(new if architecture.weights else ())
    kept = KEEP[word](model, int(number or 0), head, architecture)
    # peft freezes all but its own; what the network's builder froze stays frozen
    allowed = kept.intersection(before) | (kept - there)
    chosen = {id(each) for name, each in model.named_parameters() if name in allowed}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in chosen)


def freeze(model: nn.Module, rule: str) -> None:
    """Freeze the layers of a network that a rule names, as its builder could have done.

    Parameters
    ----------
    model : nn.Module
        The network.
    rule : str
        Component words, separated by commas; what the network does not have is no error.
    """
    known = Components(model).by_type if rule else {}
    chosen = {name for word in split_words(rule) for name in known.get(word, ())}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in chosen:
            parameter.requires_grad_(False)


def _head(model: nn.Module, architecture: Architecture) -> frozenset[str]:
    with suppress(ScopeError):
        return select(model, "head")
    a = architecture
    with trial_inputs(model, a.shape, has_embedding(model), a.links, a.inputs) as example:
        return select(model, "head", example=example)


def _with_tied(model: nn.Module, head: frozenset[str]) -> frozenset[str]:
    """Return entries of a head under all names of each: a tied weight is trained wherever it is."""
    first = canonical_names(model)
    own = {first[name] for name in head}
    every = frozenset(name for name, named_first in first.items() if named_first in own)
    if other := sorted(every - head):
        kind = type(model).__name__
        info_once(f"The head of {kind} is tied to {shortened(other)}, which is trained with it")
    return every


def blocks_of(model: nn.Module) -> list[str]:
    """Return the paths of a network's blocks, in its own order; none where it has no blocks.

    Blocks are the modules that are directly in a container (a list, a sequence, a stage) and that
    have parts themselves, of the class that has most values in all, twice or more: the layers of a
    transformer, the residual blocks of a ResNet.

    Parameters
    ----------
    model : nn.Module
        The network.
    """
    modules = dict(model.named_modules())
    sizes: Counter[type[nn.Module]] = Counter()
    paths: dict[type[nn.Module], list[str]] = {}
    for path, module in modules.items():
        parent = modules[path.rpartition(".")[0]]
        if not path or not _holds_blocks(parent) or _holds_blocks(module):
            continue
        if not any(True for _ in module.children()):
            continue
        kind = type(module)
        if any(path.startswith(f"{outer}.") for outer in paths.get(kind, ())):
            continue  # one inside another of its kind
        paths.setdefault(kind, []).append(path)
        sizes[kind] += sum(parameter.numel() for parameter in module.parameters())
    several = [kind for kind, found in paths.items() if len(found) > 1 and sizes[kind]]
    return paths[max(several, key=lambda kind: sizes[kind])] if several else []


def _holds_blocks(module: nn.Module) -> bool:
    if isinstance(module, CONTAINERS):
        return True
    return any(is_a(type(module), package, names) for package, names in STAGES)


def _last_blocks(
    model: nn.Module, number: int, head: frozenset[str], architecture: Architecture
) -> frozenset[str]:
    """Return the parameters of the last blocks, of what comes after them, and of the head."""
    paths = blocks_of(model)
    if number > len(paths):
        there = f"1 to {len(paths)} blocks ({shortened(paths)})" if paths else "head: it has no"
        there += "" if paths else " blocks that repeat"
        wanted = f"of {architecture.model} {there}"
        choices = [f"blocks:{each}" for each in range(1, len(paths) + 1)] or ["head"]
        raise ArgumentError("trainable", architecture.trainable, wanted, choices)
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    last = paths[-number:]
    inside = {name for name in names if any(name.startswith(f"{path}.") for path in last)}
    end = max(place for place, name in enumerate(names) if name in inside)
    return frozenset(inside) | frozenset(names[end:]) | head


def _only_head(
    model: nn.Module, number: int, head: frozenset[str], architecture: Architecture
) -> frozenset[str]:
    return head


def _lora(
    model: nn.Module, number: int, head: frozenset[str], architecture: Architecture
) -> frozenset[str]:
    """Return the parameters of LoRA, which is added, and of the head."""
    require_peft()
    layers = lora_layers(model, head, architecture)
    return add_lora(model, layers, architecture) | head


Keep = Callable[[nn.Module, int, frozenset[str], Architecture], frozenset[str]]

KEEP: Mapping[str, Keep] = {"head": _only_head, "blocks": _last_blocks, "lora": _lora}
"""Word of ``trainable`` -> (network, number, entries of the head, arguments) -> what is trained."""
