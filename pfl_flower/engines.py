"""Run a federation from Python, in this process or on Ray, without ``flwr run``."""

import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from pfl_flower.client_app import forget_networks, make_app
from pfl_flower.config.run_config import RunConfig
from pfl_flower.data import federation, is_own
from pfl_flower.grid import InProcessGrid
from pfl_flower.results.method_run import MethodRun
from pfl_flower.server.callbacks import Progress
from pfl_flower.server.run import play

Engine = Literal["in-process", "ray"]
ENGINES: tuple[Engine, ...] = ("in-process", "ray")


def simulate(
    run_config: Mapping[str, Any],
    num_clients: int,
    engine: Engine = "in-process",
    progress: Progress | None = None,
    quiet: bool = True,
    folder: Path | None = None,
) -> list[MethodRun]:
    """Run a method and its baselines on ``num_clients`` simulated clients.

    The same config and seed give the same numbers on both engines, bit for bit on CPU.

    Parameters
    ----------
    run_config : mapping of str to object
        Hyphenated keys, as for ``flwr run --run-config``.
    num_clients : int
        How many clients the data are divided among.
    engine : {"in-process", "ray"}, default "in-process"
        In this process, with nothing to start, or on Flower's simulation runtime, whose workers
        share the GPUs of the machine if ``device`` asks for one.
    progress : Progress, optional
        Called after every round.
    quiet : bool, default True
        Whether Flower's own log lines are silenced.
    folder : Path, optional
        Where to keep a checkpoint of every round, which the run config's ``resume`` (the same
        folder) goes on from; personal parameters need a ``personal-dir`` for that.

    Returns
    -------
    list of MethodRun
        The method's run, then those of its baselines.

    Raises
    ------
    ConfigError
        If the config is wrong.
    FederationError
        If no client can work.
    """
    config = RunConfig.parse(run_config)
    if is_own(config.dataset):
        federation.cache_clear()  # the files may have changed since this process last ran
    if is_own(config.model):
        forget_networks()
    with _quiet() if quiet else _as_it_is():
        if engine == "in-process":
            grid = InProcessGrid(make_app(run_config), num_clients)
            # All nodes are there from the start, so there is no more to wait for.
            return list(play(grid, replace(config, wait=0.0), progress, folder))
        return _on_ray(run_config, config, num_clients, progress, folder)


def _on_ray(
    run_config: Mapping[str, Any],
    config: RunConfig,
    num_clients: int,
    progress: Progress | None,
    folder: Path | None,
) -> list[MethodRun]:
    from flwr.simulation import run_simulation

    runs: list[MethodRun] = []
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        runs.extend(play(grid, config, progress, folder))

    run_simulation(
        server_app=server_app,
        client_app=make_app(dict(run_config)),
        num_supernodes=num_clients,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": gpu_share(config.device)}},
    )
    return runs


def gpu_share(device: str) -> float:
    """Return the share of a GPU that each client on Ray is given, at most 1; 0 without a GPU.

    With it, as many clients train at a time as the machine has cores, since each takes one core.
    Ray hides the GPUs from a client that is given none.

    Parameters
    ----------
    device : str
        The run key.
    """
    if device != "auto" and torch.device(device).type != "cuda":
        return 0.0
    gpus = torch.cuda.device_count()
    return min(1.0, math.floor(1e4 * gpus / (os.cpu_count() or 1)) / 1e4)  # Ray counts in 1e-4


@contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield
