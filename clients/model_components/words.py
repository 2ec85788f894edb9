"""The words of rules: each is a component of a network, found when it is asked for."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from torch import nn

from clients.model_components.errors import ScopeError
from clients.model_components.head import head_of
from clients.model_components.layer_types import (
    NONE,
    NORM_NAME,
    SAYS_NORM,
    component_of,
    declaration,
    declares_component,
    holds_values,
    is_a,
    layer_of,
)
from clients.model_components.wrappers import below, inside

Parts = Mapping[str, Sequence[str]]
"""Name of a part -> paths of its modules."""

HALVES = ("adapter.A", "adapter.B")
COMPONENTS = ("head", "body", "norm", "se", "adapter", *HALVES)
"""Words that are components of a network, and never paths."""


class Components:
    """The components of a network, each found when it is asked for.

    Parameters
    ----------
    model : nn.Module
        The network.
    parts : Parts or None, default None
        Declaration of its parts; by default the network's attribute ``parts``.
    example : object, optional
        Inputs of a batch, to find the head by, see :func:`clients.model_components.head.head_of`.
    """

    def __init__(self, model: nn.Module, parts: Parts | None = None, example: Any = None) -> None:
        self.model = model
        self.example = example
        self.entries = tuple(model.state_dict(keep_vars=True))
        self._given = parts

    def members(self, word: str) -> frozenset[str] | None:
        """Return the state-dict entries of a component; None if the word is not one.

        Parameters
        ----------
        word : str
            Such as ``head``.

        Raises
        ------
        ScopeError
            If it cannot be told, or a declared part names a module that is not there.
        """
        if word in ("all", NONE):
            return frozenset(self.entries if word == "all" else ())
        if word in self.declared:
            return self._declared_part(word)
        if word == "head" and word not in self.by_type:
            return self._under(head_of(self.model, self.entries, self.example).paths)
        if word == "body" and word not in self.by_type:
            return frozenset(self.entries).difference(self.members("head") or ())
        if word == "norm":
            self._check_norms()
        return self.by_type.get(word, frozenset() if word in COMPONENTS else None)

    def known(self) -> dict[str, frozenset[str]]:
        """Return all components that can be told: word -> entries; of a network without, none."""
        found = {}
        for word in dict.fromkeys(("all", NONE, *self.declared, *COMPONENTS, *self.by_type)):
            try:
                members = self.members(word)
            except ScopeError:
                continue
            if members or word in ("all", NONE):
                found[word] = members or frozenset()
        return found

    @cached_property
    def declared(self) -> dict[str, list[str]]:
        """Parts that the network, or one inside it, declares: name -> paths of modules."""
        if self._given is not None:
            return {part: list(paths) for part, paths in self._given.items()}
        for path, module in inside(self.model):
            parts = declaration(module, "parts")
            if isinstance(parts, Mapping) and not declares_component(module):
                return {part: [below(path, each) for each in own] for part, own in parts.items()}
        return {}

    @cached_property
    def by_type(self) -> dict[str, frozenset[str]]:
        """Components that modules are by their type or declare: name -> entries."""
        found: dict[str, set[str]] = {}
        for path, module in self.model.named_modules(remove_duplicate=False):
            component = component_of(module)
            if component == NONE:
                continue
            row = layer_of(module)
            mine = set(self._under([path]))
            if row is not None and row.component == component:
                mine -= self._under([below(path, each) for each in row.leaves_out])
            found.setdefault(component, set()).update(mine)
            for half, names in self._halves(module, component):
                own = self._under([below(path, each) for each in names])
                found.setdefault(f"{component}.{half}", set()).update(own)
        return {component: frozenset(own) for component, own in found.items() if own}

    def _halves(self, module: nn.Module, component: str) -> list[tuple[str, Sequence[str]]]:
        """Return the parts of a component: those that its module declares, or of its type."""
        parts = declaration(module, "parts")
        if isinstance(parts, Mapping) and declares_component(module):
            return list(parts.items())
        row = layer_of(module)
        return [] if row is None or row.component != component else list(row.halves.items())

    def _declared_part(self, part: str) -> frozenset[str]:
        modules = dict(self.model.named_modules(remove_duplicate=False))
        for path in self.declared[part]:
            if path not in modules:
                raise ScopeError(
                    f"the part {part!r} names the module {path!r}, which "
                    f"{type(self.model).__name__} does not have; its modules are "
                    f"{shortened(filter(None, modules))}",
                    rule=path,
                    choices=filter(None, modules),
                )
        return self._under(self.declared[part])

    def _check_norms(self) -> None:
        """Refuse modules that seem to be about normalization, and are no component."""
        found = self.by_type.get("norm", frozenset())
        odd = [
            (path, type(module).__name__)
            for path, module in self.model.named_modules()
            if path and component_of(module) == NONE and self._may_normalize(path, module, found)
        ]
        if odd:
            kinds = sorted({kind for _, kind in odd})
            some = shortened((f"{path} ({kind})" for path, kind in odd), most=4)
            raise ScopeError(
                f"it is not known whether {some} of {type(self.model).__name__} are "
                f"normalization.\nSay so once, by {kinds[0]}.component = 'norm' or 'none'"
                + (f", and likewise of {', '.join(kinds[1:])}" if kinds[1:] else ""),
                rule="norm",
                choices=[path for path, _ in odd],
            )

    def _may_normalize(self, path: str, module: nn.Module, found: frozenset[str]) -> bool:
        if declares_component(module):
            return False
        if layer_of(module) is not None:
            return False  # known as none
        kind = type(module).__name__
        if holds_values(module):
            return SAYS_NORM.search(kind) is not None
        # such as an adaptive one, whose scales are the outputs of a linear layer inside it
        mine = self._under([path])
        return bool(mine) and is_a(type(module), "", NORM_NAME) and not mine & found

    def _under(self, paths: Sequence[str]) -> frozenset[str]:
        """Return the entries of modules, or single entries."""
        prefixes = tuple(f"{path}." for path in paths)
        everything = "" in paths
        return frozenset(
            each
            for each in self.entries
            if everything or each in paths or each.startswith(prefixes)
        )


def shortened(names: Any, most: int = 12) -> str:
    """Return names in one line, the first few of many."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
