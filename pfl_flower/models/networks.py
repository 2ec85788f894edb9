"""Small networks: MLP, linear model, CNNs and ResNet-18. Each has a head; the rest is the body."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from pfl_flower.models.blocks import BottleneckAdapter, LowRankAdapter, normalization
from strategies.errors import ArgumentError

Shape = tuple[int, ...]


class MLP(nn.Module):
    """Perceptron with one hidden layer of 64, optionally with adapters.

    Parameters
    ----------
    shape : tuple of int
        Shape of one example, which is flattened.
    num_classes : int
        Number of outputs.
    adapter_size : int, default 0
        Bottleneck of a residual adapter after the hidden layer; 0 for none.
    rank : int, default 0
        Rank of a low-rank adapter parallel to the hidden layer; 0 for none.
    hidden : int, default 64
        Width of the hidden layer.
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
        # Made last, so that adapters do not change the initial values of other layers.
        self.low_rank = LowRankAdapter(features, hidden, rank) if rank else None
        self.adapter = BottleneckAdapter(hidden, adapter_size) if adapter_size else nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``(N, num_classes)``.

        Parameters
        ----------
        inputs : Tensor
            ``(N, *shape)``.
        """
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
    shape : tuple of int
        Shape of one example, which is flattened.
    num_classes : int
        Number of outputs.
    """

    parts: ClassVar = {"head": ("head",)}

    def __init__(self, shape: Shape, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(int(torch.Size(shape).numel()), num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs ``(N, num_classes)``.

        Parameters
        ----------
        inputs : Tensor
            ``(N, *shape)``.
        """
        outputs: Tensor = self.head(inputs.flatten(1))
        return outputs


class CNN(nn.Module):
    """Two 3x3 convolutions, a layer of 64 and a head, optionally with norm, SE and adapters.

    Parameters
    ----------
    shape : tuple of int
        (channels, height, width) of one example.
    num_classes : int
        Number of outputs.
    norm : str, default "none"
        ``"none"``, ``"batch"`` or ``"group"``, after each convolution.
    adapter_size : int, default 0
        Bottleneck of the residual adapters after each block; 0 for none.
    squeeze_excitation : bool, default False
        Whether a torchvision ``SqueezeExcitation`` follows the last convolution. Convolutions are
        then grouped by input channel, so that the SE block can weight the channels.
    rank : int, default 0
        Rank of a low-rank adapter parallel to the layer of 64; 0 for none.
    """

    parts: ClassVar = {"head": ("head",)}

    def __init__(
        self,
        shape: Shape,
        num_classes: int,
        norm: str = "none",
        adapter_size: int = 0,
        squeeze_excitation: bool = False,
        rank: int = 0,
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
        features = second * ((height + 1) // 2) * ((width + 1) // 2)
        self.hidden = nn.Linear(features, 64)
        self.head = nn.Linear(64, num_classes)
        # Made last, so that adapters do not change the initial values of other layers.
        self.adapter1, self.adapter2 = (
            BottleneckAdapter(c, adapter_size, convolutional=True)
            if adapter_size
            else nn.Identity()
            for c in (first, second)
        )
        self.adapter3 = BottleneckAdapter(64, adapter_size) if adapter_size else nn.Identity()
        self.low_rank = LowRankAdapter(features, 64, rank) if rank else None

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``(N, num_classes)``.

        Parameters
        ----------
        inputs : Tensor
            ``(N, *shape)``.
        """
        hidden = self.adapter1(torch.relu(self.norm1(self.conv1(inputs))))
        hidden = self.adapter2(torch.relu(self.norm2(self.conv2(hidden))))
        if self.se is not None:
            hidden = self.se(hidden)
        flat = hidden.flatten(1)
        hidden = self.hidden(flat)
        if self.low_rank is not None:
            hidden = hidden + self.low_rank(flat)
        logits: Tensor = self.head(self.adapter3(torch.relu(hidden)))
        return logits


class LargeCNN(nn.Module):
    """Two 5x5 convolutions of 32 and 64 channels, each with 2x2 max pooling, and a layer of 512.

    The network of McMahan et al. 2017 (arXiv:1602.05629, section 3) without padding, as in PFLlib:
    582,026 parameters for grey images of 28x28 and 10 classes.

    Parameters
    ----------
    shape : tuple of int
        (channels, height, width) of one example, at least 16x16.
    num_classes : int
        Number of outputs.
    norm : str, default "none"
        ``"none"``, ``"batch"`` or ``"group"``, after each convolution.

    Raises
    ------
    ArgumentError
        If images are smaller than 16x16.
    """

    parts: ClassVar = {"head": ("head",)}

    def __init__(self, shape: Shape, num_classes: int, norm: str = "none") -> None:
        super().__init__()
        channels, height, width = shape
        if min(height, width) < 16:
            raise ArgumentError("shape", shape, "of images of at least 16x16 for large-cnn")
        self.conv1 = nn.Conv2d(channels, 32, 5)
        self.norm1 = normalization(norm, 32)
        self.conv2 = nn.Conv2d(32, 64, 5)
        self.norm2 = normalization(norm, 64)
        rows, columns = (((size - 4) // 2 - 4) // 2 for size in (height, width))
        self.hidden = nn.Linear(64 * rows * columns, 512)
        self.head = nn.Linear(512, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``(N, num_classes)``.

        Parameters
        ----------
        inputs : Tensor
            ``(N, *shape)``.
        """
        hidden = max_pool2d(torch.relu(self.norm1(self.conv1(inputs))), 2)
        hidden = max_pool2d(torch.relu(self.norm2(self.conv2(hidden))), 2)
        logits: Tensor = self.head(torch.relu(self.hidden(hidden.flatten(1))))
        return logits


def _squeeze_excitation(channels: int) -> nn.Module:
    from torchvision.ops import SqueezeExcitation  # a second to import, for every message

    block: nn.Module = SqueezeExcitation(channels, max(8, channels // 8))
    return block


def resnet(shape: Shape, num_classes: int, norm: str = "batch") -> nn.Module:
    """Return torchvision's ResNet-18 (He et al. 2016); its head is ``fc``.

    Parameters
    ----------
    shape : tuple of int
        (channels, height, width) of one example.
    num_classes : int
        Number of outputs.
    norm : str, default "batch"
        ``"none"``, ``"batch"`` or ``"group"``, after each convolution.
    """
    from torchvision.models import resnet18  # likewise

    model: nn.Module = resnet18(
        num_classes=num_classes, norm_layer=lambda channels: normalization(norm, channels)
    )
    if shape[0] != 3:
        model.conv1 = nn.Conv2d(shape[0], 64, 7, stride=2, padding=3, bias=False)
    model.parts = {"head": ("fc",)}  # type: ignore[assignment]
    return model
