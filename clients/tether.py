"""What holds a model near another? A quadratic pull.

A tether is ``1/2 * sum_i c_i (theta_i - a_i)^2`` with a centre ``a`` and a strength ``c`` (one
number, or one per parameter). FedProx (Li et al. 2020, eq. 2) is a tether to the received model
with ``c = mu``; a penalty on adapters is one to zero.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from clients.scopes import Scope

Strength = float | Mapping[str, Tensor]

UNSTABLE = 2.0
"""Explicit gradient steps without momentum diverge from learning rate * strength = 2 on.

Momentum b would allow 2 (1 + b), at the price of long oscillations; 2 is the limit for all.
"""


@dataclass(frozen=True)
class Tether:
    """A quadratic pull of named parameters to a centre.

    Attributes
    ----------
    centre : name -> tensor of the parameter's shape; must not share memory with the parameters
    strength : one number >= 0 for all, or name -> tensor of the parameter's shape, entries >= 0

    Raises
    ------
    ValueError
        If a strength is negative or not finite, or lacks a name of the centre.
    """

    centre: Mapping[str, Tensor]
    strength: Strength

    def __post_init__(self) -> None:
        if isinstance(self.strength, Mapping):
            if missing := sorted(self.centre.keys() - self.strength.keys()):
                raise ValueError(f"the tether's strength lacks {missing}")
            for name, values in self.strength.items():
                if not bool(torch.isfinite(values).all()) or bool((values < 0).any()):
                    raise ValueError(f"the tether's strength of {name!r} must be >= 0 and finite")
        elif not (math.isfinite(self.strength) and self.strength >= 0):
            raise ValueError(f"a tether's strength must be >= 0 and finite, got {self.strength}")

    def _coefficient(self, name: str) -> float | Tensor:
        return self.strength[name] if isinstance(self.strength, Mapping) else self.strength

    def value(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return ``1/2 * sum c (theta - a)^2`` over the parameters it holds, a scalar tensor."""
        terms = [
            (self._coefficient(name) * (parameters[name] - anchor).square()).sum()
            for name, anchor in self.centre.items()
            if name in parameters
        ]
        return 0.5 * torch.stack(terms).sum() if terms else torch.zeros(())

    @torch.no_grad()
    def add_gradient(self, parameters: Mapping[str, Tensor]) -> None:
        """Add ``c (theta - a)`` to ``theta.grad`` of every parameter it holds.

        The closed form instead of autograd: the same numbers for a fraction of the time. A
        strength of exactly zero adds nothing, so that lambda = 0 is bitwise no tether at all.
        """
        if self.strength == 0.0:
            return
        for name, anchor in self.centre.items():
            parameter = parameters.get(name)
            if parameter is None or not parameter.requires_grad:
                continue
            pull = (parameter - anchor) * self._coefficient(name)
            parameter.grad = pull if parameter.grad is None else parameter.grad.add_(pull)

    def largest_strengths(self) -> dict[str, float]:
        """Return the largest strength within each parameter, which limits the step size."""
        if not isinstance(self.strength, Mapping):
            return dict.fromkeys(self.centre, self.strength)
        return {n: float(self.strength[n].max()) for n in self.centre if self.strength[n].numel()}


def check_stable(tethers: Sequence[Tether], learning_rate: float) -> None:
    """Refuse tethers that explicit gradient steps of this size cannot follow.

    On the pull alone a plain step multiplies the distance to the centre by
    ``1 - learning_rate * c``: it diverges from ``learning_rate * c = 2`` on. The strengths of
    several tethers on one parameter add up.

    Raises
    ------
    ValueError
        The message says the largest strength that this learning rate allows.
    """
    totals: dict[str, float] = {}
    for tether in tethers:
        for name, strength in tether.largest_strengths().items():
            totals[name] = totals.get(name, 0.0) + strength
    name = max(totals, key=lambda n: totals[n], default="")
    if name and learning_rate * totals[name] >= UNSTABLE:
        raise ValueError(
            f"tethers of strength {totals[name]:g} on {name!r} diverge at learning rate "
            f"{learning_rate:g}; the strength must be below {UNSTABLE / learning_rate:g}, or the "
            f"learning rate below {UNSTABLE / totals[name]:g}"
        )


@dataclass(frozen=True)
class Pull:
    """A rule that makes a tether at the start of every round.

    Attributes
    ----------
    scope : which parameters are held
    centre : ``"received"`` (their values when the round's training starts: for shared ones what
        the server sent) or ``"zero"``
    strength : one number >= 0
    """

    scope: Scope
    centre: Literal["received", "zero"]
    strength: float

    def tether(
        self, parameters: Mapping[str, Tensor], scopes: Mapping[str, Scope]
    ) -> Tether | None:
        """Return this round's tether; None where it would pull nothing."""
        if self.strength == 0.0:
            return None
        make = torch.zeros_like if self.centre == "zero" else torch.clone
        centre = {
            name: make(parameter.detach())
            for name, parameter in parameters.items()
            if scopes[name] is self.scope
        }
        return Tether(centre, self.strength) if centre else None
