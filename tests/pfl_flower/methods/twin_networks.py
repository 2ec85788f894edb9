"""Pairs of networks that are the same function of the same values, for every kind of data.

A pair is two blocks of a network that otherwise is the same: a table's, or one for graphs. The run
config names a network by ``model = "tests.pfl_flower.methods.twin_networks:<data>_<block>"``.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.nn.utils import parametrizations

from clients import GraphNetwork
from pfl_flower.models import BottleneckAdapter, LowRankAdapter

WIDTH = 8


class Block(nn.Module):
    """What twins differ in."""

    def first(self, x: Tensor) -> Tensor:
        """What becomes of an example, before everything else."""
        return x


class Tied(Block):
    """One tensor under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(self.a(x).relu())
        return out


class Untied(Tied):
    """The same under one name."""

    def __init__(self) -> None:
        super().__init__()
        del self.b.weight

    def forward(self, x: Tensor) -> Tensor:
        return linear(self.a(x).relu(), self.a.weight, self.b.bias)


class Once(Block):
    """A block with buffers that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.a(self.a(x).relu())
        return out


class Twice(Once):
    """The same block, registered under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.b = self.a

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(self.a(x).relu())
        return out


class Scalar(Block):
    """A parameter without dimensions."""

    shape: tuple[int, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(self.shape))
        self.a = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.scale * self.a(x)
        return out


class LengthOne(Scalar):
    """The same, of length 1."""

    shape = (1,)


class Recurrent(Block):
    """A GRU, which ``vmap`` cannot map."""

    def __init__(self) -> None:
        super().__init__()
        self.r = nn.GRU(2, WIDTH, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x.reshape(len(x), -1, 2))

    def last(self, steps: Tensor) -> Tensor:
        found: Tensor = self.r(steps)[0][:, -1]
        return found


class Unrolled(Recurrent):
    """The same, written out, which ``vmap`` can map."""

    def last(self, steps: Tensor) -> Tensor:
        layer, state = list(self.r.parameters()), steps.new_zeros(len(steps), WIDTH)
        for at in range(steps.shape[1]):
            i = linear(steps[:, at], *layer[::2]).chunk(3, 1)
            h = linear(state, *layer[1::2]).chunk(3, 1)
            reset, update = (i[0] + h[0]).sigmoid(), (i[1] + h[1]).sigmoid()
            state = (1 - update) * (i[2] + reset * h[2]).tanh() + update * state
        return state


