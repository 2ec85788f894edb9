"""A checkpoint of every round, so that a run that was interrupted goes on where it stopped.

The server keeps the shared arrays, what the strategy carries from round to round, and every
report. Personal parameters are the clients' own business: they keep them in their personal
directories.
"""

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from hashlib import blake2b
from importlib.metadata import version
from logging import WARNING
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from flwr.app import ArrayRecord
from flwr.common.logger import log
from safetensors import SafetensorError, safe_open

from pfl_flower.config.run_config import RunConfig
from pfl_flower.server.discovery import FederationError
from pfl_flower.server.frozen_bases import other_schema
from pfl_flower.utils.files import write_bytes, write_json
from pfl_flower.utils.imports import source_of
from strategies import ClientReport
from strategies.array_file import array_bytes
from strategies.arrays import to_record, view

_PACKAGES = ("strategies", "clients", "pfl_flower")
_FREE = frozenset(
    {"resume", "results-dir", "data-dir", "download", "min-nodes", "wait", "timeout", "tensorboard"}
)
"""Keys that may differ when a run is resumed, because no number depends on them."""


@dataclass(frozen=True)
class Saved:
    """What is known of a method after its last complete round.

    Attributes
    ----------
    round : int
        That round.
    arrays : ArrayRecord
        Shared arrays after it.
    strategy : mapping of str to ndarray
        What the strategy carries on.
    reports : list of ClientReport
        Of all rounds up to it.
    seconds : float
        That they took.
    """

    round: int
    arrays: ArrayRecord
    strategy: Mapping[str, np.ndarray]
    reports: list[ClientReport]
    seconds: float


class Checkpoints:
    """The checkpoints of a run, in ``<results folder>/checkpoint``.

    Parameters
    ----------
    folder : Path
        Results folder.
    config : RunConfig
        Of the run; where it says ``resume``, the folder must hold checkpoints of the same run.
    unseen : iterable of int, default ()
        Clients held out of training.
    late : iterable of int, default ()
        Clients that are there only from half of the rounds on.

    Raises
    ------
    FederationError
        If a run cannot be resumed: there is no checkpoint, it is damaged, or it is of another
        config, other data or other code.
    """

    def __init__(
        self,
        folder: Path,
        config: RunConfig,
        unseen: Iterable[int] = (),
        late: Iterable[int] = (),
    ) -> None:
        self.folder = folder / "checkpoint"
        here = _about(config)
        if config.resume:
            there = read_about(folder)
            _check_same(there, here, str(folder))
            self.run = str(there["run"])
            return
        self.run = uuid4().hex
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in (*self.folder.glob("*.safetensors"), *self.folder.glob("*.jsonl")):
            left.unlink()  # of an earlier run, which this one replaces
        absent = {"unseen": sorted(unseen), "late": sorted(late)}
        write_json(_about_file(folder), {"run": self.run, **here, **absent})

    def load(self, method: str) -> Saved | None:
        """Return what is known of a method; None if it has not completed a round.

        Raises
        ------
        FederationError
            If the checkpoint is damaged.
        """
        path = self.folder / f"{method}.safetensors"
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="numpy") as file:
                about = json.loads((file.metadata() or {})["about"])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            lines = self._reports(method).read_text().splitlines()[: about["reports"]]
            reports = [ClientReport(**json.loads(line)) for line in lines]
            if len(reports) != about["reports"]:
                raise ValueError(f"{len(reports)} reports instead of {about['reports']}")
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise FederationError(
                f"the checkpoint {path} is damaged: {error}",
                key="checkpoint",
                value=str(path),
                reason=str(error),
            ) from error
        # A line that was being written when the run was killed must not stay in the way.
        write_bytes(self._reports(method), "".join(f"{line}\n" for line in lines).encode())
        return Saved(
            round=about["round"],
            # In the order in which they were sent: safetensors sorts by size and name.
            arrays=to_record({name: arrays[f"shared/{name}"] for name in about["shared"]}),
            strategy={
                name.removeprefix("strategy/"): array
                for name, array in arrays.items()
                if name.startswith("strategy/")
            },
            reports=reports,
            seconds=about["seconds"],
        )

    def forget(self, method: str) -> None:
        """Forget what is known of a method, which is to start afresh."""
        for path in (self.folder / f"{method}.safetensors", self._reports(method)):
            path.unlink(missing_ok=True)

    def save(self, method: str, saved: Saved, new_reports: Sequence[ClientReport]) -> None:
        """Keep a method's state after a round; the checkpoint before stays until this is whole.

        Parameters
        ----------
        method : str
            Its name.
        saved : Saved
            Its state.
        new_reports : sequence of ClientReport
            Those of ``saved.reports`` that were not saved before.
        """
        with self._reports(method).open("a") as stream:
            stream.writelines(json.dumps(asdict(report)) + "\n" for report in new_reports)
            stream.flush()
            os.fsync(stream.fileno())
        arrays = {f"shared/{name}": view(array) for name, array in saved.arrays.items()}
        arrays |= {f"strategy/{name}": array for name, array in saved.strategy.items()}
        about = {
            "round": saved.round,
            "seconds": saved.seconds,
            "reports": len(saved.reports),
            "shared": list(saved.arrays),
        }
        content = array_bytes(arrays, {"about": json.dumps(about)})
        write_bytes(self.folder / f"{method}.safetensors", content)

    def _reports(self, method: str) -> Path:
        return self.folder / f"{method}.jsonl"


