"""Runs the cells of a comparison that are not there yet, and keeps them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from pfl_flower.comparison.cells import Cell, CellResult, load_cell, run_cell, save_cell
from pfl_flower.comparison.runner import Job, run_jobs
from pfl_flower.config.run_config import RunConfig
from pfl_flower.server.callbacks import RoundNews, TensorBoard


class CellRunner:
    """Runs cells that are not there yet, and keeps them.

    Parameters
    ----------
    folder : Path
        Where cells are kept.
    jobs : int, default 1
        Number of processes.
    console : Console, optional
        For the display of progress.
    board : TensorBoard, optional
        Gets the scalars of every round of the cells that are tracked.
    """

    def __init__(
        self,
        folder: Path,
        jobs: int = 1,
        console: Console | None = None,
        board: TensorBoard | None = None,
    ) -> None:
        self.folder = folder
        self.jobs = jobs
        self.console = console
        self.board = board
        folder.mkdir(parents=True, exist_ok=True)

    def run(self, cells: Sequence[Cell], title: str, track: bool = False) -> list[CellResult]:
        """Return the results of the cells, in their order; ``track`` them in TensorBoard."""
        found = {cell.name: load_cell(self.folder / cell.name) for cell in cells}
        missing = [cell for cell in {c.name: c for c in cells}.values() if found[cell.name] is None]
        runs = [Job(f"{c.method}, seed {c.seed}", _rounds(c), run_cell, (c,)) for c in missing]
        listen = self._listen if track else None
        for place, result in run_jobs(runs, self.jobs, title, self.console, listen):
            name = missing[place].name
            found[name] = result
            if not result.failure:  # a failure may be gone the next time
                save_cell(result, self.folder / name)
        results = [found[cell.name] for cell in cells]
        return [result for result in results if result is not None]

    def _listen(self, job: Job, news: RoundNews) -> None:
        if self.board:
            self.board(replace(news, method=job.label.replace(", ", " ")))


def _rounds(cell: Cell) -> int:
    return int(cell.config.get("num-server-rounds", RunConfig().num_server_rounds))
