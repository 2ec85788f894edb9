"""FedPer with Flower's differential privacy: without it, central, and local."""

import sys

from flwr.clientapp.mod import LocalDpMod, fixedclipping_mod
from flwr.clientapp.typing import Mod
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideFixedClipping,
    Strategy,
)
from task import CLIENTS, build, first_arrays

from clients import client_app
from pfl_flower.grid import InProcessGrid
from strategies import PartialAveraging

CLIP, NOISE = 0.5, 0.1
WAYS = ("none", "central-client", "central-server", "local")


def play(way: str, rounds: int) -> float:
    """Return the mean test accuracy of the clients after the last round."""
    mods: list[Mod] = []
    averaging = PartialAveraging(fraction_train=1.0, weighting="uniform")
    strategy: Strategy = averaging
    if way == "central-client":  # devices clip, the server adds noise to the mean
        strategy = DifferentialPrivacyClientSideFixedClipping(averaging, NOISE, CLIP, CLIENTS)
        mods = [fixedclipping_mod]  # without it nothing is clipped, and nothing says so
    elif way == "central-server":  # the server clips and adds noise: it sees raw updates
        strategy = DifferentialPrivacyServerSideFixedClipping(averaging, NOISE, CLIP, CLIENTS)
    elif way == "local":  # devices clip and add noise; the strategy knows nothing of it
        mods = [LocalDpMod(clipping_norm=CLIP, sensitivity=CLIP, epsilon=50.0, delta=1e-5)]
    grid = InProcessGrid(client_app(build, mods=mods), CLIENTS)
    strategy.start(grid, first_arrays(), num_rounds=rounds)
    last = [float(report.metrics["accuracy"]) for report in averaging.reports[-CLIENTS:]]
    return sum(last) / len(last)


if __name__ == "__main__":
    for way in sys.argv[1:] or WAYS:
        print(f"{way:15} {play(way, rounds=12):.3f}")
