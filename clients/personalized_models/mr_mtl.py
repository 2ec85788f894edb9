"""MR-MTL: personalized models near their mean."""

import math
from collections.abc import Sequence
from typing import Any

from clients.base_client import Scalars
from clients.data.loaders import count_examples
from clients.evaluation import Evaluation
from clients.frozen import trained_parameters
from clients.local_training.fine_tuning import Choice
from clients.local_training.proximal import ProximalTerm
from clients.local_training.training import EVERYTHING
from clients.method_hooks import LocalRound
from clients.personalized_models.local_model import LocalModelClient, Values
from clients.personalized_models.strength import strength_for
from clients.scopes import Scope
from clients.state.personal_state import Snapshot
from strategies.errors import ArgumentError

__all__ = ["MRMTLClient"]

FEWEST_TO_CHOOSE = 4
"""Validation examples; with fewer a client takes the middle one of its candidates."""


class MRMTLClient(LocalModelClient):
    """MR-MTL (Liu et al. 2022): local models around their mean, which is what clients send.

    Per round: ``theta_i <- train f_i + lambda/2 ||theta_i - theta_0||^2`` from the client's own
    ``theta_i``, where ``theta_0`` is the mean of the clients' models. A client's first model is
    the first one it receives. What is sent is the local model itself: of all methods here, MR-MTL
    and L2GD keep nothing to the device.

    Parameters
    ----------
    args, kwargs
        As in :class:`LocalModelClient`; ``proximal_rules`` act where the shared model is trained,
        which is in Ditto, and at infinity.
    lambda_ : float or sequence of float, optional
        ``lambda >= 0``, infinity included; or several candidates, ascending: then the client keeps
        a model for each of them (time and state grow alike) and uses the one that is best on its
        own validation examples. The choice is reported as metric ``lambda``. At infinity what is
        kept is the shared model.
    tau : float, optional
        Instead of ``lambda_``: it becomes :func:`strength_for` the client's examples.

    Raises
    ------
    ArgumentError
        If a strength is negative or NaN, candidates do not ascend, or both are given.
    """

    sends_own = True
    """Whether the local model leaves the device."""

    takes_server_mu = False

    def __init__(
        self,
        *args: Any,
        lambda_: float | Sequence[float] | None = None,
        tau: float | None = None,
        **kwargs: Any,
    ) -> None:
        if (lambda_ is None) == (tau is None):
            raise ArgumentError("lambda_", lambda_, "given without tau, or not given with it")
        candidates = lambda_ if isinstance(lambda_, Sequence) else (lambda_ or 0.0,)
        if not all(value >= 0 for value in candidates) or not candidates:
            raise ArgumentError("lambda_", lambda_, "at least 0, one number or several")
        if list(candidates) != sorted(set(candidates)):
            raise ArgumentError("lambda_", lambda_, "ascending candidates")
        self.lambdas = tuple(candidates)
        super().__init__(*args, **kwargs)
        if tau is not None:
            self.lambdas = (strength_for(self.num_examples, tau),)

    @property
    def default_lambda(self) -> float:
        """The only strength, or the middle candidate."""
        return self.lambdas[len(self.lambdas) // 2]

    # ------------------------------------------------------------------ training

    def train_locally(self, current: LocalRound) -> tuple[float, Values]:
        """Train, and say what is kept; as :meth:`PersonalClient.train_locally`."""
        received = self._values()
        kept: Values = {}
        choice = self._choice() if self.sends_own else None
        sent: tuple[float, Values] = math.nan, {}
        for part, strength in self._candidates().items():
            self._put(self._start(part, strength, current.before, received))
            if not self.sends_own and math.isinf(strength):
                kept |= self.part(part, self.moving_names)  # the shared model, which others train
                continue
            with self.random(current.number, "train"):
                last = {} if math.isinf(strength) else self._last(part, current.before)
                found = self._train_own(current.number, strength, received, last)
            kept |= self.part(part, self.moving_names)
            if self._prefers(choice, strength):
                sent = found
        self._put(sent[1])
        return sent[0], kept

    def _train_own(
        self, server_round: int, strength: float, received: Values, last: Values
    ) -> tuple[float, Values]:
        """Train the local model in place, from where it was; return its loss, and what to send.

        ``last`` is what the client stood for in the mean before: its local or the initial model.

        With infinite strength the model starts as the received one and is trained freely: the
        anchor itself moves as FedAvg moves it.
        """
        if math.isinf(strength):
            return self.train_model(self.proximal_terms()), self._values()
        loss = self.train_model([self._proximal_term(received, strength)])
        return loss, self._contribution(received, last)

    def _proximal_term(self, centre: Values, strength: float) -> ProximalTerm:
        """Return a proximal term to a copy of the centre, which whoever has it may move."""
        return ProximalTerm(
            {n: centre[n].clone() for n in trained_parameters(self.model)}, strength
        )

    # ------------------------------------------------------------------ evaluation

    def personalize(self, current: LocalRound) -> tuple[Scalars, Evaluation | None]:
        """Put the client's local model together; as :meth:`PersonalClient.personalize`."""
        received = self._values()
        choice = self._choice()
        chosen = self.default_lambda, received
        for part, strength in self._candidates().items():
            own = self._start(part, strength, current.before, received)
            self._put(own)
            if self._prefers(choice, strength):
                chosen = strength, own
        self._put(chosen[1])
        return {"lambda": chosen[0]}, choice.validation if choice else None

    def adaptation(self) -> tuple[frozenset[Scope], list[ProximalTerm]]:
        """Let an unseen client start from the received model, and train it near that."""
        if math.isinf(self.default_lambda):
            return frozenset(), []
        return EVERYTHING, [self._proximal_term(self._values(), self.default_lambda)]

    # ------------------------------------------------------------------ the inside

    def _choice(self) -> Choice | None:
        """Return the choice among candidates, where there is one and enough to make it on."""
        if len(self.lambdas) == 1 or self.validation_loader is None:
            return None
        if count_examples(self.validation_loader) < FEWEST_TO_CHOOSE:
            return None
        return Choice(self.validation_loader, self.task)

    def _prefers(self, choice: Choice | None, strength: float) -> bool:
        """Return whether the candidate in the network is the best yet."""
        return choice.add(self.model) if choice else strength == self.default_lambda

    def _candidates(self) -> dict[str, float]:
        """Return where the local model of each strength is kept."""
        if len(self.lambdas) == 1:
            return {"own": self.lambdas[0]}
        return {f"own-{strength:g}": strength for strength in self.lambdas}

    def _model_parts(self) -> tuple[str, ...]:
        return tuple(self._candidates())

    def _start(
        self, part: str, strength: float, before: Snapshot | None, received: Values
    ) -> Values:
        """Return the local model; at infinity it is the received one."""
        return received if math.isinf(strength) else self._own(part, before, received)
