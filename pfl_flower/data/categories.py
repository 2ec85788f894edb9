"""Categories of tables: what a client reports of them, their merging, and columns of 0 and 1."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clients.data.table_cells import (
    MISSING,
    OTHER,
    Categories,
    one_hot,
    one_hot_names,
    width,
)
from pfl_flower.data.moments import Moments

MOST_CATEGORIES = 50
"""A column has at most so many categories; the rest is ``other``."""


def reported_categories(
    inputs: NDArray[np.float64],
    categories: Categories,
    groups: NDArray[np.int64] | None,
    fewest: int,
) -> Categories:
    """Return what of its categories a client reports: those that enough training rows have.

    A word of few rows may be a name. Where rows have groups, such as patients, groups are counted:
    a patient with ten visits would be ten rows.

    Parameters
    ----------
    inputs : ndarray
        ``(N, d)`` training rows; the last columns are places among the words of ``categories``.
    categories : tuple
        The columns with all their words.
    groups : ndarray, optional
        ``(N,)`` group of each row.
    fewest : int
        Rows, or groups, that a category must have.

    Returns
    -------
    tuple
        The columns with at most :data:`MOST_CATEGORIES` categories, the commonest, in order.
    """
    found = []
    for (name, words), places in zip(categories, codes_of(inputs, categories).T, strict=True):
        pairs = places if groups is None else np.unique(np.stack([places, groups]), axis=1)[0]
        counts = dict(zip(words, np.bincount(pairs, minlength=len(words)), strict=True))
        enough = [w for w, n in counts.items() if n >= fewest and w not in (OTHER, MISSING)]
        commonest = sorted(enough, key=lambda word: (-counts[word], word))[:MOST_CATEGORIES]
        found.append((name, tuple(sorted(commonest))))
    return tuple(found)


def merge_categories(parts: Sequence[Categories]) -> Categories:
    """Return the categories of a federation: those that any client reported.

    Of more than :data:`MOST_CATEGORIES` in a column, those count that most clients have.

    Parameters
    ----------
    parts : sequence of tuple
        What each client reported; all of the same columns.
    """
    merged = []
    for column in zip(*parts, strict=True):
        counts = Counter(word for _, words in column for word in words)
        commonest = sorted(counts, key=lambda word: (-counts[word], word))[:MOST_CATEGORIES]
        merged.append((column[0][0], tuple(sorted(commonest))))
    return tuple(merged)


def codes_of(inputs: NDArray[np.float64], categories: Categories) -> NDArray[np.int64]:
    """Return the last columns of a table, ``(N, C)``, which are places among words.

    Parameters
    ----------
    inputs : ndarray
        ``(N, d)``.
    categories : tuple
        The C columns.
    """
    found: NDArray[np.int64] = inputs[:, inputs.shape[1] - len(categories) :].astype(np.int64)
    return found


def with_one_hot(inputs: Tensor, own: Categories, federated: Categories) -> Tensor:
    """Return rows of a table with its categories as columns of 0 and 1.

    Parameters
    ----------
    inputs : Tensor
        ``(N, d)`` float64; the last columns are places among the words of ``own``.
    own, federated : tuple
        The columns with the client's words, and with the categories of the federation.

    Returns
    -------
    Tensor
        ``(N, d - C + width)``; the same where there are no categories.
    """
    if not own:
        return inputs
    codes, known = codes_of(inputs.numpy(), own), dict(federated)
    columns = [
        one_hot(words, known[name])[places]
        for (name, words), places in zip(own, codes.T, strict=True)
    ]
    numbers = inputs[:, : inputs.shape[1] - len(own)]
    return torch.cat([numbers, *map(torch.from_numpy, columns)], dim=1)


def features_of_model(columns: tuple[str, ...], categories: Categories) -> tuple[str, ...]:
    """Return the names of the features of a model: numbers, and columns of 0 and 1.

    Parameters
    ----------
    columns : tuple of str
        Features of the tables, categories last.
    categories : tuple
        Those columns, with the categories of the federation.
    """
    names = [one_hot_names(name, words) for name, words in categories]
    return sum(names, columns[: len(columns) - len(categories)])


def features_of_tables(columns: tuple[str, ...], categories: Categories) -> tuple[str, ...]:
    """Return the names of the features of the tables, from those of the model.

    Parameters
    ----------
    columns : tuple of str
        What :func:`features_of_model` returned.
    categories : tuple
        The columns of categories.
    """
    numbers = columns[: len(columns) - width(categories)]
    return (*numbers, *(name for name, _ in categories))


def with_moments_of_one_hot(features: Moments, categories: Categories) -> Moments:
    """Return moments with those of columns of 0 and 1, which standardising leaves as they are.

    Parameters
    ----------
    features : Moments
        Of the numbers.
    categories : tuple
        The columns of categories.
    """
    more = width(categories)
    return Moments(
        features.count,
        features.means + (0.0,) * more,
        features.variances + (1.0,) * more,
        features.counts + (features.count,) * more if features.counts else (),
    )
