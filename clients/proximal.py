"""Proximal terms (quadratic penalties towards an anchor) and their implicit steps.

A proximal term is ``1/2 * sum_i c_i (theta_i - a_i)^2`` with an anchor ``a`` and a strength ``c``
(one number, or one per parameter). FedProx (Li et al. 2020, eq. 2) has a term towards the received
model with ``c = mu``. Ditto's personal models (Li et al. 2021, eq. 1) have one towards the shared
model with ``c = lambda``. Elastic weight consolidation (Kirkpatrick et al. 2017, eq. 3) has one
towards the old model with ``c = lambda * Fisher``. A penalty on adapters is one towards zero.

:class:`ProximalStep` takes an implicit step: the proximal step of the term after the optimizer's
step for the data loss. An explicit gradient step diverges if learning rate times strength reaches
2. The implicit step is stable for every strength, and ends exactly at the anchor for an infinite
one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from clients.scopes import Scope
from strategies.errors import ArgumentError

Strength = float | Mapping[str, Tensor]


@dataclass(frozen=True)
class ProximalTerm:
    """A quadratic penalty on the distance of named parameters from an anchor.

    Attributes
    ----------
    anchor : mapping of str to Tensor
        Name -> tensor of the parameter's shape. It must not share memory with the parameters.
    strength : Strength
        One number >= 0 for all parameters, or name -> tensor of the parameter's shape, with
        entries >= 0. An infinite strength fixes the parameter at the anchor.

    Raises
    ------
    ArgumentError
        If a strength is negative or NaN, or lacks a name of the anchor.
    """

    anchor: Mapping[str, Tensor]
    strength: Strength

    def __post_init__(self) -> None:
        if isinstance(self.strength, Mapping):
            if missing := sorted(self.anchor.keys() - self.strength.keys()):
                names = sorted(self.strength)
                raise ArgumentError("strength", names, f"given for {missing}, too")
            for name, values in self.strength.items():
                if not bool((values >= 0).all()):
                    raise ArgumentError(f"strength[{name!r}]", values.min().item(), "at least 0")
        elif not self.strength >= 0:
            raise ArgumentError("strength", self.strength, "at least 0")

    def of(self, name: str) -> float | Tensor:
        """Return the strength of a parameter: a number, or a tensor of the parameter's shape."""
        return self.strength[name] if isinstance(self.strength, Mapping) else self.strength

    def value(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return ``1/2 * sum c (theta - a)^2`` over the anchored parameters, a scalar tensor.

        The strengths must be finite.
        """
        terms = [
            (self.of(name) * (parameters[name] - anchor).square()).sum()
            for name, anchor in self.anchor.items()
            if name in parameters
        ]
        return 0.5 * torch.stack(terms).sum() if terms else torch.zeros(())


class ProximalStep:
    """Implicit steps of all proximal terms of a training run.

    After a step of SGD without momentum from ``theta`` to ``theta'``, the step

        ``theta'' = (theta' + eta c a) / (1 + eta c)``

    solves ``min 1/2 c ||x - a||^2 + 1/(2 eta) ||x - theta'||^2``: together they are one
    forward-backward step (Parikh & Boyd 2014, section 4.2) of the data loss plus the proximal term,
    with its minimizer as the fixed point. With momentum, the gradient of the term belongs in the
    buffer as well: solving ``m' = b m + g + c (theta'' - a)``, ``theta'' = theta - eta m'`` for
    ``theta''`` gives the same position, and the buffer takes ``(theta' - theta'') / eta``. (Without
    that, momentum would amplify only the data's gradient, and the fixed point would change.) Adam
    measures distances in ``D``, the root of its second moments: ``eta / D`` replaces ``eta``, which
    preserves the fixed point.

    Parameters
    ----------
    proximal_terms : sequence of ProximalTerm
        Several terms on one parameter add up: the strengths are summed, and the anchor is the
        mean of the anchors weighted by the strengths. Infinite strengths override finite ones.
    parameters : mapping of str to nn.Parameter
        Name -> trained parameter. If exactly one term has a parameter, its anchor is used without
        a copy, so later changes of that tensor during training count (pFedMe).
    """

    def __init__(
        self, proximal_terms: Sequence[ProximalTerm], parameters: Mapping[str, nn.Parameter]
    ) -> None:
        self._held: list[tuple[nn.Parameter, Tensor, float | Tensor]] = []
        for name, parameter in parameters.items():
            found = [(t.of(name), t.anchor[name]) for t in proximal_terms if name in t.anchor]
            found = [pair for pair in found if isinstance(pair[0], Tensor) or pair[0] > 0.0]
            if found:  # a strength of exactly zero is bitwise the same as no term
                strength, anchor = found[0] if len(found) == 1 else combine(found)
                self._held.append((parameter, anchor, strength))

    @torch.no_grad()
    def apply(self, optimizer: torch.optim.Optimizer) -> None:
        """Take the implicit step; to be called after ``optimizer.step()``.

        Parameters
        ----------
        optimizer : torch.optim.Optimizer
            ``SGD`` (without Nesterov momentum or dampening) or ``Adam``, with one parameter group.
        """
        (group,) = optimizer.param_groups
        rate = group["lr"]
        for parameter, anchor, strength in self._held:
            step = rate * strength
            if isinstance(step, float) and step == 0.0:  # a strength so small that it underflows
                continue
            state = optimizer.state[parameter]
            scale: float | Tensor = 1.0
            if "exp_avg_sq" in state:
                correction = 1.0 - group["betas"][1] ** float(state["step"])
                scale = (state["exp_avg_sq"] / correction).sqrt_().add_(group["eps"])
            # 1 / (1 + 1/x) instead of x / (1 + x), which infinity would make NaN.
            weight = 1.0 / (1.0 + scale / step)
            buffer = state.get("momentum_buffer")
            before = None if buffer is None else parameter.clone()
            parameter.lerp_(anchor, weight)  # exact at a weight of one, unlike a difference
            if buffer is not None and before is not None:
                buffer.add_(before.sub_(parameter), alpha=1.0 / rate)


def combine(terms: Sequence[tuple[float | Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return the strength and anchor of the sum of several proximal terms on one parameter.

    ``sum_k c_k/2 (x - a_k)^2`` is ``c/2 (x - a)^2`` plus a constant, with ``c = sum_k c_k`` and
    ``a = sum_k c_k a_k / c``.

    Parameters
    ----------
    terms : sequence of tuple of float or Tensor and Tensor
        Strength, a number or a tensor of the parameter's shape, and anchor, such a tensor.

    Returns
    -------
    tuple of 2 Tensor
        Strength and anchor, both of the parameter's shape. Where all strengths are zero, the anchor
        is zero.
    """
    anchors = torch.stack([anchor for _, anchor in terms])
    strengths = torch.stack([torch.zeros_like(anchor) + strength for strength, anchor in terms])
    infinite = strengths.isinf()
    shares = torch.where(infinite.any(0), infinite.to(strengths.dtype), strengths)
    shares = torch.nan_to_num(shares / shares.sum(0), nan=0.0)
    return strengths.sum(0), (shares * anchors).sum(0)


@dataclass(frozen=True)
class ProximalRule:
    """A rule that creates a proximal term at the start of every round.

    Attributes
    ----------
    scope : Scope
        Scope of the parameters that get the term.
    anchor : {"received", "zero"}
        ``"received"`` (the values at the start of the round's training; for shared parameters
        those that the server sent) or ``"zero"``.
    strength : float
        A finite number >= 0.

    Raises
    ------
    ArgumentError
        If the strength is negative or not finite.
    """

    scope: Scope
    anchor: Literal["received", "zero"]
    strength: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.strength) and self.strength >= 0):
            raise ArgumentError("strength", self.strength, "at least 0 and finite")

    def term(
        self, parameters: Mapping[str, Tensor], scopes: Mapping[str, Scope]
    ) -> ProximalTerm | None:
        """Return this round's proximal term; None if it would have no effect."""
        if self.strength == 0.0:
            return None
        make = torch.zeros_like if self.anchor == "zero" else torch.clone
        anchor = {
            name: make(parameter.detach())
            for name, parameter in parameters.items()
            if scopes[name] is self.scope
        }
        return ProximalTerm(anchor, self.strength) if anchor else None