class InPlace(Once):
    """A forward pass that writes in its input, and looks at values."""

    def first(self, x: Tensor) -> Tensor:
        return x.mul_(0.5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = super().forward(x)
        return out / 2 if float(out.detach().sum()) > 1e9 else out


class OutOfPlace(Once):
    """The same without either."""

    def first(self, x: Tensor) -> Tensor:
        return x * 0.5


class Wrapped(Block):
    """A network inside another, as ``DataParallel`` or a framework wraps it."""

    def __init__(self) -> None:
        super().__init__()
        self.module = Once()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.module(x)
        return out


class Exact(Block):
    """A weight over its largest singular value, which is well above the second."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(WIDTH, WIDTH)
        weight = nn.Parameter(self.a.weight.detach() * 0.05 + 1.0)
        del self.a.weight
        self.a.weight = weight  # after the bias, as under spectral norm

    def forward(self, x: Tensor) -> Tensor:
        weight = self.a.weight
        return linear(x, weight / torch.linalg.matrix_norm(weight, 2), self.a.bias)


class Spectral(Exact):
    """The same by spectral norm, whose buffers follow the singular vectors."""

    def __init__(self) -> None:
        super().__init__()
        parametrizations.spectral_norm(self.a)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.a(x)
        return out


class Plain(Block):
    """A layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.a(x)
        return out


class WithoutNormalization(Plain):
    """The same, in a network that normalizes nowhere."""


class FixedNorm(nn.BatchNorm1d):
    """Batch norm that never trains, such as that of a pretrained network; here the identity."""

    def __init__(self) -> None:
        super().__init__(WIDTH, eps=0.0, affine=False)

    def train(self, mode: bool = True) -> "FixedNorm":
        super().train(False)
        return self


class FixedNormalization(WithoutNormalization):
    """The same, with a normalization that does nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = FixedNorm()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.a(x))
        return out


def _normalized(norm: nn.Module) -> nn.Sequential:
    # a bias would have a gradient of rounding errors only, which Adam would make a step of
    return nn.Sequential(nn.Linear(WIDTH, WIDTH, bias=False), norm)


class NoStatistics(Once):
    """Batch norm without running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.a = _normalized(nn.BatchNorm1d(WIDTH, track_running_stats=False))


class OwnNorm(nn.BatchNorm1d):
    """Normalize by the batch at hand, written out."""

    def __init__(self) -> None:
        super().__init__(WIDTH, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) == 1:  # which torch's refuses, too
            raise ValueError("one example has no variance")
        centred = x - x.mean(0)
        return centred * (centred.square().mean(0) + self.eps).rsqrt() * self.weight + self.bias


class OwnStatistics(Once):
    """The same, written out."""

    def __init__(self) -> None:
        super().__init__()
        self.a = _normalized(OwnNorm())


class Uncounted(Once):
    """Batch norm that does not count its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.a[1].register_buffer("num_batches_tracked", None)


class Masked(Block):
    """A mask as a buffer of booleans, and a table of places as one of integers."""

    persistent = True

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(WIDTH, WIDTH)
        self.register_buffer("mask", torch.arange(WIDTH) > 0, persistent=self.persistent)
        order = torch.arange(WIDTH).flip(0)
        self.register_buffer("order", order, persistent=self.persistent)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.a(x)[:, self.order] * self.mask
        return out


class MaskedOutsideTheState(Masked):
    """The same, as buffers that are not in the state dict."""

    persistent = False


class Unused(Plain):
    """A parameter that the forward pass does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.ones(3))


class UsedForNothing(Unused):
    """The same, used without an effect."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0.0 * self.unused.sum()


class Strided(Plain):
    """A weight in another order of memory."""

    def __init__(self) -> None:
        super().__init__()
        self.a.weight = nn.Parameter(self.a.weight.detach().t().contiguous().t())


class Frozen(Plain):
    """A parameter that the user froze."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.linspace(0, 1, WIDTH), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.a(x) + self.shift
        return out


class Buffered(Frozen):
    """The same as a buffer."""

    def __init__(self) -> None:
        super().__init__()
        values = self.shift.detach()
        del self.shift
        self.register_buffer("shift", values)


class Body(nn.Module):
    """Everything but the head: layers of every component that a method asks for, and the block."""

    def __init__(self, block: type[Block], features: int) -> None:
        super().__init__()
        self.enter = nn.Linear(features, WIDTH)
        bare = issubclass(block, WithoutNormalization)
        self.norm: nn.Module = nn.Identity() if bare else nn.GroupNorm(2, WIDTH)
        with torch.random.fork_rng(devices=[]):  # twins may take different numbers of draws
            self.block = block()
        self.gate = Gate()
        self.adapter = BottleneckAdapter(WIDTH, 2)
        self.low_rank = LowRankAdapter(WIDTH, WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.enter(self.block.first(x))).relu()
        gated = self.gate(self.block(hidden).relu())
        out: Tensor = self.adapter(gated + self.low_rank(gated))
        return out


class Gate(nn.Module):
    """Weigh features by what they are."""

    component = "se"

    def __init__(self) -> None:
        super().__init__()
        self.weigh = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x * self.weigh(x).sigmoid()
        return out


class TableNetwork(nn.Module):
    """A network for rows of a table."""

    parts = {"head": ("head",)}

    def __init__(self, block: type[Block], features: int, outputs: int) -> None:
        super().__init__()
        self.body, self.head = Body(block, features), nn.Linear(WIDTH, outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x))
        return out


