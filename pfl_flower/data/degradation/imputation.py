"""IMPUTATIONS, the table of imputations: how a client fills in its missing values."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from clients.data.preprocessing import Preprocessing
from pfl_flower.data.moments import KnownValues
from strategies.randomness import named_seed

if TYPE_CHECKING:
    from sklearn.impute import IterativeImputer

Floats = NDArray[np.float64]

DRAWS = 5
"""Number of draws of multiple imputation."""

MEAN_ROUNDS, DRAW_ROUNDS = 10, 5
"""Largest number of rounds of regressions of every feature on all others, for conditional means and
for each draw (five as in van Buuren and Groothuis-Oudshoorn 2011, "mice")."""


@dataclass(frozen=True)
class Imputation:
    """A way to fill in missing values.

    Attributes
    ----------
    fill : callable
        (splits, seed) -> the splits, filled in. Splits are ``(N, d)`` with NaN where a value is
        missing, and 0 is the federated mean. The first split has the training examples, and only
        they are used to fit the imputation.
    fitted : callable
        (training examples, seed) -> the same imputation as
        :class:`~clients.data.preprocessing.Preprocessing`, for a model file. It fills in NaN where
        the imputation cannot be repeated for an example by itself.
    vectors : bool, default False
        Whether an example must be a vector.
    allows_missing : bool, default True
        Whether values may be missing.
    masks : bool, default False
        Whether as many further inputs mark the missing values.
    draws : int, default 1
        Number of imputations of every example. If there are several, training examples come draw
        after draw, ``(draws N, d)``, and others as ``(N, draws, d)``.
    """

    fill: Callable[[Sequence[Floats], int], tuple[Floats, ...]]
    fitted: Callable[[Floats, int], Preprocessing]
    vectors: bool = False
    allows_missing: bool = True
    masks: bool = False
    draws: int = 1


def empty_columns(training: Floats) -> NDArray[np.int64]:
    """Return the numbers of the columns without any known value.

    Parameters
    ----------
    training : ndarray
        ``(N, d)``, NaN where a value is missing.
    """
    found: NDArray[np.int64] = np.flatnonzero(np.isnan(training).all(axis=0))
    return found


def _keep_missing(training: Floats, seed: int) -> Preprocessing:
    """Fill in nothing."""
    return Preprocessing.filling(np.full(training.shape[1], np.nan))


def _none(parts: Sequence[Floats], seed: int) -> tuple[Floats, ...]:
    """Change nothing."""
    return tuple(parts)


def _mean(parts: Sequence[Floats], seed: int) -> tuple[Floats, ...]:
    """Fill in the mean of the client's training values; 0, the federated mean, without any."""
    means = KnownValues.of(parts[0]).means
    return tuple(np.where(np.isnan(part), means, part) for part in parts)


def _fitted_mean(training: Floats, seed: int) -> Preprocessing:
    return Preprocessing.filling(KnownValues.of(training).means)


def _zero(parts: Sequence[Floats], seed: int) -> tuple[Floats, ...]:
    """Fill in the federated mean."""
    return tuple(np.nan_to_num(part, nan=0.0) for part in parts)


def _fitted_mask(training: Floats, seed: int) -> Preprocessing:
    return Preprocessing.filling(np.zeros(training.shape[1]), mask=True)


def _conditional(parts: Sequence[Floats], seed: int) -> tuple[Floats, ...]:
    """Fill in the mean of a value given the known ones, by chained linear regressions."""
    return _chained(parts, named_seed(seed, "conditional"), sample=False)


def _fitted_conditional(training: Floats, seed: int) -> Preprocessing:
    """Return the regressions of :func:`_conditional`.

    They are fitted again, and not kept by whoever filled in: these are several times d^2 numbers
    of each client, and only a client that exports its model needs them.
    """
    (filled,) = _fill_empty((training,))
    start = KnownValues.of(filled).means
    imputer = _imputer(named_seed(seed, "conditional"), sample=False)
    _fit(imputer, filled)
    empty = set(empty_columns(training).tolist())  # these stay at 0
    steps = [step for step in imputer.imputation_sequence_ if step.feat_idx not in empty]
    coefficients = np.zeros((len(steps), len(start)))
    for row, step in zip(coefficients, steps, strict=True):
        row[step.neighbor_feat_idx] = step.estimator.coef_
    return replace(
        Preprocessing.filling(start),
        features=np.array([step.feat_idx for step in steps], dtype=np.int64),
        coefficients=coefficients,
        intercepts=np.array([float(step.estimator.intercept_) for step in steps]),
    )


def _multiple(parts: Sequence[Floats], seed: int) -> tuple[Floats, ...]:
    """Draw each value several times from its distribution given the known ones."""
    draws = [
        _chained(parts, named_seed(seed, "multiple", number), sample=True)
        for number in range(DRAWS)
    ]
    training, *others = zip(*draws, strict=True)
    return np.concatenate(training), *(np.stack(part, axis=1) for part in others)


def _chained(parts: Sequence[Floats], seed: int, sample: bool) -> tuple[Floats, ...]:
    """Fill in by scikit-learn's IterativeImputer, fitted on the training examples."""
    parts = _fill_empty(parts)
    if not any(np.isnan(part).any() for part in parts):
        return tuple(parts)
    imputer = _imputer(seed, sample)
    others = np.concatenate((parts[0][:0], *parts[1:]))
    training = _fit(imputer, parts[0])
    with threadpool_limits(1, user_api="blas"):
        others = imputer.transform(others) if len(others) else others
    ends = np.cumsum([len(part) for part in parts[1:]])[:-1]
    return training, *np.split(others, ends)


def _imputer(seed: int, sample: bool) -> "IterativeImputer":
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer

    return IterativeImputer(
        sample_posterior=sample,
        max_iter=DRAW_ROUNDS if sample else MEAN_ROUNDS,
        random_state=seed % 2**32,
        keep_empty_features=True,
    )


def _fit(imputer: "IterativeImputer", training: Floats) -> Floats:
    """Fit an imputer; return the training examples, filled in."""
    from sklearn.exceptions import ConvergenceWarning

    # One thread, again: scikit-learn may just have loaded another library, not limited yet.
    with warnings.catch_warnings(), threadpool_limits(1, user_api="blas"):
        warnings.simplefilter("ignore", ConvergenceWarning)
        found: Floats = imputer.fit_transform(training)
    return found


def _fill_empty(parts: Sequence[Floats]) -> tuple[Floats, ...]:
    """Fill in 0, the federated mean, in columns without any known training value."""
    empty = empty_columns(parts[0])
    filled = [part.copy() for part in parts]
    for part in filled:
        part[:, empty] = np.nan_to_num(part[:, empty], nan=0.0)
    return tuple(filled)


IMPUTATIONS: Mapping[str, Imputation] = {
    "none": Imputation(_none, _keep_missing, allows_missing=False),
    "mean": Imputation(_mean, _fitted_mean),
    "conditional": Imputation(_conditional, _fitted_conditional, vectors=True),
    "multiple": Imputation(_multiple, _keep_missing, vectors=True, draws=DRAWS),
    "mask": Imputation(_zero, _fitted_mask, vectors=True, masks=True),
}
"""Name of an imputation -> how it fills in missing values. A new one is one row."""

FILLING = tuple(name for name, imputation in IMPUTATIONS.items() if imputation.allows_missing)
"""Names of the imputations that fill in missing values."""
