"""Small networks with named parts, and the table of them."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from pfl_flower.models.blocks import BottleneckAdapter, LowRankAdapter
from pfl_flower.models.networks import CNN, MLP, LargeCNN, LinearModel, Shape, resnet
from pfl_flower.utils.imports import resolve
from strategies.randomness import named_seed


@dataclass(frozen=True)
class Architecture:
    """What decides a network: hashable, so that networks can be cached by it.

    Attributes
    ----------
    model : a key of :data:`MODELS`, or a function of one's own as ``module:function``
    shape : of one example: (channels, height, width) or (features,); of a node in a graph
    num_classes : number of outputs; 1 for regression
    norm : ``"none"``, ``"batch"`` or ``"group"``
    adapter_size : bottleneck or rank of the adapters, for the networks that have some
    links : whether pairs of nodes are predicted, for the networks over graphs
    """

    model: str
    shape: Shape
    num_classes: int
    norm: str = "none"
    adapter_size: int = 8
    links: bool = False


def _gnn(layer: str, adapters: bool = False) -> Callable[[Architecture], nn.Module]:
    def build(a: Architecture) -> nn.Module:
        with warnings.catch_warnings():  # PyG scripts functions, which torch calls deprecated
            warnings.simplefilter("ignore", FutureWarning)
            from pfl_flower.models.graph_networks import (
                GNN,  # seconds to import, so only where needed
            )

        size = a.adapter_size if adapters else 0
        return GNN(layer, a.shape[0], a.num_classes, a.links, size)

    return build


MODELS: Mapping[str, Callable[[Architecture], nn.Module]] = {
    "mlp": lambda a: MLP(a.shape, a.num_classes),
    "adapter-mlp": lambda a: MLP(a.shape, a.num_classes, adapter_size=a.adapter_size),
    "low-rank-mlp": lambda a: MLP(a.shape, a.num_classes, rank=a.adapter_size),
    "cnn": lambda a: CNN(a.shape, a.num_classes, a.norm),
    "se-cnn": lambda a: CNN(a.shape, a.num_classes, a.norm, squeeze_excitation=True),
    "adapter-cnn": lambda a: CNN(a.shape, a.num_classes, a.norm, adapter_size=a.adapter_size),
    "large-cnn": lambda a: LargeCNN(a.shape, a.num_classes, a.norm),
    "resnet18": lambda a: resnet(a.shape, a.num_classes, a.norm),
    "linear": lambda a: LinearModel(a.shape, a.num_classes),
    "gcn": _gnn("gcn"),
    "sage": _gnn("sage"),
    "gat": _gnn("gat"),
    "gin": _gnn("gin"),
    "adapter-gcn": _gnn("gcn", adapters=True),
    "adapter-sage": _gnn("sage", adapters=True),
    "adapter-gat": _gnn("gat", adapters=True),
    "adapter-gin": _gnn("gin", adapters=True),
}
"""Name of a model -> how to build it. A new model is one row."""

IMAGE_MODELS = frozenset({"cnn", "se-cnn", "adapter-cnn", "large-cnn", "resnet18"})
GRAPH_MODELS = frozenset(
    f"{prefix}{layer}" for prefix in ("", "adapter-") for layer in ("gcn", "sage", "gat", "gin")
)


def build_model(architecture: Architecture, seed: int) -> nn.Module:
    """Return a network whose first values depend on the architecture and the seed only.

    A function of one's own is called with the shape of an example and the number of outputs, and
    returns a ``torch.nn.Module`` (with ``parts = {"head": (...)}``, or personal parameters are
    named by their module paths).

    Raises
    ------
    ValueError
        If an image network is asked for examples that are not images, or there is no such function,
        or it returns no module.
    """
    if architecture.model in IMAGE_MODELS and len(architecture.shape) != 3:
        flat = sorted(set(MODELS) - IMAGE_MODELS)
        raise ValueError(
            f"model {architecture.model!r} needs images, but one example has shape "
            f"{architecture.shape}; use one of {flat}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(named_seed(seed, "model"))
        if architecture.model in MODELS:
            return MODELS[architecture.model](architecture)
        model = resolve(architecture.model)(architecture.shape, architecture.num_classes)
        if not isinstance(model, nn.Module):
            raise ValueError(
                f"{architecture.model!r} returned a {type(model).__name__}; it must return a "
                f"torch.nn.Module"
            )
        return model


__all__ = [
    "CNN",
    "GRAPH_MODELS",
    "IMAGE_MODELS",
    "MLP",
    "MODELS",
    "Architecture",
    "BottleneckAdapter",
    "LargeCNN",
    "LinearModel",
    "LowRankAdapter",
    "build_model",
]
