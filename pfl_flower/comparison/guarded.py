"""What clients get if each may fall back on the global model or on one it trained alone."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from pfl_flower.comparison.cells import CellResult
from pfl_flower.comparison.selection import BASELINES, direction


def safeguarded(own: CellResult, fallbacks: Sequence[CellResult]) -> CellResult:
    """Return what clients get if each may fall back on other models of the same seed.

    After the last round each client takes the model with the best score on its own validation
    examples; ties go to its own. The same choice that clients make with ``safeguard=true``.

    Parameters
    ----------
    own : CellResult
        The personalized method's cell.
    fallbacks : sequence of CellResult
        Those of the global model and of training alone.
    """
    candidates = [own, *fallbacks]
    sign = direction(own.task)
    place = {client: i for i, client in enumerate(own.clients.tolist())}
    shape = (len(candidates), len(place))
    validation, test, r2 = (np.full(shape, np.nan) for _ in range(3))
    for row, cell in enumerate(candidates):
        for column, client in enumerate(cell.clients.tolist()):
            if client in place:
                validation[row, place[client]] = sign * cell.validation[-1, column]
                test[row, place[client]] = cell.test[-1, column]
                r2[row, place[client]] = cell.r2[-1, column]
    chosen = np.argmax(np.where(np.isnan(validation), -np.inf, validation), axis=0)
    # As on the device: unknown is not bad, but a model that could not be evaluated is no candidate.
    chosen[np.isnan(validation[0]) & ~np.isnan(test[0])] = 0
    everyone = np.arange(shape[1])
    return replace(
        own,
        method=f"{own.method} safeguarded",
        safeguarded=True,
        rounds=own.rounds[-1:],
        test=test[chosen, everyone][None],
        validation=np.abs(validation[chosen, everyone])[None],
        r2=r2[chosen, everyone][None],
        bytes_down=sum(cell.bytes_down for cell in candidates),
        bytes_up=sum(cell.bytes_up for cell in candidates),
        seconds_per_round=sum(cell.seconds_per_round for cell in candidates),
        unseen_examples=np.zeros(0, int),
        unseen_clients=np.zeros(0, int),
        unseen_test=np.zeros((0, 0)),
    )


def safeguard_all(results: Iterable[CellResult]) -> list[CellResult]:
    """Return a safeguarded cell for each cell that is not a baseline's."""
    found = {(r.method, r.seed): r for r in results if not r.failure}
    made = []
    for (method, seed), result in found.items():
        fallbacks = [found.get((name, seed)) for name in BASELINES]
        if method not in BASELINES and None not in fallbacks:
            made.append(safeguarded(result, [cell for cell in fallbacks if cell is not None]))
    return made
