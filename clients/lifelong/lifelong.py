"""Lifelong learning on the device: learn the new, preserve the old, stay near all clients' mean."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from clients.base_client import Scalars
from clients.data.loaders import Loader, count_examples
from clients.evaluation import Evaluation
from clients.frozen import trained_parameters
from clients.inference.fisher import fisher_diagonal, normalized
from clients.lifelong.change_detection import LossStatistics, has_jumped, loss_statistics
from clients.local_training.proximal import ProximalTerm
from clients.local_training.training import EVERYTHING
from clients.method_hooks import LocalRound
from clients.personalized_models.local_model import LocalModelClient, Values
from clients.scopes import Scope
from clients.state.personal_state import Snapshot, tensor_spec
from strategies.arrays import Spec
from strategies.errors import ArgumentError

__all__ = ["LifelongClient"]

TASK, TASKS, LOSSES = "clock/task", "clock/tasks", "clock/losses"


class LifelongClient(LocalModelClient):
    """Elastic weight consolidation on every device, near the mean of all clients.

    Per round, from the client's own ``theta``: train

        ``f_new(theta) + lambda/2 sum_j F_j (theta_j - theta*_j)^2 + mu/2 ||theta - theta_0||^2``

    where ``theta*`` is the client's local model at the end of its last task, ``F`` the diagonal
    Fisher information of its tasks so far, and ``theta_0`` what the server sent, the mean of the
    clients' models (Kirkpatrick et al. 2017, arXiv:1612.00796, eq. 3; online accumulation with
    decay: Schwarz et al. 2018, arXiv:1805.06370). The local model is sent, to be averaged;
    ``theta*`` and ``F`` never leave the device. Without either term the client fine-tunes its own
    model on whatever comes.

    A client cannot know when a task ends until the next one begins, and then the old examples are
    gone. So it takes the Fisher information of the task at hand after every round, and when the
    task changes makes it part of ``F``: ``F <- decay F + F_task``, each ``F_task`` normalized to
    mean 1 over all parameters, so that ``lambda`` has one scale. Clients change tasks at times of
    their own. From the second task on, running statistics of batch norm stay as they are: the
    Fisher information was taken under them.

    Parameters
    ----------
    args, kwargs
        As in :class:`PersonalClient`; ``mu`` is the strength of its ``proximal_rules``.
    lambda_ : float, default 1.0
        ``lambda >= 0``; at infinity what matters to old tasks at all (``F_j > 0``) stays.
    fisher_decay : float, default 1.0
        In [0, 1], what is left of the old Fisher information at a change.
    fisher_samples : int, default 0
        As in :func:`clients.inference.fisher.fisher_diagonal`; 0 is exact.
    task_id : number of the task that the examples at hand belong to, where the data announce it;
        None: the client finds out by itself. It compares the losses of its local model on the
        examples at hand, before it is trained on them, with those on its validation examples (its
        training examples, if it has none) after the last round: a jump is a change, by
        :func:`clients.lifelong.change_detection.has_jumped`

    Raises
    ------
    ArgumentError
        If ``lambda_`` or ``fisher_decay`` is out of range.
    """

    def __init__(
        self,
        *args: Any,
        lambda_: float = 1.0,
        fisher_decay: float = 1.0,
        fisher_samples: int = 0,
        task_id: int | None = None,
        **kwargs: Any,
    ) -> None:
        if not lambda_ >= 0:
            raise ArgumentError("lambda_", lambda_, "at least 0")
        if not 0 <= fisher_decay <= 1:
            raise ArgumentError("fisher_decay", fisher_decay, "in [0, 1]")
        self.lambda_ = lambda_
        self.fisher_decay = fisher_decay
        self.fisher_samples = fisher_samples
        self.task_id = task_id
        super().__init__(*args, **kwargs)

    def train_locally(self, current: LocalRound) -> tuple[float, Values]:
        """Train, and say what is kept; as :meth:`PersonalClient.train_locally`."""
        received, group = self._values(), self.proximal_terms()
        self._put(self._own("own", current.before, received))
        kept = dict(current.before.arrays) if current.before else {}
        if not self.num_examples:  # nothing to learn, and nothing to detect a change by
            return math.nan, kept
        if current.before is not None and self._has_changed(current.number, kept):
            kept |= self._consolidated(current.before)
            kept[TASKS] = kept[TASKS] + 1
        memory = self._memory(kept)
        with self.random(current.number, "train"):
            loss = self.train_model([*group, *memory], **(self._fixed_buffers() if memory else {}))
        with self.random(current.number, "fisher"):
            kept |= self._importance(kept)
            reference = loss_statistics(self.model, self._held_out, self.task)
        kept |= self.part("own", self.moving_names)
        kept[TASK] = torch.tensor(-1 if self.task_id is None else self.task_id)
        kept.setdefault(TASKS, torch.tensor(1))
        kept[LOSSES] = reference.tensor()
        self._put(self._contribution(received, self._last("own", current.before)))
        return loss, kept

    def _fixed_buffers(self) -> dict[str, Any]:
        """Return arguments of training that keep buffers, such as batch norm's, as they are.

        The old task's Fisher information was taken under its running statistics: with others, the
        same parameters would be another model, and no term could preserve it.
        """
        parameters = dict(self.model.named_parameters())
        buffers = {name: Scope.PERSONAL for name in self.entries if name not in parameters}
        moving = frozenset({Scope.SHARED, Scope.GROUP})
        return {
            "scopes": {**self.scopes, **buffers},
            "schedule": tuple(replace(p, trains=p.trains & moving) for p in self.schedule),
        }

    def _importance(self, kept: Values) -> Values:
        """Return the Fisher information of the task at hand, where the method has use for it.

        Where it has none, what an earlier run took belongs to an older model, and counts no more.
        """
        if self.lambda_ == 0.0:
            return {n: torch.zeros_like(t) for n, t in kept.items() if n.startswith("recent/")}
        found = fisher_diagonal(
            self.model, self.training_batches, self.task, samples=self.fisher_samples
        )
        return {f"recent/{name}": value.cpu() for name, value in normalized(found).items()}

    def _has_changed(self, server_round: int, kept: Values) -> bool:
        """Return whether the examples at hand are of another task than those of the last round."""
        if self.task_id is not None:
            return self.task_id != int(kept[TASK])
        with self.random(server_round, "change"):
            now = loss_statistics(self.model, self.training_batches, self.task)
        return has_jumped(LossStatistics.of(kept[LOSSES]), now)

    @property
    def _held_out(self) -> Loader:
        validation = self.validation_loader
        return validation if validation and count_examples(validation) else self.training_batches

    def _consolidated(self, before: Snapshot) -> Values:
        """Make the last task part of what is remembered."""
        anchor, old = before.part("own"), before.part("fisher")
        recent = before.part("recent")
        fisher = {n: self.fisher_decay * old[n] + f if old else f for n, f in recent.items()}
        return {f"anchor/{n}": anchor[n] for n in recent} | {
            f"fisher/{n}": value for n, value in fisher.items()
        }

    def _memory(self, kept: Values) -> list[ProximalTerm]:
        """Return the Fisher penalty, to what old tasks need; none during the first task."""
        memory = Snapshot(0, kept)
        anchor, fisher = memory.part("anchor"), memory.part("fisher")
        if not anchor or self.lambda_ == 0.0:
            return []
        device = next(iter(self.entries.values())).device
        return [
            ProximalTerm(
                {name: value.to(device) for name, value in anchor.items()},
                {name: times(self.lambda_, value.to(device)) for name, value in fisher.items()},
            )
        ]

    def personalize(self, current: LocalRound) -> tuple[Scalars, Evaluation | None]:
        """Put the client's local model together; as :meth:`PersonalClient.personalize`."""
        self._put(self._own("own", current.before, self._values()))
        return {"tasks": int(current.before.arrays.get(TASKS, 1)) if current.before else 1}, None

    def adaptation(self) -> tuple[frozenset[Scope], list[ProximalTerm]]:
        """Let an unseen client start from the received model and stay near it in training."""
        return EVERYTHING, self.proximal_terms()

    def kept_spec(self) -> Spec:
        """Return names, shapes and dtypes of what is kept."""
        specs = tensor_spec(trained_parameters(self.model))
        parts = ("anchor", "fisher", "recent")
        return (
            super().kept_spec()
            | {f"{part}/{name}": spec for part in parts for name, spec in specs.items()}
            | {TASK: ((), "int64"), TASKS: ((), "int64"), LOSSES: ((3,), "float64")}
        )


def times(strength: float, fisher: Tensor) -> Tensor:
    """Return ``strength * fisher``, with infinity times zero being zero."""
    if math.isinf(strength):
        return torch.full_like(fisher, math.inf).where(fisher > 0, 0.0)
    return strength * fisher
