"""What a method does otherwise: the hooks of a client, with what they do where it has no method."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from clients.base_client import PERSONAL_PART, BaseClient, Scalars
from clients.evaluation import Evaluation
from clients.local_training.adaptation import adapt
from clients.local_training.fine_tuning import FineTuning, fine_tune
from clients.local_training.proximal import ProximalRule, ProximalTerm, terms_of
from clients.scopes import Scope, names_of
from clients.state.personal_state import Snapshot, tensor_spec
from strategies.arrays import Spec
from strategies.errors import ArgumentError
from strategies.protocol import PROXIMAL_MU

__all__ = ["LocalRound"]

FINE_TUNED_PART = "fine-tuned"
_RECEIVED = (Scope.SHARED, Scope.GROUP)


@dataclass(frozen=True)
class LocalRound:
    """What a client's hooks get to know of the round at hand.

    Parameters
    ----------
    number : int
        Counted from 1; 0 where it is not known.
    last : bool
        Whether it is known to be the last one.
    before : Snapshot, optional
        What the client kept before the round.
    """

    number: int
    last: bool = False
    before: Snapshot | None = None


class MethodHooks(BaseClient):
    """A local client's hooks: :class:`clients.PersonalClient` says what each of them is for."""

    def __init__(
        self,
        model: nn.Module,
        scopes: Mapping[str, Scope],
        *args: Any,
        fine_tuning: FineTuning | None = None,
        adapts: frozenset[Scope] = frozenset({Scope.PERSONAL}),
        **kwargs: Any,
    ) -> None:
        self.fine_tuning = fine_tuning
        self.adapts = adapts
        self.server_rules: tuple[ProximalRule, ...] = ()
        super().__init__(model, scopes, *args, **kwargs)

    takes_server_mu = True
    """Whether training has the terms of :meth:`proximal_terms`, so that a server may add one."""

    def proximal_terms(self) -> list[ProximalTerm]:
        """Return what holds the parameters near something in this round."""
        return terms_of((*self.proximal_rules, *self.server_rules), self.model, self.scopes)

    def take_server_mu(self, config: Mapping[str, Any]) -> None:
        """Note the proximal term to what was received that Flower's ``FedProx`` asks clients for.

        Raises
        ------
        ArgumentError
            If its strength is negative or not finite, or the method has no place for it.
        """
        mu = float(config.get(PROXIMAL_MU, 0.0))
        if mu and not self.takes_server_mu:
            wanted = f"0: {type(self).__name__} does not train by steps from what it receives"
            raise ArgumentError(PROXIMAL_MU, mu, wanted)
        self.server_rules = tuple(ProximalRule(s, "received", mu) for s in _RECEIVED)

    def train_locally(self, current: LocalRound) -> tuple[float, dict[str, Tensor]]:
        """Train from what was received and kept, and leave in the network what is to be sent.

        Returns
        -------
        tuple of float and dict of str to Tensor
            Training loss; what is to be kept, as ``<part>/<name>``.
        """
        with self.random(current.number, "train"):
            loss = self.train_model(self.proximal_terms())
        return loss, self.part(PERSONAL_PART, self.personal_names)

    def personalize(self, current: LocalRound) -> tuple[Scalars, Evaluation | None]:
        """Turn what was received and kept into the client's local model, to be evaluated.

        Returns
        -------
        tuple of dict and Evaluation or None
            What is to be reported of it; the validation score of something that was chosen on
            validation examples.
        """
        if self.fine_tuning is None:
            return {}, None
        if not (current.last or self.fine_tuning.every_round):
            return {"fine-tuning-epochs": 0}, None
        with self.random(current.number, "fine-tune"):
            tuned = fine_tune(
                self.model,
                self.training_batches,
                self.validation_loader,
                self.fine_tuning,
                self.scopes,
                task=self.task,
                optimization=self.optimization,
            )
        if current.last:
            trained = names_of(self.scopes, *self.fine_tuning.trains)
            self.save(current.number, current.before, self.part(FINE_TUNED_PART, trained))
        return {"fine-tuning-epochs": tuned.epochs}, tuned.validation

    def predictor(self) -> nn.Module:
        """Return what predicts, from what is in the network: the network itself."""
        return self.model

    def adapt(self, examples: int, steps: int) -> None:
        """Fit an unseen client's own part on a few of its examples, from what it received.

        Parameters
        ----------
        examples : int
            How many of its training examples; -1 for all.
        steps : int
            Minibatch steps.
        """
        trains, proximal_terms = self.adaptation()
        with self.random(0, "join"):
            adapt(
                self.model,
                self.training_batches,
                examples if self.num_examples else 0,
                steps,
                trains,
                self.scopes,
                task=self.task,
                optimization=self.optimization,
                proximal_terms=proximal_terms,
            )

    def adaptation(self) -> tuple[frozenset[Scope], list[ProximalTerm]]:
        """Return the scopes that an unseen client fits, and what holds them near something."""
        return self.fine_tuning.trains if self.fine_tuning else self.adapts, self.proximal_terms()

    @property
    def keeps_state(self) -> bool:
        """Whether there is anything personal to keep."""
        return super().keeps_state or self.fine_tuning is not None

    def kept_spec(self) -> Spec:
        """Return names, shapes and dtypes of the model by scope, and of what is fine-tuned."""
        spec = super().kept_spec()
        if self.fine_tuning is not None:
            specs = tensor_spec(self.entries)
            tuned = names_of(self.scopes, *self.fine_tuning.trains)
            spec |= {f"{FINE_TUNED_PART}/{name}": specs[name] for name in tuned}
        return spec
