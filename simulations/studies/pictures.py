"""Photographs in folders: what to do with a body that everybody has trained together."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from clients.scopes import select
from pfl_flower.comparison.gains import bootstrap_interval
from pfl_flower.data.settings import find
from pfl_flower.engines import simulate
from pfl_flower.model_setup import initial_model
from pfl_flower.results.shared_file import NAME, write_shared
from simulations.study import Arm, Outcome, Study
from strategies.arrays import view

FOLDER = "cifar10-folders"
NUM_CLIENTS = 20

BODY, ON, FEDPER, HEAD, DITTO, LOCAL = (
    "fedavg, half the rounds",
    "fedavg, trained on",
    "fedper, trained on",
    "head on the frozen body",
    "ditto, trained on",
    "local from scratch",
)
PAIRS = (
    *((name, HEAD) for name in (BODY, ON, FEDPER, DITTO, LOCAL)),
    *((name, LOCAL) for name in (ON, FEDPER, DITTO)),
)
"""What is compared with what, client by client."""


_FOLDERS: list[TemporaryDirectory[str]] = []
"""Of what was trained; they go when the process ends."""


def body_of(config: Mapping[str, Any], num_clients: int) -> tuple[Path, Path]:
    """Train a network by fedavg, once a process; return the files of all of it and of its body.

    Parameters
    ----------
    config : mapping of str to object
        Run keys, with those of the seed and of the rounds.
    num_clients : int
        Number of clients.
    """
    return _body_of(tuple(sorted(config.items())), num_clients)


@lru_cache(maxsize=4)
def _body_of(config: tuple[tuple[str, Any], ...], num_clients: int) -> tuple[Path, Path]:
    (run,) = simulate({**dict(config), "method": "fedavg"}, num_clients)
    model, _ = initial_model(run.config.architecture, run.config.seed)
    head = select(model, "head")
    arrays = {name: view(array) for name, array in run.arrays.items()}
    parts = arrays, {name: each for name, each in arrays.items() if name not in head}
    _FOLDERS.append(TemporaryDirectory(prefix="pictures-"))
    whole, body = (Path(_FOLDERS[-1].name, name) for name in ("whole", "body"))
    for folder, own in zip((whole, body), parts, strict=True):
        folder.mkdir()
        write_shared(folder, own, run.config.required_schema, run.base)
    return whole / NAME, body / NAME


def from_whole(config: Mapping[str, Any], num_clients: int) -> Mapping[str, Any]:
    """Start from all of the network that fedavg trained."""
    return {"initial": str(body_of(config, num_clients)[0])}


def from_body(config: Mapping[str, Any], num_clients: int) -> Mapping[str, Any]:
    """Start from its body; heads are personal, and new."""
    return {"initial": str(body_of(config, num_clients)[1])}


def on_frozen(config: Mapping[str, Any], num_clients: int) -> Mapping[str, Any]:
    """Freeze the body; heads start from that of fedavg, and are trained alone."""
    return {"pretrained": str(body_of(config, num_clients)[0]), "trainable": "head"}


def twice(config: Mapping[str, Any], num_clients: int) -> Mapping[str, Any]:
    """Train for as many rounds as the body and what comes after it have together."""
    return {"num-server-rounds": 2 * int(config["num-server-rounds"])}


def _tables(outcome: Outcome) -> dict[str, list[dict[str, Any]]]:
    rows = []
    for name, other in PAIRS:
        groups = [
            np.array([score - theirs.by_client[c] for c, score in own.by_client.items()])
            for own, theirs in zip(outcome.of(name), outcome.of(other), strict=True)
        ]
        low, high = bootstrap_interval(groups)
        mean = float(np.concatenate(groups).mean())
        words = f"{100 * mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
        rows.append({"arm": name, "above": other, "points": words})
    return {"Points gained": rows}


def require() -> None:
    """Refuse to start without the photographs; see :class:`simulations.study.Study`."""
    find(FOLDER, "")


READING = (
    "10,000 of CIFAR-10's photographs in folders of 20 clients, which have 3 to 10 of the ten "
    "classes. `fedavg` trains a small network for as many rounds as the other arms go on from "
    "there; those rounds are in the bytes and seconds of none of them. `head on the frozen body` "
    "sends nothing, once every client has the body (2 MB). `local from scratch` has the rounds of "
    "both. Intervals are of 95 %, paired by client (bootstrap over seeds and clients). The study "
    f"needs `$PFL_DATA_DIR/{FOLDER}`."
)

STUDY = Study(
    name="pictures",
    question="Everybody trained a body for photographs together: freeze it, or train it on?",
    num_clients=NUM_CLIENTS,
    config={
        "dataset": f"images:{FOLDER}",
        "model": "cnn",
        "augmentation": "flip",
        "validation-fraction": 0.0,
        "num-server-rounds": 10,
        "local-epochs": 1,
        "learning-rate": 0.005,
    },
    arms=[
        Arm(BODY, {"method": "fedavg"}),
        Arm(ON, {"method": "fedavg"}, prepare=from_whole),
        Arm(FEDPER, {"method": "fedper"}, prepare=from_body),
        Arm(HEAD, {"method": "local"}, prepare=on_frozen),
        Arm(DITTO, {"method": "ditto"}, prepare=from_whole),
        Arm(LOCAL, {"method": "local"}, prepare=twice),
    ],
    claims=lambda outcome: [],
    num_seeds=3,
    require=require,
    reading=READING,
    tables=_tables,
)

RATES = (0.003, 0.005, 0.01)

SETTINGS_STUDY = replace(
    STUDY,
    name="pictures-settings",
    question="On other seeds: the learning rate of the study pictures",
    arms=[
        Arm(name, {"method": name, "learning-rate": rate}, rate)
        for name in ("fedavg", "local")
        for rate in RATES
    ],
    tables=lambda outcome: {},
    num_seeds=1,
    first_seed=100,
    reading="",
)
