"""Clients whose examples are torch map-style ``Dataset`` objects, read when a batch needs them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Subset

from clients.data.dataset_loader import Collate
from clients.data.datasets import DatasetError, is_map_style, labels_of_dataset, read_example
from clients.data.indexed_loader import drawing
from pfl_flower.data.client_records import RawClient, RawSplit
from pfl_flower.data.errors import DataError
from pfl_flower.data.lazy_inputs import LazyInputs
from pfl_flower.data.pixels import pixels_of
from pfl_flower.data.readers.array_checks import KINDS, as_array, checked_targets

PARTS: Mapping[str, str] = {"train": "train", "validation": "val", "test": "test"}
"""What a function's mapping calls a data set -> the split."""

COLLATE = "collate"
"""What it calls the function that puts a batch together."""

FEW = 8
"""So many examples are looked at to find out on which scale pictures are."""


def parts_of_datasets(returned: Any) -> dict[str, Any] | None:
    """Return data sets by name, and perhaps ``collate``; None if something else was returned.

    Parameters
    ----------
    returned : object
        What a user's function returned: a mapping with ``train``, or the one data set.
    """
    if is_map_style(returned):
        return {"train": returned}
    named = returned if isinstance(returned, Mapping) else {}
    return dict(named) if any(is_map_style(part) for part in named.values()) else None


def checked_datasets(parts: Mapping[str, Any], where: str) -> RawClient:
    """Return a client's data sets as a :class:`RawClient`, whose inputs are lazy.

    The first and the last example of each are read, and all of them where the data set does not
    know its targets. Whole numbers become names where a data set has ``classes``, as those of
    torchvision: the same number may be another class at another client.

    Parameters
    ----------
    parts : mapping
        ``train``, and optionally ``validation``, ``test`` and ``collate``.
    where : str
        Call, for error messages.

    Raises
    ------
    DataError
        If ``train`` is missing, a name is unknown, an example cannot be read, is no pair, or has
        another shape than the others.
    """
    _check_names(parts, where)
    collate: Collate | None = parts.get(COLLATE)
    found: dict[str, RawSplit] = {}
    classes: set[str] = set()
    for name, split in PARTS.items():
        if (dataset := parts.get(name)) is None:
            continue
        if name == "validation" and not len(dataset):  # and none is to be split off
            found[split] = (found["train"][0][:0], found["train"][1][:0])
            continue
        try:
            with drawing(0):  # transforms may draw
                found[split] = _split(dataset, f"{where}: {name}", name, collate)
        except DatasetError as error:
            raise DataError(f"{where}: {name}: {error}", key=name, value=error.place) from error
        classes |= set(_classes(dataset)) if found[split][1].dtype.kind == "U" else set()
    shapes = {
        split: (inputs.shape[1:], str(inputs.dtype), KINDS[targets.dtype.kind])
        for split, (inputs, targets) in found.items()
    }
    if len(set(shapes.values())) > 1:
        raise DataError(
            f"{where}: examples have shapes, types and targets {shapes}; they must be the same",
            key=", ".join(parts),
            value=shapes,
        )
    return RawClient(
        found["train"], found.get("val"), found.get("test"), classes=tuple(sorted(classes))
    )


def _check_names(parts: Mapping[str, Any], where: str) -> None:
    known = (*PARTS, COLLATE)
    unknown = sorted(str(name) for name in parts if name not in known)
    odd = [name for name in PARTS if parts.get(name) is not None and not is_map_style(parts[name])]
    if unknown or odd or parts.get("train") is None:
        problem = f"has {', '.join(unknown or odd)}" if unknown or odd else "has no train"
        raise DataError(
            f"{where} {problem}; name map-style Datasets train, and validation and test if they "
            f"are split, and a function collate if batches need one",
            key=", ".join(unknown or odd) or "train",
            choices=known,
        )
    if not callable(parts.get(COLLATE, dict)):
        raise DataError(f"{where}: collate is no function", key=COLLATE, value=parts[COLLATE])


def _split(dataset: Any, where: str, name: str, collate: Collate | None) -> RawSplit:
    count = len(dataset)
    if not count:
        raise DataError(f"{where} has no example; it needs at least one", key=name, value=0)
    some = [
        _input(read_example(dataset, place), where, name)
        for place in sorted({*range(min(FEW, count)), *range(count - 1, count)})
    ]
    labels = _named(dataset, labels_of_dataset(dataset))
    targets = checked_targets(labels, f"targets of {name}", where)
    shapes = sorted({tuple(each.shape) for each in some})
    if len(shapes) > 1 and collate is None:
        raise DataError(
            f"{where}: inputs differ in shape: {shapes[:3]}; let a transform make them alike, or "
            f"give a collate function",
            key=name,
            value=shapes,
        )
    first = some[0]
    alike = [each[None] for each in some if each.shape == first.shape]
    dtype = first.dtype
    if dtype != np.uint8 or first.ndim < 2:
        dtype = np.dtype(np.float32 if dtype.kind in "fb" else np.int64)
    pixels = pixels_of(np.concatenate(alike))
    rows = np.arange(count)
    return LazyInputs(dataset, rows, first.shape, dtype, pixels, collate), targets


def _input(example: Any, where: str, name: str) -> np.ndarray:
    """Return the input of an example as an array.

    Raises
    ------
    DataError
        If the example is no pair of a tensor (or array) of numbers and a target.
    """
    if not (isinstance(example, tuple | list) and len(example) == 2):
        kind = type(example).__name__
        raise DataError(
            f"{where}: an example is a {kind}; it must be a pair of input and target",
            key=name,
            value=kind,
        )
    inputs = example[0]
    if not isinstance(inputs, torch.Tensor | np.ndarray) or not inputs.ndim:
        kind = type(inputs).__name__
        raise DataError(
            f"{where}: an input is a {kind}; it must be a tensor with one axis or more. Let a "
            f"transform make it one (torchvision.transforms.v2.ToImage of a picture); give several "
            f"inputs by name as arrays, not as a Dataset",
            key=name,
            value=kind,
            choices=("Tensor", "ndarray"),
        )
    return as_array(inputs, name, where)


def _named(dataset: Any, labels: np.ndarray) -> np.ndarray:
    """Return whole numbers as the names that a data set has for them."""
    names = _classes(dataset)
    if not names or labels.dtype.kind not in "iu" or not len(labels):
        return labels
    if labels.min() < 0 or labels.max() >= len(names):
        return labels
    named: np.ndarray = np.array(names, dtype=np.str_)[labels]
    return named


def _classes(dataset: Any) -> list[str]:
    """Return the names of the classes that a data set declares; none without.

    Raises
    ------
    DataError
        If parts of a ``ConcatDataset`` name them otherwise: one number would be two classes.
    """
    if isinstance(dataset, Subset):
        return _classes(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        found = [_classes(part) for part in dataset.datasets]
        if any(each != found[0] for each in found):
            raise DataError(
                f"the parts of a ConcatDataset have classes {found[:3]}; give them the same ones "
                f"in the same order, or targets that are names",
                key="classes",
                value=found,
            )
        return found[0]
    names = getattr(dataset, "classes", None)
    words = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return list(names) if words and names else []
