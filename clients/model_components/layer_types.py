"""The table of layers: which types are normalization, squeeze-and-excitation or adapters.

A type is known by its name and the package that it is from, and so are those derived from it. No
library is imported to find out: what is not imported cannot be in a network.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from torch import nn

NONE = "none"
"""Component of a module that is none, whatever its name or type says."""


@dataclass(frozen=True)
class Layer:
    """A row of the table.

    Parameters
    ----------
    component : str
        What modules of the type are.
    package : str
        Where the type is from, such as ``timm`` or ``torch.nn.modules``; empty for anywhere.
    names : str
        Regular expression of the whole name of the type.
    holds_values : bool
        Whether only modules with parameters or buffers of their own count, not those around them.
    leaves_out : tuple of str
        Submodules that are not part of the component.
    halves : mapping
        Name of a part of the component -> the submodules that it is made of.
    """

    component: str
    package: str
    names: str
    holds_values: bool = False
    leaves_out: tuple[str, ...] = ()
    halves: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


NORM_NAME = (
    r"\w*(RMS|Rms|Layer|Batch|Group|Instance|Graph|Message|Response|Scale)_?[Nn]orm(alization)?"
    r"(_?\dd|Act|Gated|Fp32|NoBias|Tlu|1P)*"
)
"""Name of a normalization layer, to its end: transformers alone has 250 such classes."""

LAYERS = (
    Layer(
        "adapter",
        "peft.tuners",
        "BaseTunerLayer",
        leaves_out=("base_layer",),
        halves={"A": ("lora_A", "lora_embedding_A"), "B": ("lora_B", "lora_embedding_B")},
    ),
    Layer("adapter", "peft.tuners", "BasePromptEncoder"),
    Layer("norm", "torch.nn.modules.batchnorm", "_NormBase"),
    Layer("norm", "torch.nn.modules.normalization", "GroupNorm|LayerNorm|RMSNorm"),
    Layer(
        "norm",
        "torch_geometric.nn",
        "BatchNorm|HeteroBatchNorm|InstanceNorm|LayerNorm|HeteroLayerNorm|GraphNorm|PairNorm|"
        "MessageNorm|DiffGroupNorm",
    ),
    Layer("norm", "timm", r"(EvoNorm|GlobalResponseNorm|SimpleNorm)\w*", holds_values=True),
    Layer("norm", "transformers", r"\w+GRN", holds_values=True),
    Layer("norm", "", "GRN", holds_values=True),
    # weight norm and spectral norm change a weight, and normalize no activations
    Layer(NONE, "torch.nn.utils", r"\w+"),
    Layer(NONE, "torch.nn.modules", "Linear|Bilinear|_ConvNd|Embedding|EmbeddingBag|RNNBase"),
    Layer("norm", "", NORM_NAME, holds_values=True),
    Layer("se", "torchvision.ops", "SqueezeExcitation"),
    Layer(
        "se",
        "timm",
        "SEModule|SqueezeExcite|SqueezeExciteCl|EffectiveSEModule|GatherExcite|EcaModule|CecaModule",
    ),
    Layer("se", "monai.networks", "ChannelSELayer"),
    Layer("se", "transformers", r"\w+(SELayer|SqueezeExcit(e|ation)(Layer|Module))"),
)
"""Rows in the order in which they are tried. A new type is one row."""

SAYS_NORM = re.compile(
    r"Norm(?!Free|[a-z])|Normali[sz]|(?<![A-Za-z])norm(?![a-z])|norm(_?\d[dD])?$"
)
"""Found in the name of a class that seems to be about normalization (not in ``NormalCell``)."""


def is_a(kind: type, package: str, names: str) -> bool:
    """Return whether a class, or one that it is derived from, is of a package and has such a name.

    Parameters
    ----------
    kind : type
        The class.
    package : str
        The package or module; empty for any.
    names : str
        Regular expression of the whole name.
    """
    return any(
        (not package or f"{base.__module__}.".startswith(f"{package}."))
        and re.fullmatch(names, base.__name__)
        for base in kind.__mro__
    )


def layer_of(module: nn.Module) -> Layer | None:
    """Return the row of the table that a module is in, or None.

    Parameters
    ----------
    module : nn.Module
        The module.
    """
    kind: Any = type(module)  # hashable, whatever its stub says
    return _layer_of(kind, holds_values(module))


@cache
def _layer_of(kind: type, own_values: bool) -> Layer | None:
    for layer in LAYERS:
        if (own_values or not layer.holds_values) and is_a(kind, layer.package, layer.names):
            return layer
    return None


def holds_values(module: nn.Module) -> bool:
    """Return whether a module has parameters, or buffers that are kept, of its own."""
    kept = module._buffers.keys() - module._non_persistent_buffers_set
    return any(each is not None for each in module._parameters.values()) or any(
        module._buffers[name] is not None for name in kept
    )


def declaration(module: nn.Module, name: str) -> Any:
    """Return an attribute of a module or its class; None if there is none.

    Submodules are none, and neither is what a wrapper passes on from the network inside it.

    Parameters
    ----------
    module : nn.Module
        The module.
    name : str
        ``parts`` or ``component``.
    """
    return vars(module).get(name, getattr(type(module), name, None))


def declares_component(module: nn.Module) -> bool:
    """Return whether a module says which component it is."""
    return isinstance(declaration(module, "component"), str)


def component_of(module: nn.Module) -> str:
    """Return the component that a module declares, or else is by its type; ``"none"`` if none.

    A declaration is an attribute ``component``, a string; a submodule of that name is none.

    Parameters
    ----------
    module : nn.Module
        The module.
    """
    if declares_component(module):
        return str(declaration(module, "component"))
    layer = layer_of(module)
    return NONE if layer is None else layer.component


def is_norm(module: nn.Module) -> bool:
    """Return whether a module is a normalization layer."""
    return component_of(module) == "norm"
