"""APFL: a personal mixture of a local model and the shared one."""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from clients.base_client import Scalars
from clients.data.inputs import Inputs, clone
from clients.entries import entries_of, functional, put_entries
from clients.evaluation import Evaluation
from clients.frozen import copy_beside, trained_parameters
from clients.local_training.local_step import Step
from clients.local_training.normalization_buffers import settle_spectral_norm
from clients.local_training.proximal import ProximalTerm
from clients.local_training.training import EVERYTHING
from clients.method_hooks import LocalRound
from clients.personalized_models.local_model import LocalModelClient, Values
from clients.scopes import Scope, names_of
from clients.state.personal_state import Snapshot
from strategies.arrays import Spec
from strategies.errors import ArgumentError

__all__ = ["APFLClient"]

START = 0.5
"""Of a mixing weight that adapts."""


class Mixture(nn.Module):
    """Two models of one architecture, and the mixture of their parameters.

    Parameters
    ----------
    shared, own : Module
        ``w`` and ``v``.
    alpha : Tensor
        0-dimensional tensor, weight of ``v``.
    """

    def __init__(self, shared: nn.Module, own: nn.Module, alpha: Tensor) -> None:
        super().__init__()
        self.shared = shared
        self.own = own
        self.alpha = nn.Parameter(alpha)
        self.mixed = tuple(trained_parameters(own))

    def forward(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Return the outputs of ``w`` and of ``alpha v + (1 - alpha) w``.

        No gradient of the second reaches ``w``, which is trained for itself.
        """
        shared, own = dict(self.shared.named_parameters()), dict(self.own.named_parameters())
        mixed = {name: shared[name].detach().lerp(own[name], self.alpha) for name in self.mixed}
        again = clone(inputs)  # a network may write in its inputs
        return self.shared(inputs), functional(self.own, mixed, (again,))


def mix(own: Values, shared: Values, alpha: float, parameters: Collection[str]) -> Values:
    """Return ``alpha own + (1 - alpha) shared`` of the named parameters.

    Buffers are ``own``'s: the running statistics of batch norm were taken of the mixture. At 0,
    where the mixture is the shared model, everything is ``shared``'s.
    """
    if alpha == 0.0:
        return shared
    return {
        name: shared[name].lerp(value, alpha) if name in parameters else value
        for name, value in own.items()
    }


class APFLClient(LocalModelClient):
    """APFL (Deng et al. 2020, Algorithm 1): predict with ``alpha v + (1 - alpha) w``.

    On every minibatch, with ``u`` the mixture: ``w <- w - eta grad f(w)`` as in FedAvg,
    ``v <- v - eta alpha grad f(u)``, and, if it adapts,
    ``alpha <- alpha - eta <v - w, grad f(u)>``, clipped to [0, 1]. ``w`` is sent; ``v`` and
    ``alpha`` stay on the device. ``alpha = 1`` is training alone, ``alpha = 0`` FedAvg.

    Parameters
    ----------
    args, kwargs
        As in :class:`PersonalClient`.
    mixing : float, optional
        ``alpha``, weight of the local model, in [0, 1]; None: it adapts, from 0.5 on. A gradient
        clip bounds the gradients of both models together.

    Raises
    ------
    ArgumentError
        If ``mixing`` is out of range.
    """

    def __init__(self, *args: Any, mixing: float | None = None, **kwargs: Any) -> None:
        if mixing is not None and not 0 <= mixing <= 1:
            raise ArgumentError("mixing", mixing, "in [0, 1]")
        self.mixing = mixing
        super().__init__(*args, **kwargs)

    def train_locally(self, current: LocalRound) -> tuple[float, Values]:
        """Train, and say what is kept; as :meth:`PersonalClient.train_locally`."""
        received = self._values()
        alpha = torch.tensor(self._alpha(current.before))
        own = copy_beside(self.model, names_of(self.scopes, Scope.FROZEN))
        put_entries(own, self._own("own", current.before, received))
        model = Mixture(self.model, own, alpha)
        model.alpha.requires_grad_(self.mixing is None)
        rate = self.optimization.learning_rate

        def criterion(outputs: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
            return self.task.criterion(outputs[0], targets) + self.task.criterion(
                outputs[1], targets
            )

        def after_step(step: Step) -> None:
            if self.mixing is None:
                moved = step.state.parameters["alpha"] - rate * step.gradients["alpha"]
                step.state.parameters["alpha"] = moved.clamp_(0.0, 1.0)

        with self.random(current.number, "train"):
            loss = self.train_model(
                [
                    ProximalTerm({f"shared.{n}": a for n, a in t.anchor.items()}, t.strength)
                    for t in self.proximal_terms()
                ],
                model=model,
                scopes={"alpha": Scope.SHARED}
                | {f"{side}.{n}": s for side in ("shared", "own") for n, s in self.scopes.items()},
                by_hand=("alpha",),
                criterion=criterion,
                after_step=after_step,
            )
        entries = entries_of(own)
        kept = {f"own/{n}": entries[n].detach().cpu().clone() for n in self.moving_names}
        return loss / 2, kept | {"mixing/alpha": model.alpha.detach().cpu()}

    def personalize(self, current: LocalRound) -> tuple[Scalars, Evaluation | None]:
        """Put the client's local model together; as :meth:`PersonalClient.personalize`."""
        received, alpha = self._values(), self._alpha(current.before)
        own = self._own("own", current.before, received)
        self._put(mix(own, received, alpha, trained_parameters(self.model)))
        settle_spectral_norm(self.model)
        return {}, None  # alpha is personal: it is not reported

    def adaptation(self) -> tuple[frozenset[Scope], list[ProximalTerm]]:
        """Let an unseen client train the mixture, unless the weight is 0."""
        return frozenset() if self.mixing == 0.0 else EVERYTHING, []

    def _alpha(self, before: Snapshot | None) -> float:
        if self.mixing is not None:
            return self.mixing
        return float(before.arrays["mixing/alpha"]) if before else START

    def kept_spec(self) -> Spec:
        """Return names, shapes and dtypes of what is kept."""
        return super().kept_spec() | {"mixing/alpha": ((), "float32")}
