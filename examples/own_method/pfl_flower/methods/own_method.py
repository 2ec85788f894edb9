"""An example of a method of one's own: a personal head, evaluated by its moving average."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clients.own_method.ema_head import EmaHeadClient
from pfl_flower.config.validators import key
from pfl_flower.methods.method import Method, MethodKeys
from pfl_flower.results.method_run import MethodRun
from pfl_flower.utils.files import write_csv
from strategies.own_method.ema_head import MEAN_SHARE, EmaHeadAveraging


def below_one(value: float) -> str:
    """Allow numbers from 0 to 1, without 1."""
    return "" if 0 <= value < 1 else "at least 0 and below 1"


@dataclass(frozen=True)
class EmaHeadKeys(MethodKeys):
    """Keys of the method."""

    head_decay: float = key(
        0.5, "what a round leaves of the moving average of a head", below_one, to="client"
    )


def write_ema_head(folder: Path, runs: Sequence[MethodRun]) -> None:
    """Write ``ema_head.csv``: of every client its share in the last mean, and its test score.

    ``runs`` are those of all methods, baselines included; the file is about this one.
    """
    rows = []
    for run in runs:
        if run.config.row.write is write_ema_head:
            scores, shares = run.by_client(), run.by_client(MEAN_SHARE)
            rows += [
                {"client": client, "weight": shares[client], run.score: score}
                for client, score in scores.items()
            ]
    write_csv(folder / "ema_head.csv", rows)


METHODS = {
    "ema-head": Method(
        summary="shared body, personal head that is evaluated by its moving average",
        source="Arivazhagan et al. 2019, arXiv:1912.00818, with Polyak averaging of the head",
        keys=EmaHeadKeys,
        defaults={"personal": "head"},
        refuses={"weighting": "its clients count by the square root of their examples"},
        strategy=EmaHeadAveraging,
        client=EmaHeadClient,
        write=write_ema_head,
    ),
}
