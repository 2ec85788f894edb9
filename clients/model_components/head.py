"""The head of anybody's model: what the library calls its classifier, or what makes the outputs."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from clients.logs import info_once
from clients.model_components.errors import ScopeError
from clients.model_components.layer_types import component_of, holds_values, is_a, layer_of
from clients.model_components.tracing import Makers, makers_of
from clients.model_components.wrappers import below, inside

TRANSFORMERS_HEAD = r"\w+For(Sequence|Image|Video|Audio|Token)\w*Classification\w*"


@dataclass(frozen=True)
class Head:
    """The head of a network.

    Parameters
    ----------
    paths : tuple of str
        Paths of modules, or names of single entries.
    how : str
        How it was found, in words.
    """

    paths: tuple[str, ...]
    how: str


def head_of(model: nn.Module, entries: Sequence[str], example: Any = None) -> Head:
    """Return the head of a network that declares none.

    It is what ``get_classifier()`` returns, as timm's networks have it; or the last module of a
    classifier of transformers, which is not its base model; or else what makes the outputs in one
    forward pass. Where several modules of the network do so, all of them are the head.

    Parameters
    ----------
    model : nn.Module
        The network.
    entries : sequence of str
        Names in its state dict.
    example : object, optional
        Inputs of a batch, to try the network on.

    Raises
    ------
    ScopeError
        If it cannot be told; ``choices`` are the candidates.
    """
    for path, module in inside(model):
        for how, find in _BY_LIBRARY.items():
            names = [below(path, name) for name in find(module)]
            if any(_has_entries(name, entries) for name in names):
                return _said(model, Head(tuple(names), how))
    if example is None:
        raise _unknown(model, "a forward pass would tell: give an example=, a batch of inputs")
    return _said(model, _traced(model, entries, example))


def _said(model: nn.Module, head: Head) -> Head:
    info_once(f"The head of {type(model).__name__} is {', '.join(head.paths)} ({head.how})")
    return head


def _by_get_classifier(model: nn.Module) -> list[str]:
    if not callable(getattr(type(model), "get_classifier", None)):
        return []
    found = model.get_classifier()  # type: ignore[operator]
    wanted = found if isinstance(found, tuple | list) else (found,)
    return [path for path, module in model.named_modules() if path and _is_one_of(module, wanted)]


def _is_one_of(module: nn.Module, others: Iterable[Any]) -> bool:
    return any(module is each for each in others)


def _by_transformers(model: nn.Module) -> list[str]:
    """Return the last submodule, and those before it that are alike (a teacher's head)."""
    if not is_a(type(model), "transformers", TRANSFORMERS_HEAD):
        return []
    base = getattr(model, "base_model_prefix", "")
    children = [(n, c) for n, c in model.named_children() if n != base and any(c.state_dict())]
    if not children:
        return []
    last = _outline(children[-1][1])
    return [name for name, child in children if _outline(child) == last]


def _outline(module: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(each.shape)) for name, each in module.state_dict().items()]


_BY_LIBRARY: dict[str, Callable[[nn.Module], list[str]]] = {
    "by its get_classifier()": _by_get_classifier,
    "the classifier of transformers": _by_transformers,
}
"""How a head is found -> (network) -> paths of modules; none where it is no such network."""


def _traced(model: nn.Module, entries: Sequence[str], example: Any) -> Head:
    """Return what makes the outputs in one forward pass."""
    prefix = ""
    for path, module in inside(model):  # torch cannot put other tensors into compiled networks
        prefix, network = path, module
        if not is_a(type(module), "torch", "OptimizedModule|DataParallel|DistributedDataParallel"):
            break
    try:
        makers = makers_of(network, example)
    except Exception as error:  # a user's network can raise anything
        why = f"{type(error).__name__}: {error}".partition("\n")[0]
        shape = tuple(getattr(example, "shape", ()))
        raise _unknown(model, f"trying it on inputs of shape {shape} ended with {why}") from error
    own = [name.removeprefix(f"{prefix}.") if prefix else name for name in entries]
    reached = makers.passed.union(*makers.steps)
    units = {_unit(network, name, reached) for step in makers.steps for name in step}
    names = sorted(units, key=_place(own))
    if not names:
        raise _unknown(model, "in a forward pass no parameter made the outputs")
    if len(names) > 1 and not all(makers.widths):
        raise _ambiguous(model, [below(prefix, name) for name in names])
    names += _passed(network, makers, names)
    names = _merged(network, own, names)
    return Head(tuple(below(prefix, name) for name in names), "it makes the outputs")


