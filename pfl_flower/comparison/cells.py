"""A cell of a comparison: one method on one seed, and what it gave, client by client."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from pfl_flower.comparison.constants import constant_scores
from pfl_flower.config.run_config import RunConfig
from pfl_flower.data import federation, stamp
from pfl_flower.data.schema import TaskName, target_scale
from pfl_flower.engines import Engine, simulate
from pfl_flower.results.class_scores import reported_scores
from pfl_flower.results.files import describe, summarize
from pfl_flower.results.method_run import MethodRun, select
from pfl_flower.server.callbacks import Progress
from pfl_flower.server.checkpoint import code_digest, versions
from pfl_flower.server.discovery import FederationError
from pfl_flower.utils.files import write_json
from strategies import ClientReport


@dataclass(frozen=True)
class CellResult:
    """What one method gave on one seed.

    Arrays are float64 and NaN where a value is missing. R rounds, C clients, K label bins,
    U unseen clients, E numbers of local examples.

    Attributes
    ----------
    method, seed : str and int
        Which cell.
    config : mapping of str to object
        Hyphenated run config.
    failure : str, default ""
        Why the method could not run; empty if it could (everything below is empty if not).
    task : TaskName, default "classification"
        Decides what a score is: accuracy in [0, 1], where more is better, or the root mean squared
        error in units of the target, where less is better.
    rounds : ndarray, optional
        (R,) server rounds, from 1.
    clients : ndarray, optional
        (C,) numbers of the clients.
    test, validation : ndarray, optional
        (R, C) score of each client on its own examples after each round.
    r2 : np.ndarray, optional
        (R, C) coefficient of determination on the test examples; NaN for classification.
    train_examples, test_examples : ndarray, optional
        (C,) numbers of examples.
    labels : tuple of str, default ()
        Names of the K label bins (classes, or ranges of the target).
    label_counts : ndarray, optional
        (C, K) training examples of each client in each bin.
    bytes_down, bytes_up : float, default 0.0
        Payload bytes of arrays for one client in a round.
    parameters : mapping of str to int, default {}
        Number of values that are ``shared`` and ``personal``.
    seconds_per_round : float, default 0.0
        Wall-clock.
    unseen_examples : ndarray, optional
        (E,) numbers of local examples that unseen clients adapted with; -1 for all.
    unseen_clients : ndarray, optional
        (U,) their numbers.
    unseen_test : ndarray, optional
        (E, U) their scores on their own test examples.
    names : tuple of str, default ()
        (C,) the clients' own names, empty where they have none.
    left_out : tuple of str, default ()
        In words, which clients could not take part and why.
    safeguarded : bool, default False
        Whether clients chose between the method's and the baselines' models. Its validation scores
        are the best of several, so they are too good to be compared.
    network : str, default ""
        Which network it trained, as the run key ``model`` names it.
    score : str, default "accuracy"
        Name of the score that ``test`` and ``validation`` hold.
    score_names, scores : tuple of str and ndarray, optional
        All S scores that classifiers report, (S, R, C) on test examples; () for accuracy alone.
    constant_validation, constant_test, constant_r2 : ndarray, optional
        (K, C) scores of always answering the same on the same examples, see
        :mod:`pfl_flower.comparison.constants`.
    constant : bool, default False
        Whether this is such an answer, and no method.
    """

    method: str
    seed: int
    config: Mapping[str, Any]
    failure: str = ""
    task: TaskName = "classification"
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
    names: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    safeguarded: bool = False
    network: str = ""
    score: str = "accuracy"
    score_names: tuple[str, ...] = ()
    scores: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    constant_validation: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    constant_test: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    constant_r2: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    constant: bool = False


@dataclass(frozen=True)
class Cell:
    """A cell that is to be run.

    Attributes
    ----------
    config : mapping of str to object
        Hyphenated run config, with the method and the seed.
    num_clients : int
        Number of clients.
    engine : Engine, default "in-process"
        Where it runs; the numbers are the same.
    """

    config: Mapping[str, Any]
    num_clients: int
    engine: Engine = "in-process"

    @property
    def method(self) -> str:
        """Name of the method."""
        return str(self.config["method"])

    @property
    def seed(self) -> int:
        """The seed."""
        return int(self.config["seed"])

    @cached_property
    def name(self) -> str:
        """Name of its file: it changes with everything that decides its numbers."""
        config = RunConfig.read(self.config)
        decides = [code_digest(config), versions(), stamp(config.data)]
        about = json.dumps([sorted(self.config.items()), self.num_clients, *decides])
        digest = blake2b(about.encode(), digest_size=6).hexdigest()
        return f"{self.method}-seed{self.seed}-{digest}.json"


def run_cell(cell: Cell, progress: Progress | None = None) -> CellResult:
    """Run a cell; a method that does not fit is a result too, with the reason as ``failure``."""
    try:
        (run,) = simulate(cell.config, cell.num_clients, cell.engine, progress)
        if not len(run.values()):
            raise FederationError(describe([run])[0])
        return result_of(run, dict(cell.config), cell.num_clients)
    except Exception as error:  # a user's own model can raise anything, and others can still run
        reason = str(error) if isinstance(error, ValueError | RuntimeError) else repr(error)
        return CellResult(cell.method, cell.seed, dict(cell.config), failure=reason)


def result_of(run: MethodRun, config: Mapping[str, Any], num_clients: int) -> CellResult:
    """Return what a run gave, client by client."""
    evaluated = [r for r in run.reports if r.phase == "evaluate" and not r.dropped]
    clients = sorted({report.client for report in evaluated})
    rounds = sorted({report.round for report in evaluated})

    def table(metric: str) -> np.ndarray:
        return _table(evaluated, metric, rounds, clients)

    costs = summarize(run)
    labels, counts = label_counts(run, clients, num_clients)
    trained = [r for r in run.reports if r.phase == "train" and not r.dropped]
    return CellResult(
        method=run.method,
        seed=run.config.seed,
        config=config,
        task=run.config.required_schema.task,
        rounds=np.array(rounds),
        clients=np.array(clients),
        test=table(run.score),
        validation=table(f"validation-{run.score}"),
        r2=table("r2") if run.score == "rmse" else np.full((len(rounds), len(clients)), np.nan),
        train_examples=_last(trained, clients),
        test_examples=_last(evaluated, clients),
        labels=labels,
        label_counts=counts,
        bytes_down=costs["bytes_per_round"]["down"],
        bytes_up=costs["bytes_per_round"]["up"],
        parameters=dict(run.parameters),
        names=tuple(federation(run.config.data, num_clients).name(c) for c in clients),
        left_out=run.left_out,
        seconds_per_round=costs["seconds_per_round"],
        network=run.config.architecture.model,
        score=run.score,
        score_names=reported_scores(run),
        scores=np.array([table(n) for n in reported_scores(run)] or np.zeros((0, 0))),
        **_constants(run, clients, num_clients),
        **_unseen(run),
    )


def _table(
    reports: Sequence[ClientReport], metric: str, rounds: Sequence[int], clients: Sequence[int]
) -> np.ndarray:
    found = {(r.round, r.client): float(r.metrics[metric]) for r in reports if metric in r.metrics}
    return np.array([[found.get((r, c), np.nan) for c in clients] for r in rounds])


def _last(reports: Sequence[ClientReport], clients: Sequence[int]) -> np.ndarray:
    """Return the number of examples in each client's last report."""
    found = {report.client: float(report.metrics["num-examples"]) for report in reports}
    return np.array([found.get(client, np.nan) for client in clients])


