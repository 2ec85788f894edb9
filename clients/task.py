"""Tasks (classification, regression, link prediction): losses and scores of models."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

__all__ = ["Classification", "LinkPrediction", "Regression", "Task"]

Criterion = Callable[[Tensor, Tensor], Tensor]
"""(outputs, targets) -> mean loss over the examples, a scalar tensor."""


class Task(Protocol):
    """A loss, and scores computed from sums over batches.

    Attributes
    ----------
    criterion : Criterion
        Loss that training minimizes.
    score : str
        Name of the score by which models are compared.
    higher_is_better : bool
        Whether a higher score is better.
    """

    @property
    def criterion(self) -> Criterion: ...  # noqa: D102
    @property
    def score(self) -> str: ...  # noqa: D102
    @property
    def higher_is_better(self) -> bool: ...  # noqa: D102

    def outcomes(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return a discrete predictive distribution: targets and probabilities, both ``(K, N)``.

        The mean and variance over the K outcomes of an example are those of the predictive
        distribution whose negative log likelihood is the loss.
        """
        ...

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sums of a batch from which scores are computed, float64."""
        ...

    def total(self, parts: Sequence[Tensor]) -> Tensor:
        """Combine the :meth:`sums` of several batches, at least one."""
        ...

    def scores(self, sums: Tensor, count: int) -> dict[str, float]:
        """Return name -> score from the sums over ``count`` examples; NaN if undefined."""
        ...


class _Additive:
    """Sums that are vectors and add up."""

    def total(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the sum of the parts."""
        return torch.stack(tuple(parts)).sum(dim=0)


