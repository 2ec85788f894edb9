"""Diagonal Gaussians over parameters, as priors and posteriors, and what they predict."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from clients.proximal import ProximalTerm
from clients.task import Classification, Task

Values = dict[str, Tensor]
"""Parameter name -> tensor of its shape."""


@dataclass(frozen=True)
class Gaussian:
    """``N(mean, diag(variance))`` over named parameters.

    Attributes
    ----------
    mean, variance : mapping of str to Tensor
        Name -> tensor of the parameter's shape; variances >= 0.
    """

    mean: Mapping[str, Tensor]
    variance: Mapping[str, Tensor]

    def proximal_term(self, num_examples: int) -> ProximalTerm:
        """Return the pull that it is, as a prior, beside the mean loss of ``n`` examples.

        The negative log posterior is ``n f(theta) + sum_j (theta_j - mu_j)^2 / (2 v_j)`` with the
        mean loss ``f``; divided by ``n`` that is a strength of ``1 / (n v_j)``.
        """
        strength = {name: (num_examples * v).reciprocal() for name, v in self.variance.items()}
        return ProximalTerm(self.mean, strength)

    def posterior_variance(self, precision: Mapping[str, Tensor]) -> Values:
        """Return ``1 / (1 / v_j + h_j)`` (Laplace's approximation), with this as the prior.

        Parameters
        ----------
        precision : mapping of str to Tensor
            Name -> ``h >= 0``, what the data say: examples times their Fisher information.
        """
        return {n: (v.reciprocal() + precision[n]).reciprocal() for n, v in self.variance.items()}

    def shrinkage(self, precision: Mapping[str, Tensor]) -> float:
        """Return the mean over all parameters of posterior over prior variance, in [0, 1].

        1: the data say nothing, 0: they say everything. Parameters as in
        :meth:`posterior_variance`.
        """
        shares = [(1 + v * precision[n]).reciprocal().sum() for n, v in self.variance.items()]
        count = sum(v.numel() for v in self.variance.values())
        return float(torch.stack(shares).sum()) / count if count else math.nan

    def distance(self, values: Mapping[str, Tensor]) -> float:
        """Return the Euclidean distance of values from the mean."""
        squares = [(values[n] - mean).square().sum() for n, mean in self.mean.items()]
        return float(torch.stack(squares).sum().sqrt())

    def draw(self) -> Values:
        """Return one draw, from torch's global generator of the CPU whatever the device."""
        return {
            name: mean + self.variance[name].sqrt() * torch.randn(mean.shape).to(mean)
            for name, mean in self.mean.items()
        }


def mixture(outputs: Tensor) -> Tensor:
    """Return the log of the mean probability of each class.

    Its cross entropy is the negative log likelihood of the mixture.

    Parameters
    ----------
    outputs : Tensor
        Logits ``(draws, N, classes)``.
    """
    return outputs.log_softmax(dim=2).logsumexp(dim=0) - math.log(len(outputs))


def mean_output(outputs: Tensor) -> Tensor:
    """Return the mean over draws of outputs ``(draws, N, ...)``."""
    return outputs.mean(dim=0)


def averaging(task: Task) -> Callable[[Tensor], Tensor]:
    """Return what is averaged over draws ``(draws, N, ...)``: probabilities, or outputs."""
    return mixture if isinstance(task, Classification) else mean_output


class PosteriorAverage(nn.Module):
    """Predict by the average over several values of a model's parameters.

    Parameters
    ----------
    model : nn.Module
        Its other parameters are taken as they stand.
    draws : sequence of Values
        Values of some of its parameters, at least one.
    task : Task
        Decides what is averaged: probabilities of classes, or outputs.
    """

    def __init__(self, model: nn.Module, draws: Sequence[Values], task: Task) -> None:
        super().__init__()
        self.model = model
        self.draws = draws
        self.average = averaging(task)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return averaged outputs, as one model would: logits ``(N, classes)``, or numbers."""
        outputs = [functional_call(self.model, values, (inputs,)) for values in self.draws]
        return self.average(torch.stack(outputs))
