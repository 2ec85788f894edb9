"""What a client holds: network, data, personal state, and random streams of its own."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from flwr.client import NumPyClient
from numpy.typing import NDArray
from torch import Tensor, nn

from clients.data.data_quality import DataQuality
from clients.data.dataset_loader import Data, as_loader
from clients.data.inputs import spread_inputs
from clients.data.loaders import Loader, count_examples
from clients.entries import by_name, canonical_names, check_replaceable, check_types, entries_of
from clients.evaluation import Stream
from clients.frozen import base_digests, base_fingerprint
from clients.local_training.local_step import Optimization
from clients.local_training.normalization_buffers import check_variances, settle_spectral_norm
from clients.local_training.proximal import ProximalRule, ProximalTerm
from clients.local_training.training import Schedule, joint, train
from clients.model_components.outputs import take_logits
from clients.rng import ClientStream
from clients.scopes import MOVING, Scope, names_of
from clients.state.model_file import PersonalizedModel
from clients.state.personal_state import PersonalState, Snapshot, tensor_spec
from clients.task import Classification, Task
from strategies.arrays import Spec
from strategies.errors import ArgumentError
from strategies.protocol import PARTITION_ID
from strategies.randomness import named_seed

__all__ = ["ClientDetails"]

NDArrays = list[NDArray[Any]]
Scalars = dict[str, bool | bytes | float | int | str]

PERSONAL_PART = "personal"
"""Part of the personal state that holds the entries of scope ``personal``."""


@dataclass(frozen=True)
class ClientDetails:
    """What few clients need to be given.

    Parameters
    ----------
    num_examples : int, optional
        Number of training examples; counted from the training loader by default.
    stream : Stream, optional
        Where data come in phases: the one at hand, and the test examples of each, scored, too.
    quality : DataQuality, optional
        How well the client measures, which it reports whenever it has trained.
    properties : mapping
        Further properties that a query may ask for.
    about : mapping
        Words for the file of the whole model, on how to build and use its network.
    preprocessing : callable
        Returns, for the same file, what is done to an example before the network gets it, as
        :meth:`clients.data.preprocessing.Preprocessing.tensors`. It is called when a model is kept.
    """

    num_examples: int | None = None
    stream: Stream | None = None
    quality: DataQuality | None = None
    properties: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)
    preprocessing: Callable[[], Mapping[str, Tensor]] = dict


class BaseClient(NumPyClient):
    """Hold a network, data and personal state; train and keep what is asked for.

    See :class:`clients.PersonalClient`, which makes a Flower client of it, for the parameters.

    Attributes
    ----------
    entries : dict
        The network's state dict, as views of its own tensors, with one name for each.
    shared_names, personal_names, moving_names : list of str
        Entries that travel, in this order; entries of scope ``personal``; all that is not frozen.
    spec : dict
        What the personal state belongs to (:meth:`kept_spec`).
    """

    def __init__(
        self,
        model: nn.Module,
        scopes: Mapping[str, Scope],
        train_loader: Data,
        validation_loader: Data | None = None,
        test_loader: Data | None = None,
        *,
        schedule: Schedule = joint(1),
        optimization: Optimization = Optimization(),
        proximal_rules: Sequence[ProximalRule] = (),
        task: Task = Classification(),
        state: PersonalState | None = None,
        partition_id: int | None = None,
        details: ClientDetails = ClientDetails(),
        seed: int = 0,
    ) -> None:
        check_replaceable(model)
        self.entries = entries_of(model)
        if scopes.keys() != self.entries.keys():
            odd = sorted(scopes.keys() ^ self.entries.keys())
            raise ArgumentError("scopes", odd, "given for exactly the entries of the state dict")
        check_types(self.entries)
        take_logits(model)
        spread_inputs(model)
        self.model = model
        self.scopes = scopes
        self.train_loader = as_loader(train_loader, shuffle=True)
        self.validation_loader = as_loader(validation_loader)
        self.test_loader = as_loader(test_loader)
        known = details.num_examples
        self.num_examples = count_examples(self.train_loader) if known is None else known
        self.schedule = schedule
        self.optimization = optimization
        self.proximal_rules = proximal_rules
        self.task = task
        self.state = state or PersonalState()
        self.partition_id = partition_id
        self.details = details
        self.seed = seed
        self.shared_names = names_of(scopes, Scope.SHARED, Scope.GROUP)
        self.personal_names = names_of(scopes, Scope.PERSONAL)
        self.moving_names = names_of(scopes, *MOVING)
        self.spec = self.kept_spec()
        if not self.state.base and self.state.model_directory is not None:
            digests = base_digests(self.entries, names_of(scopes, Scope.FROZEN))
            self.state.base = base_fingerprint(digests)

    @property
    def identity(self) -> Scalars:
        """The client's number, as a metric; nothing where it has none."""
        return {} if self.partition_id is None else {PARTITION_ID: self.partition_id}

    @property
    def training_batches(self) -> Loader:
        """The training batches; none where the client counts as one without examples."""
        return self.train_loader if self.num_examples else ()

    def random(self, server_round: int, purpose: str) -> ClientStream:
        """Return a context in which torch draws from a stream of this client, round and purpose."""
        seed = named_seed(self.seed, purpose, self.partition_id or 0, server_round)
        return ClientStream(seed, self.model, self.partition_id)

    # ------------------------------------------------------------------ the network

    def outgoing(self) -> NDArrays:
        """Return the shared and group arrays, in the order of ``shared_names``, as copies."""
        return [self.entries[name].detach().cpu().numpy().copy() for name in self.shared_names]

    def receive(
        self, parameters: NDArrays, before: int = 0, stored: bool = True
    ) -> Snapshot | None:
        """Put the received arrays and the client's own into the network.

        Parameters
        ----------
        parameters : list of arrays
            In the order of ``shared_names``.
        before : int
            The round at hand: one that is played again starts from what the client had before it.
        stored : bool, default True
            False for an unseen client, which starts without what it may have kept in an earlier
            run.

        Returns
        -------
        Snapshot or None
            What the client has kept; None where it has kept nothing.

        Raises
        ------
        ArgumentError
            If an array has a wrong shape, or a running variance is negative.
        """
        received = by_name(self.shared_names, parameters)
        check_variances(received)
        for name, values in received.items():
            found, expected = tuple(values.shape), tuple(self.entries[name].shape)
            if found != expected:
                raise ArgumentError(f"shape of {name}", found, f"{expected}")
            # A received array may be a read-only view of the message; torch wants its own.
            self.entries[name].copy_(torch.from_numpy(values.copy()))
        snapshot = self.state.load(self.spec, before) if stored and self.keeps_state else None
        if snapshot is not None:
            for name, tensor in snapshot.part(PERSONAL_PART).items():
                self.entries[name].copy_(tensor)
        settle_spectral_norm(self.model, self.shared_names)
        return snapshot

    def train_model(self, proximal_terms: Sequence[ProximalTerm], **changes: Any) -> float:
        """Train the network in place as it stands; return the training loss.

        Parameters
        ----------
        proximal_terms, changes
            Arguments of :func:`clients.train`.
        """
        settings: dict[str, Any] = {
            "model": self.model,
            "loader": self.training_batches,
            "scopes": self.scopes,
            "schedule": self.schedule,
            "criterion": self.task.criterion,
            "optimization": self.optimization,
            "proximal_terms": proximal_terms,
        }
        return train(**settings | changes).loss

    # ------------------------------------------------------------------ what is kept

    @property
    def keeps_state(self) -> bool:
        """Whether there is anything personal to keep."""
        return bool(self.personal_names)

    def kept_spec(self) -> Spec:
        """Return names, shapes and dtypes of what moves, by scope, and of what else is kept."""
        specs = tensor_spec({name: self.entries[name] for name in self.moving_names})
        return {f"{self.scopes[name]}/{name}": spec for name, spec in specs.items()}

    def part(self, part: str, names: Iterable[str]) -> dict[str, Tensor]:
        """Return copies of entries of the network, to be kept as a part of the personal state."""
        return {f"{part}/{name}": self.entries[name].detach().cpu().clone() for name in names}

    def keep(self, server_round: int, part: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep something beside the personal parameters, under a word of its own.

        Raises
        ------
        PersonalStateError
            See there. The client's state is then what it was before.
        """
        before = self.state.load(self.spec) if self.keeps_state else None
        self.save(server_round, before, {f"{part}/{name}": t for name, t in tensors.items()})

    def kept(self, part: str) -> dict[str, Tensor]:
        """Return what was last kept under a word; empty if nothing was."""
        snapshot = self.state.load(self.spec)
        return {} if snapshot is None else snapshot.part(part)

    def save(
        self, server_round: int, before: Snapshot | None, arrays: Mapping[str, Tensor]
    ) -> None:
        """Keep arrays, named ``<part>/<name>``, beside what was kept ``before``.

        Raises
        ------
        ArgumentError
            If a name has no part: nothing would give it back.
        """
        if unnamed := [name for name in arrays if "/" not in name]:
            raise ArgumentError("arrays", unnamed, "named <part>/<name>")
        if arrays:
            others = {} if before is None else before.arrays
            self.state.save(Snapshot(server_round, {**others, **arrays}), self.spec)

    def whole_model(self) -> Mapping[str, Tensor]:
        """Return the state dict of what predicts."""
        return dict(self.model.state_dict())

    def _base_names(self) -> list[str]:
        """Return all names of what is frozen."""
        first = canonical_names(self.model)
        return [name for name in first if self.scopes[first[name]] is Scope.FROZEN]

    def posterior_draws(self) -> Mapping[str, Tensor]:
        """Return parameter -> draws ``(S, ...)``, where predictions are averaged over them."""
        return {}

    def mixed_adapter(self) -> Mapping[str, Tensor]:
        """Return what is mixed into the adapters of that, example for example."""
        return {}

    def keep_model(self, server_round: int, thresholds: Mapping[str, Tensor] = {}) -> None:
        """Keep the model that was evaluated, as a whole, to be exported.

        Parameters
        ----------
        server_round : int
            The round at hand.
        thresholds : mapping
            By which it was evaluated, if by any; those of an earlier run are another model's.
        """
        if self.state.model_directory is None:
            return
        with self.random(server_round, "evaluate"):  # the draws that were scored
            draws = {name: t.cpu() for name, t in self.posterior_draws().items()}
            adapter = {name: t.cpu() for name, t in self.mixed_adapter().items()}
            whole = {name: t.detach().cpu() for name, t in self.whole_model().items()}
            base = {name: whole.pop(name) for name in self._base_names() if name in whole}
            whole = {name: tensor.clone() for name, tensor in whole.items()}
        about, done = dict(self.details.about), self.details.preprocessing()
        model = PersonalizedModel(whole, server_round, about, thresholds, draws, done, adapter)
        self.state.save_model(model, base)
