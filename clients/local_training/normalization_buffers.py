"""What averaging does to buffers of normalization: running variances, spectral norm's vectors."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.spectral_norm import SpectralNorm

from strategies.errors import ArgumentError

POWER_ITERATIONS = 15
"""As many as torch takes for the first vectors."""


def check_variances(arrays: Mapping[str, NDArray[Any]]) -> None:
    """Refuse received running variances below zero, under which outputs are NaN.

    A server's Adam or momentum, and noise for privacy, step on them as if they were parameters.

    Raises
    ------
    ArgumentError
        With the name of the array and its smallest value.
    """
    for name, values in arrays.items():
        if name.rpartition(".")[2] == "running_var" and values.size and bool((values < 0).any()):
            raise ArgumentError(
                name,
                float(values.min()),
                "at least 0, since it is a variance. A server that adds noise or takes steps of "
                "its own must leave buffers out: keep normalization personal (personal='norm', "
                "beside what else is), or use norm='group'",
            )


@torch.no_grad()
def settle_spectral_norm(model: nn.Module, names: Collection[str] | None = None) -> None:
    """Make the vectors of spectral norm those of the weights at hand again, by power iteration.

    They are unit vectors, the first singular vectors of a weight (Miyato et al. 2018, Algorithm 1).
    The mean of several is shorter than 1, and not that of the mean weight; in eval mode a layer
    takes them as they are, and would be scaled up by as much.

    Parameters
    ----------
    model : nn.Module
        The network, changed in place.
    names : collection of str, optional
        Names of the vectors to look at; by default all.
    """
    for name, weight, u, v in _vectors(model):
        if names is not None and name not in names:
            continue
        if not float(u.norm()) > 1e-6:  # they have cancelled out
            u.fill_(1.0)
        for _ in range(POWER_ITERATIONS):
            v.copy_(normalize(weight.mT @ u, dim=0, eps=1e-12))
            u.copy_(normalize(weight @ v, dim=0, eps=1e-12))


def spectral_vectors(model: nn.Module) -> list[str]:
    """Return the names of spectral norm's vectors, both of each layer."""
    left = [name for name, *_ in _vectors(model)]
    return [*left, *(f"{name[:-1]}v" for name in left)]


def _vectors(model: nn.Module) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
    """Yield (name of u, the weight as a matrix, u, v) of both of torch's spectral norms."""
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, SpectralNorm):
                weight = hook.reshape_weight_to_matrix(module.get_parameter(f"{hook.name}_orig"))
                u, v = (module.get_buffer(f"{hook.name}_{side}") for side in "uv")
                yield f"{prefix}{hook.name}_u", weight, u, v
        if isinstance(module, ParametrizationList) and hasattr(module, "original"):
            weight = module.original
            for number, each in enumerate(module):
                if isinstance(each, _SpectralNorm) and hasattr(each, "_u"):
                    matrix = each._reshape_weight_to_matrix(weight)
                    yield f"{prefix}{number}._u", matrix, each._u, each._v
                if number + 1 < len(module):
                    weight = each(weight)
