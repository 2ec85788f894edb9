"""A network on a base that another run trains first, and the same network with that base in it."""

import os
from collections.abc import Mapping

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pfl_flower.models import LowRankAdapter

FILE = "PFL_TEST_BASE"
"""Environment variable: the file that :class:`WithBase` has its base from."""


class Network(nn.Module):
    """Two layers with batch norm to be pretrained, a low-rank correction and a head."""

    parts: Mapping[str, tuple[str, ...]] = {"head": ("head",)}
    width = 16

    def __init__(self, shape: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        size = int(torch.Size(shape).numel())
        self.base = nn.Sequential(
            nn.Linear(size, self.width),
            nn.BatchNorm1d(self.width),
            nn.ReLU(),
            nn.Linear(self.width, 16),
        )
        self.low_rank = LowRankAdapter(16, 16, 2)
        self.head = nn.Linear(16, outputs)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.base(x.flatten(1)).tanh()
        out: Tensor = self.head(hidden + self.low_rank(hidden))
        return out


class WithoutBase(Network):
    """The base frozen at its random first values."""

    def __init__(self, shape: tuple[int, ...], outputs: int) -> None:
        super().__init__(shape, outputs)
        self.base.requires_grad_(False)


class FrozenHead(WithoutBase):
    """The head is frozen as well."""

    def __init__(self, shape: tuple[int, ...], outputs: int) -> None:
        super().__init__(shape, outputs)
        self.head.requires_grad_(False)


class WithBase(WithoutBase):
    """The base frozen as another run trained it."""

    def __init__(self, shape: tuple[int, ...], outputs: int) -> None:
        super().__init__(shape, outputs)
        trained = load_file(os.environ[FILE])
        self.load_state_dict({n: t for n, t in trained.items() if n.startswith("base.")}, False)


class WithEverything(WithoutBase):
    """All of it as another run trained it, the base frozen."""

    def __init__(self, shape: tuple[int, ...], outputs: int) -> None:
        super().__init__(shape, outputs)
        self.load_state_dict(load_file(os.environ[FILE]))


class Wide(WithoutBase):
    """Another network: no base fits it that fits the others."""

    width = 24


class Body(nn.Module):
    """What is to be pretrained, and a head: no correction."""

    parts: Mapping[str, tuple[str, ...]] = {"head": ("head",)}

    def __init__(self, shape: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.base = Network(shape, outputs).base
        self.head = nn.Linear(16, outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.base(x.flatten(1)).tanh())
        return out
