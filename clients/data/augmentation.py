"""AUGMENTATIONS, the table of random changes of training pictures, and what applies them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from strategies.errors import ArgumentError

Make = Callable[[Any, tuple[int, int]], nn.Module]
"""(``torchvision.transforms.v2``, height and width) -> the transform of one picture."""

AUGMENTATIONS: Mapping[str, Make] = {
    "flip": lambda v2, _: v2.RandomHorizontalFlip(),
    "vertical-flip": lambda v2, _: v2.RandomVerticalFlip(),
    "crop": lambda v2, size: v2.RandomCrop(size, padding=max(1, min(size) // 8)),
    "rotation": lambda v2, _: v2.RandomRotation(15),
    "colour": lambda v2, _: v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),
    "erasing": lambda v2, _: v2.RandomErasing(),
}
"""Name -> transform; ``crop`` is of the same size, after a margin of an eighth. A new one is one
row."""


class Augmentation:
    """Changes every picture of a batch at random, by torch's global generator.

    Parameters
    ----------
    names : sequence of str
        Of :data:`AUGMENTATIONS`, in the order in which they are applied.
    shape : tuple of int
        Shape of a picture, ``(channels, height, width)``.

    Raises
    ------
    ArgumentError
        If a name is unknown, or an example is no picture.
    """

    def __init__(self, names: Sequence[str], shape: Sequence[int]) -> None:
        from torchvision.transforms import v2  # seconds to import, so only where needed

        if unknown := [name for name in names if name not in AUGMENTATIONS]:
            raise ArgumentError("augmentation", unknown, choices=AUGMENTATIONS)
        if len(shape) != 3:
            raise ArgumentError("shape", tuple(shape), "(channels, height, width) of a picture")
        size = (int(shape[1]), int(shape[2]))
        self.transforms = [AUGMENTATIONS[name](v2, size) for name in names]

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the changed pictures ``(N, C, H, W)``; each is drawn for itself."""
        return (
            torch.stack([self._changed(picture) for picture in inputs]) if len(inputs) else inputs
        )

    def _changed(self, picture: Tensor) -> Tensor:
        for transform in self.transforms:
            picture = transform(picture)
        return picture
