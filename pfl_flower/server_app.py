"""The ServerApp: config -> federation -> results on disk and in words."""

from logging import INFO

from flwr.app import Context
from flwr.common.logger import log
from flwr.serverapp import Grid, ServerApp

from pfl_flower.config.run_config import RunConfig
from pfl_flower.results.files import describe, results_folder, write
from pfl_flower.results.method_run import MethodRun
from pfl_flower.server.callbacks import Progress, TensorBoard
from pfl_flower.server.discovery import FederationError
from pfl_flower.server.run import play
from pfl_flower.utils.files import under_home

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the method of the run config, then its baselines; write and say what came out.

    A run that is interrupted leaves the checkpoint of its last complete round in its results
    folder, from which ``resume`` goes on.
    """
    config = RunConfig.parse(context.run_config)
    if config.resume:
        folder = under_home(config.resume)
    else:
        folder = results_folder(config.results_dir, f"{config.method}-{config.dataset}")
    progress: Progress | None = TensorBoard(folder / "tensorboard") if config.tensorboard else None
    log(INFO, "Results folder: %s", folder)
    runs: list[MethodRun] = []
    try:
        for run in play(grid, config, progress, folder):
            runs.append(run)
            write(folder, runs)  # at once: what comes later may fail
    finally:
        if not runs and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    log(INFO, "")
    for line in describe(runs):
        log(INFO, line)
    log(INFO, "Results of every client and round: %s", folder)
    if not runs[0].by_client():
        raise FederationError(describe(runs)[0])
