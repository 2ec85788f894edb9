"""The server's side of decision thresholds: every client finds its own, after training."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from logging import WARNING

import numpy as np
from flwr.app import ArrayRecord
from flwr.common.logger import log

from clients.thresholds.threshold_client import REPORTED
from pfl_flower.config.run_config import RunConfig
from pfl_flower.server.session import Session
from strategies import ClientReport, PartialAveraging
from strategies.errors import ArgumentError
from strategies.protocol import (
    NUM_EXAMPLES,
    THRESHOLD,
    THRESHOLD_HISTOGRAM,
    THRESHOLD_SPREADS,
    THRESHOLD_WEIGHTS,
)
from strategies.thresholds.partial_pooling import Fleet, fleet_of
from strategies.thresholds.search import BINS, Counts, check_histogram


def let_threshold(
    session: Session, strategy: PartialAveraging, config: RunConfig, arrays: ArrayRecord
) -> list[ClientReport]:
    """Let every client that was trained find its decision thresholds; nothing without a rule.

    The clients count their validation scores; what these say together goes back to all of them,
    also to those that had none to count. Unseen clients have no thresholds: they were held out, and
    what they may adapt with is a choice of its own.

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
    list of ClientReport
        Reports of an evaluation after the last round, with the metrics ``<score>-<rule>``.
    """
    if config.threshold is None:
        return []
    ask = partial(session.evaluate, strategy, config.method, arrays)
    labels = config.required_schema.labels
    classes = 1 if len(labels) == 2 else len(labels)
    counts = histograms_of(ask({THRESHOLD: "count"}), classes)
    fleets = [
        fleet_of(counts[:, place], config.objective, config.seed, config.method, place)
        for place in range(classes)
    ]
    _warn(fleets, labels[-classes:])
    sent = {
        THRESHOLD_HISTOGRAM: np.concatenate([fleet.pooled.ravel() for fleet in fleets]).tolist(),
        THRESHOLD_SPREADS: [fleet.spread for fleet in fleets],
        THRESHOLD_WEIGHTS: [fleet.weight for fleet in fleets],
    }
    return [_checked(report) for report in ask({THRESHOLD: "choose", **sent})]


def histograms_of(reports: Sequence[ClientReport], classes: int) -> Counts:
    """Return the clients' histograms, ``(clients, classes, 2, BINS)``; bad ones are left out.

    Why one is left out is logged.
    """
    found = []
    for report in sorted(reports, key=lambda each: each.client):
        if report.dropped:
            continue
        try:
            found.append(_of_classes(report, classes))
        except ValueError as error:
            log(WARNING, "The scores of client %d do not count: %s", report.client, error)
    return np.array(found, dtype=np.int64).reshape(-1, classes, 2, BINS)


def _checked(report: ClientReport) -> ClientReport:
    """Return a report of scores; dropped, with a logged reason, if these are none."""
    values = {name: report.metrics.get(name) for name in REPORTED}
    odd = [n for n, v in values.items() if v is None or not (math.isnan(v) or 0 <= v <= 1)]
    if report.dropped or not odd:
        return report
    reason = f"{odd[0]} is {values[odd[0]]}; it must be there, in [0, 1] or NaN"
    log(WARNING, "The thresholds of client %d do not count: %s", report.client, reason)
    return replace(report, dropped=reason)


def _of_classes(report: ClientReport, classes: int) -> list[Counts]:
    values = np.asarray(report.lists.get(THRESHOLD_HISTOGRAM, ()))
    if values.size != classes * 2 * BINS:
        wanted = f"{2 * BINS} for each of {classes} classes"
        raise ArgumentError("number of counts", values.size, wanted)
    counts = [check_histogram(part) for part in np.split(values, classes)]
    examples = report.metrics[NUM_EXAMPLES]
    if odd := [int(each.sum()) for each in counts if each.sum() != examples]:
        raise ArgumentError("sum of counts", odd[0], f"{examples:g}, the number of examples")
    return counts


def _warn(fleets: Sequence[Fleet], labels: Sequence[int | str]) -> None:
    """Say of which classes, by their labels, there is nothing to learn a threshold from."""
    for label, fleet in zip(labels, fleets, strict=True):
        if fleet.is_one_sided:
            positives, negatives = fleet.pooled.sum(axis=1)
            log(
                WARNING,
                "All thresholds of class %s are 0.5: among the validation examples of all clients "
                "are %d of it and %d of others, and both are needed",
                *(label, positives, negatives),
            )
