"""How far the product of the mean halves of LoRA is from the mean of the products B A.

``python -m benchmarks.low_rank_mean`` plays ``fedit`` with and without ``exact-mean`` on digits and
prints, round by round, ``||mean(B A) - B A|| / ||mean(B A)||`` (Frobenius norms; B A of the next
round). It takes half a minute of CPU, and the numbers are those of docs/methods/adapters.md.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from pfl_flower.engines import simulate
from pfl_flower.methods import METHODS
from pfl_flower.models import MLP
from strategies import LowRankAveraging
from strategies.replies import Reply

ROUNDS, SHOWN = 20, (1, 2, 5, 10, 20)
GAPS: list[float] = []


class Measured(LowRankAveraging):
    """Averaging that notes how far it is off."""

    def __init__(self, *args: Any, pairs: dict[str, str], **kwargs: Any) -> None:
        super().__init__(*args, pairs=pairs, **kwargs)
        self.measured = pairs

    def means(self, replies: Sequence[Reply], names: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Return the means; note the gap of the adapter."""
        found, weights = super().means(replies, names), self.weights(replies)
        ((a, b),) = self.measured.items()
        products = [reply.views[b] @ reply.views[a] for reply in replies]
        mean = np.average(products, axis=0, weights=weights)
        GAPS.append(float(np.linalg.norm(found[b] @ found[a] - mean) / np.linalg.norm(mean)))
        return found


def lora(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """LoRA of rank 8 beside a frozen layer of random features."""
    network = MLP(shape, outputs, rank=8)
    network.hidden.requires_grad_(False)
    return network


def main() -> None:
    """Print the table."""
    logging.disable(logging.INFO)
    row = METHODS["fedit"]
    METHODS["fedit"] = replace(row, strategy=Measured)  # type: ignore[index]
    print("| clients' data | mean | " + " | ".join(f"round {n}" for n in SHOWN) + " | accuracy |")
    for partition in ({"partition": "iid"}, {"partition": "dirichlet", "alpha": 0.3}):
        for exact in (False, True):
            GAPS.clear()
            config: dict[str, Any] = {
                "method": "fedit",
                "baselines": "",
                "model": "benchmarks.low_rank_mean:lora",
            }
            config |= {"heterogeneity": "none", "exact-mean": exact, "num-server-rounds": ROUNDS}
            (run,) = simulate(config | partition, 10)
            gaps = " | ".join(f"{100 * GAPS[n - 1]:.1f} %" for n in SHOWN)
            kind = "exact" if exact else "plain"
            accuracy = 100 * run.values().mean()
            print(f"| {partition['partition']} | {kind} | {gaps} | {accuracy:.1f} |")


if __name__ == "__main__":
    main()
