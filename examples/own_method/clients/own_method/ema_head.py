"""The client whose personal head is evaluated by its exponential moving average."""

from typing import Any

from torch import Tensor

from clients.base_client import PERSONAL_PART, Scalars
from clients.evaluation import Evaluation
from clients.method_hooks import LocalRound
from clients.personal_client import PersonalClient
from clients.state.personal_state import tensor_spec
from strategies.arrays import Spec
from strategies.errors import ArgumentError

__all__ = ["EmaHeadClient"]

AVERAGE_PART = "average"
"""Part of the personal state that holds the moving average."""


class EmaHeadClient(PersonalClient):
    """Train as FedPer does; predict with a moving average of the head over rounds.

    After each round of training ``average <- decay average + (1 - decay) head``, elementwise; the
    first average is the first head. At evaluation the average is in the head's place. Training
    goes on from the last head. Both stay on the device. Integers (counts) are not averaged.

    Parameters
    ----------
    args, kwargs
        As in :class:`PersonalClient`; the head is what is personal in ``scopes``.
    head_decay : float, default 0.5
        In [0, 1); 0 evaluates the last head.

    Raises
    ------
    ArgumentError
        If ``head_decay`` is out of range.
    """

    def __init__(self, *args: Any, head_decay: float = 0.5, **kwargs: Any) -> None:
        if not 0.0 <= head_decay < 1.0:
            raise ArgumentError("head_decay", head_decay, "in [0, 1)")
        super().__init__(*args, **kwargs)
        self.head_decay = head_decay

    @property
    def averaged_names(self) -> list[str]:
        """Entries of the head that are averaged."""
        return [n for n in self.personal_names if self.entries[n].is_floating_point()]

    def train_locally(self, current: LocalRound) -> tuple[float, dict[str, Tensor]]:
        """Train, and say what is kept: the last head and its moving average."""
        loss, kept = super().train_locally(current)
        before = current.before.part(AVERAGE_PART) if current.before else {}
        decay = self.head_decay
        for name in self.averaged_names:
            head = kept[f"{PERSONAL_PART}/{name}"]
            average = before.get(name, head)
            kept[f"{AVERAGE_PART}/{name}"] = decay * average + (1 - decay) * head
        return loss, kept

    def personalize(self, current: LocalRound) -> tuple[Scalars, Evaluation | None]:
        """Put the moving average in the place of the head, which is kept as it is."""
        average = current.before.part(AVERAGE_PART) if current.before else {}
        for name, values in average.items():
            self.entries[name].copy_(values)
        return super().personalize(current)

    def kept_spec(self) -> Spec:
        """Return names, shapes and dtypes of what is kept."""
        specs = tensor_spec({name: self.entries[name] for name in self.averaged_names})
        average = {f"{AVERAGE_PART}/{name}": spec for name, spec in specs.items()}
        return super().kept_spec() | average
