"""Results of comparisons that never ran: random, but the same every time."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pfl_flower.comparison.cells import CellResult
from strategies.randomness import generator

METHODS = ("fedavg", "local", "fedprox", "fedavg-ft", "fedper", "fedrep", "fedbn", "lg-fedavg")

LEVELS = {
    **{"fedavg": 0.62, "local": 0.70, "fedprox": 0.63, "fedavg-ft": 0.77},
    **{"fedper": 0.84, "fedrep": 0.80, "fedbn": 0.66, "lg-fedavg": 0.72},
}
"""Mean accuracy that a method tends to."""

SHARED = ("fedavg", "fedprox", "fedavg-ft")
"""Methods without personal parameters."""


def cell(
    method: str,
    test: Any,
    validation: Any = None,
    *,
    seed: int = 0,
    **options: Any,
) -> CellResult:
    """A cell of given scores: (R, C) or, for one round, (C,)."""
    test = np.atleast_2d(np.asarray(test, float))
    given = np.full(test.shape, np.nan) if validation is None else validation
    rounds, clients = test.shape
    values: dict[str, Any] = {
        "rounds": np.arange(1, rounds + 1),
        "clients": np.arange(clients),
        "test": test,
        "validation": np.atleast_2d(np.asarray(given, float)),
        "r2": np.full(test.shape, np.nan),
        "train_examples": np.full(clients, 50.0),
        "test_examples": np.full(clients, 10.0),
        "parameters": {"shared": 100, "personal": 0 if method in SHARED else 10},
    }
    return CellResult(method, seed, {"method": method, "seed": seed}, **(values | options))


def one_round(method: str, validation: Any, test: Any) -> CellResult:
    """A cell of one round with nothing but scores of its clients."""
    return CellResult(
        method,
        0,
        {},
        rounds=np.array([1]),
        clients=np.arange(len(test)),
        validation=np.array([validation]),
        test=np.array([test]),
        r2=np.full((1, len(test)), np.nan),
    )


def comparison(
    methods: Sequence[str] = METHODS,
    seeds: int = 3,
    clients: int = 20,
    rounds: int = 20,
    task: str = "classification",
) -> list[CellResult]:
    """Cells of methods that learn towards their level, on clients of uneven difficulty."""
    return [
        _learning(method, seed, clients, rounds, task)
        for method in methods
        for seed in range(seeds)
    ]


def _learning(method: str, seed: int, clients: int, rounds: int, task: str) -> CellResult:
    shared = generator(seed, "clients")
    ease = shared.normal(0, 0.08, clients)
    train = shared.integers(12, 200, clients).astype(float)
    labels = shared.dirichlet(np.full(10, 0.4), clients) * train[:, None]
    own = generator(seed, "method", method)
    steps = np.arange(1, rounds + 1)[:, None]
    level = LEVELS.get(method, 0.7) + ease + own.normal(0, 0.05, clients)
    rise = level * (1 - np.exp(-steps / 4))
    test, validation = (
        np.clip(rise + own.normal(0, 0.02, (rounds, clients)), 0, 1) for _ in range(2)
    )
    if task == "regression":
        test, validation = 3 * (1.2 - test), 3 * (1.2 - validation)
    examples = np.array([0, 1, 5, 20, -1])
    joined = level[:6] * np.array([0.4, 0.5, 0.7, 0.9, 1.0])[:, None]
    down = 0.0 if method == "local" else 8e4 * LEVELS.get(method, 0.7)
    return cell(
        method,
        test,
        validation,
        seed=seed,
        task=task,
        r2=1 - test**2 / 12 if task == "regression" else np.full(test.shape, np.nan),
        train_examples=train,
        test_examples=np.ceil(train / 4),
        labels=tuple(map(str, range(10))),
        label_counts=np.round(labels),
        bytes_down=2 * down,
        bytes_up=down,
        seconds_per_round=0.4 + LEVELS.get(method, 0.7),
        unseen_examples=examples,
        unseen_clients=np.arange(100, 100 + joined.shape[1]),
        unseen_test=joined,
    )
