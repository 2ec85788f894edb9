"""Pictures with lines: scores over rounds, over traffic, and over local examples."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from pfl_flower.comparison.cells import CellResult
from pfl_flower.comparison.reporting.canvas import (
    Picture,
    colors_of,
    new_figure,
    panels,
    save,
    scaled,
    score_axis,
    shown_name,
)
from pfl_flower.comparison.scores import ALL_EXAMPLES, cost_of, unseen_scores
from pfl_flower.comparison.selection import (
    BASELINES,
    finished,
    known_mean,
    methods_of,
    select_round,
    task_of,
)

DASHES = ("-", "--", ":")
"""Styles of lines; each goes once through the colors."""


def curves_of(cells: Sequence[CellResult], method: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the rounds of a method and the (seeds, rounds) mean test scores over clients.

    Over the rounds that all its seeds have.
    """
    own = finished(cells, method)
    length = min(len(cell.rounds) for cell in own)
    means = np.array([known_mean(cell.test[:length], axis=1) for cell in own])
    return own[0].rounds[:length], scaled(own[0].task, means)


def draw_curves(cells: Sequence[CellResult]) -> Picture:
    """Draw a panel a method with its curve, its band over seeds, and both baselines."""
    colors = colors_of(cells)
    methods = methods_of([cell for cell in cells if not cell.safeguarded])  # they have one round
    curves = {method: curves_of(cells, method) for method in methods}
    shown = [method for method in methods if method not in BASELINES] or methods[:1]
    there = [method for method in BASELINES if method in methods and shown != [method]]
    figure, spots = panels(len(shown), 2.0)
    for axes, method in zip(spots, shown, strict=True):
        for baseline in there:
            rounds, means = curves[baseline]
            axes.plot(rounds, known_mean(means, axis=0), color=colors[baseline], linewidth=1.1)
        _draw_band(axes, *curves[method], color=colors[method])
        _mark_choices(axes, finished(cells, method), colors[method])
        axes.set_title(method, color=colors[method], weight="bold")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for baseline in there:
        spots[0].plot([], [], color=colors[baseline], label=shown_name(baseline))
    if there:
        figure.legend(loc="outside upper left", ncols=2)
    figure.supxlabel("round", fontsize=10)
    figure.supylabel(f"mean {score_axis(cells)}", fontsize=10)
    return Picture(
        "curves",
        "Learning curves",
        "Mean over clients after each round; the band spans all seeds and a dot marks the round "
        "that validation data chose on a seed. Thin lines are the baselines.",
        f"Learning curves of {', '.join(shown)} against {' and '.join(there) or 'nothing'}.",
        save(figure),
    )


def _draw_band(axes: Any, rounds: np.ndarray, means: np.ndarray, color: str) -> None:
    low, high = np.fmin.reduce(means), np.fmax.reduce(means)
    axes.fill_between(rounds, low, high, color=color, alpha=0.2, linewidth=0)
    axes.plot(rounds, known_mean(means, axis=0), color=color, linewidth=2)


def _mark_choices(axes: Any, own: Sequence[CellResult], color: str) -> None:
    for cell in own:
        index, by_validation = select_round(cell)
        if by_validation:
            score = scaled(cell.task, known_mean(cell.test[index]))
            axes.plot(cell.rounds[index], score, "o", color=color, markersize=4.5, mec="white")


def draw_traffic(cells: Sequence[CellResult]) -> Picture | None:
    """Draw mean scores against what a client has sent and received until then."""
    colors, methods = colors_of(cells), methods_of(cells)
    per_round = {m: cost.bytes_down + cost.bytes_up for m in methods if (cost := cost_of(cells, m))}
    if not any(per_round.values()):
        return None
    figure, axes = new_figure(4.4)
    most = max(b * finished(cells, m)[0].rounds.max() for m, b in per_round.items())
    unit, divisor = ("MB", 1e6) if most >= 2e6 else ("kB", 1e3)
    for place, method in enumerate(methods):
        rounds, means = curves_of(cells, method)
        mean = known_mean(means, axis=0)
        style = _style_of(methods, place) | {"color": colors[method], "label": shown_name(method)}
        if per_round[method]:
            axes.plot(rounds * per_round[method] / divisor, mean, **style)
            axes.plot(rounds[-1] * per_round[method] / divisor, mean[-1], "o", color=colors[method])
        else:
            axes.axhline(mean[-1], **(style | {"linestyle": "-."}))
    axes.set_xlim(left=0)
    axes.set_xlabel(f"{unit} moved per client, down and up")
    axes.set_ylabel(f"mean {score_axis(cells)}")
    figure.legend(loc="outside lower center", ncols=3)
    return Picture(
        "traffic",
        "Score against traffic",
        "How far each method is once a client has moved so many bytes of arrays; a dot ends its "
        "last round. Steeper at the left is cheaper; a level line is a method that moves nothing.",
        f"Mean {score_axis(cells)} against bytes moved per client for {', '.join(methods)}.",
        save(figure),
    )


def _style_of(methods: Sequence[str], place: int) -> dict[str, Any]:
    """How the line of a method is drawn: a baseline thicker, and new dashes with every nine."""
    if methods[place] in BASELINES:
        return {"linewidth": 2.4}
    others = [method for method in methods if method not in BASELINES]
    return {"linewidth": 1.7, "linestyle": DASHES[others.index(methods[place]) // 9 % len(DASHES)]}


def draw_unseen(cells: Sequence[CellResult]) -> Picture | None:
    """Draw the mean score of unseen clients against their local examples."""
    task, colors, methods = task_of(cells), colors_of(cells), methods_of(cells)
    scores = {m: found for m in methods if (found := unseen_scores(cells, m))}
    if not scores:
        return None
    every = {examples for found in scores.values() for examples in found}
    order = sorted(every, key=lambda examples: (examples == ALL_EXAMPLES, examples))
    figure, axes = new_figure(4.4)
    for place, method in enumerate(methods):
        if method not in scores:
            continue
        found = scores[method]
        spots = [order.index(examples) for examples in found]
        style = _style_of(methods, place) | {"color": colors[method], "marker": "o"}
        axes.plot(
            spots,
            scaled(task, list(found.values())),
            markersize=4.5,
            label=shown_name(method),
            **style,
        )
    names = ["all" if examples == ALL_EXAMPLES else str(examples) for examples in order]
    axes.set_xticks(range(len(order)), names)
    axes.set_xlabel("local training examples of the new client")
    axes.set_ylabel(f"mean {score_axis(cells)}")
    figure.legend(loc="outside lower center", ncols=3)
    return Picture(
        "unseen",
        "Clients that were not there",
        "Mean over clients that adapt after training with that many local examples; the grey line "
        "is training alone from scratch.",
        f"Score of unseen clients against local examples for {', '.join(scores)}.",
        save(figure),
    )
