"""Diagonal Gaussian priors and posteriors over parameters, and their predictive averages."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clients.data.inputs import Inputs, clone
from clients.entries import functional
from clients.local_training.proximal import ProximalTerm
from clients.task import Classification, Task

Values = dict[str, Tensor]
"""Parameter name -> tensor of its shape."""


@dataclass(frozen=True)
class Gaussian:
    """``N(mean, diag(variance))`` over named parameters.

    Attributes
    ----------
    mean, variance : mapping of str to Tensor
        Name -> tensor of the parameter's shape. Variances are >= 0.
    """

    mean: Mapping[str, Tensor]
    variance: Mapping[str, Tensor]

    def proximal_term(self, num_examples: int) -> ProximalTerm:
        """Return this prior as a proximal term of the mean loss over ``n`` examples.

        The negative log posterior is ``n f(theta) + sum_j (theta_j - mu_j)^2 / (2 v_j)`` with the
        mean loss ``f``. Divided by ``n``, the second part has the strength ``1 / (n v_j)``.
        """
        strength = {name: (num_examples * v).reciprocal() for name, v in self.variance.items()}
        return ProximalTerm(self.mean, strength)

    def posterior_variance(self, precision: Mapping[str, Tensor]) -> Values:
        """Return the variances of Laplace's approximation with this prior, ``1 / (1 / v_j + h_j)``.

        Parameters
        ----------
        precision : mapping of str to Tensor
            Name -> ``h >= 0``: number of examples times Fisher information.
        """
        return {n: (v.reciprocal() + precision[n]).reciprocal() for n, v in self.variance.items()}

    def shrinkage(self, precision: Mapping[str, Tensor]) -> float:
        """Return the mean over all parameters of posterior over prior variance, in [0, 1].

        1 means that the data have no information, 0 that they determine the parameters. For the
        argument see :meth:`posterior_variance`.
        """
        shares = [(1 + v * precision[n]).reciprocal().sum() for n, v in self.variance.items()]
        count = sum(v.numel() for v in self.variance.values())
        return float(torch.stack(shares).sum()) / count if count else math.nan

    def distance(self, values: Mapping[str, Tensor]) -> float:
        """Return the Euclidean distance of parameter values from the mean."""
        squares = [(values[n] - mean).square().sum() for n, mean in self.mean.items()]
        return float(torch.stack(squares).sum().sqrt())

    def draw(self) -> Values:
        """Return one draw, from torch's global CPU generator on every device."""
        return {
            name: mean + self.variance[name].sqrt() * torch.randn(mean.shape).to(mean)
            for name, mean in self.mean.items()
        }


def mixture(outputs: Tensor) -> Tensor:
    """Return the log of the mean probability of each class, ``(N, classes)``.

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
    """Return the average over draws that suits a task: of probabilities, or of outputs."""
    return mixture if isinstance(task, Classification) else mean_output


def unstacked(draws: Mapping[str, Tensor]) -> list[Values]:
    """Return single draws of parameters from all of them, name -> ``(S, ...)``."""
    count = min(map(len, draws.values()), default=0)
    return [{name: values[place] for name, values in draws.items()} for place in range(count)]


class PosteriorAverage(nn.Module):
    """Bayesian model average: the average prediction over draws of a model's parameters.

    Parameters
    ----------
    model : nn.Module
        The model. Parameters that are not drawn keep their values.
    draws : sequence of Values
        Draws of some of its parameters, at least one.
    task : Task
        Determines the average: of probabilities of classes, or of outputs.
    """

    def __init__(self, model: nn.Module, draws: Sequence[Values], task: Task) -> None:
        super().__init__()
        self.model = model
        self.draws = draws
        self.average = averaging(task)

    def forward(self, inputs: Inputs) -> Tensor:
        """Return averaged outputs in the form of one model's: log probabilities or numbers."""
        # A network may write in its inputs, so each draw has its own.
        outputs = [functional(self.model, dict(values), (clone(inputs),)) for values in self.draws]
        return self.average(torch.stack(outputs))
