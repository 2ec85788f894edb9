"""Clients that were held out of training and adapt afterwards: unseen clients."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from flwr.app import ArrayRecord

from clients.local_training.adaptation import ALL
from pfl_flower.config.run_config import RunConfig
from strategies import ClientReport, PartialAveraging
from strategies.protocol import ADAPTATION_EXAMPLES, ADAPTATION_STEPS
from strategies.randomness import generator

if TYPE_CHECKING:
    from pfl_flower.server.session import Session

LOCAL_EXAMPLES = (0, 1, 5, 20, ALL)
"""Numbers of local examples that an unseen client fits its own part on."""


def choose_unseen(config: RunConfig, clients: Iterable[int]) -> frozenset[int]:
    """Return the clients held out of training: the same for every method of a seed.

    At least one if the config asks for any, and never all.
    """
    return _draw(config, "unseen", config.unseen, clients)


def choose_late(config: RunConfig, clients: Iterable[int]) -> frozenset[int]:
    """Return the clients that are there from half of the rounds on; drawn as those unseen."""
    return _draw(config, "late", config.late, clients)


def _draw(config: RunConfig, what: str, fraction: float, clients: Iterable[int]) -> frozenset[int]:
    known = sorted(clients)
    if not fraction or len(known) < 2:
        return frozenset()
    size = min(max(1, round(fraction * len(known))), len(known) - 1)
    drawn = generator(config.seed, what).choice(known, size=size, replace=False)
    return frozenset(drawn.tolist())


def adapt_unseen(
    session: "Session", strategy: PartialAveraging, config: RunConfig, arrays: ArrayRecord
) -> dict[int, list[ClientReport]]:
    """Let unseen clients adapt, in the method's own way.

    Parameters
    ----------
    session : Session
        What all methods of the run have in common.
    strategy, config : PartialAveraging and RunConfig
        Of the method.
    arrays : ArrayRecord
        Final shared arrays.

    Returns
    -------
    dict of int to list of ClientReport
        Number of local examples (:data:`LOCAL_EXAMPLES`) -> reports of the evaluation.
    """
    nodes, reports = sorted(session.unseen), {}
    for examples in LOCAL_EXAMPLES if nodes else ():
        asked = {ADAPTATION_EXAMPLES: examples, ADAPTATION_STEPS: config.adaptation_steps}
        reports[examples] = session.evaluate(strategy, config.method, arrays, asked, nodes)
    return reports
