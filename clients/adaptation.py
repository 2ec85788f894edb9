"""How a client that was not there in training makes the shared model its own."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from clients.loaders import Batch, Loader, in_memory_loader
from clients.proximal import ProximalTerm
from clients.scopes import Scope
from clients.task import Task
from clients.training import Optimization, Phase, train

ALL = -1
"""Number of examples: all there are."""


def take_examples(loader: Loader, count: int) -> tuple[Tensor, Tensor, int]:
    """Return the first ``count`` examples that an epoch yields, and the size of its batches.

    Parameters
    ----------
    loader : Loader
        Yields batches.
    count : int
        At least 1, or :data:`ALL`.

    Returns
    -------
    tuple of Tensor, Tensor and int
        Inputs ``(n, ...)`` and targets ``(n, ...)``, ``n`` at most ``count``; examples in the first
        batch.

    Raises
    ------
    ValueError
        If the loader yields nothing.
    """
    batches: list[Batch] = []
    found = 0
    for batch in loader:
        batches.append(batch)
        found += len(batch[-1])
        if count != ALL and found >= count:
            break
    if not batches:
        raise ValueError("there are no examples to take")
    end = found if count == ALL else count
    inputs = torch.cat([batch[0] for batch in batches])[:end]
    targets = torch.cat([batch[-1] for batch in batches])[:end]
    return inputs, targets, len(batches[0][-1])


def join(
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
    """Fit the client's own part of ``model``, in place, on a few of its training examples.

    Every method gets the same examples (those of fewer are among those of more, if the loader's
    order is) and the same number of minibatch steps.

    Parameters
    ----------
    model : nn.Module
        With the shared parameters and the client's first personal ones.
    loader : Loader
        The client's training batches.
    examples : int
        How many to use; 0 for none, :data:`ALL` for all.
    steps : int
        Minibatch steps.
    trains : frozenset of Scope
        Scopes whose parameters move; a method without personal ones takes the model as it is.
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
