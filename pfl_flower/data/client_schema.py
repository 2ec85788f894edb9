"""What one client reports about its data before the first round, from its examples."""

import numpy as np
import torch

from clients.data.table_cells import Categories
from clients.logs import info_once
from pfl_flower.data.categories import reported_categories
from pfl_flower.data.client_records import RawClient, RawSplit
from pfl_flower.data.degradation.devices import Device
from pfl_flower.data.degradation.imputation import IMPUTATIONS
from pfl_flower.data.fitting import as_numbers
from pfl_flower.data.lazy_inputs import LazyInputs
from pfl_flower.data.moments import FEWEST_ROWS, moments
from pfl_flower.data.pixels import pixels_of
from pfl_flower.data.readers.own_clients import is_own
from pfl_flower.data.schema import ClientSchema, Label, TaskName, ordered
from pfl_flower.data.settings import DataSettings
from pfl_flower.data.sources.registry import SOURCES
from pfl_flower.data.task import are_few_whole_numbers, task_of


def schema_of(
    raw: RawClient, settings: DataSettings, device: Device, edges: tuple[int, int] | None
) -> ClientSchema:
    """Return the schema of a client's data.

    Parameters
    ----------
    raw : RawClient
        The client's examples.
    settings : DataSettings
        The run keys that decide the data.
    device : Device
        The device that takes the client's measurements.
    edges : tuple of int, optional
        Number of edges that a graph partition keeps and drops.
    """
    inputs, targets = raw.train
    task = task_of(raw)
    parts = [_labels(part, task) for part in (raw.train, raw.validation, raw.test)]
    if task == "regression" and settings.task == "auto":
        parts = _zeros_and_ones(raw)
    source = SOURCES.get(settings.dataset)
    known = range(source.num_classes) if source and task == "classification" else ()
    single = targets.ndim == 1
    enough = len(targets) >= FEWEST_ROWS
    standardizes = _standardizes(settings, inputs)
    sends_features = enough and (standardizes or _imputes(settings, inputs))
    sends_target = enough and task == "regression"
    categories = _categories(raw, settings)
    numbers = inputs[:, : inputs.shape[1] - len(categories)] if categories else inputs
    own = is_own(settings.dataset)
    return ClientSchema(
        shape=tuple(inputs.shape[1:] if raw.graph is None else raw.graph.features.shape[1:]),
        task=task,
        labels=ordered(set().union(known, raw.classes, *parts)),
        features=moments(as_numbers(numbers)) if sends_features else None,
        target=moments(torch.from_numpy(targets.astype(float))) if sends_target else None,
        graph=raw.graph is not None,
        edges=edges,
        standardize=standardizes,
        columns=raw.columns,
        integers=_keeps_integers(raw, settings, device),
        train_labels=ordered(parts[0]) if single and enough else (),
        test_labels=ordered(parts[2]) if single and _has_enough(raw.test) else (),
        pixels="" if raw.graph is not None or raw.inputs else pixels_of(inputs),
        unscaled=own and not standardizes and _is_far_from_1(raw),
        tests_on_training=own and repeats(raw),
        whole_targets=task == "regression" and enough and are_few_whole_numbers(targets),
        inputs=raw.inputs,
        categories=categories,
        dates=raw.table.dates,
        unique_columns=raw.table.unique,
        torn_classes=own and single and parts[0] != parts[2],
        left_out=raw.left_out,
    )


def _categories(raw: RawClient, settings: DataSettings) -> Categories:
    """Return the categories that the client reports, and show them to whoever runs it."""
    own, groups = raw.table.categories, raw.table.groups
    found = reported_categories(raw.train[0], own, groups, settings.min_category) if own else ()
    for name, words in found:
        info_once(f"Categories of {name!r} that are reported: {', '.join(words) or 'none'}")
    return found


FAR = 100.0
"""Features of this size make slopes so steep that ordinary learning rates do not fit."""

MOST_REPEATED = 0.1
"""Share of test examples that may also be training examples, by chance or design."""

MANY_VALUES = 20
"""A feature with more values than this, among a client's training rows, is no code."""


def _is_far_from_1(raw: RawClient) -> bool:
    """Whether vectors of floats have a value beyond :data:`FAR`; integers may be indices."""
    inputs = raw.train[0]
    vectors = raw.graph is None and inputs.ndim == 2 and inputs.dtype.kind == "f"
    vectors = vectors and isinstance(inputs, np.ndarray)  # lazy ones are not read for this
    return vectors and bool((np.abs(inputs) > FAR).any())


def repeats(raw: RawClient) -> bool:
    """Return whether more than :data:`MOST_REPEATED` of a client's test examples train it, too.

    So it is where rows were joined twice, or rare classes were filled up by copies before the data
    came here. Rows of few different numbers repeat by nature: they do not count.

    Parameters
    ----------
    raw : RawClient
        The client's examples.
    """
    inputs = raw.train[0]
    if raw.graph is not None or raw.test is None or inputs.ndim < 2:
        return False
    if isinstance(inputs, LazyInputs):
        return False  # all would have to be read
    if inputs.ndim == 2 and max(len(np.unique(column)) for column in inputs.T) <= MANY_VALUES:
        return False
    known = {row.tobytes() for row in np.ascontiguousarray(inputs)}
    test = np.ascontiguousarray(raw.test[0])
    return sum(row.tobytes() in known for row in test) > MOST_REPEATED * len(test)


def _labels(part: RawSplit | None, task: TaskName) -> set[Label]:
    """Return the classes of a split; none of other tasks."""
    return set() if part is None or task != "classification" else set(np.unique(part[1]).tolist())


def _zeros_and_ones(raw: RawClient) -> list[set[Label]]:
    """Return the classes of each split if all targets are 0.0 or 1.0; none if there are others."""
    parts = (raw.train, raw.validation, raw.test)
    found = [set() if part is None else set(np.unique(part[1]).tolist()) for part in parts]
    if raw.train[1].ndim != 1 or not set().union(*found) <= {0.0, 1.0}:
        return [set(), set(), set()]
    return [{int(value) for value in values} for values in found]


def _has_enough(part: RawSplit | None) -> bool:
    """Whether a part is large enough for what it holds to be no single example's."""
    return part is not None and len(part[1]) >= FEWEST_ROWS


def _standardizes(settings: DataSettings, inputs: np.ndarray) -> bool:
    """Whether features are standardised. Those of own tables are; pixels and arrays are not."""
    source = SOURCES.get(settings.dataset)
    if source is not None:
        return source.standardize
    kind = settings.dataset.partition(":")[0]
    return kind in ("table", "huggingface") and inputs.ndim == 2


def _imputes(settings: DataSettings, inputs: np.ndarray) -> bool:
    """Whether an imputation may need the federated mean of a feature."""
    return inputs.ndim == 2 and IMPUTATIONS[settings.imputation].allows_missing


def _keeps_integers(raw: RawClient, settings: DataSettings, device: Device) -> bool:
    """Whether inputs are integers, and nothing makes fractions of them."""
    changed = settings.imputation != "none" or settings.calibrate_inputs or not device.perfect
    whole = raw.graph is None and raw.train[0].dtype == np.int64
    return whole and not changed and raw.declared_errors is None
