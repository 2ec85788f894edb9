"""Proximal terms: quadratic penalties that hold a model near an anchor.

A proximal term is ``1/2 * sum_i c_i (theta_i - a_i)^2`` with an anchor ``a`` and a strength ``c``
(one number, or one per parameter). FedProx (Li et al. 2020, eq. 2) has one to the received model
with ``c = mu``; Ditto's personal models (Li et al. 2021, eq. 1) have one to the shared model with
``c = lambda``; elastic weight consolidation (Kirkpatrick et al. 2017, eq. 3) has one to the old
model with ``c = lambda * Fisher``; a penalty on adapters is one to zero.

They are solved implicitly: :func:`proximal_step` follows the optimizer's step for the data loss. An
explicit gradient step diverges where learning rate times strength reaches 2; the implicit one is
stable for every strength, and at infinity ends exactly at the anchor.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from clients.scopes import Scope
from strategies.errors import ArgumentError

__all__ = ["ProximalRule", "ProximalTerm"]

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


Anchors = Mapping[str, tuple[Tensor, float | Tensor]]
"""Parameter -> its anchor, a tensor of its shape, and the strength that holds it there."""


def anchors_of(terms: Sequence[ProximalTerm], parameters: Iterable[str]) -> Anchors:
    """Return what holds each parameter, all terms together.

    Strengths on one parameter add up, and its anchor is the mean of the anchors weighted by them;
    infinite strengths outvote finite ones. A parameter without a term, or with a strength of
    exactly zero, is not there: bit for bit, nothing holds it.

    Parameters
    ----------
    terms : sequence of ProximalTerm
        Where just one holds a parameter, its anchor is used in place, so that whoever moves the
        anchor during training moves what holds the parameter (pFedMe).
    parameters : iterable of str
        Names of those that are trained.
    """
    held: dict[str, tuple[Tensor, float | Tensor]] = {}
    for name in parameters:
        found = [(t.of(name), t.anchor[name]) for t in terms if name in t.anchor]
        found = [pair for pair in found if isinstance(pair[0], Tensor) or pair[0] > 0.0]
        if found:
            strength, anchor = found[0] if len(found) == 1 else combine(found)
            held[name] = anchor, strength
    return held


def proximal_step(
    parameters: Mapping[str, Tensor],
    momentum: Mapping[str, Tensor],
    anchors: Anchors,
    learning_rate: float,
    scale: Mapping[str, Tensor] | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return parameters and momentum buffers after the implicit step of the proximal terms.

    After a step of SGD without momentum from ``theta`` to ``theta'``, the step

        ``theta'' = (theta' + eta c a) / (1 + eta c)``

    solves ``min 1/2 c ||x - a||^2 + 1/(2 eta) ||x - theta'||^2``: together they are one
    forward-backward step (Parikh & Boyd 2014, section 4.2) of the data loss plus the proximal term,
    with its minimizer as the fixed point. With momentum the term belongs in the buffer as well:
    solving ``m' = b m + g + c (theta'' - a)``, ``theta'' = theta - eta m'`` for ``theta''`` gives
    the same position, and the buffer takes ``(theta' - theta'') / eta``. (Without that, momentum
    would amplify the data's gradient and not the term's, and the fixed point would be another.)
    Adam measures distances in ``D``, the root of its second moments: there ``eta / D`` takes the
    place of ``eta``, which leaves the fixed point where it belongs.

    Parameters
    ----------
    parameters : mapping
        Name -> value after the optimizer's step for the data loss.
    momentum : mapping
        Name -> momentum buffer; empty without momentum.
    anchors : mapping
        See :func:`anchors_of`.
    learning_rate : float
        ``eta``.
    scale : mapping, optional
        Name -> ``D``, of Adam.

    Returns
    -------
    tuple of dict of str to Tensor and dict of str to Tensor
        Parameters and momentum buffers, those that nothing holds unchanged.
    """
    after, buffers = dict(parameters), dict(momentum)
    for name, (anchor, strength) in anchors.items():
        step = learning_rate * strength
        if isinstance(step, float) and step == 0.0:  # a strength so small that it underflows
            continue
        distance: float | Tensor = 1.0 if scale is None else scale.get(name, 1.0)
        # 1 / (1 + 1/x) instead of x / (1 + x), which infinity would make NaN.
        weight = 1.0 / (1.0 + distance / step)
        before = parameters[name]
        after[name] = before.lerp(anchor, weight)  # exact at a weight of one, unlike a difference
        if name in buffers:
            moved = before.sub(after[name])
            buffers[name] = buffers[name].add(moved, alpha=1.0 / learning_rate)
    return after, buffers


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


def terms_of(
    rules: Iterable[ProximalRule], model: nn.Module, scopes: Mapping[str, Scope]
) -> list[ProximalTerm]:
    """Return the proximal terms that rules create of a network as it is now.

    Parameters
    ----------
    rules : iterable of ProximalRule
        Those without strength, or without parameters of their scope, have no term.
    model : nn.Module
        The network.
    scopes : mapping of str to Scope
        Scope of every entry of its state dict.
    """
    strong = [rule for rule in rules if rule.strength]
    current = dict(model.named_parameters()) if strong else {}
    found = [rule.term(current, scopes) for rule in strong]
    return [term for term in found if term is not None]
