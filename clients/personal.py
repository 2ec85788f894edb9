"""The client that keeps personal parameters to itself."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from flwr.client import NumPyClient
from numpy.typing import NDArray
from torch import Tensor, nn

from clients.adaptation import join
from clients.evaluation import (
    Evaluation,
    FineTuning,
    Predictions,
    Stream,
    evaluate,
    fine_tune,
    predictions,
)
from clients.loaders import Loader, count_examples, labels_of
from clients.measurement_error.data_quality import DataQuality
from clients.proximal import ProximalRule, ProximalTerm
from clients.rng import Seeded
from clients.scopes import Scope, names_of
from clients.state.model_file import PersonalizedModel
from clients.state.personal_state import PersonalState, Snapshot, tensor_spec
from clients.task import Classification, Task
from clients.training import Optimization, Schedule, joint, train
from strategies.arrays import Spec
from strategies.protocol import (
    ADAPTATION_EXAMPLES,
    ADAPTATION_STEPS,
    EFFECTIVE_EXAMPLES,
    MISSING_RATE,
    NUM_EXAMPLES,
    NUM_ROUNDS,
    PARTITION_ID,
    PERSONAL_ROUND,
    PROPERTIES,
    RELIABILITY,
    SERVER_ROUND,
)
from strategies.randomness import named_seed

NDArrays = list[NDArray[Any]]
Scalars = dict[str, bool | bytes | float | int | str]

PERSONAL_PART = "personal"
FINE_TUNED_PART = "fine-tuned"


class PersonalClient(NumPyClient):
    """Train a shared model with a personal part that never leaves the device.

    Works with any ``torch.nn.Module`` and any iterable of ``(inputs, targets)`` batches, such as
    a ``DataLoader``. Arrays travel as a list in the order of :attr:`shared_names`;
    :func:`clients.client_app` matches them by name, and in a Flower project that uses
    ``client_fn`` it is ``PersonalClient(...).to_client()``.

    What it draws at random (the order of batches, dropout) comes from torch's global generator,
    seeded afresh from (seed, client, round) for every message and put back afterwards. A
    ``DataLoader`` with a generator of its own stays outside of that.

    Parameters
    ----------
    model : the architecture, on the device to train on. Its current values are the client's
        first personal parameters.
    scopes : scope of every state-dict entry, from :func:`clients.assign_scopes`
    train_loader : the client's training batches. A client without examples takes no step and
        returns what it received with ``num-examples`` 0, which strategies leave out.
    validation_loader, test_loader : its other two splits, or None
    num_examples : number of training examples; counted from the loader's ``dataset`` by default
    schedule : phases of local training (:func:`clients.joint` and its siblings)
    optimization : optimizer and its settings
    pulls : what parameters are tethered to
    fine_tuning : personalization at evaluation, if the method has it
    joins : scopes that a client fits to itself that joins after training, where there is no
        fine-tuning
    task : the loss and the scores: :class:`clients.Classification` or :class:`clients.Regression`
    stream : where data come in phases, the one at hand and the test examples of each: their
        scores are reported, too
    state : where personal parameters live between messages; None keeps them nowhere, which only
        makes sense if nothing is personal
    partition_id : the client's own number, which tells its random stream and its reports from
        others'; None if it has none
    properties : further properties of the client that a query may ask for
    quality : how well the client sees, which it tells whenever it has trained; None where that is
        not known, and nothing is told
    about : words for the file of the whole model, on how to build and use its network
    seed : the run's seed

    Raises
    ------
    ValueError
        If ``scopes`` are not those of ``model``, an entry is bfloat16, or ``train_loader`` can be
        iterated only once.
    """

    uses_proximal_rules = True
    """Whether ``pulls`` have a place in the method."""

    takes_draws = True
    """Whether a training example may be there several times, filled in by different draws."""

    makes_local_model = False
    """Whether every client ends with a whole model of its own, whatever the scopes."""

    def __init__(
        self,
        model: nn.Module,
        scopes: Mapping[str, Scope],
        train_loader: Loader,
        validation_loader: Loader | None = None,
        test_loader: Loader | None = None,
        *,
        num_examples: int | None = None,
        schedule: Schedule = joint(1),
        optimization: Optimization = Optimization(),
        proximal_rules: Sequence[ProximalRule] = (),
        fine_tuning: FineTuning | None = None,
        joins: frozenset[Scope] = frozenset({Scope.PERSONAL}),
        task: Task = Classification(),
        stream: Stream | None = None,
        state: PersonalState | None = None,
        partition_id: int | None = None,
        properties: Mapping[str, bool | int | float | str] | None = None,
        quality: DataQuality | None = None,
        about: Mapping[str, str] | None = None,
        seed: int = 0,
    ) -> None:
        self._entries = model.state_dict()  # views of the model's own tensors
        if scopes.keys() != self._entries.keys():
            odd = sorted(scopes.keys() ^ self._entries.keys())
            raise ValueError(f"scopes and state dict differ in {odd}")
        if strange := [n for n, t in self._entries.items() if t.dtype == torch.bfloat16]:
            raise ValueError(f"NumPy has no bfloat16, so these cannot travel: {strange}")
        self.model = model
        self.scopes = scopes
        self.train_loader = train_loader
        self.validation_loader = validation_loader
        self.test_loader = test_loader
        self.num_examples = count_examples(train_loader) if num_examples is None else num_examples
        self.schedule = schedule
        self.optimization = optimization
        self.proximal_rules = proximal_rules
        self.fine_tuning = fine_tuning
        self.joins = joins
        self.task = task
        self.stream = stream
        self.state = state or PersonalState()
        self.partition_id = partition_id
        self.properties = dict(properties or {})
        self.quality = quality
        self.about = dict(about or {})
        self.seed = seed
        self.shared_names = names_of(scopes, Scope.SHARED, Scope.GROUP)
        self.personal_names = names_of(scopes, Scope.PERSONAL)
        self._spec = self._expected()

    # ------------------------------------------------------------------ Flower's NumPyClient

    def get_parameters(self, config: dict[str, Any]) -> NDArrays:
        """Return the shared and group arrays, in the order of ``shared_names``, as copies."""
        return [self._entries[name].detach().cpu().numpy().copy() for name in self.shared_names]

    def fit(self, parameters: NDArrays, config: dict[str, Any]) -> tuple[NDArrays, int, Scalars]:
        """Train from the received arrays and the client's own; keep the personal ones.

        Parameters
        ----------
        parameters : the shared and group arrays, in the order of ``shared_names``
        config : ``server-round`` is read

        Returns
        -------
        the trained shared and group arrays; the number of training examples; ``train-loss``
        (NaN without a step) and ``partition-id``; where the quality of the data is known,
        ``missing-rate``, ``reliability`` (the mean over the features) and ``effective-examples``

        Raises
        ------
        ValueError
            If an array has a wrong shape.
        TrainingDivergedError, PersonalStateError
            See there. The client's state is then what it was before.
        """
        server_round = int(config.get(SERVER_ROUND, 0))
        before = self._load(parameters, before=server_round)
        loss, kept = self._train(server_round, before)
        self._keep(server_round, before, kept)
        metrics = {"train-loss": loss} | self._identity() | self._told_quality()
        return self.get_parameters({}), self.num_examples, metrics

    def evaluate(self, parameters: NDArrays, config: dict[str, Any]) -> tuple[float, int, Scalars]:
        """Score the personalized model on the client's own test and validation examples.

        Parameters
        ----------
        parameters : the shared and group arrays, in the order of ``shared_names``
        config : ``server-round`` and ``num-server-rounds`` are read, to fine-tune after the last;
            ``adaptation-examples`` and ``adaptation-steps`` where the client was not trained with
            the others

        Returns
        -------
        test loss; number of test examples; the task's scores, such as ``accuracy``;
        ``validation-loss`` and the same scores as ``validation-accuracy`` (NaN without validation
        examples, :attr:`FineTuned.validation` after fine-tuning); ``partition-id``; what the
        method reports, such as ``fine-tuning-epochs``; of a stream ``phase``, the phase at hand,
        and the score on each phase, such as ``accuracy-phase-0``
        """
        server_round = int(config.get(SERVER_ROUND, 0))
        about, validation = self._prepare(parameters, config)
        metrics = self._identity() | about
        with self._random(server_round, "evaluate"):
            predictor = self._predictor()
            test = evaluate(predictor, self.test_loader, self.task)
            if validation is None:
                validation = evaluate(predictor, self.validation_loader, self.task)
        metrics |= test.scores
        metrics["validation-loss"] = validation.loss
        metrics |= {f"validation-{name}": score for name, score in validation.scores.items()}
        if self.stream is not None:
            metrics |= self._by_phase(predictor, self.stream)
        self.keep_model(server_round)
        return test.loss, test.examples, metrics

    def predictions(
        self, parameters: NDArrays, config: dict[str, Any], num_classes: int
    ) -> dict[str, Predictions]:
        """Return what the model that :meth:`evaluate` scores says of the client's examples.

        Parameters
        ----------
        parameters, config : as in :meth:`evaluate`
        num_classes : number of classes

        Returns
        -------
        of ``"test"`` and of ``"validation"`` examples

        Raises
        ------
        ValueError
            If the client does not predict classes.
        """
        if not isinstance(self.task, Classification):
            raise ValueError(f"a {type(self.task).__name__} predicts no classes")
        self._prepare(parameters, config)
        with self._random(int(config.get(SERVER_ROUND, 0)), "evaluate"):
            predictor = self._predictor()
            loaders = {"test": self.test_loader, "validation": self.validation_loader}
            return {
                name: predictions(predictor, loader, num_classes, self.task)
                for name, loader in loaders.items()
            }

    def training_labels(self) -> NDArray[Any]:
        """Return the targets of all that the training loader holds, in no particular order.

        Those of an example that is there several times, filled in by different draws, are, too.
        """
        with self._random(0, "query"):
            found: NDArray[Any] = labels_of(self.train_loader).numpy()
        return found

    def keep(self, server_round: int, part: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep something beside the personal parameters, under a word of its own.

        Raises
        ------
        PersonalStateError
            See there. The client's state is then what it was before.
        """
        before = self.state.load(self._spec) if self._keeps_state else None
        arrays = {f"{part}/{name}": tensor for name, tensor in tensors.items()}
        self._keep(server_round, before, arrays)

    def keep_model(self, server_round: int, thresholds: Mapping[str, Tensor] = {}) -> None:
        """Keep the model that was evaluated, as a whole, to be taken off the device.

        Parameters
        ----------
        server_round : the round at hand
        thresholds : by which it was evaluated, if it was by any; those of an earlier run are not
            this model's
        """
        if self.state.directory is None:
            return
        whole = {name: tensor.detach().cpu().clone() for name, tensor in self._whole().items()}
        self.state.save_model(PersonalizedModel(whole, server_round, self.about, thresholds))

    def kept(self, part: str) -> dict[str, Tensor]:
        """Return what was last kept under a word; empty if nothing was."""
        snapshot = self.state.load(self._spec)
        return {} if snapshot is None else snapshot.part(part)

    def get_properties(self, config: dict[str, Any]) -> Scalars:
        """Answer a query.

        Parameters
        ----------
        config : ``properties``, the comma-separated names wanted; all by default.
            ``server-round`` is read for ``personal-round``

        Returns
        -------
        Among ``partition-id``, ``num-examples`` (training), ``classes`` (labels among the
        training examples, such as ``"0,3,7"``), ``shared`` and ``personal`` (names of arrays),
        ``personal-round`` (when this run last kept personal parameters, before the round at hand;
        0 for never), and what the client was given as ``properties``.

        Raises
        ------
        ValueError
            If an unknown property is asked for.
        """
        known: dict[str, Callable[[], Any]] = {
            **{name: partial(dict.get, self._identity(), name) for name in self._identity()},
            NUM_EXAMPLES: lambda: self.num_examples,
            "classes": lambda: ",".join(map(str, self._classes())),
            "shared": lambda: ",".join(self.shared_names),
            "personal": lambda: ",".join(self.personal_names),
            PERSONAL_ROUND: lambda: self._personal_round(int(config.get(SERVER_ROUND, 0))),
            **{name: partial(self.properties.__getitem__, name) for name in self.properties},
        }
        wanted = str(config.get(PROPERTIES, "")).split(",") if config.get(PROPERTIES) else known
        if unknown := sorted(set(wanted) - known.keys()):
            raise ValueError(f"unknown properties {unknown}; known are {sorted(known)}")
        return {name: known[name]() for name in wanted}

    # ------------------------------------------------------------------ the inside

    def _expected(self) -> Spec:
        """What the personal state belongs to: the whole model by scope, and what is kept."""
        specs = tensor_spec(self._entries)
        expected = {f"{self.scopes[name]}/{name}": spec for name, spec in specs.items()}
        if self.fine_tuning is not None:
            tuned = names_of(self.scopes, *self.fine_tuning.trains)
            expected |= {f"{FINE_TUNED_PART}/{name}": specs[name] for name in tuned}
        return expected

    def _identity(self) -> Scalars:
        return {} if self.partition_id is None else {PARTITION_ID: self.partition_id}

    def _told_quality(self) -> Scalars:
        """Return what the client tells of how well it sees."""
        if self.quality is None:
            return {}
        return {
            MISSING_RATE: self.quality.missing_rate,
            RELIABILITY: self.quality.mean_reliability,
            EFFECTIVE_EXAMPLES: self.quality.effective_examples,
        }

    def _personal_round(self, before: int) -> int:
        snapshot = self.state.load(self._spec, before)
        return 0 if snapshot is None or snapshot.run != self.state.run else snapshot.round

    def _classes(self) -> list[int]:
        return sorted(set(self.training_labels().tolist()))

    def _prepare(
        self, parameters: NDArrays, config: Mapping[str, Any]
    ) -> tuple[Scalars, Evaluation | None]:
        """Put the client's own model together, as it is evaluated.

        Returns
        -------
        as :meth:`_personalize`
        """
        server_round = int(config.get(SERVER_ROUND, 0))
        joins = ADAPTATION_EXAMPLES in config
        before = self._load(parameters, stored=not joins)
        if joins:
            self._join(int(config[ADAPTATION_EXAMPLES]), int(config.get(ADAPTATION_STEPS, 0)))
            return {}, None
        last = NUM_ROUNDS in config and server_round >= int(config[NUM_ROUNDS])
        return self._personalize(server_round, last, before)

    def _load(self, parameters: NDArrays, before: int = 0, stored: bool = True) -> Snapshot | None:
        """Put the received arrays and the client's own into the model.

        A round that is played again starts from what the client had ``before`` it; a client that
        joins starts without what it may have ``stored`` in an earlier run.
        """
        if len(parameters) != len(self.shared_names):
            raise ValueError(
                f"received {len(parameters)} arrays instead of the {len(self.shared_names)} that "
                f"are not personal: {self.shared_names}"
            )
        for name, values in zip(self.shared_names, parameters, strict=True):
            if tuple(values.shape) != tuple(self._entries[name].shape):
                raise ValueError(
                    f"array {name!r} has shape {tuple(values.shape)} instead of "
                    f"{tuple(self._entries[name].shape)}"
                )
            # A received array may be a read-only view of the message; torch wants its own.
            self._entries[name].copy_(torch.from_numpy(values.copy()))
        if not stored or not self._keeps_state:
            return None
        snapshot = self.state.load(self._spec, before)
        if snapshot is not None:
            for name, tensor in snapshot.part(PERSONAL_PART).items():
                self._entries[name].copy_(tensor)
        return snapshot

    def _train(self, server_round: int, before: Snapshot | None) -> tuple[float, dict[str, Tensor]]:
        """Train from what :meth:`_load` put in the model, and leave there what is to be sent.

        Returns
        -------
        training loss; what is to be kept, as ``<part>/<name>``
        """
        with self._random(server_round, "train"):
            loss = self._train_model(self.proximal_terms())
        return loss, self._part(PERSONAL_PART, self.personal_names)

    def _personalize(
        self, server_round: int, last: bool, before: Snapshot | None
    ) -> tuple[Scalars, Evaluation | None]:
        """Turn what :meth:`_load` put in the model into the client's own model, to be evaluated.

        Returns
        -------
        what is to be reported of it; the validation score of something that was chosen on
        validation examples
        """
        if self.fine_tuning is None:
            return {}, None
        if not (last or self.fine_tuning.every_round):
            return {"fine-tuning-epochs": 0}, None
        with self._random(server_round, "fine-tune"):
            tuned = fine_tune(
                self.model,
                self._examples,
                self.validation_loader,
                self.fine_tuning,
                self.scopes,
                task=self.task,
                optimization=self.optimization,
            )
        if last:
            trained = names_of(self.scopes, *self.fine_tuning.trains)
            self._keep(server_round, before, self._part(FINE_TUNED_PART, trained))
        return {"fine-tuning-epochs": tuned.epochs}, tuned.validation

    def _predictor(self) -> nn.Module:
        """Return what predicts, from what is in the model: the model itself."""
        return self.model

    def _whole(self) -> Mapping[str, Tensor]:
        """Return what predicts as one state dict; of several models the one in their middle."""
        entries: dict[str, Tensor] = self.model.state_dict()
        return entries

    def _by_phase(self, predictor: nn.Module, stream: Stream) -> Scalars:
        """Score what predicts on the test examples of every phase."""
        score = self.task.score
        scores: Scalars = {"phase": stream.phase}
        for number, loader in enumerate(stream.test_loaders):
            found = evaluate(predictor, loader, self.task)
            scores[f"{score}-phase-{number}"] = found.scores[score]
        return scores

    @property
    def _examples(self) -> Loader:
        """The training batches; none where the client counts as one without examples."""
        return self.train_loader if self.num_examples else ()

    def _train_model(self, proximal_terms: Sequence[ProximalTerm], **changes: Any) -> float:
        """Train the model in place as it stands; return the training loss.

        Parameters
        ----------
        proximal_terms, changes : arguments of :func:`clients.train`
        """
        settings: dict[str, Any] = {
            "model": self.model,
            "loader": self._examples,
            "scopes": self.scopes,
            "schedule": self.schedule,
            "criterion": self.task.criterion,
            "optimization": self.optimization,
            "proximal_terms": proximal_terms,
        }
        return train(**settings | changes).loss

    def _part(self, part: str, names: Iterable[str]) -> dict[str, Tensor]:
        """Return copies of entries of the model, to be kept as a part of the personal state."""
        return {f"{part}/{name}": self._entries[name].detach().cpu().clone() for name in names}

    def _keep(
        self, server_round: int, before: Snapshot | None, arrays: Mapping[str, Tensor]
    ) -> None:
        """Keep arrays in the personal state, beside what was there ``before``."""
        if arrays:
            others = {} if before is None else before.arrays
            self.state.save(Snapshot(server_round, {**others, **arrays}), self._spec)

    def proximal_terms(self) -> list[ProximalTerm]:
        """Return what holds the parameters near something in this round."""
        current = dict(self.model.named_parameters())
        found = [rule.term(current, self.scopes) for rule in self.proximal_rules]
        return [term for term in found if term is not None]

    def _join(self, examples: int, steps: int) -> None:
        trains, proximal_terms = self._way_in()
        with self._random(0, "join"):
            join(
                self.model,
                self._examples,
                examples if self.num_examples else 0,
                steps,
                trains,
                self.scopes,
                task=self.task,
                optimization=self.optimization,
                proximal_terms=proximal_terms,
            )

    def _way_in(self) -> tuple[frozenset[Scope], list[ProximalTerm]]:
        """Return what a client fits that joins the others after training, and under what pulls."""
        return self.fine_tuning.trains if self.fine_tuning else self.joins, self.proximal_terms()

    @property
    def _keeps_state(self) -> bool:
        """Whether there is anything personal to keep."""
        return bool(self.personal_names or self.fine_tuning)

    def _random(self, server_round: int, purpose: str) -> Any:
        """Context in which torch draws from this client's, round's and purpose's own stream."""
        return Seeded(
            named_seed(self.seed, purpose, self.partition_id or 0, server_round), self.model
        )
