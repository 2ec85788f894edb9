"""MODELS, the table of networks, and build_model, which makes one."""

import warnings
from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from clients import take_logits
from clients.data.inputs import spread_inputs
from clients.scopes import select
from pfl_flower.models.architecture import Architecture
from pfl_flower.models.blocks import BottleneckAdapter, LowRankAdapter
from pfl_flower.models.input_type import check_input_names, trial_inputs
from pfl_flower.models.libraries import build_of_library, is_of_library
from pfl_flower.models.networks import CNN, MLP, LargeCNN, LinearModel, resnet
from pfl_flower.models.pretrained_weights import put_weights, read_weights
from pfl_flower.models.trainable import freeze, keep_trainable
from pfl_flower.utils.imports import resolve
from strategies.errors import ArgumentError
from strategies.randomness import named_seed


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
    "low-rank-cnn": lambda a: CNN(a.shape, a.num_classes, a.norm, rank=a.adapter_size),
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

IMAGE_MODELS = frozenset({"cnn", "se-cnn", "adapter-cnn", "low-rank-cnn", "large-cnn", "resnet18"})
LOW_RANK_MODELS = frozenset(name for name in MODELS if name.startswith("low-rank-"))
ADAPTER_MODELS = LOW_RANK_MODELS | {name for name in MODELS if name.startswith("adapter-")}
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
    if architecture.inputs and architecture.model in MODELS:
        names = ", ".join(architecture.inputs)
        wanted = f"a network that takes {names} by name: module:function or hf:<name>"
        raise ArgumentError("model", architecture.model, wanted)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(named_seed(seed, "model"))
        model, new = _untouched(architecture)
        keep_trainable(model, new, architecture)
        freeze(model, architecture.freezes)
        return model


def _untouched(architecture: Architecture) -> tuple[nn.Module, frozenset[str]]:
    """Return a network of which all is trained, and the entries that are not pretrained."""
    if architecture.model in MODELS:
        model = MODELS[architecture.model](architecture)
        return model, _put_file(model, architecture)
    if is_of_library(architecture.model):
        return build_of_library(architecture)
    model = resolve(architecture.model)(architecture.shape, architecture.num_classes)
    if not isinstance(model, nn.Module):
        returned = f"not a {type(model).__name__}"
        wanted = f"a function that returns a torch.nn.Module, {returned}"
        raise ArgumentError("model", architecture.model, wanted)
    check_input_names(model, architecture)
    take_logits(model)
    spread_inputs(model)
    _give_shapes(model, architecture)
    return model, frozenset()


def _put_file(model: nn.Module, architecture: Architecture) -> frozenset[str]:
    """Put the weights of an earlier run into a network, if wanted; return the entries that are new.

    A file of shared arrays has no head where that was personal: it is new.
    """
    if not architecture.weights:
        return frozenset(model.state_dict())
    if architecture.weights == "true":
        wanted = f"the shared.safetensors of a run: {architecture.model} has no published weights"
        raise ArgumentError("pretrained", architecture.pretrained, wanted)
    weights = read_weights(architecture.weights)
    return put_weights(model, weights, select(model, "head"), architecture.weights)


def _give_shapes(model: nn.Module, architecture: Architecture) -> None:
    """Give lazy layers (``nn.LazyLinear``) their shapes and first values, by one forward pass."""
    ended = "left some of them out"
    for integers in (False, True):
        if not _is_lazy(model):
            return
        a = architecture
        with trial_inputs(model, a.shape, integers, a.links, a.inputs) as inputs, torch.no_grad():
            try:
                model(inputs)
            except Exception as error:  # a user's network can raise anything
                ended = f"ended with {type(error).__name__}: {error}"
    if _is_lazy(model):
        raise ArgumentError(
            "model",
            architecture.model,
            f"a network that takes zeros of shape {architecture.shape}, by which its lazy layers "
            f"get their shapes; that {ended}",
        )


def _is_lazy(model: nn.Module) -> bool:
    return any(map(is_lazy, [*model.parameters(), *model.buffers()]))


__all__ = [
    "ADAPTER_MODELS",
    "CNN",
    "GRAPH_MODELS",
    "IMAGE_MODELS",
    "LOW_RANK_MODELS",
    "MLP",
    "MODELS",
    "Architecture",
    "BottleneckAdapter",
    "LargeCNN",
    "LinearModel",
    "LowRankAdapter",
    "build_model",
]
