"""What a client does to measurements before its network gets them: imputation and calibration.

It is fitted to the client's training examples, so a model is of no use without it elsewhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """Imputation, regression calibration and a mask of what was missing, in this order.

    A missing value becomes ``fill`` first, and then one regression after another on the other
    features gives it a new value (chained equations, van Buuren & Groothuis-Oudshoorn 2011).
    Calibration (:func:`clients.data.data_quality.calibration`) replaces a row ``x`` by
    ``mean + matrix (x - mean)``.

    Attributes
    ----------
    fill : ndarray
        First value in place of a missing one, ``(d,)``; NaN where missing values stay missing.
    features : ndarray
        The feature that each of R regressions predicts, ``(R,)`` int64, in their order.
    coefficients, intercepts : ndarray
        ``(R, d)``, 0 for the predicted feature, and ``(R,)``.
    matrix, mean : ndarray
        Of the calibration, ``(d, d)`` and ``(d,)``; ``(0, 0)`` and ``(0,)`` for none.
    mask : ndarray
        ``(1,)`` bool: whether as many further inputs say what was missing.
    """

    fill: Floats
    features: NDArray[np.int64]
    coefficients: Floats
    intercepts: Floats
    matrix: Floats
    mean: Floats
    mask: NDArray[np.bool_]

    @classmethod
    def filling(cls, values: Floats, mask: bool = False) -> "Preprocessing":
        """Return one that puts values ``(d,)`` in the place of missing ones, and no more."""
        size = len(values)
        none = np.zeros(0, dtype=np.int64)
        empty = np.zeros(0)
        return cls(
            values, none, np.zeros((0, size)), empty, np.zeros((0, 0)), empty, np.array([mask])
        )

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "Preprocessing":
        """Return one from its :meth:`tensors`.

        Raises
        ------
        KeyError
            If one is missing.
        """
        return cls(**{item.name: tensors[item.name].numpy() for item in fields(cls)})

    def tensors(self) -> dict[str, Tensor]:
        """Return name -> tensor, as they are stored."""
        return {item.name: torch.from_numpy(getattr(self, item.name)) for item in fields(self)}

    @property
    def fills(self) -> bool:
        """Whether every missing value gets a value."""
        return bool(np.isfinite(self.fill).all())

    @property
    def masks(self) -> bool:
        """Whether as many further inputs say what was missing."""
        return bool(self.mask[0])

    def moved(self, centre: Floats) -> "Preprocessing":
        """Return the imputation of rows that ``centre`` ``(d,)`` was added to."""
        there = self.coefficients @ centre
        return replace(
            self,
            fill=self.fill + centre,
            intercepts=self.intercepts + centre[self.features] - there,
        )

    def calibrated(self, matrix: Floats, mean: Floats) -> "Preprocessing":
        """Return the same with a calibration after the imputation."""
        return replace(self, matrix=matrix, mean=mean)

    def __call__(self, rows: Floats) -> Floats:
        """Return what the network gets, ``(N, d)`` float64, or ``(N, 2 d)`` with a mask.

        Parameters
        ----------
        rows : ndarray
            Measurements ``(N, d)`` in the unit of the model, NaN where one is missing.
        """
        missing = np.isnan(rows)
        found: Floats = np.where(missing, self.fill, rows)
        for feature, slopes, start in zip(
            self.features, self.coefficients, self.intercepts, strict=True
        ):
            lost = missing[:, feature]
            found[lost, feature] = found[lost] @ slopes + start
        if len(self.mean):
            found = self.mean + (found - self.mean) @ self.matrix.T
        return np.concatenate([found, missing], axis=1) if self.masks else found
