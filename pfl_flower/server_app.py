"""The ServerApp: config -> federation -> results on disk and in words."""

from logging import INFO

from flwr.app import Context
from flwr.common.logger import log
from flwr.serverapp import Grid, ServerApp

from pfl_flower.config import RunConfig
from pfl_flower.federation import play
from pfl_flower.results import describe, results_folder, write

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the method of the run config, then its baselines; write and say what came out."""
    config = RunConfig.parse(context.run_config)
    folder = results_folder(config.results_dir, f"{config.method}-{config.dataset}")
    try:
        runs = play(grid, config)
    except BaseException:
        folder.rmdir()  # still empty
        raise
    write(folder, runs)
    log(INFO, "")
    for line in describe(runs):
        log(INFO, line)
    log(INFO, "Results of every client and round: %s", folder)
