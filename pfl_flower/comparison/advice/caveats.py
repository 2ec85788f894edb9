"""What a reader has to know before any recommendation: who and what was no fair part of it."""

from collections.abc import Sequence

from pfl_flower.comparison.advice.choice import beats_constants, has_diverged
from pfl_flower.comparison.cells import CellResult
from pfl_flower.comparison.selection import constants_of, finished, methods_of
from pfl_flower.comparison.wording import listed


def caveats_of(cells: Sequence[CellResult]) -> list[str]:
    """Say who took no part, which methods came to nothing, and what else makes it unfair."""
    return [*_left_out(cells), *_diverged(cells), *_beaten(cells), *_networks(cells)]


def _left_out(cells: Sequence[CellResult]) -> list[str]:
    reasons = dict.fromkeys(words for cell in cells for words in cell.left_out)
    return [f"Left out of everything, {words.rstrip('.')}." for words in reasons]


def _lost(cells: Sequence[CellResult]) -> list[str]:
    """Return the methods that diverged on a seed."""
    return [method for method in methods_of(cells) if has_diverged(cells, method, "test")]


def _diverged(cells: Sequence[CellResult]) -> list[str]:
    lost = _lost(cells)
    return [
        f"The training of {listed(lost)} diverged: its error grew, to more than twice that of "
        f"always answering the mean of all training targets. Fair would be a smaller "
        f"learning-rate, a gradient-clip, or tuning."
    ] * bool(lost)


def _beaten(cells: Sequence[CellResult]) -> list[str]:
    """Name the methods that are no better than an answer without any input, if others are."""
    lost = _lost(cells)
    methods = methods_of([cell for cell in cells if not cell.safeguarded])
    beaten = [m for m in methods if m not in lost and not beats_constants(cells, m)]
    if not constants_of(cells) or not beaten or len(beaten) + len(lost) == len(methods):
        return []
    return [
        f"On validation data, {listed(beaten)} did not clearly beat always answering the same, and "
        f"cannot be recommended."
    ]


def _networks(cells: Sequence[CellResult]) -> list[str]:
    """Say that methods trained different networks, of which one may suit the data better."""
    users: dict[str, dict[str, None]] = {}
    for method in methods_of(cells):
        for cell in finished(cells, method):
            users.setdefault(cell.network, {})[method] = None
    if len(users) < 2:
        return []
    groups = [f"{network} ({', '.join(methods)})" for network, methods in users.items()]
    return [
        f"The methods do not have the same network: {listed(groups)}. Their scores differ by that, "
        f"too; the run key model gives all of them one, where a method allows it."
    ]
