"""Scopes of parameters: each entry of a state dict is shared, of a group, personal, or frozen.

``shared`` entries are averaged over all clients, ``group`` entries within the client's group, and
``personal`` entries never leave the device. ``frozen`` entries are the same everywhere and are
never trained: what the network's builder froze (:mod:`clients.frozen`). A *rule* selects the
entries of a scope. It is a comma-separated list of

- components: ``all``, ``none``; ``norm`` (normalization), ``se`` (squeeze-and-excitation) and
  ``adapter`` by the type of a layer (:mod:`clients.model_components.layer_types`), with
  ``adapter.A`` and ``adapter.B`` for the two halves of low-rank adapters; ``head``, declared or
  found (:mod:`clients.model_components.head`); ``body``, everything that is not ``head``; and any
  other part that the model declares;
- module paths, with ``*``, ``?`` and ``[]`` as in :mod:`fnmatch`: ``body.0``, ``layer4.*.bn1``;
  everything below a matched module belongs to it. The path of a single entry
  (``head.bias``) is allowed, too. The words above are never paths: a submodule that is called
  ``norm`` is ``./norm``.

What is frozen is selected by its path alone, written out without ``*``, ``?`` and ``[]``, or by
that of a module around it.

A model, or one that it wraps, declares its parts by an attribute ``parts``, a mapping of part to
module paths, such as ``{"head": ("fc",)}``; a module declares its component by an attribute
``component = "adapter"``, or ``"none"`` if it is none whatever its type, and the parts of that by
an attribute ``parts``, too.
Names are never searched for substrings: in torchvision's ResNet the batch norm at
``layer2.0.downsample.1`` is found by its type, and a linear layer called ``subnet`` is not.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from clients.entries import canonical_names
from clients.frozen import frozen_entries
from clients.model_components.errors import ScopeError
from clients.model_components.words import COMPONENTS, Components, Parts, shortened

__all__ = ["Scope", "assign_scopes", "components", "select"]


class Scope(StrEnum):
    """Who shares a parameter; nobody needs to share what is frozen."""

    SHARED = "shared"
    GROUP = "group"
    PERSONAL = "personal"
    FROZEN = "frozen"


MOVING = frozenset(Scope) - {Scope.FROZEN}
"""The scopes of what training moves, and what is sent or kept."""


def components(
    model: nn.Module, parts: Parts | None = None, example: Any = None
) -> dict[str, frozenset[str]]:
    """Return the components of a model: name -> the state-dict entries of the component.

    These are ``all`` and ``none``; what modules are by their type or declare; the declared parts;
    ``head`` and ``body``. A component that the model does not have is left out, and so is one that
    cannot be told, for which :func:`select` says why.

    Parameters
    ----------
    model : nn.Module
        The model.
    parts : Parts or None, default None
        Declaration of the model's parts; by default the model's attribute ``parts``.
    example : object, optional
        Inputs of a batch, by which the head of a model is found that declares none.

    Raises
    ------
    ScopeError
        If a declared part names a module that the model does not have.
    """
    found = Components(model, parts, example)
    for part in found.declared:
        found.members(part)
    return found.known()


def select(
    model: nn.Module, rule: str, parts: Parts | None = None, example: Any = None
) -> frozenset[str]:
    """Return the state-dict entries that a rule selects; frozen ones only by a path written out.

    Parameters
    ----------
    model, parts, example
        See :func:`components`.
    rule : str
        The rule.

    Raises
    ------
    ScopeError
        If the rule is empty or a word of it matches nothing; ``choices`` are the model's
        components. If all that it matches is frozen, ``entries`` are what. If the head cannot be
        told, or whether a module is normalization; ``choices`` are the candidates.
    """
    known = Components(model, parts, example)
    frozen = frozen_entries(model)
    selected: set[str] = set()
    words = [word.strip() for word in rule.split(",") if word.strip()]
    if not words:
        raise ScopeError("the rule is empty; write 'none' for no entries", rule=rule)
    for word in words:
        members = known.members(word)
        written_out = members is None and not any(sign in word for sign in "*?[")
        if members is None:
            members = _matching(known.entries, word.removeprefix("./"))
        if not members and word != "none":
            raise ScopeError(
                f"{word!r} matches nothing in {_name(model)}; it has {_inventory(known)}"
                + _path_hint(known.entries, word),
                rule=word,
                choices=sorted(name for name, members in known.known().items() if members),
            )
        if not written_out:
            if members and members <= frozen:
                raise ScopeError(
                    f"all that {word!r} matches in {_name(model)} is frozen (requires_grad is "
                    f"false), so that it is the same everywhere; leave the word out, or train some "
                    f"of it. Written out, the path of a module or an entry selects what is frozen",
                    rule=word,
                    entries=sorted(members),
                )
            members -= frozen
        selected |= members
    return frozenset(selected)


def assign_scopes(
    model: nn.Module,
    personal: str = "none",
    group: str = "none",
    shared: str | None = None,
    parts: Parts | None = None,
    example: Any = None,
) -> dict[str, Scope]:
    """Return the scope of every entry of ``model.state_dict()``, buffers included.

    A tensor that has several names there (tied weights, a module registered twice) is one entry,
    under the first of them. What is frozen, and selected by no path, has the scope ``frozen``.

    Parameters
    ----------
    model : nn.Module
        The model.
    personal, group : str, default "none"
        Rules. ``group="rest"`` selects everything that is neither personal nor frozen, nor selected
        by ``shared``.
    shared : str or None, default None
        Rule; by default it selects everything that is neither personal nor group nor frozen.
    parts : Parts or None, default None
        Declaration of the model's parts; by default the model's attribute ``parts``.
    example : object, optional
        Inputs of a batch, by which the head of a model is found that declares none.

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
    frozen = frozen_entries(model)
    chosen = {Scope.PERSONAL: select(model, personal, parts, example)}
    if group == "rest":
        chosen[Scope.SHARED] = select(model, shared or "none", parts, example)
        chosen[Scope.GROUP] = frozenset(tensors).difference(frozen, *chosen.values())
    else:
        chosen[Scope.GROUP] = select(model, group, parts, example)
        rest = frozenset(tensors).difference(frozen, *chosen.values())
        chosen[Scope.SHARED] = rest if shared is None else select(model, shared, parts, example)
    chosen[Scope.FROZEN] = frozen.difference(*chosen.values())
    scopes: dict[str, Scope] = {}
    for name in tensors:
        having = [scope for scope in Scope if name in chosen[scope]]
        if len(having) != 1:
            found = " and ".join(having) or "no scope"
            raise ScopeError(
                f"{name!r} has {found}; every entry needs exactly one of {', '.join(Scope)} "
                f"(rules: personal={personal!r}, group={group!r}, shared={shared!r}; "
                f"{_name(model)} has {_inventory(Components(model, parts))})",
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
    if lazy := [name for name, value in state.items() if is_lazy(value)]:
        raise ScopeError(
            f"{shortened(lazy)} of {_name(model)} have no shape yet; call the network once on an "
            "example before",
            entries=lazy,
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


def _inventory(known: Components) -> str:
    """Return what a network has, in a few lines whatever its size."""
    found = sorted(known.known().items())
    described = ", ".join(f"{part} ({len(members)})" for part, members in found if members)
    paths = {name.rpartition(".")[0] or name for name in known.entries}
    if len(paths) > 12:  # their first steps, then
        paths = {name.partition(".")[0] for name in known.entries}
    return f"the components {described} and the module paths {shortened(sorted(paths))}"


def _path_hint(entries: Iterable[str], word: str) -> str:
    if word in COMPONENTS and _matching(entries, word):
        return f"; {word!r} is a component here, and the path of that name is './{word}'"
    return ""
