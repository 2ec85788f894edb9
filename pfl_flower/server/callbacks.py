"""News of a run while it is under way."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from strategies import ClientReport


@dataclass(frozen=True)
class RoundNews:
    """What happened in a round.

    Attributes
    ----------
    method : str
        Its name.
    round, num_rounds : int
        The round just finished, and how many there will be.
    means : dict of str to float, default {}
        Metric -> mean over clients (NaN left out), as ``train/...`` and ``evaluate/...``.
    """

    method: str
    round: int
    num_rounds: int
    means: dict[str, float] = field(default_factory=dict)


Progress = Callable[[RoundNews], None]
"""Called after every round."""


def news_of(
    method: str, server_round: int, num_rounds: int, reports: Sequence[ClientReport]
) -> RoundNews:
    """Return the news of a round from its reports."""
    values: dict[str, list[float]] = {}
    for report in reports:
        for name, value in report.metrics.items() if not report.dropped else ():
            if isinstance(value, int | float) and not math.isnan(value):
                values.setdefault(f"{report.phase}/{name}", []).append(float(value))
    means = {name: float(np.mean(found)) for name, found in values.items()}
    return RoundNews(method, server_round, num_rounds, means)


class TensorBoard:
    """Write the means of every round as TensorBoard scalars, a run a method.

    Parameters
    ----------
    folder : Path
        Of the event files.

    Raises
    ------
    ModuleNotFoundError
        If TensorBoard is not installed; the message says how.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ModuleNotFoundError(
                "TensorBoard is not installed; pip install 'pfl-flower[tensorboard]', or from a "
                "clone pip install '.[tensorboard]'"
            ) from error
        self._make = SummaryWriter
        self._folder = folder
        self._writers: dict[str, Any] = {}

    def __call__(self, news: RoundNews) -> None:
        """Write the news of a round."""
        if news.method not in self._writers:
            self._writers[news.method] = self._make(str(self._folder / news.method))
        writer = self._writers[news.method]
        for name, value in news.means.items():
            if not name.endswith("/partition-id"):
                writer.add_scalar(name, value, news.round)
        writer.flush()

    def close(self) -> None:
        """Close the files."""
        for writer in self._writers.values():
            writer.close()
