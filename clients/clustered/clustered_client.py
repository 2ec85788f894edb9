"""A client that helps a server to find its group: it reports a gradient, or losses of models."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from flwr.app import Array, MetricRecord, RecordDict
from numpy.typing import NDArray
from torch.nn.functional import cosine_similarity

from clients.base_client import NDArrays, Scalars
from clients.clustered.start_gradient import halves, start_gradient
from clients.data.inputs import Inputs, take
from clients.data.loaders import Loader, in_memory_loader
from clients.entries import match
from clients.evaluation import evaluate
from clients.frozen import trained_parameters
from clients.local_training.adaptation import ALL, take_examples
from clients.personal_client import PersonalClient
from strategies.arrays import to_record
from strategies.clustered.projection import project
from strategies.errors import ArgumentError
from strategies.protocol import (
    ADAPTATION_EXAMPLES,
    ARRAYS,
    GRADIENT,
    GRADIENT_QUERY,
    GRADIENT_RELIABILITY,
    LOSS,
    LOSS_EXAMPLES,
    LOSS_GROUPS,
    LOSSES_QUERY,
    METRICS,
    NUM_EXAMPLES,
    PROJECTION_SEED,
    PROJECTION_SIZE,
    SERVER_ROUND,
)
from strategies.randomness import generator

__all__ = ["ClusteredClient"]


class ClusteredClient(PersonalClient):
    """A :class:`PersonalClient` that a server can find a group for.

    It answers two more questions: what is your gradient at these arrays
    (:class:`strategies.GradientClusters` asks it), and what is the loss of each of these models on
    your examples (:class:`strategies.IFCA`). Personal parameters are not sent; losses are those of
    the models with the client's own part.
    """

    def answer(
        self, question: str, arrays: Mapping[str, Array], config: dict[str, Any]
    ) -> RecordDict:
        """Return the content of the reply to a question of a server that finds groups.

        Parameters
        ----------
        question : str
            ``query.gradient`` or ``query.losses``, see :mod:`strategies.protocol`.
        arrays : mapping of str to Array
            Those of the message, by name.
        config : dict of str to object
            See :meth:`gradient` and :meth:`losses`; ``loss-groups`` names the models.

        Raises
        ------
        ArgumentError
            If it is another question, or the arrays are not those that the client shares.
        """
        answers = {GRADIENT_QUERY: self._answer_gradient, LOSSES_QUERY: self._answer_losses}
        if question not in answers:
            raise ArgumentError("question", question, choices=answers)
        return answers[question](arrays, config)

    def _answer_gradient(self, arrays: Mapping[str, Array], config: dict[str, Any]) -> RecordDict:
        vector, examples, metrics = self.gradient(match(arrays, self.shared_names), config)
        record = MetricRecord({NUM_EXAMPLES: examples, **metrics})  # type: ignore[dict-item]
        return RecordDict({ARRAYS: to_record({GRADIENT: vector}), METRICS: record})

    def _answer_losses(self, arrays: Mapping[str, Array], config: dict[str, Any]) -> RecordDict:
        groups = [int(group) for group in str(config[LOSS_GROUPS]).split(",")]
        candidates = [match(_of_group(arrays, group), self.shared_names) for group in groups]
        found, examples, metrics = self.losses(candidates, config)
        named = {f"{LOSS}-{group}": loss for group, loss in zip(groups, found, strict=True)}
        record = MetricRecord({NUM_EXAMPLES: examples, **named, **metrics})  # type: ignore[dict-item]
        return RecordDict({METRICS: record})

    def gradient(
        self, parameters: NDArrays, config: dict[str, Any]
    ) -> tuple[NDArray[np.float32], int, Scalars]:
        """Return the gradient at the received arrays and the client's first personal ones.

        Of the parameters that are not personal, on the training examples, each class weighing the
        same (:func:`clients.clustered.start_gradient.start_gradient`).

        Parameters
        ----------
        parameters : list of ndarray
            The shared and group arrays, in the order of ``shared_names``.
        config : dict of str to object
            ``projection-size`` and ``projection-seed`` are read, and ``adaptation-examples``: how
            many examples to use (-1, all, by default).

        Returns
        -------
        tuple of ndarray, int and dict
            The vector, projected if so asked; the number of examples it is made of;
            ``gradient-reliability``, the cosine of the gradients of two halves of the examples (NaN
            below 4 examples, or where a half has none), and ``partition-id``.

        Raises
        ------
        ArgumentError
            If there are no examples, an array has a wrong shape, or the gradient is not finite or
            zero.
        """
        self.receive(parameters, stored=False)
        examples = int(config.get(ADAPTATION_EXAMPLES, ALL))
        # An unseen client draws as in its adaptation, so that it is the same few examples.
        with self.random(0, "join" if ADAPTATION_EXAMPLES in config else "gradient"):
            inputs, targets, _ = take_examples(self.training_batches if examples else (), examples)
            vector = self._gradient(inputs, targets)
            reliability = self._reliability(inputs, targets)
        size, seed = int(config.get(PROJECTION_SIZE, 0)), int(config.get(PROJECTION_SEED, 0))
        metrics: Scalars = {GRADIENT_RELIABILITY: reliability}
        return project(vector.numpy(), size, seed), len(targets), metrics | self.identity

    def losses(
        self, candidates: Sequence[NDArrays], config: dict[str, Any]
    ) -> tuple[list[float], int, Scalars]:
        """Return the loss of several models, each with the client's own personal part.

        Parameters
        ----------
        candidates : sequence of list of ndarray
            The shared and group arrays of each model, in the order of ``shared_names``.
        config : dict of str to object
            ``loss-examples`` is read, ``train`` (by default) or ``validation``, and
            ``adaptation-examples``: how many of the training examples to use (-1, all, by default);
            with that the client's own part is its first one; else it is that of before
            ``server-round``.

        Returns
        -------
        tuple of list of float, int and dict
            Mean losses; the number of examples they are on; ``partition-id``.

        Raises
        ------
        ArgumentError
            If there are no examples, or an array has a wrong shape.
        """
        adapts = ADAPTATION_EXAMPLES in config
        server_round = int(config.get(SERVER_ROUND, 0))
        with self.random(*((0, "join") if adapts else (server_round, "losses"))):
            loader = self._loss_examples(
                str(config.get(LOSS_EXAMPLES, "train")), int(config.get(ADAPTATION_EXAMPLES, ALL))
            )
            found = []
            for parameters in candidates:
                self.receive(parameters, before=server_round, stored=not adapts)
                found.append(evaluate(self.model, loader, self.task))
        return [one.loss for one in found], found[0].examples, self.identity

    def _gradient(self, inputs: Inputs, targets: torch.Tensor) -> torch.Tensor:
        trained = trained_parameters(self.model)
        names = [name for name in self.shared_names if name in trained]
        if not names:
            wanted = "of one parameter or more; a gradient is that of shared parameters"
            raise ArgumentError("shared_names", self.shared_names, wanted)
        vector = start_gradient(self.model, names, inputs, targets, self.task)
        if not (torch.isfinite(vector).all() and vector.any()):
            wanted = f"finite and above 0, over {len(targets)} examples"
            raise ArgumentError("length of the gradient", float(vector.norm()), wanted)
        return vector

    def _reliability(self, inputs: Inputs, targets: torch.Tensor) -> float:
        if len(targets) < 4:
            return float("nan")
        draw = generator(self.seed, "halves", self.partition_id or 0)
        try:
            one, other = (
                self._gradient(take(inputs, h), targets[h]) for h in halves(targets, draw)
            )
        except ValueError:  # a half may be without a gradient where the whole is not
            return float("nan")
        return float(cosine_similarity(one, other, dim=0))

    def _loss_examples(self, which: str, examples: int) -> Loader:
        if which not in ("train", "validation"):
            raise ArgumentError(LOSS_EXAMPLES, which, choices=("train", "validation"))
        loader = self.training_batches if which == "train" else (self.validation_loader or ())
        inputs, targets, size = take_examples(loader if examples else (), examples)
        return in_memory_loader(inputs, targets, max(size, 512))


def _of_group(arrays: Mapping[str, Array], group: int) -> dict[str, Array]:
    """Return the arrays of one of several models: its own, and those that are shared."""
    found: dict[str, Array] = {}
    for name, array in arrays.items():
        whose, _, own = name.partition("/")
        if whose in ("shared", str(group)):
            found[own] = array
    return found
