"""Inputs by name, as token ids with their attention mask: from a user's mapping to one array.

All rooms of the data work on one array a split. Inputs by name are stacked along an axis after that
of the examples, ``(N, names, length)``, and are a mapping again where batches are made.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn.functional import pad

from clients.data.inputs import MASK, TOKENS
from pfl_flower.data.errors import DataError, SchemaError
from pfl_flower.data.readers.array_checks import as_array
from pfl_flower.data.schema import DataSchema

_SPLITS = ("x_train", "x_val", "x_test")


def names_of_inputs(arrays: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Return the names of the inputs, in the order in which they are stacked; () without names.

    Token ids alone get a mask, since sequences of different length are padded.

    Parameters
    ----------
    arrays : mapping
        A client's arrays, ``x_train`` and so on.
    where : str
        File and client, for error messages.

    Raises
    ------
    DataError
        If splits have different names, or only some have names.
    """
    splits = {name: arrays[name] for name in _SPLITS if name in arrays}
    if not any(isinstance(each, Mapping) for each in splits.values()):
        return ()
    found = {
        name: frozenset(each) if isinstance(each, Mapping) else None
        for name, each in splits.items()
    }
    if len(set(found.values())) > 1 or not (first := found["x_train"]):
        shown = {name: sorted(each) if each else each for name, each in found.items()}
        raise DataError(
            f"{where}: inputs have the names {shown}; those of all splits must be the same",
            key=", ".join(splits),
            value=shown,
        )
    names = first | {MASK} if TOKENS in first else first
    return tuple(sorted(map(str, names), key=lambda name: (name != TOKENS, name != MASK, name)))


def stack_inputs(
    arrays: Mapping[str, Any], names: Sequence[str], where: str
) -> dict[str, np.ndarray]:
    """Return the inputs of every split, ``(N, names, length)`` int64.

    Sequences that are shorter than the client's longest are padded with 0 at their end.

    Parameters
    ----------
    arrays : mapping
        A client's arrays.
    names : sequence of str
        As :func:`names_of_inputs` returns them.
    where : str
        File and client, for error messages.

    Raises
    ------
    DataError
        If rows are not of whole numbers, or the rows of an example have different lengths.
    """
    rows = {
        split: {
            name: _rows(own, f"{split}[{name!r}]", where) for name, own in arrays[split].items()
        }
        for split in _SPLITS
        if split in arrays
    }
    every = chain.from_iterable(chain.from_iterable(s.values()) for s in rows.values())
    length = max(map(len, every), default=1)
    found = {}
    for split, own in rows.items():
        if TOKENS in own and MASK not in own:
            own[MASK] = [np.ones(len(row), dtype=np.int64) for row in own[TOKENS]]
        _check_lengths(own, split, where)
        count = len(own[names[0]])
        found[split] = np.zeros((count, len(names), length), dtype=np.int64)
        for place, name in enumerate(names):
            for example, row in enumerate(own[name]):
                found[split][example, place, : len(row)] = row
    return found


def _rows(value: Any, name: str, where: str) -> list[np.ndarray]:
    """Return the rows of all examples, int64, each with at least one number."""
    if not isinstance(value, Iterable):
        kind = type(value).__name__
        words = f"{where}: {name} is a {kind}; it must be rows of whole numbers, one an example"
        raise DataError(words, key=name, value=kind)
    rows = [as_array(row, name, where) for row in value]
    for place, row in enumerate(rows):
        if row.ndim != 1 or row.dtype.kind not in "iub" or not len(row):
            raise DataError(
                f"{where}: {name} has an example {place} of shape {row.shape} and type "
                f"{row.dtype}; inputs by name are rows of whole numbers, such as token ids, with "
                f"at least one. Other inputs are one array",
                key=name,
                value=(row.shape, str(row.dtype)),
            )
    return [row.astype(np.int64) for row in rows]


def _check_lengths(rows: Mapping[str, Sequence[np.ndarray]], split: str, where: str) -> None:
    lengths = {name: [len(row) for row in own] for name, own in rows.items()}
    first, expected = next(iter(lengths.items()))
    for name, own in lengths.items():
        if own == expected:
            continue
        pairs = enumerate(zip(own, expected, strict=False))
        place = next((i for i, (a, b) in pairs if a != b), min(len(own), len(expected)))
        raise DataError(
            f"{where}: of {split} {name!r} and {first!r} differ in length from example {place} on; "
            f"each example has as many numbers of every name",
            key=split,
            value=place,
        )


def fit_named_inputs(inputs: Tensor, names: Sequence[str], schema: DataSchema) -> Tensor:
    """Return stacked inputs, padded to the longest sequence of the federation.

    Parameters
    ----------
    inputs : Tensor
        ``(N, names, length)`` int64; or inputs without names, which are returned as they are.
    names : sequence of str
        The client's names.
    schema : DataSchema
        The data schema.

    Raises
    ------
    SchemaError
        If a client's names are others than those of the federation, or a sequence is longer.
    """
    if tuple(names) != schema.inputs:
        own, others = list(names) or "no names", list(schema.inputs) or "no names"
        raise SchemaError(
            f"inputs have {own}; those of the federation have {others}", key="inputs", value=own
        )
    if not names:
        return inputs
    longest, length = schema.shape[1], inputs.shape[2]
    if length > longest:
        raise SchemaError(
            f"the longest sequence has {length} tokens; that of the federation has {longest}: "
            f"truncate sequences",
            key="shape",
            value=length,
        )
    return pad(inputs, (0, longest - length))
