"""What a study is, and the one runner of all of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from pfl_flower.comparison.runner import Job, run_jobs
from pfl_flower.config.run_config import RunConfig
from pfl_flower.engines import Engine, simulate
from pfl_flower.results.files import summarize
from pfl_flower.results.method_run import MethodRun
from pfl_flower.server.callbacks import Progress
from simulations.answers import ANSWERS


def prepare_nothing(config: Mapping[str, Any], num_clients: int) -> Mapping[str, Any]:
    """Add no run keys to those that an arm is written down with."""
    return {}


@dataclass(frozen=True)
class Arm:
    """One line of a study's table: a name and the run-config keys it sets.

    Attributes
    ----------
    name : str
        Shown in the table.
    config : mapping of str to object
        Hyphenated run-config keys.
    point : float, optional
        Where it stands on the study's curve; None for the table only.
    prepare : callable, default prepare_nothing
        (run keys of the study with the seed, number of clients) -> further run keys, such as what
        an earlier run left; a function of a module, which workers can find.
    """

    name: str
    config: Mapping[str, Any]
    point: float | None = None
    prepare: Callable[[Mapping[str, Any], int], Mapping[str, Any]] = prepare_nothing

    @property
    def key(self) -> str:
        """Its name in the summary and the table."""
        return self.name if self.point is None else f"{self.name} at {self.point:g}"

    def on_top_of(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return its run config: its own keys, and those of all arms that have an effect on it.

        Parameters
        ----------
        config : mapping of str to object
            Run-config keys of every arm.
        """
        used = RunConfig.used({**config, "baselines": "", **self.config})
        return {**used, **self.config}


@dataclass(frozen=True)
class Claim:
    """A promise of a study: ``value`` is at least ``threshold``.

    Attributes
    ----------
    name : str
        What is promised, in words.
    value, threshold : float
        Fractions, not per cent.
    """

    name: str
    value: float
    threshold: float

    @property
    def holds(self) -> bool:
        """Whether the promise is kept."""
        return bool(self.value >= self.threshold)


Measures = Mapping[str, Any]
"""What a study takes from a run beyond accuracy and costs, by name."""


def measure_nothing(run: MethodRun) -> Measures:
    """Take nothing from a run beyond what every study takes."""
    return {}


@dataclass(frozen=True)
class Result:
    """What one arm gave on one seed: client -> score, the method's summary, further measures.

    The score is the accuracy, or what else the study is scored by.
    """

    arm: Arm
    seed: int
    by_client: Mapping[int, float]
    summary: Mapping[str, Any]
    measures: Measures = field(default_factory=dict)

    @property
    def accuracy(self) -> np.ndarray:
        """The accuracy, or the study's other score, of each client."""
        return np.array(list(self.by_client.values()))


@dataclass
class Outcome:
    """All results of a study."""

    results: list[Result]

    @property
    def seeds(self) -> list[int]:
        """The seeds, ascending."""
        return sorted({result.seed for result in self.results})

    @property
    def names(self) -> list[str]:
        """The names of the arms, each once."""
        return list(dict.fromkeys(result.arm.name for result in self.results))

    def of(self, name: str, point: float | None = None) -> list[Result]:
        """Return the results of an arm, by seed."""
        found = [r for r in self.results if (r.arm.name, r.arm.point) == (name, point)]
        return sorted(found, key=lambda result: result.seed)

    def means(self, name: str, point: float | None = None) -> np.ndarray:
        """Return the mean accuracy over clients of an arm, for every seed."""
        return np.array([result.accuracy.mean() for result in self.of(name, point)])

    def at_least(self, name: str, threshold: float) -> Claim:
        """Claim that an arm's mean accuracy reaches a threshold on every seed."""
        words = f"{name}: mean accuracy of at least {threshold:.0%} on every seed"
        return Claim(words, float(self.means(name).min()), threshold)

    def above(self, name: str, other: str, margin: float) -> Claim:
        """Claim that an arm is a margin above another on every seed."""
        words = f"{name}: at least {100 * margin:g} points above {other} on every seed"
        return Claim(words, float((self.means(name) - self.means(other)).min()), margin)


