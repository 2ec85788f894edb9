"""A cell of a comparison: one method on one seed, and what it gave, client by client."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np


@dataclass(frozen=True)
class CellResult:
    """What one method gave on one seed.

    Arrays are float64 and NaN where a value is missing. R rounds, C clients, K label bins,
    U unseen clients, E numbers of local examples.

    Attributes
    ----------
    method, seed : which cell
    config : hyphenated run config
    failure : why the method could not run; empty if it could (everything below is empty if not)
    task : decides what a score is: accuracy in [0, 1], where more is better, or the root mean
        squared error in units of the target, where less is better
    rounds : (R,) server rounds, from 1
    clients : (C,) numbers of the clients
    test, validation : (R, C) score of each client on its own examples after each round
    r2 : (R, C) coefficient of determination on the test examples; NaN for classification
    train_examples, test_examples : (C,) numbers of examples
    labels : names of the K label bins (classes, or ranges of the target)
    label_counts : (C, K) training examples of each client in each bin
    bytes_down, bytes_up : payload bytes of arrays for one client in a round
    parameters : number of values that are ``shared`` and ``personal``
    seconds_per_round : wall-clock
    unseen_examples : (E,) numbers of local examples that unseen clients joined with; -1 for all
    unseen_clients : (U,) their numbers
    unseen_test : (E, U) their scores on their own test examples
    """

    method: str
    seed: int
    config: Mapping[str, Any]
    failure: str = ""
    task: Literal["classification", "regression"] = "classification"
    rounds: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    clients: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    test: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    validation: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    r2: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    train_examples: np.ndarray = field(default_factory=lambda: np.zeros(0))
    test_examples: np.ndarray = field(default_factory=lambda: np.zeros(0))
    labels: tuple[str, ...] = ()
    label_counts: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    bytes_down: float = 0.0
    bytes_up: float = 0.0
    parameters: Mapping[str, int] = field(default_factory=dict)
    seconds_per_round: float = 0.0
    unseen_examples: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    unseen_clients: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    unseen_test: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
