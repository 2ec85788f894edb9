"""Adaptation of unseen clients: fit the personal part of a shared model to a few examples."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from clients.data.datasets import reading
from clients.data.indexed_loader import Batch
from clients.data.inputs import Inputs, take
from clients.data.loaders import Loader, gathered, in_memory_loader, parted
from clients.local_training.local_step import Optimization
from clients.local_training.proximal import ProximalTerm
from clients.local_training.training import Phase, train
from clients.scopes import Scope
from clients.task import Task
from strategies.errors import ArgumentError

ALL = -1
"""Number of examples that stands for all of them."""


def take_examples(loader: Loader, count: int) -> tuple[Inputs, Tensor, int]:
    """Return the first ``count`` examples of an epoch, and the size of its first batch.

    Parameters
    ----------
    loader : Loader
        The batches.
    count : int
        At least 1, or :data:`ALL`.

    Returns
    -------
    tuple of Inputs, Tensor and int
        Inputs ``(n, ...)`` and targets ``(n, ...)`` with ``n`` at most ``count``, and the number of
        examples in the first batch.

    Raises
    ------
    ArgumentError
        If the loader yields no batches.
    """
    batches: list[Batch] = []
    found = 0
    for batch in reading(loader):
        batches.append(batch)
        found += len(parted(batch)[1])
        if count != ALL and found >= count:
            break
    if not batches:
        raise ArgumentError("loader", [], "non-empty: there are no examples to take")
    end = found if count == ALL else count
    inputs, targets = gathered(batches)
    return take(inputs, slice(end)), targets[:end], len(parted(batches[0])[1])


def adapt(
    model: nn.Module,
    loader: Loader,
    examples: int,
    steps: int,
    trains: frozenset[Scope],
    scopes: Mapping[str, Scope],
    *,
    task: Task,
    optimization: Optimization,
    proximal_terms: Sequence[ProximalTerm] = (),
) -> None:
    """Fit the personal part of ``model``, in place, on a few of the client's training examples.

    Every method gets the same examples and the same number of minibatch steps. If the loader's
    order is fixed, a smaller number of examples is a subset of a larger one.

    Parameters
    ----------
    model : nn.Module
        The model, with the shared parameters and the initial personal ones.
    loader : Loader
        The client's training batches.
    examples : int
        Number of examples to use; 0 for none, :data:`ALL` for all.
    steps : int
        Number of minibatch steps.
    trains : frozenset of Scope
        Scopes whose parameters are trained. Without personal parameters the model stays as it is.
    scopes, task, optimization, proximal_terms : mapping of str to Scope
        As in :func:`clients.train`.
    """
    if not (examples and steps):
        return
    inputs, targets, batch_size = take_examples(loader, examples)
    train(
        model,
        in_memory_loader(inputs, targets, batch_size, shuffle=True),
        (Phase(trains, steps=steps),),
        scopes,
        criterion=task.criterion,
        optimization=optimization,
        proximal_terms=proximal_terms,
    )