def _unit(model: nn.Module, parameter: str, reached: Collection[str]) -> str:
    """Return the layer that a parameter is of, or its own name if it is of no single layer.

    It is not of that layer alone either if the layer has others that were not reached: a weight
    tied to that of the first layer makes the outputs, the first layer's bias does not.
    """
    owner = parameter.rpartition(".")[0].partition(".parametrizations")[0]
    segments = owner.split(".")
    for length in range(1, len(segments) + 1):
        path = ".".join(segments[:length])
        layer = layer_of(model.get_submodule(path)) if path else None
        if layer is not None and layer.leaves_out:
            return path  # a layer around the layer, as of peft
    module = model.get_submodule(owner)
    alone = not any(
        name != "parametrizations" and any(child.state_dict())
        for name, child in module.named_children()
    )
    prefix = f"{owner}." if owner else ""
    whole = all(prefix + name in reached for name, _ in module.named_parameters(recurse=False))
    return owner if owner and alone and whole else parameter


def _passed(model: nn.Module, makers: Makers, head: Sequence[str]) -> list[str]:
    """Return what else is between the head and the outputs, such as normalization."""
    reached = makers.passed.union(*makers.steps)
    found = {_unit(model, name, reached) for name in makers.passed}
    return sorted(unit for unit in found if not _has_entries_in(unit, head))


def _has_entries_in(unit: str, paths: Iterable[str]) -> bool:
    return any(unit == path or unit.startswith(f"{path}.") for path in paths)


def _merged(model: nn.Module, entries: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the outermost modules of which everything is in the head, in the network's order."""
    chosen = {each for each in entries if _has_entries_in(each, names)}
    merged: list[str] = []
    for path, _ in model.named_modules():
        mine = [each for each in entries if each.startswith(f"{path}.")]
        if path and mine and chosen.issuperset(mine) and not _has_entries_in(path, merged):
            merged.append(path)
    return merged + [
        each for each in entries if each in chosen and not _has_entries_in(each, merged)
    ]


def _place(entries: Sequence[str]) -> Callable[[str], int]:
    def place(unit: str) -> int:
        return next((i for i, each in enumerate(entries) if _has_entries_in(each, [unit])), 0)

    return place


def _has_entries(path: str, entries: Iterable[str]) -> bool:
    return any(_has_entries_in(each, [path]) for each in entries)


def _unknown(model: nn.Module, why: str) -> ScopeError:
    layers = [
        path
        for path, module in model.named_modules()
        if path and component_of(module) != "norm" and holds_values(module)
    ][-3:]
    return ScopeError(
        f"the head of {type(model).__name__} is not known: {why}.\n{_declare(layers)}",
        rule="head",
        choices=layers,
    )


def _ambiguous(model: nn.Module, candidates: Sequence[str]) -> ScopeError:
    shown = ", ".join(candidates[:8]) + (" and more" if len(candidates) > 8 else "")
    return ScopeError(
        f"the head of {type(model).__name__} is ambiguous: its outputs are made by {shown}, of "
        f"which some make fewer or more features than there are outputs.\n{_declare(candidates)}",
        rule="head",
        choices=candidates,
    )


def _declare(candidates: Sequence[str]) -> str:
    last = candidates[-1] if candidates else "fc"
    others = f"; its last layers are {', '.join(candidates)}" if candidates else ""
    return f'Say which modules are the head, such as net.parts = {{"head": ("{last}",)}}{others}'
