"""Whether the training of a regression diverges, seen from the losses that clients report."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from strategies import ClientReport
from strategies.protocol import NUM_EXAMPLES

if TYPE_CHECKING:
    from pfl_flower.config.run_config import RunConfig

DIVERGED = 4.0
"""Mean squared error on standardised targets, which is 1 for always answering their mean."""


def divergence(config: "RunConfig", reports: Sequence[ClientReport]) -> str:
    """Say that the training of a regression diverges, and what helps; empty if it does not.

    An untrained network is about as good as always answering the mean of all targets, whose
    squared error is 1 once they are standardised. Training that ends a round with
    :data:`DIVERGED` times as much, over all examples, makes it worse. (Of classes, a network that
    is no more finite has no accuracy, and one that is has an accuracy that says how good it is.)

    Parameters
    ----------
    config : RunConfig
        Of the method.
    reports : sequence of ClientReport
        Of a round.
    """
    schema = config.known_schema
    if schema is None or schema.target is None:
        return ""
    used = [
        r for r in reports if r.phase == "train" and not r.dropped and "train-loss" in r.metrics
    ]
    losses = [(r.metrics["train-loss"], r.metrics[NUM_EXAMPLES]) for r in used]
    known = [(loss, count) for loss, count in losses if not math.isnan(loss)]
    total = sum(count for _, count in known)
    mean = sum(loss * count for loss, count in known) / total if total else math.nan
    if not mean > DIVERGED:
        return ""
    return (
        f"{config.method}: training diverges. Its mean squared error is {mean:.2g}, where always "
        f"answering the mean has 1 (targets are standardised). Set a smaller learning-rate than "
        f"{config.learning_rate:g}, or gradient-clip=1; take logarithms of heavy tails"
    )
