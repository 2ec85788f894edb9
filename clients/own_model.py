"""The client that keeps a whole model of its own beside the shared one."""

from torch import Tensor

from clients.personal import PersonalClient
from clients.state import Snapshot, tensor_spec
from strategies.arrays import Spec

Values = dict[str, Tensor]
"""State-dict name -> tensor."""


class OwnModelClient(PersonalClient):
    """Keep whole models in the personal state, next to what is personal of the shared model.

    Parameters as in :class:`PersonalClient`. The client's network holds one model at a time:
    subclasses put in it which one they train or evaluate.
    """

    def _model_parts(self) -> tuple[str, ...]:
        """Return the parts of the personal state that hold a whole model each."""
        return ("own",)

    def _own(self, part: str, before: Snapshot | None, received: Values) -> Values:
        """Return a kept model; before there is one, the received model is the client's own."""
        return (before.part(part) if before else {}) or received

    def _values(self) -> Values:
        """Return copies of everything in the network."""
        return {name: tensor.detach().clone() for name, tensor in self._entries.items()}

    def _put(self, values: Values) -> None:
        """Put values into the network."""
        for name, tensor in values.items():
            self._entries[name].copy_(tensor)

    def _expected(self) -> Spec:
        specs = tensor_spec(self._entries)
        parts = self._model_parts()
        return super()._expected() | {f"{p}/{n}": spec for p in parts for n, spec in specs.items()}

    @property
    def _keeps_state(self) -> bool:
        return True