@dataclass(frozen=True)
class Study:
    """A question, the federation it is asked on, and what is compared.

    Attributes
    ----------
    name, question : str
        For people.
    num_clients : int
        Number of clients.
    config : mapping of str to object
        Run-config keys of every arm.
    arms : sequence of Arm
        What is compared.
    claims : callable
        Outcome -> promises.
    draw : callable, optional
        Outcome, folder -> further pictures.
    tables : callable, optional
        Outcome -> title -> rows of a further table, each a mapping of its columns.
    measure : callable, default measure_nothing
        Run -> what else to take from it; a function of a module, which workers can find.
    columns : callable, optional
        Outcome -> arm (as :attr:`Arm.key`) -> further columns of the table, fractions.
    num_seeds : int, default 5
        Number of seeds that the promises are meant for.
    first_seed : int, default 0
        The first of them; the others follow. Settings are chosen on other seeds than they are
        judged by.
    score : str, default "accuracy"
        What the data are scored by, ``"accuracy"`` or ``"rmse"``.
    require : callable, optional
        Raises a ``DataError`` that says what to install or to get, before anything is run.
    reading : str, default ""
        What words in its tables mean that are not on every page, as Markdown.
    """

    name: str
    question: str
    num_clients: int
    config: Mapping[str, Any]
    arms: Sequence[Arm]
    claims: Callable[[Outcome], list[Claim]]
    draw: Callable[[Outcome, Path], None] = field(default=lambda outcome, folder: None)
    measure: Callable[[MethodRun], Measures] = measure_nothing
    columns: Callable[[Outcome], Mapping[str, Mapping[str, float]]] = field(
        default=lambda outcome: {}
    )
    num_seeds: int = 5
    first_seed: int = 0
    score: str = "accuracy"
    require: Callable[[], None] = lambda: None
    reading: str = ""
    tables: Callable[[Outcome], Mapping[str, Sequence[Mapping[str, Any]]]] = field(
        default=lambda outcome: {}
    )

    @property
    def seeds(self) -> range:
        """The seeds that the promises are meant for."""
        return range(self.first_seed, self.first_seed + self.num_seeds)

    @property
    def answer(self) -> str:
        """What it found on these seeds, as Markdown; empty where nobody has written it down."""
        return ANSWERS.get(self.name, "")


def run_arm(
    study_config: Mapping[str, Any],
    num_clients: int,
    arm: Arm,
    seed: int,
    engine: Engine,
    measure: Callable[[MethodRun], Measures] = measure_nothing,
    progress: Progress | None = None,
) -> Result:
    """Run one arm on one seed; with a safeguard, what clients chose counts."""
    prepared = arm.prepare({**study_config, "seed": seed, "baselines": ""}, num_clients)
    config = {**arm.on_top_of(study_config), "seed": seed, "baselines": "", **prepared}
    run = simulate(config, num_clients, engine, progress)[-1]
    return Result(arm, seed, run.by_client(), summarize(run), measure(run))


def run_study(
    study: Study,
    seeds: Sequence[int],
    rounds: int | None = None,
    engine: Engine = "in-process",
    jobs: int = 1,
    console: Console | None = None,
) -> Outcome:
    """Run every arm on every seed, ``jobs`` at a time, and show how far it is.

    All arms of a seed have the same data, splits, network and first values.

    Raises
    ------
    DataError
        If something is missing that the study needs.
    """
    study.require()
    config = dict(study.config) | ({"num-server-rounds": rounds} if rounds else {})
    num_rounds = RunConfig.read(config).num_server_rounds
    runs = [
        Job(
            f"{arm.name}, seed {seed}",
            num_rounds,
            run_arm,
            (config, study.num_clients, arm, seed, engine, study.measure),
        )
        for seed in seeds
        for arm in study.arms
    ]
    results = [result for _, result in run_jobs(runs, jobs, study.name, console)]
    order = {(arm.name, arm.point): place for place, arm in enumerate(study.arms)}
    results.sort(key=lambda r: (order[r.arm.name, r.arm.point], r.seed))
    return Outcome(results)
