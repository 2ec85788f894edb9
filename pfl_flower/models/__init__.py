"""MODELS, the table of networks, and build_model, which makes one."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from pfl_flower.models.blocks import BottleneckAdapter, LowRankAdapter
from pfl_flower.models.networks import CNN, MLP, LargeCNN, LinearModel, Shape, resnet
from pfl_flower.utils.imports import resolve
from strategies.errors import ArgumentError
from strategies.randomness import named_seed


@dataclass(frozen=True)
class Architecture:
    """The arguments that decide a network: hashable, so that networks can be cached by it.

    Attributes
    ----------
    model : str
        A key of :data:`MODELS`, or a user's function as ``module:function``.
    shape : tuple of int
        Shape of one example: (channels, height, width) or (features,); of a node's features in a
        graph.
    num_classes : int
        Number of outputs; 1 for regression.
    norm : str, default "none"
        ``"none"``, ``"batch"`` or ``"group"``.
    adapter_size : int, default 8
        Bottleneck or rank of the adapters, for networks with adapters.
    links : bool, default False
        Whether graph networks predict links (pairs of nodes).
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
            from pfl_flower.models.graph_networks import GNN  # seconds to import

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
    """Return a network whose initial values depend on the architecture and the seed only.

    A user's function gets the shape of an example and the number of outputs, and returns a
    ``torch.nn.Module``. It may have ``parts = {"head": (...)}``; otherwise rules name personal
    parameters by module paths.

    Parameters
    ----------
    architecture : Architecture
        The arguments of the network.
    seed : int
        Seed of the initial values. torch's global generator does not change.

    Raises
    ------
    ArgumentError
        If an image network gets examples that are not images, or a user's function does not return
        a module.
    ResolveError
        If there is no such function.
    """
    if architecture.model in IMAGE_MODELS and len(architecture.shape) != 3:
        flat = ", ".join(sorted(set(MODELS) - IMAGE_MODELS - GRAPH_MODELS))
        raise ArgumentError(
            "model",
            architecture.model,
            f"one of {flat}, because one example has shape {architecture.shape} and is no image",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(named_seed(seed, "model"))
        if architecture.model in MODELS:
            return MODELS[architecture.model](architecture)
        model = resolve(architecture.model)(architecture.shape, architecture.num_classes)
        if not isinstance(model, nn.Module):
            returned = f"not a {type(model).__name__}"
            raise ArgumentError(
                "model",
                architecture.model,
                f"a function that returns a torch.nn.Module, {returned}",
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