@dataclass(frozen=True)
class Classification(_Additive):
    """Classification: ``accuracy`` is the share of examples whose largest output is their class.

    With a loss of one's own and one output an example, ``(N,)`` or ``(N, 1)``, that output is the
    logit of class 1. (Cross-entropy takes one output for the only class there is.) Accuracy is
    NaN where it has no meaning: if an output is not finite (of a model that diverged),
    if an example has several targets, or if targets are not numbers of classes.
    """

    criterion: Criterion = cross_entropy
    higher_is_better: ClassVar[bool] = True

    @property
    def score(self) -> str:
        """Name of the score by which models are compared."""
        return "accuracy"

    def outcomes(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return all classes and their probabilities; outputs are logits."""
        if self._is_one_logit(outputs):
            outputs = outputs.reshape(-1, 1)
            outputs = torch.cat([torch.zeros_like(outputs), outputs], dim=1)
        count, classes = outputs.shape
        targets = torch.arange(classes, device=outputs.device)[:, None].expand(classes, count)
        return targets, outputs.softmax(dim=1).T

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the number of correct predictions, ``(1,)``; NaN where there is none."""
        count = len(outputs)
        one = self._is_one_logit(outputs)
        known = (outputs.ndim == 2 or one) and targets.numel() == count
        # of one output, as binary cross-entropy has them: 0.0 and 1.0
        known = known and (not targets.is_floating_point() or (one and _is_binary(targets)))
        if not known or not outputs.isfinite().all():
            return torch.full((1,), math.nan, dtype=torch.float64)
        found = (outputs.reshape(count) > 0).long() if one else outputs.argmax(dim=1)
        return (found == targets.reshape(count)).sum(dtype=torch.float64).reshape(1)

    def _is_one_logit(self, outputs: Tensor) -> bool:
        return outputs.numel() == len(outputs) and self.criterion is not cross_entropy

    def scores(self, sums: Tensor, count: int) -> dict[str, float]:
        """Return the accuracy."""
        return {"accuracy": float(sums[0]) / count if count else math.nan}


def _is_binary(targets: Tensor) -> bool:
    return bool(((targets == 0) | (targets == 1)).all())


@dataclass(frozen=True)
class _OfOneShape:
    """A loss of outputs that have the shape of the targets, where there is one for each."""

    criterion: Criterion

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss; several outputs a target, as of quantiles, are left as they are."""
        one = outputs.numel() == targets.numel()
        return self.criterion(outputs.reshape(targets.shape) if one else outputs, targets)


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean squared error of outputs and targets, both ``(N, 1)`` or ``(N,)``."""
    return mse_loss(outputs.reshape(len(targets)), targets.reshape(len(targets)))


@dataclass(frozen=True)
class Regression(_Additive):
    """Regression: ``rmse`` is the root mean squared error, ``r2`` the coefficient of determination.

    ``r2 = 1 - sum (y - f)^2 / sum (y - mean y)^2`` over the client's examples. It is undefined
    (NaN) if all their targets are equal.

    Attributes
    ----------
    criterion : Criterion, default squared_error
        Loss. It gets outputs ``(N, 1)`` in the shape of the targets ``(N,)``: PyTorch's own losses
        would otherwise compare every output with every target.
    unit : float, default 1.0
        Factor of ``rmse``. Models are trained on standardized targets; with their standard
        deviation as the unit, errors are reported in the unit of the original targets.
    """

    criterion: Criterion = squared_error
    unit: float = 1.0
    score: ClassVar[str] = "rmse"
    higher_is_better: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not isinstance(self.criterion, _OfOneShape):
            object.__setattr__(self, "criterion", _OfOneShape(self.criterion))

    def outcomes(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return two outcomes one standard deviation away: squared error implies variance 1/2."""
        centre = outputs.reshape(len(outputs))
        targets = torch.stack([centre - math.sqrt(0.5), centre + math.sqrt(0.5)])
        return targets, torch.full_like(targets, 0.5)

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sums of squared errors, targets and squared targets, ``(3,)``."""
        wanted = targets.double().reshape(len(targets))
        errors = outputs.reshape(len(targets)).double() - wanted
        return torch.stack([errors.square().sum(), wanted.sum(), wanted.square().sum()])

    def scores(self, sums: Tensor, count: int) -> dict[str, float]:
        """Return the root mean squared error and the coefficient of determination."""
        if not count:
            return {"rmse": math.nan, "r2": math.nan}
        squares, total, total_squares = map(float, sums)
        variation = total_squares - total**2 / count
        # Equal targets leave rounding errors, not variation.
        defined = variation > 1e-12 * max(total_squares, 1e-300)
        return {
            "rmse": self.unit * math.sqrt(squares / count),
            "r2": 1 - squares / variation if defined else math.nan,
        }


HITS = 10
"""A link counts as a hit if fewer than this many non-links are ranked above it."""


@dataclass(frozen=True)
class LinkPrediction:
    """Link prediction: which pairs of nodes are connected (target 1.0) and which are not (0.0).

    Outputs are logits ``(N,)``. ``auc`` is the area under the ROC curve, ``average-precision`` that
    under the precision-recall curve, and ``hits-at-10`` the share of links with fewer than 10
    non-links ranked above them (Hu et al. 2020, arXiv:2005.00687, section 4.2). All are NaN if
    there are no links or no non-links, or if an output is not finite. ``hits-at-10`` is also NaN
    with fewer than 10 non-links.
    """

    criterion: Criterion = binary_cross_entropy_with_logits
    score: ClassVar[str] = "auc"
    higher_is_better: ClassVar[bool] = True

    def outcomes(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the outcomes no link and link, with their probabilities."""
        targets = torch.stack([torch.zeros_like(outputs), torch.ones_like(outputs)])
        chance = outputs.sigmoid()
        return targets, torch.stack([1 - chance, chance])

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return all outputs and targets, ``(2, N)``, because scores depend on ranks."""
        return torch.stack([outputs.double(), targets.double()])

    def total(self, parts: Sequence[Tensor]) -> Tensor:
        """Concatenate the parts."""
        return torch.cat(tuple(parts), dim=1)

    def scores(self, sums: Tensor, count: int) -> dict[str, float]:
        """Return the area under the ROC curve, the average precision and the hits."""
        from sklearn.metrics import average_precision_score, roc_auc_score

        names = ("auc", "average-precision", f"hits-at-{HITS}")
        if not count or not 0 < (links := int(sums[1].sum())) < count:
            return dict.fromkeys(names, math.nan)
        if not torch.isfinite(sums[0]).all():  # of a model that diverged
            return dict.fromkeys(names, math.nan)
        outputs, targets = sums.numpy()
        wrong = sums[0][sums[1] == 0]
        hits = math.nan
        if len(wrong) >= HITS:
            bar = wrong.topk(HITS).values[-1]
            hits = int((sums[0][sums[1] == 1] > bar).sum()) / links
        found = (roc_auc_score(targets, outputs), average_precision_score(targets, outputs), hits)
        return dict(zip(names, map(float, found), strict=True))
