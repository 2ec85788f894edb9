"""Small networks with named parts. Every one has a ``head``; the rest is the ``body``."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from pfl_flower.models.blocks import BottleneckAdapter, LowRankAdapter, normalization

Shape = tuple[int, ...]


class MLP(nn.Module):
    """Perceptron with one hidden layer of 64, optionally with adapters.

    Parameters
    ----------
    shape : of one example; flattened
    num_classes : number of outputs
    adapter_size : bottleneck of a residual adapter after the hidden layer; 0 for none
    rank : rank of a low-rank adapter beside the hidden layer; 0 for none
    hidden : width of the hidden layer
    """

    parts: ClassVar = {"head": ("head",)}

    def __init__(
        self,
        shape: Shape,
        num_classes: int,
        adapter_size: int = 0,
        rank: int = 0,
        hidden: int = 64,
    ) -> None:
        super().__init__()
        features = int(torch.Size(shape).numel())
        self.hidden = nn.Linear(features, hidden)
        self.head = nn.Linear(hidden, num_classes)
        # Made last, so that a network with adapters starts as the one without, bit for bit.
        self.low_rank = LowRankAdapter(features, hidden, rank) if rank else None
        self.adapter = BottleneckAdapter(hidden, adapter_size) if adapter_size else nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits, shape ``(N, num_classes)``, of inputs ``(N, *shape)``."""
        flat = inputs.flatten(1)
        hidden = self.hidden(flat)
        if self.low_rank is not None:
            hidden = hidden + self.low_rank(flat)
        logits: Tensor = self.head(self.adapter(torch.relu(hidden)))
        return logits


class LinearModel(nn.Module):
    """One linear layer with a bias: linear or logistic regression.

    Parameters
    ----------
    shape : of one example; flattened
    num_classes : number of outputs
    """

    parts: ClassVar = {"head": ("head",)}

    def __init__(self, shape: Shape, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(int(torch.Size(shape).numel()), num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs, shape ``(N, num_classes)``, of inputs ``(N, *shape)``."""
        outputs: Tensor = self.head(inputs.flatten(1))
        return outputs


class CNN(nn.Module):
    """Two 3x3 convolutions, a layer of 64 and a head, optionally with norm, SE and adapters.

    Parameters
    ----------
    shape : (channels, height, width) of one example
    num_classes : number of outputs
    norm : ``"none"``, ``"batch"`` or ``"group"``, after each convolution
    adapter_size : bottleneck of the residual adapters after each block; 0 for none
    squeeze_excitation : a torchvision ``SqueezeExcitation`` after the last convolution, and the
        input channels kept apart by grouped convolutions (each channel is seen through filters
        of its own, so that the SE block can turn one up and another down)
    """

    parts: ClassVar = {"head": ("head",)}

    def __init__(
        self,
        shape: Shape,
        num_classes: int,
        norm: str = "none",
        adapter_size: int = 0,
        squeeze_excitation: bool = False,
    ) -> None:
        super().__init__()
        channels, height, width = shape
        groups = channels if squeeze_excitation else 1
        first, second = 16 * groups, 32 * groups
        self.conv1 = nn.Conv2d(channels, first, 3, padding=1, groups=groups)
        self.norm1 = normalization(norm, first)
        self.conv2 = nn.Conv2d(first, second, 3, padding=1, stride=2, groups=groups)
        self.norm2 = normalization(norm, second)
        self.se = _squeeze_excitation(second) if squeeze_excitation else None
        self.hidden = nn.Linear(second * ((height + 1) // 2) * ((width + 1) // 2), 64)
        self.head = nn.Linear(64, num_classes)
        # Made last, so that a network with adapters starts as the one without, bit for bit.
        self.adapter1, self.adapter2 = (
            BottleneckAdapter(c, adapter_size, convolutional=True)
            if adapter_size
            else nn.Identity()
            for c in (first, second)
        )
        self.adapter3 = BottleneckAdapter(64, adapter_size) if adapter_size else nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits, shape ``(N, num_classes)``, of images ``(N, *shape)``."""
        hidden = self.adapter1(torch.relu(self.norm1(self.conv1(inputs))))
        hidden = self.adapter2(torch.relu(self.norm2(self.conv2(hidden))))
        if self.se is not None:
            hidden = self.se(hidden)
        logits: Tensor = self.head(self.adapter3(torch.relu(self.hidden(hidden.flatten(1)))))
        return logits


class LargeCNN(nn.Module):
    """Two 5x5 convolutions of 32 and 64 channels, each with 2x2 max pooling, and a layer of 512.

    The network of McMahan et al. 2017 (arXiv:1602.05629, section 3) but without padding, which is
    how PFLlib has it: 582,026 parameters for grey images of 28x28 and 10 classes.

    Parameters
    ----------
    shape : (channels, height, width) of one example, at least 16x16
    num_classes : number of outputs
    norm : ``"none"``, ``"batch"`` or ``"group"``, after each convolution
    """

    parts: ClassVar = {"head": ("head",)}

    def __init__(self, shape: Shape, num_classes: int, norm: str = "none") -> None:
        super().__init__()
        channels, height, width = shape
        if min(height, width) < 16:
            raise ValueError(f"large-cnn needs images of at least 16x16, got {height}x{width}")
        self.conv1 = nn.Conv2d(channels, 32, 5)
        self.norm1 = normalization(norm, 32)
        self.conv2 = nn.Conv2d(32, 64, 5)
        self.norm2 = normalization(norm, 64)
        rows, columns = (((size - 4) // 2 - 4) // 2 for size in (height, width))
        self.hidden = nn.Linear(64 * rows * columns, 512)
        self.head = nn.Linear(512, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits, shape ``(N, num_classes)``, of images ``(N, *shape)``."""
        hidden = max_pool2d(torch.relu(self.norm1(self.conv1(inputs))), 2)
        hidden = max_pool2d(torch.relu(self.norm2(self.conv2(hidden))), 2)
        logits: Tensor = self.head(torch.relu(self.hidden(hidden.flatten(1))))
        return logits


def _squeeze_excitation(channels: int) -> nn.Module:
    from torchvision.ops import SqueezeExcitation  # a second to import, for every message

    block: nn.Module = SqueezeExcitation(channels, max(8, channels // 8))
    return block


def resnet(shape: Shape, num_classes: int, norm: str = "batch") -> nn.Module:
    """Return torchvision's ResNet-18 for images of ``shape[0]`` channels; its head is ``fc``."""
    from torchvision.models import resnet18  # likewise

    model: nn.Module = resnet18(
        num_classes=num_classes, norm_layer=lambda channels: normalization(norm, channels)
    )
    if shape[0] != 3:
        model.conv1 = nn.Conv2d(shape[0], 64, 7, stride=2, padding=3, bias=False)
    model.parts = {"head": ("fc",)}  # type: ignore[assignment]
    return model
