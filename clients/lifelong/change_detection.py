"""Detection of task changes: Welch's t-test on the losses of a model."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import vmap

from clients.data.inputs import to_device
from clients.data.loaders import Loader, parted
from clients.local_training.training import device_of
from clients.task import Task

SIGNIFICANCE = 1e-3
"""Significance level: the rate of false alarms if losses are approximately normal."""

FEWEST = 4
"""Least number of examples on both sides; with fewer there is no test."""


@dataclass(frozen=True)
class LossStatistics:
    """Number, mean and unbiased variance of a model's losses on single examples."""

    count: int
    mean: float
    variance: float

    def tensor(self) -> Tensor:
        """Return count, mean and variance, ``(3,)`` float64."""
        return torch.tensor([self.count, self.mean, self.variance], dtype=torch.float64)

    @staticmethod
    def of(values: Tensor) -> "LossStatistics":
        """Restore the statistics from :meth:`tensor`."""
        count, mean, variance = values.tolist()
        return LossStatistics(int(count), mean, variance)


@torch.no_grad()
def loss_statistics(model: nn.Module, loader: Loader, task: Task) -> LossStatistics:
    """Return the statistics of a model's losses on single examples, in eval mode."""
    model.eval()
    device = device_of(model)
    single = vmap(lambda output, target: task.criterion(output[None], target[None]))
    batches = map(parted, loader)
    losses = [single(model(to_device(x, device)), y.to(device)) for x, y in batches]
    values = torch.cat(losses).double() if losses else torch.zeros(0, dtype=torch.float64)
    count = len(values)
    variance = float(values.var()) if count > 1 else 0.0
    return LossStatistics(count, float(values.mean()) if count else 0.0, variance)


def has_jumped(before: LossStatistics, now: LossStatistics) -> bool:
    """Return whether the mean loss has risen: Welch's one-sided t-test at :data:`SIGNIFICANCE`.

    ``t = (m1 - m0) / sqrt(s1^2/n1 + s0^2/n0)`` with Welch's degrees of freedom (Welch 1947,
    Biometrika 34). With fewer than :data:`FEWEST` examples on a side the result is False. If both
    variances are zero, any increase of the mean counts.
    """
    if min(before.count, now.count) < FEWEST:
        return False
    if before.variance == 0.0 == now.variance:
        return now.mean > before.mean
    from scipy.stats import ttest_ind_from_stats  # a second to import, so only where needed

    one, other = ((s.mean, s.variance**0.5, s.count) for s in (now, before))
    found = ttest_ind_from_stats(*one, *other, equal_var=False, alternative="greater")
    return bool(found.pvalue < SIGNIFICANCE)
