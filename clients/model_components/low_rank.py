"""Low-rank adapters (LoRA) of a network: which entries are the halves A and B of one product."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clients.model_components.layer_types import (
    component_of,
    declaration,
    declares_component,
    layer_of,
)
from clients.model_components.wrappers import below

__all__ = ["LowRankPair", "low_rank_pairs"]


@dataclass(frozen=True)
class LowRankPair:
    """The halves of one low-rank adapter, whose correction of a layer is ``B A``.

    Parameters
    ----------
    a, b : str
        Entries of the state dict: A of shape ``(rank, inputs, ...)``, B of ``(outputs, rank,
        ...)``.
    """

    a: str
    b: str


def low_rank_pairs(model: nn.Module) -> list[LowRankPair]:
    """Return the low-rank adapters of a network, in its order.

    They are modules that are an adapter by their type (LoRA layers of ``peft``), or declare it, and
    have the halves ``A`` and ``B`` (:data:`clients.model_components.layer_types.LAYERS`). An
    adapter that is registered twice is one.

    Parameters
    ----------
    model : nn.Module
        The network.
    """
    return [
        LowRankPair(f"{first}{rest}", f"{second}{rest}")
        for path, module in model.named_modules()
        if component_of(module) == "adapter"
        for first, second, rest in _halves(path, module)
    ]


def draw_zero_halves(model: nn.Module, entries: Mapping[str, Tensor], seed: int) -> None:
    """Draw the halves B that are zero, in place, with a tenth of the deviation of their A.

    Parameters
    ----------
    model : nn.Module
        The network.
    entries : mapping
        Its entries, by the names of :func:`clients.entries.entries_of`.
    seed : int
        Of the draw.
    """
    draw = torch.Generator().manual_seed(seed)
    for pair in low_rank_pairs(model):
        if not entries[pair.b].any():
            entries[pair.b].normal_(0.0, 0.1 * float(entries[pair.a].std()), generator=draw)


def _halves(path: str, module: nn.Module) -> Iterator[tuple[str, str, str]]:
    """Yield the paths of both halves, and what follows them in the names of their entries."""
    parts = declaration(module, "parts") if declares_component(module) else None
    if parts is None:
        row = layer_of(module)
        parts = {} if row is None else row.halves
    entries = module.state_dict(keep_vars=True)
    for first, second in zip(parts.get("A", ()), parts.get("B", ()), strict=True):
        for name in entries:
            rest = name.removeprefix(first)
            other = entries.get(f"{second}{rest}")
            if name.startswith(f"{first}.") and other is not None and _fit(entries[name], other):
                yield below(path, first), below(path, second), rest


def _fit(first: nn.Parameter, second: nn.Parameter) -> bool:
    return min(first.dim(), second.dim()) >= 2 and len(first) == second.shape[1]
