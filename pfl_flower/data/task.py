"""The learning task of a client's examples: its name, and targets of the type that it needs."""

from dataclasses import replace

import numpy as np

from pfl_flower.data.client_records import RawClient, RawSplit
from pfl_flower.data.errors import DataError
from pfl_flower.data.schema import TaskName


def task_of(raw: RawClient) -> TaskName:
    """Return the task that a client's examples are for.

    Parameters
    ----------
    raw : RawClient
        The examples.
    """
    if raw.graph is not None and raw.train[0].ndim == 2:
        return "link-prediction"
    return "regression" if raw.train[1].dtype.kind == "f" else "classification"


def convert_targets(raw: RawClient, task: str) -> RawClient:
    """Return a client's examples with targets of the type that a task needs.

    Floats are for regression and everything else for classification, unless ``task`` says
    otherwise: integers can be amounts, and floats that are all whole can be classes. (Where all
    clients have nothing but the floats 0.0 and 1.0, merging their schemas makes them classes.)

    Parameters
    ----------
    raw : RawClient
        The examples.
    task : str
        See :class:`pfl_flower.data.settings.DataSettings`.

    Raises
    ------
    DataError
        If the targets cannot be converted, or link prediction has no graph.
    """
    kind = raw.train[1].dtype.kind
    if task == "link-prediction":
        if raw.graph is None:
            raise DataError(
                "task 'link-prediction' needs a graph, but these data have no edges",
                key="task",
                value=task,
                choices=("auto", "classification", "regression"),
            )
        return raw
    if task == "auto" or (task == "regression") == (kind == "f"):
        return raw
    if kind not in "iuf":
        some = raw.train[1][:3].tolist()
        raise DataError(
            f"task 'regression' needs numbers, but the targets are {some}; use 'classification'",
            key="task",
            value=task,
            choices=("auto", "classification"),
        )
    return replace(
        raw,
        train=_convert(raw.train, task),
        validation=None if raw.validation is None else _convert(raw.validation, task),
        test=None if raw.test is None else _convert(raw.test, task),
        phases=tuple(convert_targets(phase, task) for phase in raw.phases),
    )


def _convert(part: RawSplit, task: str) -> RawSplit:
    inputs, targets = part
    converted = targets.astype(np.float64 if task == "regression" else np.int64)
    if (odd := targets[converted != targets]).size:
        raise DataError(
            f"task 'classification' needs labels, but a target is the fraction {odd[0]}; use "
            f"'regression'",
            key="task",
            value=task,
            choices=("auto", "regression"),
        )
    return inputs, converted


FEW = 20
"""Fewer different whole numbers than this may be numbers of classes."""


def are_few_whole_numbers(targets: np.ndarray) -> bool:
    """Return whether floats are whole numbers, and few different ones, such as 0.0 and 1.0.

    Parameters
    ----------
    targets : ndarray
        ``(N,)`` targets of a regression.
    """
    found = np.unique(targets.astype(float))
    return len(found) < FEW and bool((found == np.round(found)).all())
