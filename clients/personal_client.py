"""The client that keeps personal parameters to itself."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from numpy.typing import NDArray
from torch import nn

from clients.base_client import NDArrays, Scalars
from clients.data.loaders import labels_of
from clients.evaluation import Evaluation, Predictions, Stream, evaluate, predictions
from clients.method_hooks import LocalRound, MethodHooks
from clients.task import Classification
from strategies.errors import ArgumentError
from strategies.protocol import (
    ADAPTATION_EXAMPLES,
    ADAPTATION_STEPS,
    EFFECTIVE_EXAMPLES,
    MISSING_RATE,
    NUM_EXAMPLES,
    NUM_ROUNDS,
    PERSONAL_ROUND,
    PROPERTIES,
    RELIABILITY,
    SERVER_ROUND,
)

__all__ = ["PersonalClient"]


class PersonalClient(MethodHooks):
    """Train a shared model with a personal part that never leaves the device.

    Works with any ``torch.nn.Module`` and any iterable of ``(inputs, targets)`` batches, such as
    a ``DataLoader``. Arrays travel as a list in the order of :attr:`shared_names`;
    :func:`clients.client_app` matches them by name, and in a Flower project that uses
    ``client_fn`` it is ``PersonalClient(...).to_client()``.

    What it draws at random (the order of batches, dropout) comes from torch's global generator,
    seeded afresh from (seed, client, round) for every message and put back afterwards. A
    ``DataLoader`` with a generator of its own stays outside of that.

    A subclass overrides what its method does otherwise:

    =========================== ================================================================
    :meth:`train_locally`       train from what was received and kept; say what is kept
    :meth:`personalize`         put the client's local model together, to be evaluated
    :meth:`predictor`           what predicts, where that is not the network itself
    :meth:`whole_model`, \
    :meth:`posterior_draws`, \
    :meth:`mixed_adapter`       what of that is exported, so that ``predict`` gives the same
    :meth:`adapt`               make the model an unseen client's own
    :meth:`adaptation`          what that trains, and under which proximal terms
    :meth:`proximal_terms`      what holds parameters near something in a round
    :meth:`receive`             what becomes of received arrays
    :meth:`kept_spec`, \
    :attr:`keeps_state`          what is in the personal state, and whether anything is
    =========================== ================================================================

    Parameters
    ----------
    model : nn.Module
        The architecture, on the device to train on. Its current values are the client's first
        personal parameters.
    scopes : mapping
        Scope of every state-dict entry, from :func:`clients.assign_scopes`.
    train_loader : iterable or Dataset
        The client's training batches, or a map-style ``Dataset``: shuffled batches of 32. A client
        without examples returns what it received with ``num-examples`` 0, which strategies leave
        out.
    validation_loader, test_loader : iterable or Dataset, optional
        Its other two splits.
    schedule : sequence of Phase, default joint(1)
        Phases of local training (:func:`clients.joint` and its siblings).
    optimization : Optimization
        Optimizer and its settings.
    proximal_rules : sequence of ProximalRule
        What parameters are held near.
    fine_tuning : FineTuning, optional
        Personalization at evaluation, if the method has it.
    adapts : frozenset of Scope
        Scopes that an unseen client fits to itself, where there is no fine-tuning.
    task : Task
        The loss and the scores: :class:`clients.Classification` or :class:`clients.Regression`.
    state : PersonalState, optional
        Where personal parameters live between messages; None keeps them nowhere, which only makes
        sense if nothing is personal.
    partition_id : int, optional
        The client's own number, which distinguishes its random stream and its reports.
    details : ClientDetails
        What few clients need to be given.
    seed : int, default 0
        The run's seed.

    Raises
    ------
    ArgumentError
        If ``model`` is a ``DataParallel`` or TorchScript, ``scopes`` are not its own, an entry is
        bfloat16, or ``train_loader`` can be iterated only once.
    """

    # ------------------------------------------------------------------ Flower's NumPyClient

    def get_parameters(self, config: dict[str, Any]) -> NDArrays:
        """Return the shared and group arrays, in the order of ``shared_names``, as copies."""
        return self.outgoing()

    def fit(self, parameters: NDArrays, config: dict[str, Any]) -> tuple[NDArrays, int, Scalars]:
        """Train from the received arrays and the client's own; keep the personal ones.

        Parameters
        ----------
        parameters : list of ndarray
            The shared and group arrays, in the order of ``shared_names``.
        config : dict of str to object
            ``server-round`` is read, and ``proximal-mu`` of Flower's ``FedProx``.

        Returns
        -------
        tuple of list of ndarray, int and dict
            The trained shared and group arrays; the number of training examples; ``train-loss``
            (NaN without a step) and ``partition-id``; where the quality of the data is known,
            ``missing-rate``, ``reliability`` (the mean over the features) and
            ``effective-examples``.

        Raises
        ------
        ArgumentError
            If an array has a wrong shape.
        TrainingDivergedError, PersonalStateError, DatasetError
            See there. The client's state is then what it was before.
        """
        server_round = int(config.get(SERVER_ROUND, 0))
        self.take_server_mu(config)
        before = self.receive(parameters, before=server_round)
        loss, kept = self.train_locally(LocalRound(server_round, before=before))
        self.save(server_round, before, kept)
        metrics = {"train-loss": loss} | self.identity | self._quality_metrics()
        return self.get_parameters({}), self.num_examples, metrics

    def evaluate(self, parameters: NDArrays, config: dict[str, Any]) -> tuple[float, int, Scalars]:
        """Score the personalized model on the client's own test and validation examples; keep it.

        Parameters
        ----------
        parameters : list of ndarray
            The shared and group arrays, in the order of ``shared_names``.
        config : dict of str to object
            ``server-round`` and ``num-server-rounds`` are read, to fine-tune after the last;
            ``adaptation-examples`` and ``adaptation-steps`` where the client was not trained with
            the others.

        Returns
        -------
        tuple of float, int and dict
            Test loss; number of test examples; the task's scores, such as ``accuracy``;
            ``validation-loss`` and the same scores as ``validation-accuracy`` (NaN without
            validation examples, :attr:`FineTuned.validation` after fine-tuning); ``partition-id``;
            what the method reports, such as ``fine-tuning-epochs``; of a stream ``phase``, the
            phase at hand, and the score on each phase, such as ``accuracy-phase-0``.
        """
        found = self.scored(parameters, config)
        self.keep_model(int(config.get(SERVER_ROUND, 0)))
        return found

    def scored(self, parameters: NDArrays, config: dict[str, Any]) -> tuple[float, int, Scalars]:
        """Return what :meth:`evaluate` returns, without keeping the model to be exported."""
        server_round = int(config.get(SERVER_ROUND, 0))
        about, validation = self._prepare(parameters, config)
        metrics = self.identity | about
        with self.random(server_round, "evaluate"):
            predictor = self.predictor()
            test = evaluate(predictor, self.test_loader, self.task)
            if validation is None:
                validation = evaluate(predictor, self.validation_loader, self.task)
        metrics |= test.scores
        metrics["validation-loss"] = validation.loss
        metrics |= {f"validation-{name}": score for name, score in validation.scores.items()}
        if self.details.stream is not None:
            metrics |= self._by_phase(predictor, self.details.stream)
        return test.loss, test.examples, metrics

    def predictions(
        self, parameters: NDArrays, config: dict[str, Any], num_classes: int
    ) -> dict[str, Predictions]:
        """Return what the model that :meth:`evaluate` scores says of the client's examples.

        Parameters
        ----------
        parameters, config : list of ndarray and dict of str to object
            As in :meth:`evaluate`.
        num_classes : int
            Number of classes.

        Returns
        -------
        dict of str to Predictions
            Of ``"test"`` and of ``"validation"`` examples.

        Raises
        ------
        ArgumentError
            If the client does not predict classes.
        """
        if not isinstance(self.task, Classification):
            raise ArgumentError("task", type(self.task).__name__, Classification.__name__)
        self._prepare(parameters, config)
        with self.random(int(config.get(SERVER_ROUND, 0)), "evaluate"):
            predictor = self.predictor()
            loaders = {"test": self.test_loader, "validation": self.validation_loader}
            return {
                name: predictions(predictor, loader, num_classes, self.task)
                for name, loader in loaders.items()
            }

    def training_labels(self) -> NDArray[Any]:
        """Return the targets of all that the training loader holds, in no particular order.

        Those of an example that is there several times, filled in by different draws, are, too.
        """
        with self.random(0, "query"):
            return labels_of(self.train_loader).numpy()

    def get_properties(self, config: dict[str, Any]) -> Scalars:
        """Answer a query.

        Parameters
        ----------
        config : dict of str to object
            ``properties``, the comma-separated names wanted; all by default. ``server-round`` is
            read for ``personal-round``.

        Returns
        -------
        dict
            Among ``partition-id``, ``num-examples`` (training), ``classes`` (labels among the
            training examples, such as ``"0,3,7"``), ``shared`` and ``personal`` (names of arrays),
            ``personal-round`` (when this run last kept personal parameters, before the round at
            hand; 0 for never), and what the client was given as ``properties``.

        Raises
        ------
        ArgumentError
            If an unknown property is asked for.
        """
        known: dict[str, Callable[[], Any]] = {
            **{name: partial(dict.get, self.identity, name) for name in self.identity},
            NUM_EXAMPLES: lambda: self.num_examples,
            "classes": lambda: ",".join(map(str, sorted(set(self.training_labels().tolist())))),
            "shared": lambda: ",".join(self.shared_names),
            "personal": lambda: ",".join(self.personal_names),
            PERSONAL_ROUND: lambda: self._personal_round(int(config.get(SERVER_ROUND, 0))),
            **{
                name: partial(self.details.properties.__getitem__, name)
                for name in self.details.properties
            },
        }
        wanted = str(config.get(PROPERTIES, "")).split(",") if config.get(PROPERTIES) else known
        if unknown := sorted(set(wanted) - known.keys()):
            raise ArgumentError(PROPERTIES, unknown, choices=sorted(known))
        return {name: known[name]() for name in wanted}

    # ------------------------------------------------------------------ the inside

    def _prepare(
        self, parameters: NDArrays, config: Mapping[str, Any]
    ) -> tuple[Scalars, Evaluation | None]:
        """Put the client's local model together, as it is evaluated; as :meth:`personalize`."""
        number = int(config.get(SERVER_ROUND, 0))
        is_unseen = ADAPTATION_EXAMPLES in config
        before = self.receive(parameters, stored=not is_unseen)
        if is_unseen:
            self.adapt(int(config[ADAPTATION_EXAMPLES]), int(config.get(ADAPTATION_STEPS, 0)))
            return {}, None
        last = NUM_ROUNDS in config and number >= int(config[NUM_ROUNDS])
        return self.personalize(LocalRound(number, last, before))

    def _quality_metrics(self) -> Scalars:
        quality = self.details.quality
        if quality is None:
            return {}
        return {
            MISSING_RATE: quality.missing_rate,
            RELIABILITY: quality.mean_reliability,
            EFFECTIVE_EXAMPLES: quality.effective_examples,
        }

    def _personal_round(self, before: int) -> int:
        snapshot = self.state.load(self.spec, before)
        return 0 if snapshot is None or snapshot.run != self.state.run else snapshot.round

    def _by_phase(self, predictor: nn.Module, stream: Stream) -> Scalars:
        """Score what predicts on the test examples of every phase."""
        score = self.task.score
        scores: Scalars = {"phase": stream.phase}
        for number, loader in enumerate(stream.test_loaders):
            found = evaluate(predictor, loader, self.task)
            scores[f"{score}-phase-{number}"] = found.scores[score]
        return scores
