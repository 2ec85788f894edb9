"""Run a federation from Python, in this process or on Ray, without ``flwr run``."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from pfl_flower.client_app import make_app
from pfl_flower.config import RunConfig
from pfl_flower.federation import MethodRun, Progress, play
from pfl_flower.grid import InProcessGrid

Engine = Literal["in-process", "ray"]
ENGINES: tuple[Engine, ...] = ("in-process", "ray")


def simulate(
    run_config: Mapping[str, Any],
    num_clients: int,
    engine: Engine = "in-process",
    progress: Progress | None = None,
    quiet: bool = True,
) -> list[MethodRun]:
    """Run a method and its baselines on ``num_clients`` simulated clients.

    The same config and seed give the same numbers on both engines, bit for bit on CPU.

    Parameters
    ----------
    run_config : hyphenated keys, as for ``flwr run --run-config``
    num_clients : number of clients
    engine : ``"in-process"`` (nothing to start) or ``"ray"`` (Flower's simulation runtime)
    progress : called after every round
    quiet : silence Flower's own log lines

    Raises
    ------
    ConfigError
        If the config is wrong.
    FederationError
        If no client can work.
    """
    config = RunConfig.parse(run_config)
    with _quiet() if quiet else _as_it_is():
        if engine == "in-process":
            return list(play(InProcessGrid(make_app(run_config), num_clients), config, progress))
        return _on_ray(run_config, config, num_clients, progress)


def _on_ray(
    run_config: Mapping[str, Any], config: RunConfig, num_clients: int, progress: Progress | None
) -> list[MethodRun]:
    from flwr.simulation import run_simulation

    runs: list[MethodRun] = []
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        runs.extend(play(grid, config, progress))

    run_simulation(
        server_app=server_app,
        client_app=make_app(dict(run_config)),
        num_supernodes=num_clients,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    return runs


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
