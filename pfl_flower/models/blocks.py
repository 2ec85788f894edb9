"""Building blocks: bottleneck adapter, low-rank adapter (LoRA) and normalization layer."""

from typing import ClassVar

import torch
from torch import Tensor, nn


class BottleneckAdapter(nn.Module):
    """Residual bottleneck adapter: ``h + up(relu(down(h)))`` (Houlsby et al. 2019).

    ``up`` is initialised with zeros, so the adapter starts as the identity, bit for bit.

    Parameters
    ----------
    width : int
        Number of channels of ``(N, C, H, W)``, or of features of ``(N, F)``.
    size : int
        Width of the bottleneck.
    convolutional : bool, default False
        Whether to use 1x1 convolutions instead of linear layers.
    """

    component = "adapter"

    def __init__(self, width: int, size: int, convolutional: bool = False) -> None:
        super().__init__()
        self.down: nn.Module
        self.up: nn.Module
        if convolutional:
            self.down, self.up = nn.Conv2d(width, size, 1), nn.Conv2d(size, width, 1)
        else:
            self.down, self.up = nn.Linear(width, size), nn.Linear(size, width)
        for parameter in self.up.parameters():
            nn.init.zeros_(parameter)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return ``hidden`` plus the correction of the adapter.

        Parameters
        ----------
        hidden : Tensor
            ``(N, C, H, W)`` or ``(N, F)``; the result has the same shape.
        """
        correction: Tensor = self.up(torch.relu(self.down(hidden)))
        return hidden + correction


class LowRankAdapter(nn.Module):
    """Low-rank correction ``up(down(x))`` of a linear layer (LoRA, Hu et al. 2022).

    ``up`` is initialised with zeros, so the correction starts at zero.

    Parameters
    ----------
    in_features, out_features : int
        Size of the linear layer that it corrects.
    size : int
        The rank.
    """

    component = "adapter"
    parts: ClassVar = {"A": ("down",), "B": ("up",)}

    def __init__(self, in_features: int, out_features: int, size: int) -> None:
        super().__init__()
        self.down = nn.Linear(in_features, size, bias=False)
        self.up = nn.Linear(size, out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the correction, ``(N, out_features)``.

        Parameters
        ----------
        inputs : Tensor
            ``(N, in_features)``.
        """
        correction: Tensor = self.up(self.down(inputs))
        return correction


def normalization(kind: str, channels: int) -> nn.Module:
    """Return a normalization layer.

    Parameters
    ----------
    kind : str
        ``"batch"``, ``"group"`` (with 4 channels per group) or ``"none"`` (the identity).
    channels : int
        Number of channels.
    """
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "group":
        return nn.GroupNorm(max(1, channels // 4), channels)
    return nn.Identity()
