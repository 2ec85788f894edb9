"""Networks on a frozen base, with every component that a method asks for above it."""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from pfl_flower.models import LowRankAdapter
from tests.pfl_flower.methods import twin_networks
from tests.pfl_flower.methods.twin_networks import Plain


class Base(nn.Module):
    """A pretrained layer with batch norm of both kinds and a table, all of it frozen."""

    def __init__(self, size: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(7)  # pretrained: the same whatever the run's seed
        self.enter = nn.Linear(size, size)
        self.norm = nn.BatchNorm1d(size)
        self.bare = nn.BatchNorm1d(size, affine=False)
        self.register_buffer("table", torch.randn(size, generator=draw))
        for tensor in (self.enter.weight, self.enter.bias, self.norm.get_buffer("running_mean")):
            nn.init.normal_(tensor, std=0.3, generator=draw)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.bare(self.norm(self.enter(x))) * self.table
        return out


class TableNetwork(twin_networks.TableNetwork):
    """For rows of a table."""

    def __init__(self, shape: tuple[int, ...], outputs: int) -> None:
        super().__init__(Plain, shape[0], outputs)
        self.base = Base(shape[0])

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.base(x))


class NodeNetwork(twin_networks.NodeNetwork):
    """For nodes of a graph."""

    def __init__(self, shape: tuple[int, ...], outputs: int) -> None:
        super().__init__(Plain, shape[0], outputs)
        self.base = Base(shape[0])

    def encode(self, features: Tensor, edges: Tensor) -> Tensor:
        return super().encode(self.base(features), edges)


class OnlyBase(nn.Module):
    """Nothing to train."""

    def __init__(self, shape: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.base = nn.Linear(shape[0], outputs).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x)
        return out


class Block(nn.Module):
    """A transformer's block with low-rank adapters beside query and value, as LoRA has them."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.requires_grad_(False)
        self.for_query = LowRankAdapter(width, width, rank)
        self.for_value = LowRankAdapter(width, width, rank)

    def forward(self, x: Tensor) -> Tensor:
        query, value = self.query(x) + self.for_query(x), self.value(x) + self.for_value(x)
        hidden = self.first(x + self.out(scaled_dot_product_attention(query, self.key(x), value)))
        out: Tensor = self.second(hidden + self.narrow(self.wide(hidden).relu()))
        return out


class Transformer(nn.Module):
    """A frozen transformer of some millions of parameters, with adapters and a head to train."""

    parts = {"head": ("head",)}
    vocabulary = 2000

    def __init__(self, shape: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        width = 256
        self.embed = nn.Embedding(self.vocabulary, width).requires_grad_(False)
        self.blocks = nn.ModuleList(Block(width, 8) for _ in range(3))
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.embed((x * 100).long().abs() % self.vocabulary)
        for block in self.blocks:
            hidden = block(hidden)
        out: Tensor = self.head(hidden.mean(dim=1))
        return out


class LargeTransformer(Transformer):
    """The same on a base of ten times the size."""

    vocabulary = 100_000


class Features(nn.Module):
    """A frozen layer and a head that has no bias, but a feature that is 1 everywhere."""

    parts = {"head": ("head",)}

    def __init__(self, shape: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.base = nn.Linear(torch.Size(shape).numel(), 8).requires_grad_(False)
        self.head = nn.Linear(9, outputs, bias=False)

    def features(self, x: Tensor) -> Tensor:
        hidden = (4 * self.base(x.flatten(1))).tanh()
        return torch.cat([hidden, torch.ones(len(x), 1)], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.features(x))
        return out
