"""The client that keeps a whole model of its own beside the shared one."""

from typing import Any

from torch import Tensor

from clients.frozen import trained_parameters
from clients.personal_client import PersonalClient
from clients.state.personal_state import Snapshot, tensor_spec
from strategies.arrays import Spec
from strategies.errors import ArgumentError

Values = dict[str, Tensor]
"""State-dict name -> tensor."""


class LocalModelClient(PersonalClient):
    """Keep whole models in the personal state.

    The client's network holds one model at a time: subclasses put in it which one they train or
    evaluate.

    Parameters
    ----------
    args, kwargs
        As in :class:`PersonalClient`, with nothing personal in ``scopes``: the local model is.
    participation : float, default 1.0
        Share of the clients that take part in a round, in (0, 1]; where local models are what is
        sent, their mean needs it.

    Raises
    ------
    ArgumentError
        If the scopes make a part of the shared model personal, or the share is out of range.
    """

    def __init__(self, *args: Any, participation: float = 1.0, **kwargs: Any) -> None:
        if not 0 < participation <= 1:
            raise ArgumentError("participation", participation, "in (0, 1]")
        super().__init__(*args, **kwargs)
        self.participation = participation
        self._initial = self._values() if participation < 1 else {}
        if self.personal_names:
            wanted = f"empty: a {type(self).__name__} keeps a whole local model"
            raise ArgumentError("personal_names", self.personal_names, wanted)

    def _model_parts(self) -> tuple[str, ...]:
        """Return the parts of the personal state that hold a whole model each."""
        return ("own",)

    def _own(self, part: str, before: Snapshot | None, received: Values) -> Values:
        """Return a kept model; before there is one, the received model is the client's own."""
        kept = before.part(part) if before else {}
        # what is kept is on the CPU, wherever the network is
        return {name: kept[name].to(received[name].device) for name in kept} or received

    def _last(self, part: str, before: Snapshot | None) -> Values:
        """Return what the client stood for in the mean so far: first the initial model."""
        return self._own(part, before, self._initial) if self._initial else {}

    def _contribution(self, received: Values, last: Values) -> Values:
        """Return what to send of the local model in the network, so that the mean is everybody's.

        If all take part that is the local model. If only a share does, the mean has to move by that
        share of the mean movement, since the others have not moved:
        ``received + share (own - last)``. (The mean of those who take part would jump from round to
        round.) Buffers are sent as they are: of those the mean of a few will do.
        """
        own = self._values()
        if last:
            for name in trained_parameters(self.model):
                own[name] = received[name] + self.participation * (own[name] - last[name])
        return own

    def _values(self) -> Values:
        """Return copies of everything in the network but what is frozen."""
        return {name: self.entries[name].detach().clone() for name in self.moving_names}

    def _put(self, values: Values) -> None:
        """Put values into the network."""
        for name, tensor in values.items():
            self.entries[name].copy_(tensor)

    def kept_spec(self) -> Spec:
        """Return names, shapes and dtypes of what is kept."""
        specs = tensor_spec({name: self.entries[name] for name in self.moving_names})
        parts = self._model_parts()
        return super().kept_spec() | {f"{p}/{n}": spec for p in parts for n, spec in specs.items()}

    @property
    def keeps_state(self) -> bool:
        """Whether there is anything to keep."""
        return True
