"""The ServerApp: config -> federation -> results on disk and in words."""

from logging import INFO

from flwr.app import Context
from flwr.common.logger import log
from flwr.serverapp import Grid, ServerApp

from pfl_flower.census import FederationError
from pfl_flower.config import RunConfig
from pfl_flower.federation import MethodRun, play
from pfl_flower.results import describe, results_folder, write

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the method of the run config, then its baselines; write and say what came out."""
    config = RunConfig.parse(context.run_config)
    folder = results_folder(config.results_dir, f"{config.method}-{config.dataset}")
    runs: list[MethodRun] = []
    try:
        for run in play(grid, config):
            runs.append(run)
            write(folder, runs)  # at once: what comes later may fail
    finally:
        if not runs:
            folder.rmdir()
    log(INFO, "")
    for line in describe(runs):
        log(INFO, line)
    log(INFO, "Results of every client and round: %s", folder)
    if not runs[0].by_client():
        raise FederationError(describe(runs)[0])
