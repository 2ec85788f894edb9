"""How good the models of groups are on the clients' own examples."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from strategies.protocol import LOSS, LOSS_EXAMPLES, LOSS_GROUPS, LOSSES_QUERY, SERVER_ROUND
from strategies.rounds import Round

if TYPE_CHECKING:
    from strategies.clustered.group_averaging import GroupAveraging


def group_losses(
    strategy: "GroupAveraging", current: Round, nodes: Sequence[int], which: str = "train"
) -> dict[int, dict[int, float]]:
    """Ask clients how good every group's model is on their own examples.

    Parameters
    ----------
    strategy : GroupAveraging
        Has the groups' models, and asks.
    current : Round
        The phase that is to be played.
    nodes : sequence of int
        Whom to ask.
    which : str, default "train"
        Examples, ``"train"`` or ``"validation"``.

    Returns
    -------
    losses : dict
        Client -> group -> mean loss, infinite where it is not a finite number; without clients
        that did not answer.
    """
    names, models = strategy.group_names, strategy.models
    groups = sorted(models)
    shared = {f"shared/{name}": a for name, a in current.sent.items() if name not in names}
    own = {f"{group}/{name}": array for group in groups for name, array in models[group].items()}
    asked = ConfigRecord(dict(current.config))
    asked[SERVER_ROUND], asked[LOSS_EXAMPLES] = current.number, which
    asked[LOSS_GROUPS] = ",".join(map(str, groups))
    arrays = ArrayRecord({**shared, **own})
    content = RecordDict({strategy.arrayrecord_key: arrays, strategy.configrecord_key: asked})
    found: dict[int, dict[int, float]] = {}
    for reply in strategy.ask(nodes, content, LOSSES_QUERY, "losses"):
        named = {group: reply.metrics.get(f"{LOSS}-{group}") for group in groups}
        found[reply.client] = {
            group: float(loss) if isinstance(loss, float) and np.isfinite(loss) else np.inf
            for group, loss in named.items()
        }
    return found


def lowest_of(losses: Mapping[int, float]) -> int:
    """Return the group with the lowest loss; of equals the first."""
    return min(losses, key=lambda group: (losses[group], group))