class NodeNetwork(GraphNetwork):
    """A network for nodes of a graph; at first, features of neighbours are added to a node's."""

    parts = {"head": ("head",)}

    def __init__(self, block: type[Block], features: int, outputs: int) -> None:
        super().__init__()
        self.body, self.head = Body(block, features), nn.Linear(WIDTH, outputs)

    def encode(self, features: Tensor, edges: Tensor) -> Tensor:
        out: Tensor = self.body(features.index_add(0, edges[1], features[edges[0]]))
        return out

    def classify(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.head(hidden)
        return out


@dataclass(frozen=True)
class Pair:
    """Two networks that are the same function of the same values.

    Parameters
    ----------
    unusual, usual : type
        Blocks.
    extra : tuple of str, default ()
        Ends of the names of entries that only one of the two has, or that differ by design.
    renamed : callable
        Name of an entry of the unusual one -> that of the usual one.
    tolerance : float, default 0
        Relative to the largest value of an array; 0 where both take the same steps on numbers.
    """

    unusual: type[Block]
    usual: type[Block]
    extra: tuple[str, ...] = ()
    renamed: Callable[[str], str] = str
    tolerance: float = 0.0

    def is_extra(self, name: str) -> bool:
        """Whether only one of the two has an entry of this name."""
        return bool(self.extra) and name.endswith(self.extra)


# Other orders of the same sums differ by some 1e-7 a step, which some 20 steps make more of; a
# wrong rule is off by 1e-2. Other orders are also gradients of examples in a loop, and what is
# frozen in a mixture. Spectral norm's vectors are those of a weight one step ago, which is an error
# of second order in how far a step turns them.
_ROUNDING, _ONE_STEP_AGO = 1e-4, 1e-3
PAIRS = {
    "tied weights": Pair(Tied, Untied),
    "module registered twice": Pair(Twice, Once),
    "parameter without dimensions": Pair(Scalar, LengthOne),
    "GRU": Pair(Recurrent, Unrolled, tolerance=_ROUNDING),
    "in place": Pair(InPlace, OutOfPlace, tolerance=_ROUNDING),
    "wrapped": Pair(Wrapped, Once, renamed=lambda name: name.replace(".module.", ".")),
    "spectral norm": Pair(
        *(Spectral, Exact, ("._u", "._v")),
        renamed=lambda name: name.replace("parametrizations.weight.original", "weight"),
        tolerance=_ONE_STEP_AGO,
    ),
    "no normalization": Pair(
        *(WithoutNormalization, FixedNormalization),
        extra=("running_mean", "running_var", "num_batches_tracked"),
    ),
    "batch norm without statistics": Pair(NoStatistics, OwnStatistics, tolerance=_ROUNDING),
    "batch norm that counts": Pair(Once, Uncounted, extra=("num_batches_tracked",)),
    "masks as buffers": Pair(Masked, MaskedOutsideTheState, extra=("mask", "order")),
    # weight decay acts on what has a gradient, be it 0, and not on what has none, as in PyTorch;
    # a 0 more in the norm of a gradient that is clipped is another order of the same sum
    "unused parameter": Pair(Unused, UsedForNothing, extra=("unused",), tolerance=_ROUNDING),
    "other order of memory": Pair(Strided, Plain, tolerance=_ROUNDING),
    "frozen parameter": Pair(Frozen, Buffered, extra=("shift",), tolerance=_ROUNDING),
}
"""What is unusual -> the network with it, and its twin."""


def bfloat16(shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """A network of numbers that NumPy does not know."""
    return nn.Linear(shape[0], num_classes).to(torch.bfloat16)


def __getattr__(name: str) -> Callable[[tuple[int, ...], int], nn.Module]:
    """Return how to build a network of the name ``<data>_<block>``."""
    data, _, block = name.partition("_")
    blocks = {each.__name__: each for pair in PAIRS.values() for each in (pair.unusual, pair.usual)}
    networks = {"table": TableNetwork, "nodes": NodeNetwork}
    if data not in networks or block not in blocks:
        raise AttributeError(name)

    def build(shape: tuple[int, ...], num_classes: int) -> nn.Module:
        return networks[data](blocks[block], shape[0], num_classes)

    return build
