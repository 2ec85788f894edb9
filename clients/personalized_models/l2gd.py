"""L2GD: local models around their mean, by the toss of a coin."""

import math
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from clients.frozen import trained_parameters
from clients.local_training.training import joint
from clients.personalized_models.local_model import Values
from clients.personalized_models.mr_mtl import MRMTLClient
from clients.personalized_models.strength import check_overshoot
from strategies.errors import ArgumentError
from strategies.randomness import generator

__all__ = ["L2GDClient"]

MOST_AVERAGING = 0.999
"""The largest probability of averaging that :func:`fitting_probability` returns."""


class L2GDClient(MRMTLClient):
    """L2GD (Hanzely & Richtarik 2020, Algorithm 1): a coin decides between a step and the mean.

    With probability ``1 - p`` a step of SGD on ``f_i``; with ``p`` a step towards the mean of all
    models, ``theta <- theta - c (theta - mean)``. The mean only has to be communicated when steps
    have been taken since, so a round is a run of averaging steps and a run of local ones, with
    coins that all clients share. The expected movement vanishes where the gradient of
    ``f_i + lambda/2 ||theta_i - mean||^2`` does, which takes
    ``c = eta lambda (1 - p) / p`` at learning rate ``eta``. Local steps are plain SGD, without the
    momentum that would upset that balance; the mean should weight clients alike.

    Parameters
    ----------
    args, kwargs
        As in :class:`MRMTLClient`; of ``schedule`` nothing is used, since the coins decide the
        number of steps.
    averaging_probability : float, optional
        ``p`` in (0, 1); ``1 / p`` is the expected number of local steps a round. None:
        :func:`fitting_probability`, with which hardly any strength is too large.

    Raises
    ------
    ArgumentError
        If ``c`` is above 1, so that averaging would overshoot the mean.
    """

    takes_server_mu = False

    def __init__(
        self, *args: Any, averaging_probability: float | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        if self.optimization.optimizer != "sgd":
            wanted = "'sgd', with whose plain steps L2GD balances its averaging"
            raise ArgumentError("optimizer", self.optimization.optimizer, wanted)
        self.optimization = replace(self.optimization, momentum=0.0)
        rate, finite = self.optimization.learning_rate, [*filter(math.isfinite, self.lambdas)]
        if averaging_probability is None:
            averaging_probability = fitting_probability(rate, max(finite, default=0.0))
        self.averaging_probability = averaging_probability
        for strength in finite:
            largest = largest_l2gd_strength(rate, averaging_probability)
            check_overshoot(strength, largest, "p / ((1 - p) learning rate)")

    def _train_own(
        self, server_round: int, strength: float, received: Values, last: Values
    ) -> tuple[float, Values]:
        p = self.averaging_probability
        averaging, steps = coin_runs(self.seed, server_round, p)
        if math.isfinite(strength):
            share = strength / largest_l2gd_strength(self.optimization.learning_rate, p)
            for name, parameter in trained_parameters(self.model).items():
                approach(parameter, received[name], share, averaging)
        loss = self.train_model([], schedule=joint(0, steps))
        return loss, self._contribution(received, last)


def largest_l2gd_strength(learning_rate: float, averaging_probability: float) -> float:
    """Return the ``lambda`` at which an averaging step of L2GD ends at the mean."""
    if not 0 < averaging_probability < 1:
        raise ArgumentError("averaging_probability", averaging_probability, "in (0, 1)")
    return averaging_probability / ((1 - averaging_probability) * learning_rate)


def fitting_probability(learning_rate: float, strength: float) -> float:
    """Return 0.1, or more where an averaging step would overshoot: then that which just ends there.

    At most :data:`MOST_AVERAGING`, with which the largest strengths overshoot after all.

    ``c = eta lambda (1 - p) / p`` is 1 at ``p = eta lambda / (1 + eta lambda)``.
    """
    # a hair more, so that rounding does not make it overshoot; and never always averaging
    fitting = learning_rate * strength / (1 + learning_rate * strength) + 1e-9
    return min(max(0.1, fitting), MOST_AVERAGING)


def coin_runs(seed: int, server_round: int, averaging_probability: float) -> tuple[int, int]:
    """Return the lengths of a round's runs of averaging and of local steps, both at least 1."""
    draw = generator(seed, "l2gd", server_round)
    averaging = int(draw.geometric(1 - averaging_probability))
    return averaging, int(draw.geometric(averaging_probability))


def approach(parameter: nn.Parameter, mean: Tensor, share: float, times: int) -> None:
    """Take ``times`` steps to the mean, each over ``share`` of the way that is left, in place."""
    parameter.detach().lerp_(mean, 1.0 - (1.0 - share) ** times)