def _constants(run: MethodRun, clients: Sequence[int], num_clients: int) -> dict[str, Any]:
    """Return what always answering the same scores on the clients' examples."""
    schema = run.config.required_schema
    data = federation(run.config.data, num_clients)
    found = [data.client(client, schema) for client in clients]
    splits = [(client.train, client.validation, client.test) for client in found]
    return constant_scores(run.config.client_task, schema.task, splits)


def _unseen(run: MethodRun) -> dict[str, Any]:
    if not run.unseen:
        return {}
    clients = sorted({r.client for reports in run.unseen.values() for r in reports})
    last = run.config.num_server_rounds
    scores = {k: select(reports, run.score, last) for k, reports in run.unseen.items()}
    return {
        "unseen_examples": np.array(list(run.unseen)),
        "unseen_clients": np.array(clients),
        "unseen_test": np.array([[scores[k].get(c, np.nan) for c in clients] for k in run.unseen]),
    }


def label_counts(
    run: MethodRun, clients: Sequence[int], num_clients: int, bins: int = 8
) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the names of the labels and how often each client has them in training.

    For this the simulation looks at its clients' data, which a server never sees. Classes have the
    names that the clients give them (with ``taste`` these differ in meaning); a target of a
    regression is cut into ranges that are equally common over all clients.
    """
    schema = run.config.required_schema
    data = federation(run.config.data, num_clients)
    targets = [data.client(client, schema).train[1].numpy() for client in clients]
    if schema.task == "classification":
        names = tuple(str(label) for label in schema.labels)
        return names, np.array([np.bincount(t, minlength=len(names)) for t in targets], float)
    edges = np.unique(np.quantile(np.concatenate(targets), np.linspace(0, 1, bins + 1)))
    mean, scale = target_scale(schema)
    users = edges * scale + mean
    names = tuple(f"{low:.4g} to {high:.4g}" for low, high in pairwise(users))
    return names, np.array([np.histogram(t, edges)[0] for t in targets], float)


def save_cell(result: CellResult, path: Path) -> None:
    """Write a result atomically as JSON; NaN becomes null and infinity the word ``inf``."""
    values = {k: _listed(v) if isinstance(v, np.ndarray) else v for k, v in asdict(result).items()}
    write_json(path, values)


def _listed(values: np.ndarray) -> Any:
    if not np.isinf(values).any():
        return values.tolist()
    return np.where(np.isinf(values), values.astype(str), values.astype(object)).tolist()


def load_cell(path: Path) -> CellResult | None:
    """Return a result that was written earlier; None if the file is missing or damaged."""
    try:
        values = json.loads(path.read_text())
        arrays = {f.name for f in fields(CellResult) if f.type is np.ndarray}
        whole = {"rounds", "clients", "unseen_examples", "unseen_clients"}
        tables = arrays - whole - {"train_examples", "test_examples"}
        for name in arrays:
            found = np.array(values[name], dtype=object).astype(int if name in whole else float)
            values[name] = found if found.size or name not in tables else np.zeros((0, 0))
        words = {n: tuple(values[n]) for n in ("labels", "names", "left_out", "score_names")}
        return CellResult(**{**values, **words})
    except (OSError, ValueError, KeyError, TypeError):
        return None
