"""Scopes of parameters: each entry of a state dict is shared, of a group, or personal.

``shared`` entries are averaged over all clients, ``group`` entries within the client's group, and
``personal`` entries never leave the device. A *rule* selects the entries of a scope. It is a
comma-separated list of

- components: ``all``, ``none``; ``norm`` (normalization layers, by module type); ``se``
  (torchvision's ``SqueezeExcitation``, or modules that declare the component), ``adapter``
  (modules that declare the component); ``head`` and any other part that the model declares;
  ``body`` (everything that is not ``head``);
- module paths, with ``*``, ``?`` and ``[]`` as in :mod:`fnmatch`: ``body.0``, ``layer4.*.bn1``;
  everything below a matched module belongs to it. The path of a single entry
  (``head.bias``) is allowed, too.

A model declares its parts by an attribute ``parts``, a mapping of part to module paths, such as
``{"head": ("fc",)}``; a module declares its component by a class attribute
``component = "adapter"``.
Names are never searched for substrings: in torchvision's ResNet the batch norm at
``layer2.0.downsample.1`` is found by its type, and a linear layer called ``subnet`` is not.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from clients.entries import canonical_names

__all__ = ["Scope", "ScopeError", "assign_scopes", "components", "select"]

Parts = Mapping[str, Sequence[str]]
"""Name of a part -> paths of its modules."""

BATCH_NORM: tuple[type[nn.Module], ...] = (_NormBase,)
"""Normalization with running statistics: batch norm and instance norm."""

NORM: tuple[type[nn.Module], ...] = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


class Scope(StrEnum):
    """Who shares a parameter."""

    SHARED = "shared"
    GROUP = "group"
    PERSONAL = "personal"


class ScopeError(ValueError):
    """A rule that matches nothing, or an entry with no scope or with two.

    Parameters
    ----------
    message : str
        What is wrong and what would be right.
    rule : str, optional
        The rule, or the word of it, that is wrong.
    choices : iterable of str, optional
        What the model has instead.
    entries : iterable of str, optional
        The state-dict entries concerned.
    scopes : iterable of Scope, optional
        The scopes that these entries would have.

    Attributes
    ----------
    rule, choices, entries, scopes
        The same; None (otherwise empty) if they do not apply.
    """

    def __init__(
        self,
        message: str,
        *,
        rule: str | None = None,
        choices: Iterable[str] = (),
        entries: Iterable[str] = (),
        scopes: Iterable[Scope] = (),
    ) -> None:
        super().__init__(message)
        self.rule = rule
        self.choices = tuple(choices)
        self.entries = tuple(entries)
        self.scopes = tuple(scopes)


def components(model: nn.Module, parts: Parts | None = None) -> dict[str, frozenset[str]]:
    """Return the components of a model: name -> the state-dict entries of the component.

    Parameters
    ----------
    model : nn.Module
        The model.
    parts : Parts or None, default None
        Declaration of the model's parts; by default the model's attribute ``parts``.

    Raises
    ------
    ScopeError
        If a declared part names a module that the model does not have.
    """
    entries = tuple(_tensors(model))
    found: dict[str, set[str]] = {"all": set(entries), "none": set()}
    for path, module in model.named_modules(remove_duplicate=False):
        names = [getattr(module, "component", None)]
        names += ["norm"] if isinstance(module, NORM) else []
        names += ["se"] if isinstance(module, _squeeze_excitations()) else []
        for name in filter(None, names):
            found.setdefault(name, set()).update(_below(path, entries))
    declared = getattr(model, "parts", {}) if parts is None else parts
    modules = dict(model.named_modules(remove_duplicate=False))
    for part, paths in declared.items():
        for path in paths:
            if path not in modules:
                raise ScopeError(
                    f"the part {part!r} names the module {path!r}, which {_name(model)} does not "
                    f"have; its modules are {', '.join(filter(None, modules))}",
                    rule=path,
                    choices=filter(None, modules),
                )
            found.setdefault(part, set()).update(_below(path, entries))
    if "head" in found:
        found["body"] = found["all"] - found["head"]
    return {name: frozenset(members) for name, members in found.items()}


def _squeeze_excitations() -> tuple[type, ...]:
    """Return torchvision's class if it is imported; otherwise no model can have one.

    The import takes two seconds, which a real device would spend on every message.
    """
    layers = sys.modules.get("torchvision.ops.misc")
    return () if layers is None else (layers.SqueezeExcitation,)


def select(model: nn.Module, rule: str, parts: Parts | None = None) -> frozenset[str]:
    """Return the state-dict entries that a rule selects.

    Raises
    ------
    ScopeError
        If the rule is empty or a word of it matches nothing; ``choices`` are the model's
        components.
    """
    known = components(model, parts)
    selected: set[str] = set()
    words = [word.strip() for word in rule.split(",") if word.strip()]
    if not words:
        raise ScopeError("the rule is empty; write 'none' for no entries", rule=rule)
    for word in words:
        members = known[word] if word in known else _matching(known["all"], word)
        if not members and word != "none":
            raise ScopeError(
                f"{word!r} matches nothing in {_name(model)}; it has {_inventory(known)}",
                rule=word,
                choices=sorted(name for name, members in known.items() if members),
            )
        selected |= members
    return frozenset(selected)


def assign_scopes(
    model: nn.Module,
    personal: str = "none",
    group: str = "none",
    shared: str | None = None,
    parts: Parts | None = None,
) -> dict[str, Scope]:
    """Return the scope of every entry of ``model.state_dict()``, buffers included.

    A tensor that has several names there (tied weights, a module registered twice) is one entry,
    under the first of them.

    Parameters
    ----------
    model : nn.Module
        The model.
    personal, group : str, default "none"
        Rules. ``group="rest"`` selects everything that is neither personal nor selected by
        ``shared``.
    shared : str or None, default None
        Rule; by default it selects everything that is neither personal nor group.
    parts : Parts or None, default None
        Declaration of the model's parts; by default the model's attribute ``parts``.

    Returns
    -------
    dict of str to Scope
        Entry -> scope, in the order of the state dict.

    Raises
    ------
    ScopeError
        If a rule matches nothing, if an entry has no scope or two, if two names of one tensor
        (tied weights) have different scopes, or if two tensors share their memory.
    """
    tensors = _tensors(model)
    chosen = {Scope.PERSONAL: select(model, personal, parts)}
    if group == "rest":
        chosen[Scope.SHARED] = select(model, shared or "none", parts)
        chosen[Scope.GROUP] = frozenset(tensors).difference(*chosen.values())
    else:
        chosen[Scope.GROUP] = select(model, group, parts)
        rest = frozenset(tensors).difference(*chosen.values())
        chosen[Scope.SHARED] = rest if shared is None else select(model, shared, parts)
    scopes: dict[str, Scope] = {}
    for name in tensors:
        having = [scope for scope in Scope if name in chosen[scope]]
        if len(having) != 1:
            found = " and ".join(having) or "no scope"
            raise ScopeError(
                f"{name!r} has {found}; every entry needs exactly one of shared, group, personal "
                f"(rules: personal={personal!r}, group={group!r}, shared={shared!r}; "
                f"{_name(model)} has {_inventory(components(model, parts))})",
                entries=[name],
                scopes=having,
            )
        scopes[name] = having[0]
    first = canonical_names(model)
    _check_tied(tensors, scopes, first)
    return {name: scope for name, scope in scopes.items() if first[name] == name}


def names_of(scopes: Mapping[str, Scope], *wanted: Scope) -> list[str]:
    """Return the names that have one of the wanted scopes, in the order of ``scopes``."""
    return [name for name, scope in scopes.items() if scope in wanted]


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict(keep_vars=True)
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ScopeError(
                f"the state-dict entry {name!r} of {_name(model)} is a {type(value).__name__}; "
                "only tensors can be shared or kept",
                entries=[name],
            )
    return state


def _check_tied(
    tensors: Mapping[str, Tensor], scopes: Mapping[str, Scope], names: Mapping[str, str]
) -> None:
    first: dict[int, str] = {}
    for name, tensor in tensors.items():
        if tensor.numel() == 0:
            continue
        other = first.setdefault(tensor.data_ptr(), name)
        if scopes[other] is not scopes[name]:
            raise ScopeError(
                f"{other!r} ({scopes[other]}) and {name!r} ({scopes[name]}) are one tensor; tied "
                "entries need the same scope",
                entries=[other, name],
                scopes=[scopes[other], scopes[name]],
            )
        if names[other] != names[name] and tensor.shape == tensors[other].shape:
            raise ScopeError(
                f"{other!r} and {name!r} are two tensors in the same memory, so that training one "
                "would overwrite the other; tie them by assigning the parameter itself, such as "
                "layer.weight = other.weight",
                entries=[other, name],
            )


def _below(path: str, entries: Iterable[str]) -> set[str]:
    return {name for name in entries if not path or name == path or name.startswith(path + ".")}


def _matching(entries: Iterable[str], pattern: str) -> frozenset[str]:
    """Return the entries whose path, or the path of a module around them, matches the pattern."""
    return frozenset(
        name for name in entries if any(fnmatchcase(prefix, pattern) for prefix in _prefixes(name))
    )


def _prefixes(name: str) -> list[str]:
    segments = name.split(".")
    return [".".join(segments[: length + 1]) for length in range(len(segments))]


def _name(model: nn.Module) -> str:
    return type(model).__name__


def _inventory(known: Mapping[str, frozenset[str]]) -> str:
    described = [f"{part} ({len(members)})" for part, members in sorted(known.items()) if members]
    paths = sorted({name.rpartition(".")[0] or name for name in known["all"]})
    return f"the components {', '.join(described)} and the module paths {', '.join(paths)}"
