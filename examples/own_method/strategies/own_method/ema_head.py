"""Averaging by the square roots of the numbers of examples."""

from collections.abc import Sequence
from math import sqrt
from typing import Any

from flwr.app import ArrayRecord

from strategies.partial_averaging import PartialAveraging
from strategies.replies import Reply

__all__ = ["EmaHeadAveraging"]

MEAN_SHARE = "mean-share"
"""Reported of every client: its share in the last mean, in [0, 1]; 0 where it was not in it."""


class EmaHeadAveraging(PartialAveraging):
    """Average what clients share; a client with ``n`` examples counts ``sqrt(n)``.

    A large client counts for more than a small one, but for less than its examples would have it.
    Reports the share of each client in the mean as metric ``mean-share``.

    Parameters
    ----------
    args, kwargs
        As in :class:`PartialAveraging`; ``weighting`` has no effect.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.shares: dict[int, float] = {}
        """Client -> its share in the last mean."""

    def weights(self, replies: Sequence[Reply]) -> list[float]:
        """Return the square root of each client's number of examples."""
        return [sqrt(reply.weight) for reply in replies]

    def aggregate_arrays(self, replies: list[Reply]) -> ArrayRecord:
        """Return the mean of the replies' arrays; note whose share in it was how large."""
        arrays = super().aggregate_arrays(replies)
        used = [reply for reply in replies if not reply.dropped]
        weights = self.weights(used)
        shares = (weight / sum(weights) for weight in weights)
        self.shares = dict(zip((reply.client for reply in used), shares, strict=True))
        return arrays

    def report_fields(self, client: int) -> dict[str, float]:
        """Return the client's share in the last mean."""
        return {MEAN_SHARE: self.shares.get(client, 0.0)}