def _about(config: RunConfig) -> dict[str, Any]:
    return {
        "config": {k: v for k, v in config.dump().items() if k not in _FREE},
        "schema": config.required_schema.to_json(),
        "code": code_digest(config),
        "versions": versions(),
    }


def code_digest(config: RunConfig) -> str:
    """Return a digest of the source code that decides the numbers of a run.

    That of the app, and that of the user's own modules which the config names.
    """
    digest = blake2b(_app_source(), digest_size=16)
    for text in (config.dataset, config.model):
        if source := source_of(text):
            digest.update(source.read_bytes())
    return digest.hexdigest()


@lru_cache(maxsize=1)
def _app_source() -> bytes:
    root = Path(__file__).parents[2]
    paths = [path for name in _PACKAGES for path in sorted((root / name).rglob("*.py"))]
    return b"".join(str(p.relative_to(root)).encode() + b"\0" + p.read_bytes() for p in paths)


def versions() -> dict[str, str]:
    """Return the versions of what computes the numbers."""
    found = {name: version(name) for name in ("flwr", "torch", "numpy", "scikit-learn")}
    return {**found, "python": platform.python_version()}


def _about_file(folder: Path) -> Path:
    return folder / "checkpoint" / "about.json"


def read_about(folder: Path) -> dict[str, Any]:
    """Return what a results folder says of its run: name, config, schema, code, unseen clients.

    Raises
    ------
    FederationError
        If there is nothing to resume, or it cannot be read.
    """
    path = _about_file(folder)
    try:
        content = json.loads(path.read_text())
        needed = {"run", "config", "schema", "code", "unseen", "late", "versions"}
        if not isinstance(content, dict) or not needed <= content.keys():
            raise ValueError("it does not hold what it should")
    except FileNotFoundError as error:
        raise FederationError(
            f"there is nothing to resume in {path.parents[1]}: {path} is missing. Name the results "
            f"folder of a run that was interrupted",
            key="resume",
            value=str(path.parents[1]),
        ) from error
    except (OSError, ValueError) as error:
        raise FederationError(
            f"the checkpoint {path} cannot be read: {error}",
            key="checkpoint",
            value=str(path),
            reason=str(error),
        ) from error
    return content


def _check_same(there: Mapping[str, Any], here: Mapping[str, Any], folder: str) -> None:
    """Raise unless the run to be resumed is this one."""
    odd = [key for key in here["config"] if there["config"].get(key) != here["config"][key]]
    if odd:
        defaults = RunConfig().dump()
        wanted = {k: v for k, v in there["config"].items() if v != defaults.get(k)}
        words = " ".join(f"{k}={_toml(v)}" for k, v in {**wanted, "resume": folder}.items())
        differences = ", ".join(
            f"{key} is {there['config'].get(key)!r} there and {here['config'][key]!r} here"
            for key in odd
        )
        raise FederationError(
            f"{folder} cannot be resumed: {differences}. Repeat that run's config: "
            f"--run-config '{words}'",
            key=odd[0],
            value=here["config"][odd[0]],
            reason=differences,
        )
    if there["code"] != here["code"]:
        raise FederationError(
            f"{folder} cannot be resumed: the run was made with another version of the code, which "
            f"need not give the same numbers. Go back to that version, or start a new run from its "
            f"shared arrays with initial",
            key="code",
            value=here["code"],
        )
    if there["schema"] != here["schema"]:
        raise other_schema(there["schema"], here["schema"], folder)
    if there["versions"] != here["versions"]:
        log(
            WARNING,
            "The run was made with %s, now it goes on with %s; numbers may differ slightly",
            there["versions"],
            here["versions"],
        )


def _toml(value: Any) -> str:
    return json.dumps(value)  # strings, numbers and booleans are written alike in TOML
