"""Compare methods on the same clients, with equal budgets, and judge every client."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from pfl_flower.comparison.cells import Cell, CellResult, load_cell, run_cell, save_cell
from pfl_flower.comparison.guarded import safeguard_all
from pfl_flower.comparison.runner import Job, run_jobs
from pfl_flower.comparison.selection import BASELINES, direction, evaluated, select_round
from pfl_flower.config.errors import ConfigError
from pfl_flower.config.run_config import KEYS, SET_BY_METHOD, RunConfig
from pfl_flower.data import DataError, Federation, is_own, number_of_clients
from pfl_flower.engines import Engine
from pfl_flower.methods import METHODS
from pfl_flower.server.callbacks import RoundNews, TensorBoard
from pfl_flower.utils.files import write_json

OWN_KEYS = frozenset(
    {"method", "baselines", "seed", "safeguard", "resume", "initial", "results-dir"}
    | {"personal-dir", "tensorboard", *SET_BY_METHOD}
)
"""Keys of the run config that a comparison decides itself, or that make one method another."""

TRIALS = 9
"""Settings that ``tune`` tries for every method: as many for one with a strength of its own."""

_DEFAULT_CLIENTS = 10


@dataclass(frozen=True)
class Comparison:
    """What is compared, and on what.

    Attributes
    ----------
    methods : sequence of str
        Names; the baselines are added.
    config : mapping of str to object
        Hyphenated run config of every method, on top of the defaults (``heterogeneity`` is ``none``
        unless given).
    num_clients : int, optional
        Number of clients; None for as many as the data have of themselves, or 10.
    seeds : sequence of int, default (0, 1, 2)
        Each with a split, first parameters and order of batches of its own.
    tune : bool, default False
        Whether learning rate and the method's own strength are chosen on validation examples.
    safeguard : bool, default False
        Whether every personalized method also appears with its fallbacks.
    engine : Engine, default "in-process"
        ``"in-process"`` or ``"ray"``.
    """

    methods: Sequence[str]
    config: Mapping[str, Any]
    num_clients: int | None = None
    seeds: Sequence[int] = (0, 1, 2)
    tune: bool = False
    safeguard: bool = False
    engine: Engine = "in-process"

    def __post_init__(self) -> None:
        if unknown := [name for name in self.methods if name not in METHODS]:
            raise ConfigError(
                f"unknown methods {unknown}; known are {', '.join(METHODS)}",
                key="methods",
                value=unknown,
                choices=METHODS,
            )
        if RunConfig.parse({**self.config, "partition": "natural"}).streams:
            raise ConfigError(
                "compare chooses on validation examples, which in data that come in phases are of "
                "the phase at hand only; set phases=joint, or see the study smartwatch",
                key="phases",
                value="stream",
                choices=("joint",),
            )
        if odd := sorted(OWN_KEYS & set(self.config)):
            raise ConfigError(
                f"a comparison decides these keys itself: {', '.join(odd)}",
                key=odd[0],
                value=self.config[odd[0]],
            )
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ConfigError(
                f"seeds must be different numbers, got {list(self.seeds)}",
                key="seeds",
                value=list(self.seeds),
            )

    @property
    def all_methods(self) -> tuple[str, ...]:
        """The methods, baselines first."""
        return tuple(dict.fromkeys((*BASELINES, *self.methods)))

    @cached_property
    def clients(self) -> int:
        """The number of clients.

        Raises
        ------
        DataError
            If the data are missing.
        ConfigError
            If more clients are asked for than the data have.
        """
        natural = number_of_clients(RunConfig.parse(self._common()).data)
        if natural is not None and self.num_clients is not None and self.num_clients > natural:
            raise ConfigError(
                f"{self.num_clients} clients, but the data have only {natural}",
                key="clients",
                value=self.num_clients,
            )
        return self.num_clients or natural or _DEFAULT_CLIENTS

    def cell(self, method: str, seed: int, settings: Mapping[str, Any] | None = None) -> Cell:
        """Return the cell of a method on a seed, with settings that tuning chose."""
        config = {**self._common(), **(settings or {}), "method": method, "seed": seed}
        return Cell(config, self.clients, self.engine)

    def _common(self) -> dict[str, Any]:
        """Return the config of every method, with one network for all, such as a method needs."""
        config = {"heterogeneity": "none", **self.config, "baselines": ""}
        special = [name for name in self.methods if METHODS[name].block]
        if not special or config.get("model", "auto") != "auto":
            return config
        if len({METHODS[name].block for name in special}) > 1 or is_own(str(config.get("dataset"))):
            raise ConfigError(
                f"{' and '.join(special)} need a network of a certain kind, and all methods are "
                f"compared on the same one: name it with model",
                key="model",
                value=config.get("model", "auto"),
            )
        model = RunConfig.parse({**config, "method": special[0]}).architecture.model
        return {**config, "model": model}


@dataclass(frozen=True)
class Outcome:
    """What a comparison gave.

    Attributes
    ----------
    cells : list of CellResult
        A result of every method and seed, and safeguarded ones.
    tuned : mapping of str to mapping of str to object
        Method -> settings that tuning chose.
    """

    cells: list[CellResult]
    tuned: Mapping[str, Mapping[str, Any]]


def grid_of(method: str, learning_rate: float) -> list[dict[str, Any]]:
    """Return the settings that tuning tries: :data:`TRIALS` for every method.

    A method with a strength of its own (:attr:`Method.strengths`) has three values of it at three
    learning rates, others have nine learning rates over the same range: a third to three times.
    """
    strengths = METHODS[method].strengths
    if not strengths:
        rates = learning_rate * 3.0 ** np.linspace(-1, 1, TRIALS)
        return [{"learning-rate": float(f"{rate:.3g}")} for rate in rates]
    key, values = next(iter(strengths.items()))
    return [
        {"learning-rate": float(f"{learning_rate * factor:.3g}"), key: value}
        for factor in (1 / 3, 1.0, 3.0)
        for value in values
    ]


def compare(
    comparison: Comparison,
    folder: Path,
    jobs: int = 1,
    console: Console | None = None,
    tensorboard: bool = False,
) -> Outcome:
    """Run every method on every seed; cells that were finished earlier are not run again.

    Parameters
    ----------
    comparison : Comparison
        See :class:`Comparison`.
    folder : Path
        Where cells are kept.
    jobs : int, default 1
        Number of processes.
    console : Console, optional
        For the display of progress.
    tensorboard : bool, default False
        Whether to write scalars of every round to ``folder/tensorboard``.

    Raises
    ------
    ConfigError, DataError
        If the comparison makes no sense, or its data are missing.
    """
    _check_data(comparison)
    tuned: dict[str, dict[str, Any]] = {}
    board = TensorBoard(folder / "tensorboard") if tensorboard else None
    runner = _Runner(folder / "cells", jobs, console, board)
    if comparison.tune:
        tuned = _tune(comparison, runner)
    cells = [
        comparison.cell(method, seed, tuned.get(method))
        for seed in comparison.seeds
        for method in comparison.all_methods
    ]
    results = runner.run(cells, "methods", track=True)
    if all(result.failure for result in results):
        raise ConfigError(
            f"no method could run: {results[0].failure}",
            key="methods",
            value=[result.method for result in results],
        )
    order = {name: place for place, name in enumerate(comparison.all_methods)}
    results.sort(key=lambda result: (order[result.method], result.seed))
    if comparison.safeguard:
        results += safeguard_all(results)
    write_json(folder / "comparison.json", describe(comparison, tuned))
    return Outcome(results, tuned)


def _check_data(comparison: Comparison) -> None:
    """Raise at once where no client has data, instead of in every cell.

    Raises
    ------
    DataError
        Of the first client.
    """
    config = RunConfig.parse(comparison.cell("fedavg", comparison.seeds[0]).config)
    data, errors = Federation(config.data, comparison.clients), []
    for client in range(data.num_clients):
        try:
            data.client_schema(client)
            return
        except DataError as error:
            errors.append(error)
    raise errors[0]


def _tune(comparison: Comparison, runner: "_Runner") -> dict[str, dict[str, Any]]:
    """Return method -> settings with the best validation score on the first seed."""
    learning_rate = RunConfig.parse(comparison.cell("fedavg", 0).config).learning_rate
    trials = [
        (method, settings)
        for method in comparison.all_methods
        for settings in grid_of(method, learning_rate)
    ]
    seed = comparison.seeds[0]
    results = runner.run([comparison.cell(m, seed, settings) for m, settings in trials], "tuning")
    tuned: dict[str, dict[str, Any]] = {}
    best: dict[str, tuple[int, float]] = {}
    for (method, settings), result in zip(trials, results, strict=True):
        score = validation_score(result)
        if score > best.get(method, (0, -np.inf)):
            best[method], tuned[method] = score, settings
    return tuned


def validation_score(result: CellResult) -> tuple[int, float]:
    """Return how good a cell is at its chosen round, by its validation scores; more is better.

    First the number of clients that were evaluated (with settings under which some cannot be any
    more, a mean over the others flatters), then the mean score. (0, minus infinity) if the cell
    failed or there are no validation examples.
    """
    if result.failure:
        return 0, -np.inf
    place, by_validation = select_round(result)
    if not by_validation:
        return 0, -np.inf
    scores = result.validation[place]
    return int(evaluated(result)[place]), direction(result.task) * float(np.nanmean(scores))


class _Runner:
    """Runs cells that are not there yet, and keeps them."""

    def __init__(
        self, folder: Path, jobs: int, console: Console | None, board: TensorBoard | None
    ) -> None:
        self.folder = folder
        self.jobs = jobs
        self.console = console
        self.board = board
        folder.mkdir(parents=True, exist_ok=True)

    def run(self, cells: Sequence[Cell], title: str, track: bool = False) -> list[CellResult]:
        """Return the results of the cells, in their order; ``track`` them in TensorBoard."""
        found = {cell.name: load_cell(self.folder / cell.name) for cell in cells}
        missing = [cell for cell in {c.name: c for c in cells}.values() if found[cell.name] is None]
        runs = [Job(f"{c.method}, seed {c.seed}", _rounds(c), run_cell, (c,)) for c in missing]
        listen = self._listen if track else None
        for place, result in run_jobs(runs, self.jobs, title, self.console, listen):
            name = missing[place].name
            found[name] = result
            if not result.failure:  # a failure may be gone the next time
                save_cell(result, self.folder / name)
        results = [found[cell.name] for cell in cells]
        return [result for result in results if result is not None]

    def _listen(self, job: Job, news: RoundNews) -> None:
        if self.board:
            self.board(replace(news, method=job.label.replace(", ", " ")))


def _rounds(cell: Cell) -> int:
    return int(cell.config.get("num-server-rounds", RunConfig().num_server_rounds))


def describe(comparison: Comparison, tuned: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was compared, for ``comparison.json``."""
    return {
        "methods": list(comparison.all_methods),
        "clients": comparison.clients,
        "seeds": list(comparison.seeds),
        "config": dict(comparison.config),
        "tuned": {method: dict(settings) for method, settings in tuned.items()},
        "safeguard": comparison.safeguard,
    }


def allowed_keys() -> list[str]:
    """Return the keys of the run config that a comparison takes."""
    return [name for name in KEYS if name not in OWN_KEYS]
