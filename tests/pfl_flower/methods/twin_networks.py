"""Pairs of networks that are the same function of the same values, for ``breast-cancer``."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


class Tied(nn.Module):
    """One tensor under two names."""

    parts = {"head": ("out",)}

    def __init__(self, shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(30, 30), nn.Linear(30, 30), nn.Linear(30, num_classes)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.b(self.a(x).relu()).relu())
        return out


class Untied(Tied):
    """The same under one name."""

    def __init__(self, shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__(shape, num_classes)
        del self.b.weight

    def forward(self, x: Tensor) -> Tensor:
        again = linear(self.a(x).relu(), self.a.weight, self.b.bias)
        out: Tensor = self.out(again.relu())
        return out


class Scalar(nn.Module):
    """A parameter without dimensions."""

    parts = {"head": ("out",)}
    shape: tuple[int, ...] = ()

    def __init__(self, shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(self.shape))
        self.a, self.out = nn.Linear(30, 30), nn.Linear(30, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.scale * self.a(x).relu())
        return out


class LengthOne(Scalar):
    """The same, of length 1."""

    shape = (1,)


def bfloat16(shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """A network of numbers that NumPy does not know."""
    return nn.Linear(30, num_classes).to(torch.bfloat16)


class Once(nn.Module):
    """A block with buffers that is used twice."""

    parts = {"head": ("out",)}

    def __init__(self, shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Linear(30, 30), nn.BatchNorm1d(30))
        self.out = nn.Linear(30, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.a(self.a(x).relu()).relu())
        return out


class Twice(Once):
    """The same block, registered under two names."""

    def __init__(self, shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__(shape, num_classes)
        self.b = self.a

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.b(self.a(x).relu()).relu())
        return out


class Recurrent(nn.Module):
    """A GRU over the first 30 values, which ``vmap`` cannot map."""

    parts = {"head": ("out",)}

    def __init__(self, shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.r = nn.GRU(3, 8, batch_first=True)
        self.out = nn.Linear(8, num_classes)

    def steps(self, x: Tensor) -> Tensor:
        found: Tensor = self.r(x)[0][:, -1]
        return found

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.steps(x.reshape(len(x), 10, 3)))
        return out


class Unrolled(Recurrent):
    """The same, written out, which ``vmap`` can map."""

    def steps(self, x: Tensor) -> Tensor:
        layer, state = list(self.r.parameters()), x.new_zeros(len(x), 8)
        for at in range(x.shape[1]):
            i = linear(x[:, at], *layer[::2]).chunk(3, 1)
            h = linear(state, *layer[1::2]).chunk(3, 1)
            reset, update = (i[0] + h[0]).sigmoid(), (i[1] + h[1]).sigmoid()
            state = (1 - update) * (i[2] + reset * h[2]).tanh() + update * state
        return state


class InPlace(Once):
    """A forward pass that writes in its input, and looks at values."""

    def forward(self, x: Tensor) -> Tensor:
        x[:, 0] = 0.0
        if float(x.detach().sum()) > 1e9:
            x = x / 2
        out: Tensor = super().forward(x)
        return out


class OutOfPlace(Once):
    """The same without either."""

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.ones(30, device=x.device)
        mask[0] = 0.0
        out: Tensor = super().forward(x * mask)
        return out


class NoStatistics(Once):
    """Batch norm without running statistics."""

    def __init__(self, shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__(shape, num_classes)
        self.a[1] = nn.BatchNorm1d(30, track_running_stats=False)
