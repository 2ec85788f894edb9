"""A network with two low-rank adapters a layer, mixed for each example by what it is like."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from clients.data.inputs import MASK, Inputs, clone
from clients.entries import entries_of, put_entries
from clients.model_components.layer_types import holds_values
from clients.model_components.low_rank import low_rank_pairs
from strategies.errors import ArgumentError

_OWN, _REFERENCES, _MIXING = "own", "references", "mixing"


class MixedAdapters(nn.Module):
    """A network whose adapters are mixed with a second one at each layer.

    A layer ``W`` with the adapter ``B A`` of the network and the second one ``B' A'`` gives ``W x +
    (1 - alpha) B A x + alpha B' A' x``. With references, alpha is :func:`weights_by_similarity` of
    what the last layer gets of an example when ``alpha = 1``; without, it is ``mixing`` for all
    examples.

    Parameters
    ----------
    network : nn.Module
        With low-rank adapters, whose halves are modules. It is used, and not changed.
    mixing : float
        The (largest) weight of the second adapter, in [0, 1].
    references : Tensor, optional
        ``(S, features)``: what the last layer gets of other examples.

    Attributes
    ----------
    paths : list of str
        Paths in the network of the halves that have a second one, two a pair: A, then B.
    second : nn.ModuleList
        The modules of the second adapter, in the order of ``paths``; at first as the network's.
    """

    def __init__(self, network: nn.Module, mixing: float, references: Tensor | None = None) -> None:
        super().__init__()
        self.network = network
        self.mixing = mixing
        self.references = references
        pairs = low_rank_pairs(network)
        self.paths = [half.rpartition(".")[0] for pair in pairs for half in (pair.a, pair.b)]
        self.second = nn.ModuleList(copy.deepcopy(network.get_submodule(p)) for p in self.paths)

    @property
    def names(self) -> dict[str, str]:
        """Name of each entry of the second adapter -> that of the network's own adapter."""
        return {
            f"second.{place}.{name}": f"{path}.{name}"
            for place, path in enumerate(self.paths)
            for name in entries_of(self.second[place])
        }

    def values(self) -> dict[str, Tensor]:
        """Return copies of the second adapter's values, by the names of the network's adapter."""
        entries = entries_of(self)
        return {name: entries[mine].detach().cpu().clone() for mine, name in self.names.items()}

    def put(self, values: Mapping[str, Tensor]) -> None:
        """Put values into the second adapter, by the names of the network's adapter."""
        put_entries(self, {mine: values[name] for mine, name in self.names.items()})

    def forward(self, inputs: Inputs) -> Any:
        """Return the network's outputs.

        Parameters
        ----------
        inputs : Tensor, mapping or tuple
            Of the network.
        """
        if self.references is None:
            return self._mixed(inputs, self.mixing)
        like = self.representations(inputs)
        return self._mixed(inputs, weights_by_similarity(like, self.references, self.mixing))

    @torch.no_grad()
    def representations(self, inputs: Inputs) -> Tensor:
        """Return what the last layer gets, ``(N, features)``, with the second adapter alone.

        The last layer is the last module with parameters of its own that is called, but for
        adapters. Of sequences ``(N, length, features)`` it is the mean over their elements, but for
        padding, of which the inputs' mask says where it is.

        Parameters
        ----------
        inputs : Tensor, mapping or tuple
            Of the network.
        """
        adapters = {id(self.network.get_submodule(path)) for path in self.paths}
        found: list[Tensor] = []

        def note(_: nn.Module, given: tuple[Any, ...]) -> None:
            if given and isinstance(given[0], Tensor) and given[0].is_floating_point():
                found[:] = [given[0]]

        handles = [
            module.register_forward_pre_hook(note)
            for module in self.network.modules()
            if holds_values(module) and id(module) not in adapters
        ]
        try:
            outputs = self._mixed(clone(inputs), 1.0)  # a network may write in its inputs
        finally:
            for handle in handles:
                handle.remove()
        return _mean_of_elements(found[0] if found else outputs, inputs)

    def _mixed(self, inputs: Inputs, alpha: float | Tensor) -> Any:
        with self._hooked(alpha):
            return self.network(inputs)

    @contextmanager
    def _hooked(self, alpha: float | Tensor) -> Iterator[None]:
        handles = []
        for place in range(0, len(self.paths), 2):
            before, after = _mixing_hooks(self.second[place], self.second[place + 1], alpha)
            first, last = (self.network.get_submodule(p) for p in self.paths[place : place + 2])
            handles += [first.register_forward_hook(before), last.register_forward_hook(after)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def tensors(self) -> dict[str, Tensor]:
        """Return what :meth:`from_tensors` makes it of, with the network."""
        found = {f"{_OWN}/{name}": values for name, values in self.values().items()}
        found[_MIXING] = torch.tensor(self.mixing, dtype=torch.float64)
        return found if self.references is None else found | {_REFERENCES: self.references.cpu()}

    @classmethod
    def from_tensors(cls, network: nn.Module, tensors: Mapping[str, Tensor]) -> "MixedAdapters":
        """Return a network with mixed adapters, from :meth:`tensors`.

        Raises
        ------
        KeyError
            If a part is missing.
        """
        mixed = cls(network, float(tensors[_MIXING]), tensors.get(_REFERENCES))
        mixed.put({name: tensors[f"{_OWN}/{name}"] for name in mixed.names.values()})
        return mixed


def _mean_of_elements(values: Tensor, inputs: Inputs) -> Tensor:
    """Return ``(N, features)``, of sequences the mean over elements that are no padding."""
    if values.dim() != 3:
        return values.flatten(1)
    mask = inputs.get(MASK) if isinstance(inputs, Mapping) else None
    if mask is None or mask.shape != values.shape[:2]:
        return values.mean(dim=1)
    used = mask.bool().unsqueeze(-1)
    found: Tensor = values.masked_fill(~used, 0.0).sum(dim=1) / used.sum(dim=1).clamp(min=1)
    return found


Hook = Callable[[nn.Module, tuple[Any, ...], Any], Any]


def _mixing_hooks(first: nn.Module, second: nn.Module, alpha: float | Tensor) -> tuple[Hook, Hook]:
    """Return hooks of the halves A and B, which mix in the halves of another adapter."""
    low: list[Tensor] = []

    def before(_: nn.Module, given: tuple[Any, ...], __: Tensor) -> None:
        low.append(first(*given))

    def after(_: nn.Module, __: tuple[Any, ...], outputs: Tensor) -> Tensor:
        weight = alpha if isinstance(alpha, float) else _spread(alpha, outputs)
        mixed: Tensor = (1 - weight) * outputs + weight * second(low.pop())
        return mixed

    return before, after


def _spread(alpha: Tensor, outputs: Tensor) -> Tensor:
    """Return a weight for each example in the shape in which it goes with a layer's outputs."""
    times, left = divmod(len(outputs), len(alpha))
    if left:
        wanted = f"of {len(alpha)} examples, or of as many parts of each"
        raise ArgumentError("outputs of an adapter", tuple(outputs.shape), wanted)
    each = alpha if times == 1 else alpha.repeat_interleave(times)
    return each.to(outputs.dtype).reshape(-1, *[1] * (outputs.dim() - 1))


def weights_by_similarity(examples: Tensor, references: Tensor, largest: float) -> Tensor:
    """Return ``largest * max(0, mean_s cos(x_i, r_s))`` of every example, ``(N,)``.

    Parameters
    ----------
    examples, references : Tensor
        ``(N, features)`` and ``(S, features)``.
    largest : float
        Weight of an example that has the direction of all references.
    """
    found = normalize(examples.flatten(1), dim=1) @ normalize(references, dim=1).T
    return largest * found.mean(dim=1).clamp(0.0, 1.0)
