"""Compare methods on the same clients, with equal budgets, and judge every client."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console

from pfl_flower.comparison.cell_runner import CellRunner
from pfl_flower.comparison.cells import Cell, CellResult
from pfl_flower.comparison.constants import constant_cells
from pfl_flower.comparison.feasibility import check_feasible
from pfl_flower.comparison.guarded import safeguard_all
from pfl_flower.comparison.selection import BASELINES, GLOBAL
from pfl_flower.comparison.settings import check_common, check_settings
from pfl_flower.comparison.tuning import tune
from pfl_flower.config.errors import ConfigError
from pfl_flower.config.run_config import RunConfig
from pfl_flower.config.unused_keys import unused_keys
from pfl_flower.data import is_own, number_of_clients
from pfl_flower.engines import Engine
from pfl_flower.methods import METHODS, Method
from pfl_flower.server.callbacks import TensorBoard
from pfl_flower.utils.files import write_json

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
    settings : mapping of str to mapping, default {}
        Method -> run keys of its own, such as ``{"ditto": {"lambda": "auto"}}``; see
        :func:`pfl_flower.comparison.settings.keys_for`.
    """

    methods: Sequence[str]
    config: Mapping[str, Any]
    num_clients: int | None = None
    seeds: Sequence[int] = (0, 1, 2)
    tune: bool = False
    safeguard: bool = False
    engine: Engine = "in-process"
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if unknown := [name for name in self.methods if name not in METHODS]:
            raise ConfigError(
                f"unknown methods {unknown}; known are {', '.join(METHODS)}",
                key="methods",
                value=unknown,
                choices=METHODS,
            )
        check_common(self.config, self.engine)
        check_settings(self.settings, (*BASELINES, *self.methods))
        if RunConfig.read({**self.config, "partition": "natural"}).streams:
            raise ConfigError(
                "compare chooses on validation examples, which in data that come in phases are of "
                "the phase at hand only; set phases=joint, or see the study smartwatch",
                key="phases",
                value="stream",
                choices=("joint",),
            )
        self._check_used()
        if self.num_clients is not None and self.num_clients < 1:
            raise ConfigError("a comparison needs clients", key="clients", value=self.num_clients)
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ConfigError(
                f"seeds must be different numbers, got {list(self.seeds)}",
                key="seeds",
                value=list(self.seeds),
            )

    def _check_used(self) -> None:
        """Refuse keys that no method has a use for, and those set for a method that has none."""
        first, *others = self.all_methods
        RunConfig.parse({**self.common, "method": first, "baselines": ",".join(others)})
        for method, own in self.settings.items():
            config = RunConfig.read({**self.common, **own, "method": method})
            for key, reason in unused_keys(config).items():
                if key in own:
                    words = f"{key} has no effect on {method}: {reason}; leave it out"
                    raise ConfigError(words, key=key, value=own[key])

    @property
    def all_methods(self) -> tuple[str, ...]:
        """The methods that run, baselines first; of two that are the same only the first."""
        names = dict.fromkeys((*BASELINES, *self.methods))
        return tuple(name for name in names if name not in self.same)

    @cached_property
    def same(self) -> Mapping[str, str]:
        """Method -> an earlier one of another name that does the same: ``fedavg-gnn`` -> fedavg."""
        names, found = list(dict.fromkeys((*BASELINES, *self.methods))), {}
        for place, name in enumerate(names):
            earlier = (other for other in names[:place] if self._does(other) == self._does(name))
            if first := next(earlier, None):
                found[name] = first
        return found

    def _does(self, method: str) -> tuple[Method, Mapping[str, Any]]:
        """Return all of a method but how it is called and for which data it is meant."""
        row = replace(METHODS[method], summary="", source="", graphs=False)
        return row, self.settings.get(method, {})

    @cached_property
    def base(self) -> RunConfig:
        """The run config of the global model on the first seed, without settings of its own."""
        about = {"method": GLOBAL, "seed": self.seeds[0]}
        return RunConfig.read({**self.common, **about})

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
        natural = number_of_clients(self.base.data)
        if natural is not None and self.num_clients is not None and self.num_clients > natural:
            raise ConfigError(
                f"{self.num_clients} clients, but the data have only {natural}",
                key="clients",
                value=self.num_clients,
            )
        return self.num_clients or natural or _DEFAULT_CLIENTS

    def cell(self, method: str, seed: int, settings: Mapping[str, Any] | None = None) -> Cell:
        """Return the cell of a method on a seed, with settings that tuning chose."""
        own = {**self.settings.get(method, {}), **(settings or {})}
        config = {**self.common, **own, "method": method, "seed": seed}
        return Cell(RunConfig.used(config), self.clients, self.engine)

    @cached_property
    def common(self) -> dict[str, Any]:
        """The config of every method, with one network for all, such as a method needs."""
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
        model = RunConfig.read({**config, "method": special[0]}).architecture.model
        return {**config, "model": model}


@dataclass(frozen=True)
class Outcome:
    """What a comparison gave.

    Attributes
    ----------
    cells : list of CellResult
        A result of every method and seed, safeguarded ones, and those of always answering the same.
    tuned : mapping of str to mapping of str to object
        Method -> settings that tuning chose; without a method that none of them was good for.
    """

    cells: list[CellResult]
    tuned: Mapping[str, Mapping[str, Any]]


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
    check_feasible(comparison)
    board = TensorBoard(folder / "tensorboard") if tensorboard else None
    runner = CellRunner(folder / "cells", jobs, console, board)
    tuned = tune(comparison, runner.run) if comparison.tune else {}
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
    results += constant_cells(results)
    write_json(folder / "comparison.json", describe(comparison, tuned))
    return Outcome(results, tuned)


def describe(comparison: Comparison, tuned: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was compared, for ``comparison.json``."""
    return {
        "methods": list(comparison.all_methods),
        "clients": comparison.clients,
        "seeds": list(comparison.seeds),
        "config": dict(comparison.config),
        "settings": {method: dict(own) for method, own in comparison.settings.items()},
        "tuned": {method: dict(settings) for method, settings in tuned.items()},
        "safeguard": comparison.safeguard,
    }
