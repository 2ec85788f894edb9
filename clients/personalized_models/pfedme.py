"""pFedMe: local models around a minimizer of Moreau envelopes."""

import math
from dataclasses import replace
from typing import Any

from clients.local_training.local_step import Step
from clients.personalized_models.local_model import Values
from clients.personalized_models.mr_mtl import MRMTLClient
from clients.personalized_models.strength import check_overshoot

__all__ = ["PFedMeClient"]


class PFedMeClient(MRMTLClient):
    """pFedMe (Dinh et al. 2020, Algorithm 1): gradient steps on Moreau envelopes.

    On every minibatch: ``inner_steps`` steps on ``f_i(theta) + lambda/2 ||theta - w||^2``, then
    ``w <- w - eta lambda (w - theta)``: the envelope's gradient is ``lambda (w - theta)``. What is
    sent is ``w``; ``theta`` stays on the device, where the next round goes on from it.

    Parameters
    ----------
    args, kwargs
        As in :class:`MRMTLClient`.
    inner_steps : int, default 5
        K, steps on every minibatch.
    outer_learning_rate : float, default 0.01
        ``eta``.

    Raises
    ------
    ArgumentError
        If ``eta lambda`` is above 1. Then each outer step would carry ``w`` beyond ``theta``, and
        with 2 or more away from it for good.
    """

    takes_server_mu = False

    def __init__(
        self, *args: Any, inner_steps: int = 5, outer_learning_rate: float = 0.01, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.inner_steps = inner_steps
        self.outer_learning_rate = outer_learning_rate
        for strength in filter(math.isfinite, self.lambdas):
            check_overshoot(strength, 1.0 / outer_learning_rate, "1 / outer learning rate")

    def _train_own(
        self, server_round: int, strength: float, received: Values, last: Values
    ) -> tuple[float, Values]:
        if math.isinf(strength):
            return super()._train_own(server_round, strength, received, last)
        parameters = dict(self.model.named_parameters())
        term = self._proximal_term(received, strength)
        rate, taken = self.outer_learning_rate * strength, 0

        def after_step(step: Step) -> None:
            nonlocal taken
            taken += 1
            if taken % self.inner_steps == 0:
                for name, value in step.state.parameters.items():
                    term.anchor[name].lerp_(value, rate)

        loss = self.train_model(
            [term],
            schedule=tuple(replace(phase, repeats=self.inner_steps) for phase in self.schedule),
            after_step=after_step,
        )
        # Running statistics follow as the parameters do: those of theta stay on the device.
        share = 1.0 - (1.0 - rate) ** (taken // self.inner_steps)
        buffers = {
            name: received[name].lerp(value, share)
            for name, value in self._values().items()
            if name not in parameters and value.is_floating_point()
        }
        return loss, received | buffers | dict(term.anchor)
