"""What clients predict: classes, numbers or links. Decides the loss and how good a model is."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

Criterion = Callable[[Tensor, Tensor], Tensor]
"""(outputs, targets) -> mean loss over the examples, a scalar tensor."""


class Task(Protocol):
    """A loss, and scores that are computed from sums over batches.

    Attributes
    ----------
    criterion : the loss that training minimizes
    score : name of the score that models are compared by
    higher_is_better : whether more of it is better
    """

    @property
    def criterion(self) -> Criterion: ...  # noqa: D102
    @property
    def score(self) -> str: ...  # noqa: D102
    @property
    def higher_is_better(self) -> bool: ...  # noqa: D102

    def outcomes(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the model holds possible: targets ``(K, N)``, probabilities ``(K, N)``.

        Mean and variance over the K outcomes of an example are those of the model's predictive
        distribution, of which the loss is the negative logarithm.
        """
        ...

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return what a batch adds to the scores, float64."""
        ...

    def total(self, parts: Sequence[Tensor]) -> Tensor:
        """Return what the :meth:`sums` of several batches, at least one, come to together."""
        ...

    def scores(self, sums: Tensor, count: int) -> dict[str, float]:
        """Return name -> score from the sums over ``count`` examples; NaN where undefined."""
        ...


class _Additive:
    """Sums that are vectors, which are added."""

    def total(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the sum of the parts."""
        return torch.stack(tuple(parts)).sum(dim=0)


@dataclass(frozen=True)
class Classification(_Additive):
    """Classes: ``accuracy`` is the share of examples whose largest output is their class.

    Accuracy is NaN unless outputs are ``(N, classes)`` and targets whole numbers.
    """

    criterion: Criterion = cross_entropy
    score: ClassVar[str] = "accuracy"
    higher_is_better: ClassVar[bool] = True

    def outcomes(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return every class with its probability; outputs are logits ``(N, classes)``."""
        count, classes = outputs.shape
        targets = torch.arange(classes, device=outputs.device)[:, None].expand(classes, count)
        return targets, outputs.softmax(dim=1).T

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the number of right answers."""
        if outputs.ndim != 2 or targets.is_floating_point():
            return torch.full((1,), math.nan, dtype=torch.float64)
        return (outputs.argmax(dim=1) == targets).sum(dtype=torch.float64).reshape(1)

    def scores(self, sums: Tensor, count: int) -> dict[str, float]:
        """Return the accuracy."""
        return {"accuracy": float(sums[0]) / count if count else math.nan}


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean squared error of outputs and targets, each ``(N, 1)`` or ``(N,)``."""
    return mse_loss(outputs.reshape(len(targets)), targets.reshape(len(targets)))


@dataclass(frozen=True)
class Regression(_Additive):
    """Numbers: ``rmse`` is the root mean squared error, ``r2`` the coefficient of determination.

    ``r2 = 1 - sum (y - f)^2 / sum (y - mean y)^2`` over the client's own examples, undefined (NaN)
    where their targets are all equal.

    Attributes
    ----------
    criterion : Criterion, default squared_error
        The loss.
    unit : float, default 1.0
        What one unit of a target is worth; ``rmse`` is multiplied by it (targets that were divided
        by their deviation are trained on, errors are told in the user's own unit).
    """

    criterion: Criterion = squared_error
    unit: float = 1.0
    score: ClassVar[str] = "rmse"
    higher_is_better: ClassVar[bool] = False

    def outcomes(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return two numbers a deviation away: the squared error is that of variance 1/2."""
        centre = outputs.reshape(len(outputs))
        targets = torch.stack([centre - math.sqrt(0.5), centre + math.sqrt(0.5)])
        return targets, torch.full_like(targets, 0.5)

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sums of squared errors, targets and squared targets."""
        wanted = targets.double().reshape(len(targets))
        errors = outputs.reshape(len(targets)).double() - wanted
        return torch.stack([errors.square().sum(), wanted.sum(), wanted.square().sum()])

    def scores(self, sums: Tensor, count: int) -> dict[str, float]:
        """Return the root mean squared error and the coefficient of determination."""
        if not count:
            return {"rmse": math.nan, "r2": math.nan}
        squares, total, total_squares = map(float, sums)
        variation = total_squares - total**2 / count
        # Equal targets leave rounding noise, not variation.
        defined = variation > 1e-12 * max(total_squares, 1e-300)
        return {
            "rmse": self.unit * math.sqrt(squares / count),
            "r2": 1 - squares / variation if defined else math.nan,
        }


HITS = 10
"""With so many wrong links ranked above a right one it is no hit any more."""


@dataclass(frozen=True)
class LinkPrediction:
    """Links: which pairs of nodes are connected (target 1.0) and which are not (0.0).

    Outputs are logits ``(N,)``. ``auc`` is the area under the receiver operating characteristic,
    ``average-precision`` that under the curve of precision and recall, and ``hits-at-10`` the share
    of links that are ranked above all but fewer than 10 of the pairs that are none (Hu et al. 2020,
    arXiv:2005.00687, section 4.2). All are NaN where there are no links, or nothing else, or an
    output is not finite; the last one also with fewer than 10 pairs that are none.
    """

    criterion: Criterion = binary_cross_entropy_with_logits
    score: ClassVar[str] = "auc"
    higher_is_better: ClassVar[bool] = True

    def outcomes(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return no link and a link, each with its probability."""
        targets = torch.stack([torch.zeros_like(outputs), torch.ones_like(outputs)])
        chance = outputs.sigmoid()
        return targets, torch.stack([1 - chance, chance])

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return what ranks need: all outputs and targets, ``(2, N)``."""
        return torch.stack([outputs.double(), targets.double()])

    def total(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the parts side by side."""
        return torch.cat(tuple(parts), dim=1)

    def scores(self, sums: Tensor, count: int) -> dict[str, float]:
        """Return area under the curve, average precision and hits."""
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
