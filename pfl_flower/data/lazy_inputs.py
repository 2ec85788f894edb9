"""LazyInputs: inputs of examples that a torch ``Dataset`` reads when a batch needs them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from clients.data.dataset_loader import Collate
from clients.data.loaders import parted
from pfl_flower.data.errors import SchemaError
from pfl_flower.data.schema import DataSchema


@dataclass(frozen=True, eq=False)
class LazyInputs:
    """Inputs of some examples of a map-style data set, as rows that can be selected.

    Attributes
    ----------
    dataset : Dataset
        An example is ``(input, target)``.
    places : ndarray
        ``(N,)`` indices of the examples.
    shape_of_one : tuple of int
        Shape of one input.
    dtype : numpy.dtype
        Type of its numbers: uint8 of pixels, else float32 or int64.
    pixels : str, default ""
        See :func:`pfl_flower.data.pixels.pixels_of`.
    collate : callable, optional
        Puts a batch together; see :func:`clients.dataset_loader`.
    integers : bool, default False
        Whether the network gets int64; float32 otherwise.
    """

    dataset: Any
    places: NDArray[np.int64]
    shape_of_one: tuple[int, ...]
    dtype: np.dtype[Any]
    pixels: str = ""
    collate: Collate | None = None
    integers: bool = False

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, rows: Any) -> "LazyInputs":
        """Return some of the examples, by their rows."""
        return replace(self, places=self.places[rows])

    @property
    def shape(self) -> tuple[int, ...]:
        """``(N, ...)``, as an array has it."""
        return (len(self.places), *self.shape_of_one)

    @property
    def ndim(self) -> int:
        """Number of axes, that of the examples included."""
        return 1 + len(self.shape_of_one)

    def fitted(self, schema: DataSchema) -> "LazyInputs":
        """Return inputs as the network gets them, by the data schema.

        Raises
        ------
        SchemaError
            If they are floats, and those of the federation are integers.
        """
        if schema.integers and self.dtype.kind not in "iu":
            raise SchemaError(
                f"inputs are {self.dtype}; those of the federation are integers",
                key="integers",
                value=str(self.dtype),
            )
        return replace(self, integers=schema.integers)

    def dataset_with(self, targets: Tensor) -> "NumberedExamples":
        """Return the data set of these inputs and the targets that a network learns, ``(N,)``."""
        return NumberedExamples(self, targets)


class NumberedExamples(Dataset[tuple[Any, Tensor]]):
    """Examples of a data set with targets as a network learns them: classes by their numbers.

    Parameters
    ----------
    inputs : LazyInputs
        The inputs.
    targets : Tensor
        ``(N,)``.
    """

    def __init__(self, inputs: LazyInputs, targets: Tensor) -> None:
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, place: int) -> tuple[Any, Tensor]:
        """Return an input as the data set has it, and its target."""
        inputs, _ = self.inputs.dataset[int(self.inputs.places[place])]
        return inputs, self.targets[place]

    def collate(self, rows: list[Any]) -> Sequence[Any]:
        """Return a batch: float32 inputs, pixels (uint8 of pictures) in 0 to 1; or int64."""
        inputs, targets = parted((self.inputs.collate or default_collate)(rows))
        if isinstance(inputs, Tensor):
            inputs = self._numbers(inputs)
        return inputs, targets

    def _numbers(self, inputs: Tensor) -> Tensor:
        if self.inputs.integers:
            return inputs.long()
        if inputs.dtype == torch.uint8 and inputs.ndim > 2:
            return inputs.float() / 255.0
        return inputs.float()
