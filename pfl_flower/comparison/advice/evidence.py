"""What test data say about the method that was chosen; they had no part in the choice."""

from collections.abc import Sequence

from pfl_flower.comparison.advice.choice import (
    Choice,
    baselines_of,
    best_constant,
    gains_of,
)
from pfl_flower.comparison.cells import CellResult
from pfl_flower.comparison.gains import Comparison, compare
from pfl_flower.comparison.selection import (
    BASELINES,
    GLOBAL,
    client_name,
    finished,
    mean_at_choice,
    methods_of,
    task_of,
)
from pfl_flower.comparison.wording import (
    NAMES,
    counted,
    gain_over,
    harm_words,
    listed,
    score_words,
)

NAMED = 5
"""At most so many harmed clients are named."""

NAMED_BETTER = 3
"""At most so many methods are named that test data prefer."""


def evidence_of(cells: Sequence[CellResult], choice: Choice) -> list[str]:
    """Say what test data say about the chosen method; they had no part in the choice."""
    task = task_of(cells)
    mean, clients = mean_at_choice(cells, choice.method)
    seeds = len(finished(cells, choice.method))
    lines = [
        f"On the test data, which had no part in the choice, {choice.method} reaches "
        f"{score_words(task, mean)} on average over {counted(clients, 'client')}"
        + (f" of {seeds} seeds." if seeds > 1 else ".")
    ]
    constant = compare(cells, choice.method, best_constant(cells, "validation"), "test")
    if constant:
        lines.append(f"There it gains {gain_over(task, constant)}.")
    gains = gains_of(cells, choice.method, "test")
    for gain in gains:
        harmed = f"{len(gain.harmed)} of {counted(gain.clients, 'client')} ({gain.share_worse:.0%})"
        other = "with the global model" if gain.baseline == GLOBAL else "training alone"
        lines.append(
            f"There it gains {gain_over(task, gain)}; {harmed} would be better off {other}."
        )
    return [*lines, *_harmed(cells, task, gains), _agreement(cells, choice)]


def _harmed(cells: Sequence[CellResult], task: str, gains: Sequence[Comparison]) -> list[str]:
    """Name the clients that lose most, each with its greater loss."""
    losses = sorted((h.gain, h.seed, h.client, g.baseline) for g in gains for h in g.harmed)
    worst: dict[tuple[int, int], str] = {}
    for gain, seed, client, baseline in losses:
        who = client_name(cells, client)
        words = f"{who} (seed {seed}): {harm_words(task, gain, baseline)}"
        worst.setdefault((seed, client), words)
    if not worst:
        return ["No client is harmed by it."] if gains else []
    return ["Harmed most: " + "; ".join(list(worst.values())[:NAMED]) + "."]


def _agreement(cells: Sequence[CellResult], choice: Choice) -> str:
    """Say whether test data would have led to the same choice, among all methods that ran."""
    own = gains_of(cells, choice.method, "test")
    lost_to = [NAMES[gain.baseline] for gain in own if gain.clearly_worse]
    lost_to += _clearly_better_on_test(cells, choice.method)
    if lost_to:
        return (
            f"The test data disagree: there {listed(lost_to)} would have been clearly better. "
            "The choice stays, because choosing again by test data would flatter the winner."
        )
    rivals = [name for name in baselines_of(cells) if name != choice.method]
    sure = len(own) == len(rivals) and all(gain.clearly_better for gain in own)
    if choice.method == GLOBAL:  # which stays unless something is clearly better
        others = [*rivals, *([choice.candidate] if choice.candidate else [])]
        found = (compare(cells, name, choice.method, "test") for name in others)
        sure = not any(gain.mean > 0 for gain in found if gain)
    if sure:
        return "The test data agree with the choice."
    return "The test data do not settle it: an interval of the gain there contains zero."


def _clearly_better_on_test(cells: Sequence[CellResult], chosen: str) -> list[str]:
    """Return the methods, without the baselines, that clearly gain on the chosen one, best first.

    The best on validation data is not the only one that may be: of several methods another one can
    be best on test data.
    """
    others = [name for name in methods_of(cells) if name not in (*BASELINES, chosen)]
    found = (compare(cells, name, chosen, "test") for name in others)
    gains = [gain for gain in found if gain and gain.clearly_better]
    best = sorted(gains, key=lambda gain: gain.mean, reverse=True)[:NAMED_BETTER]
    return [gain.method for gain in best]
