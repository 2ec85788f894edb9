"""FedDPA: a shared and a personal low-rank adapter, mixed for each example."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from clients.adapters.mixed_adapters import MixedAdapters
from clients.base_client import PERSONAL_PART, Scalars
from clients.data.inputs import to_device
from clients.evaluation import Evaluation
from clients.local_training.adaptation import ALL, adapt, take_examples
from clients.local_training.proximal import ProximalTerm, terms_of
from clients.local_training.training import device_of
from clients.method_hooks import LocalRound
from clients.personal_client import PersonalClient
from clients.scopes import Scope
from clients.state.personal_state import Snapshot, tensor_spec
from strategies.arrays import Spec
from strategies.errors import ArgumentError

__all__ = ["FedDPAClient"]

_PART = "adapter"
_PERSONAL = frozenset({Scope.PERSONAL})
_OTHERS = frozenset({Scope.SHARED, Scope.GROUP})


class FedDPAClient(PersonalClient):
    """FedDPA-T (Yang et al. 2024): predict with the shared and a personal adapter.

    In a round it trains first the personal adapter, and what else is personal (the head), in the
    mixture with the received adapter, which stays put; then the received adapter by itself, with
    the head at rest. That one is sent; the personal adapter never leaves the device. ``mixing =
    1`` without ``instances`` is training alone, ``mixing = 0`` is FedIT with a head that is
    trained first.

    Parameters
    ----------
    args, kwargs
        As in :class:`PersonalClient`.
    mixing : float, default 0.5
        In [0, 1]: weight of the personal adapter in training, and the largest in predictions.
    instances : int, default 5
        How many training examples an example is compared with to find its weight; 0 for ``mixing``
        whatever the example.

    Raises
    ------
    ArgumentError
        If ``mixing`` or ``instances`` is out of range.
    """

    def __init__(self, *args: Any, mixing: float = 0.5, instances: int = 5, **kwargs: Any) -> None:
        if not 0 <= mixing <= 1:
            raise ArgumentError("mixing", mixing, "in [0, 1]")
        if instances < 0:
            raise ArgumentError("instances", instances, "at least 0")
        self.mixing = float(mixing)
        self.instances = instances
        # also the first values: of the network as it was given, before it receives anything
        self._first = MixedAdapters(args[0] if args else kwargs["model"], self.mixing).values()
        super().__init__(*args, **kwargs)
        self._predictor: MixedAdapters | None = None

    def train_locally(self, current: LocalRound) -> tuple[float, dict[str, Tensor]]:
        """Train, and say what is kept; as :meth:`PersonalClient.train_locally`."""
        mixed = self._mixed(current.before)
        personal = tuple(replace(phase, trains=_PERSONAL) for phase in self.schedule)
        others = tuple(replace(phase, trains=_OTHERS) for phase in self.schedule)
        scopes, terms = self._scopes(mixed), self._terms(mixed)
        with self.random(current.number, "train"):
            alone = self.train_model(terms, model=mixed, scopes=scopes, schedule=personal)
            loss = self.train_model(self.proximal_terms(), schedule=others)
        kept = {f"{_PART}/{name}": values for name, values in mixed.values().items()}
        kept |= self.part(PERSONAL_PART, self.personal_names)
        return (alone if math.isnan(loss) else loss), kept  # NaN where nothing is shared

    def personalize(self, current: LocalRound) -> tuple[Scalars, Evaluation | None]:
        """Put the mixture together; as :meth:`PersonalClient.personalize`."""
        mixed = self._mixed(current.before)
        trained = current.before is not None
        self._predictor = self._weighed(mixed, ALL if trained else 0)
        return {}, None

    def predictor(self) -> nn.Module:
        """Return the mixture."""
        return self.model if self._predictor is None else self._predictor

    def mixed_adapter(self) -> Mapping[str, Tensor]:
        """Return what the mixture is made of, beside the network."""
        return {} if self._predictor is None else self._predictor.tensors()

    def adapt(self, examples: int, steps: int) -> None:
        """Fit the personal adapter and the head of an unseen client on a few of its examples."""
        mixed, count = self._mixed(None), examples if self.num_examples else 0
        with self.random(0, "join"):
            adapt(
                mixed,
                self.training_batches,
                count,
                steps,
                _PERSONAL,
                self._scopes(mixed),
                task=self.task,
                optimization=self.optimization,
                proximal_terms=self._terms(mixed),
            )
        self._predictor = self._weighed(mixed, count if steps else 0)

    def _mixed(self, before: Snapshot | None) -> MixedAdapters:
        """Return the mixture of what is in the network with the client's own adapter."""
        mixed = MixedAdapters(self.model, self.mixing)
        mixed.put(before.part(_PART) if before else self._first)
        return mixed

    def _weighed(self, mixed: MixedAdapters, examples: int) -> MixedAdapters:
        """Let each example have its weight; an adapter that was trained on none has none."""
        count = self.instances if examples == ALL else min(self.instances, examples)
        if not (examples and self.num_examples):
            mixed.mixing = 0.0
        elif count:
            with self.random(0, "instances"):
                inputs, _, _ = take_examples(self.training_batches, count)
            mixed.eval()
            mixed.references = mixed.representations(to_device(inputs, device_of(self.model)))
        return mixed

    def _scopes(self, mixed: MixedAdapters) -> dict[str, Scope]:
        return {f"network.{name}": scope for name, scope in self.scopes.items()} | dict.fromkeys(
            mixed.names, Scope.PERSONAL
        )

    def _terms(self, mixed: MixedAdapters) -> list[ProximalTerm]:
        """Return what holds the parameters of the mixture near something."""
        return terms_of(self.proximal_rules, mixed, self._scopes(mixed))

    @property
    def keeps_state(self) -> bool:
        """Whether there is anything to keep."""
        return True

    def kept_spec(self) -> Spec:
        """Return names, shapes and dtypes of what is kept."""
        specs = tensor_spec(self._first)
        return super().kept_spec() | {f"{_PART}/{name}": spec for name, spec in specs.items()}
